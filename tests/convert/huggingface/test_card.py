"""The model card says what is known of the run, and nothing else."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from ml_collections import ConfigDict

from avemo_jax.cli import main
from avemo_jax.comparing.counting import count_here
from avemo_jax.config import load_config, to_json
from avemo_jax.convert.huggingface import facts
from avemo_jax.convert.huggingface.card import Stored, write_card
from avemo_jax.convert.huggingface.facts import BeganFrom, Data, Facts
from avemo_jax.convert.huggingface.judged import suites_of
from avemo_jax.evaluation import decisions, suites
from avemo_jax.evaluation.choosing import LEGACY
from avemo_jax.evaluation.outcome_files import plain, shown
from avemo_jax.evaluation.outcomes import judged, main_scores
from avemo_jax.evaluation.predicted import Predicted
from avemo_jax.training.checkpoint_files import save_params
from avemo_jax.training.checkpoints import load_params
from input_pipeline.storing import ClipOptions
from input_pipeline.targets import RULES, target_of
from tests.convert.small_models import run_export
from tests.evaluation import synthetic

METRICS = [
    {"step": 4, "loss": 2.0, "loss_video": 1.5, "step_s": 100.0},
    {"step": 7, "loss": 1.25, "loss_video": 0.75, "loss_audio": None, "grad_norm": 3.0, "step_s": 200.0},
    {"step": 9, "loss": 0.5, "step_s": 9999.0},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared folder `data`, and a work directory `run` of step 7 with metrics and a probe of it."""
    place = tmp_path_factory.mktemp("card")
    synthetic.write_folder(place / "data")
    synthetic.write_checkpoint(
        place / "run", [f"data.path={place / 'data'}", "batch_size=32"], dataset_size=48
    )
    lines = [json.dumps(row) for row in METRICS] + ['{"step": 9, "lo']
    (place / "run" / "metrics.jsonl").write_text("\n".join(lines))
    words = ["--label", "tone", "--features", "cat4", "--random_seeds", "1", "--batch_size", "16"]
    folders = ["--checkpoint", place / "run", "--data", place / "data", "--out", place / "run" / "probe_tone"]
    assert main(["probe", *map(str, folders), *words]) == 0
    return place


def card_of(checkpoint, tmp_path, *more):
    assert run_export(checkpoint, "huggingface", tmp_path / "out", *more) == 0
    return (tmp_path / "out" / "README.md").read_text()


def test_it_tells_data_steps_time_and_losses_of_the_exported_step(place, tmp_path):
    card = card_of(place / "run", tmp_path)
    assert "| clips | 48, 1 min |" in card
    assert "| steps | 7 of 32 clips, 224 clips seen |" in card
    assert "| time in steps | 0:16:40 |" in card  # 4 · 100 + 3 · 200 s
    assert "| losses at step 7 | loss 1.25, loss_video 0.75 |" in card
    assert "9999" not in card and "0.5 " not in card.split("## Training")[1].split("##")[0]


def test_one_head_of_several_has_what_is_known_of_the_run_of_all(place, tmp_path):
    head = tmp_path / "run" / "heads" / "mine"
    shutil.copytree(place / "run", head, ignore=shutil.ignore_patterns("metrics.jsonl"))
    config = json.loads(to_json(load_params(head)[0]))
    config["data"]["paths"] = [str(tmp_path / "crema_d"), config["data"]["path"]]
    config["data"]["path"] = ""
    lines = [json.dumps(row | {"mine_loss": 0.7}) for row in METRICS]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    for heads, known in (({"theirs": {}, "mine": {}}, True), ({"theirs": {}}, False), ({}, False)):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"heads": heads}))
        card = card_of(head, tmp_path / str(len(heads)))
        assert ("| time in steps | 0:16:40 |" in card) == known
        assert ("loss_video 0.75, mine_loss 0.7 |" in card) == known
        assert ("| data | prepared folders `crema_d`, `data` |" in card) == known
        assert ("| trained with | the head `theirs`: data, steps" in card) == known


def test_it_names_the_splits_that_the_data_has():
    known = Facts(3, versions={}, data=Data(36, 7300.0, {"train": 30, "test": 6}))
    card = write_card(load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None)
    assert "| clips | 36, 2.0 h (train 30, test 6) |" in card


def test_it_shows_probes_of_this_step_beside_their_baselines_with_intervals(place, tmp_path):
    card = card_of(place / "run", tmp_path)
    part = card.split("## Linear probe: `tone`")[1].split("\n## ")[0]
    assert "48 clips, 4 speakers, 3 classes, chance 33.3 %" in part and "resampling speakers" in part
    assert "on frozen features, prepared folder `data`, tested on speakers that" in part
    assert str(place) not in card
    (row,) = [line for line in part.splitlines() if line.startswith("cat4") and "checkpoint" in line]
    rows = json.loads((place / "run" / "probe_tone" / "rows.json").read_text())
    (ours,) = [row for row in rows if row["weights"] == "checkpoint"]
    assert (
        f"{100 * ours['uar']:.1f}" in row
        and "[{:.0f}, {:.0f}]".format(*(100 * b for b in ours["ci95"])) in row
    )
    assert "random" in part and "log_mel" in part


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (
            {"trained_on": "a/crema_d", "tested_on": "b/ravdess"},
            "features, prepared folder `crema_d`, tested on prepared folder `ravdess`, on speakers that",
        ),
        ({}, "features, tested on speakers that"),
    ],
)
def test_it_names_the_folders_of_a_probe_where_they_are_recorded(place, folders, says):
    rows = json.loads((place / "run" / "probe_tone" / "rows.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("trained_on", "tested_on")} | folders for row in rows]
    known = Facts(3, versions={}, probes=[rows])
    assert says in write_card(
        load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None
    )


def test_it_says_that_the_folds_of_a_probe_were_dealt_several_times(place):
    rows = json.loads((place / "run" / "probe_tone" / "rows.json").read_text())
    rows = [row | {"repeats": [{}] * 3, "repeat_uar_std": 0.02} for row in rows]
    known = Facts(3, versions={}, probes=[rows])
    card = write_card(load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None)
    part = card.split("## Linear probe: `tone`")[1].split("\n## ")[0]
    assert "The folds were dealt 3 times: scores and intervals are means" in part and "± repeats" in part


def test_it_names_the_heads_and_the_clips_of_a_probe_where_they_are_not_the_usual_ones(place):
    rows = json.loads((place / "run" / "probe_tone" / "rows.json").read_text())
    rows = [
        {**row, "head": "attentive", "sizes": "frames=24"} for row in rows if row["weights"] == "checkpoint"
    ]
    known = Facts(3, versions={}, probes=[rows])
    card = write_card(load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None)
    part = card.split("## Probe: `tone`")[1].split("```")[0]
    assert part.startswith(
        "\n\nA classifier (head attentive) on frozen features of clips of another size (frames=24)"
    )
    assert part.endswith("from resampling speakers.\n\n") and rows[0]["split_hash"] in part


def test_probes_of_another_step_are_left_out(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    path = tmp_path / "run" / "probe_tone" / "rows.json"
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    (tmp_path / "run" / "rows.json").write_text("[1, 2]")  # somebody else's
    assert "Linear probe" not in card_of(tmp_path / "run", tmp_path)


def test_data_that_is_gone_or_has_changed_is_left_out(place, tmp_path):
    config, _, _ = load_params(place / "run")
    assert facts.gather(place / "run", config, 7).data.clips == 48
    for overrides, clips in (([f"data.path={place / 'data'}"], 47), (["data.path=/nowhere"], 48)):
        run = tmp_path / f"run{clips}"
        synthetic.write_checkpoint(run, overrides, dataset_size=clips)
        config, _, _ = load_params(run)
        assert facts.gather(run, config, 7).data is None
    card = card_of(run, tmp_path)
    assert "| clips |" not in card and "/nowhere" not in card
    assert "| losses" not in card and "| time" not in card and "| steps |" in card


def test_the_folder_of_one_step_has_the_facts_of_its_run(place):
    config, _, _ = load_params(place / "run")
    whole = facts.gather(place / "run", config, 7)
    assert facts.gather(place / "run" / "checkpoints" / "00000007", config, 7) == whole
    assert facts.gather(place / "run" / "checkpoints", config, 7) == whole
    assert whole.probes and whole.losses_step == 7


SUITES = {
    "fairness": [
        {
            "model": {"feature": "cat4", "weights": weights},
            "step": step,
            "trait": "gender",
            "groups": [
                {"group": name, "n": 20, "speakers": 4, "uar": uar, "uar_ci95": [uar - 0.1, uar + 0.1], "war": uar}
                for name, uar in (("f", 0.7), ("m", 0.65))
            ],
            "gap": {"score": "uar", "gap": gap, "gap_ci95": [0.01, 0.2], "best": "f", "worst": "m",
                    "expected": 0.03, "p": 0.2},
        }
        for weights, step, gap in (("checkpoint", 7, 0.05), ("checkpoint", 6, 0.06), ("random", None, 0.07))
    ],
    "robustness": [
        {"corruption": name, "level": level, "unit": unit, "score": "uar", "uar": 0.6, "ci95": [0.5, 0.7],
         "n": 48, "change": change, "change_ci95": [change - 0.02, change + 0.02], "step": 7}
        for name, level, unit, change in
        (("none", None, "", 0.0), ("noise", 20.0, "dB", -0.01), ("noise", 0.0, "dB", -0.25), ("black", 1.0, "", -0.1))
    ],
}  # fmt: skip


@pytest.mark.parametrize("asked", [(), ("fairness",), ("robustness",), ("fairness", "robustness")])
def test_it_tells_what_suites_found_of_this_step_and_a_limit_only_where_none_did(place, tmp_path, asked):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    (run / "judged").mkdir()
    (run / "judged" / "suites.json").write_text(json.dumps({name: SUITES[name] for name in asked}))
    config, _, _ = load_params(run)
    card = write_card(config, facts.gather(run, config, 7), Stored(ClipOptions(), True), 10, "unknown", None)
    limits = card.split("## Limits")[1].split("\n## ")[0]
    fair = "f 70.0 [60.0, 80.0] % (20 clips of 4 speakers), m 65.0 [55.0, 75.0] % (20 clips of 4 speakers); gap 5.0"
    robust = "UAR 60.0 [50.0, 70.0] % of clips as they are"
    changed = "noise (0 dB) -25.0 [-27.0, -23.0] points, black -10.0 [-12.0, -8.0] points"
    assert (f"{fair} [1.0, 20.0] points, f over m (3.0 by chance, p = 0.200)" in card) == (
        "fairness" in asked
    )
    assert ("only gender was looked at" in limits) == ("fairness" in asked)
    assert ("by group of people (age" in limits) == ("fairness" not in asked)
    assert (robust in card and changed in card) == ("robustness" in asked)
    assert ("for robustness" in limits) == ("robustness" not in asked)
    assert ("Nothing here was evaluated" in limits) == (len(asked) < 2)
    assert "gap 6.0" not in card and "gap 7.0" not in card


@pytest.mark.parametrize("kind", ["class", "distribution", "multi_label", "values"])
def test_it_tells_fairness_and_calibration_by_the_scores_of_what_is_predicted(kind):
    rng = np.random.default_rng(0)
    truth = (
        rng.dirichlet(np.ones(2), 40) if kind != "multi_label" else rng.integers(0, 2, (40, 2)).astype(float)
    )
    truth = truth.argmax(1) if kind == "class" else truth
    clips = np.array([f"c{number}" for number in range(40)])
    outputs, model = rng.dirichlet(np.ones(2), 40), {"selection": "last", "modalities": "audio_video"}
    names = (clips, np.repeat([*"stuv"], 10), np.full(40, "1"))
    one = Predicted(model, ("a", "b"), *names, truth, outputs, outputs.argmax(1), kind)
    probed = replace(one, model={"feature": "cat4", "loudness": "normalised"})
    people = {clip: {"gender": "fm"[place // 20]} for place, clip in enumerate(clips.tolist())}
    found = [("fairness", suites.fairness_rows([one], people, ["gender"]))]
    found += [("calibration", suites.calibration_rows([one, probed]))] if kind != "values" else []
    known = Facts(3, versions={}, suites=json.loads(json.dumps(plain(found))))
    card = write_card(load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None)
    (row,) = found[0][1]
    score = next(iter(one.summed.scores))
    told = f"{score.upper()}: f {shown(score, row['groups'][0][score])} ["
    assert f"Fairness by gender (last, audio + video), {told}" in card
    each = ["a, ", "b, "] if kind == "multi_label" else [""]
    for name in each if kind != "values" else []:
        assert f"- Calibration ({name}last, audio + video), " in card
        assert f"- Calibration ({name}cat4, at equal loudness), " in card
    nothing = {**row["gap"], **dict.fromkeys(["gap", "gap_ci95", "best", "worst", "expected", "p"])}
    text = suites_of([("fairness", [{**row, "gap": nothing}])])
    assert "gap" not in text and told in text


def test_it_names_the_folders_and_corpora_and_counts_the_compute(place, tmp_path):
    card = card_of(place / "run", tmp_path)
    assert "| data | prepared folder `data` |" in card and "Which languages and corpora those were" in card
    (compute,) = [line for line in card.splitlines() if line.startswith("| compute | ")]
    config, _, _ = load_params(place / "run")
    assert f"{7 * count_here(config).flops:.2e} FLOPs" in compute
    (tmp_path / "crema").mkdir()
    config.data.path = str(tmp_path / "crema")

    def card_with(corpus):
        line = {"command": f"avemo prepare --corpus {corpus} --root /secret/place --out crema"}
        (tmp_path / "crema" / "commands.jsonl").write_text(json.dumps(line) + "\n")
        known = facts.gather(place / "run", config, 7)
        return write_card(config, known, Stored(ClipOptions(), True), 10, "unknown", None)

    card = card_with("folder")  # any folder's name
    assert "| data | prepared folder `crema` |" in card and "Which languages and corpora those were" in card
    card = card_with("crema_d")
    assert "| data | prepared folder `crema` (corpus crema_d) |" in card and "secret" not in card
    assert "Which languages those were" in card and "| compute |" not in card


CASES = {  # rule → overrides, what is told, the title
    "class": (["data.classes=a,b"], "one of 2 classes (`a`, `b`)", "audio-visual classifier of `votes`"),
    "plurality": (["data.classes=a,b"], "which of 2 classes most raters would name", "classifier of `votes`"),
    "majority": (["data.classes=a,b"], "more than half of all raters would name", "classifier of `votes`"),
    "distribution": (["data.classes=a,b"], "how raters' votes would spread over 2 classes", "raters' votes"),
    "multi_label": (
        ["data.classes=a,b"],
        "which of 2 classes it shows, none to all",
        "multi-label classifier",
    ),
    "values": (["data.label=joy,fear"], "2 numbers (`joy`, `fear`)", "regressor of `joy`, `fear`"),
    "raters": (
        ["data.classes=a,b", "data.raters=r,s", "model.classes=4"],
        "the mean of what its raters would say, shares of 2 classes (`a`, `b`)",
        "predictor of raters' votes",
    ),
    "affect": (
        ["data.label=valence,arousal", "data.classes=a,b", "data.centres=a:0:1:0.5,b:1:0:0.5"],
        "how likely each of 2 classes is by `valence`, `arousal`",
        "classifier by `valence`, `arousal`",
    ),
}


def facts_of(rule, overrides, development=True):
    """The config of a fine-tuned model and the facts of its test, as `avemo finetune` would leave them."""
    config = load_config(
        "finetune/recipe:demo",
        ["data.label=votes", f"data.target={rule}", "model.classes=2", "data.protocol=folds", *overrides],
    )
    target, rng = target_of(config.data), np.random.default_rng(0)
    truth = rng.integers(0, 2, 40) if target.is_class else rng.integers(0, 2, (40, 2)).astype(float)
    predicted = rng.dirichlet(np.ones(2), 40)
    if target.kind == "distribution":
        truth = rng.dirichlet(np.ones(2), 40)
    speakers = np.repeat(["s", "t", "u", "v"], 10)
    row = {
        "label": "votes", "target": rule, "split": "folds", "fold": "1", "split_hash": "f00d" * 16, "step": 3,
        "selection": "best on the development clips", "modalities": "audio_video", "speaker_disjoint": True,
        "n_train": 90, "n_development": 40, **judged(target, predicted, truth, speakers),
    }  # fmt: skip
    decision = decisions.fit(target, predicted, truth) if development else None
    if decision:
        decision["speakers"] = 4
        decision["test"] = decisions.judged(decision, target, predicted, truth, speakers)
    return config, Facts(3, versions={}, outcomes=[{**row, "decision": decision}]), row


@pytest.mark.parametrize("rule", RULES)
def test_it_says_what_comes_out_and_how_well_it_did_by_what_is_predicted(rule):
    overrides, meaning, title = CASES[rule]
    config, known, row = facts_of(rule, overrides)
    card = write_card(config, known, Stored(ClipOptions(), True), 10, "cc-by-4.0", None)
    assert meaning in card and title in card.split("\n\n")[1] and "f00d" * 16 in card
    assert "| clips | 90 to train, 40 to choose by, 40 to test |" in card
    assert ("classes" in card.split("## Use")[0]) == (rule != "values")
    test = card.split("## Test")[1].split("\n## ")[0]
    for place, name in enumerate(main_scores(target_of(config.data))):
        low, high = (shown(name, bound) for bound in row["ci95" if place == 0 else f"{name}_ci95"])
        assert f"{shown(name, row[name])} [{low}, {high}]" in test
    assert ("fitted on 40 development clips of 4 speakers" in test) == (rule != "values")
    assert ("thresholds `a`" in test) == (rule == "multi_label")
    config, known, _ = facts_of(rule, overrides, development=False)
    card = write_card(config, known, Stored(ClipOptions(), True), 10, "cc-by-4.0", None)
    assert ("not calibrated" in card) == (rule != "values")


def test_a_score_that_a_value_has_not_is_a_dash():
    config, known, row = facts_of("values", ["data.label=joy,fear"])
    lacking = replace(known, outcomes=[{**row, "ccc": None, "ccc_fear": None}])
    card = write_card(config, lacking, Stored(ClipOptions(), True), 10, "unknown", None)
    assert "| CCC of `fear` | – |" in card and f"| CCC of `joy` | {shown('ccc', row['ccc_joy'])} % |" in card


def test_a_legacy_choice_and_drawn_clips_are_said_and_nothing_of_that_otherwise():
    config, known, row = facts_of("class", ["data.classes=a,b"])
    stored = Stored(ClipOptions(), True)
    plain_card = write_card(config, known, stored, 10, "unknown", None)
    assert "says too much" not in plain_card and "drawn" not in plain_card
    legacy = replace(known, outcomes=[{**row, "selection": LEGACY}], made_by=("avemo generate",))
    card = write_card(config, legacy, stored, 10, "unknown", None)
    assert "says too much" in card and "drawn and spoken by a program" in card.split("## Use")[0]
    assert "not for real people at all" in card.split("## Limits")[1]


def test_it_is_five_lines_to_a_vector_or_a_label(imported, tmp_path):
    task, _, run = imported
    card = card_of(run, tmp_path)
    code = card.split("```python\n")[1].split("```")[0].splitlines()
    assert len(code) == 5 and ("cat4" if task == "pretrain" else "recognise.decide(told)") in code[-1]
    compile("\n".join(code), "card", "exec")


def test_it_tells_what_kind_of_run_it_began_with_and_what_that_began_with(tmp_path):
    def run(name, *overrides, config="hicmae:demo"):
        config = load_config(config, overrides)
        save_params(tmp_path / name, config, {"video": np.zeros(3, np.float32)}, step=1000)
        return config

    def told(config):
        known = Facts(3, versions={}, began_from=facts._began_from(config))
        return write_card(config, known, Stored(ClipOptions(), True), 10, "unknown", None).split("## Use")[0]

    run("first", "batch_size=32")
    run("tuned", f"init.checkpoint={tmp_path / 'first'}", "batch_size=8", config="finetune/crema_d:demo")
    last = run("last", f"init.checkpoint={tmp_path / 'tuned'}", config="finetune/ravdess:demo")
    began = "began with those of a run that was fine-tuned, whose newest checkpoint is now of 1,000 steps of 8 clips."
    assert f"{began} That run began with a pretraining run, whose newest" in told(last)
    assert "1,000 steps of 32 clips." in told(last) and "cannot be found" not in told(last)
    shutil.rmtree(tmp_path / "first")
    assert f"{began} That run began with another run, which cannot be found at the place noted." in told(last)
    shutil.rmtree(tmp_path / "tuned")
    assert "It began with the weights of another run, which cannot be found at the place noted." in told(last)

    texts = {"task": "align_text", "batch_size": 4, "init": {"checkpoint": str(tmp_path / "texts")}}
    save_params(tmp_path / "texts", ConfigDict(texts), {"video": np.zeros(3, np.float32)}, step=5)
    last.init.checkpoint = str(tmp_path / "texts")  # which says that it began with itself
    assert "those of a run that was aligned with texts, whose newest checkpoint is now of 5 steps" in told(
        last
    )


def test_of_runs_before_it_those_whose_clips_were_drawn_are_named():
    first = BeganFrom("pretrain", 9, 4, ("avemo generate",))
    began = BeganFrom("align_text", 5, 4, (), before=first)
    known = Facts(3, versions={}, began_from=began, made_by=("avemo generate",))
    card = write_card(load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None)
    assert "So were those of a pretraining run before it." in card and card.count("So were those") == 1


def test_imported_weights_claim_no_training(imported, tmp_path):
    card = card_of(imported[2], tmp_path)
    assert "how they came about is not recorded" in card and "## Training" not in card


def test_the_hub_reads_its_metadata(imported, tmp_path):
    yaml = pytest.importorskip("yaml")
    task, _, run = imported
    _, header, _ = card_of(run, tmp_path, "--license", "cc-by-nc-4.0").split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "cc-by-nc-4.0" and metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == {"pretrain": "feature-extraction"}.get(task, "video-classification")


def test_without_a_stated_licence_it_is_unknown(imported, tmp_path):
    card = card_of(imported[2], tmp_path)
    assert "license: unknown\n" in card and "No licence was stated for the weights." in card


def test_every_file_that_it_names_is_there(imported, tmp_path):
    card = card_of(imported[2], tmp_path)
    named = [
        word.strip("`") for word in card.split() if word.startswith("`") and word.endswith((".py`", ".json`"))
    ]
    assert len(named) > 2 and all((tmp_path / "out" / name).exists() for name in named)
