"""`avemo evaluate` as a person calls it, on a probe's predictions and a checkpoint."""

import csv
import json

import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.evaluation import calibration, identity, outcome_files, outcomes, predicted, suites
from avemo_jax.evaluation.protocols import clips_hash
from avemo_jax.tasks.finetuning import Outcome
from input_pipeline.records import open_records
from input_pipeline.targets import Target
from tests.evaluation import synthetic

_ASKED = ("--checkpoint", "{run}", "--data", "{data}")
CLASSES = ("ANG", "HAP", "SAD")
BEST = "best on the development clips"


def write_predictions(path, clips=240, speakers=12):
    """A file as `avemo finetune` writes it: two choices of weights, one of them too sure."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "selection",
                "modalities",
                "test_of",
                "clip_id",
                "speaker",
                "label",
                "predicted",
                *(f"p_{c}" for c in CLASSES),
            ]
        )
        for name, sharp in ((BEST, 1.0), ("last", 3.0)):
            rng = np.random.default_rng(0)
            for clip in range(clips):
                logits = rng.normal(size=3)
                chances = np.exp(logits) / np.exp(logits).sum()
                label = rng.choice(3, p=chances)
                shown = calibration.tempered(chances[None], 1 / sharp)[0]
                line = [name, "audio_video", "1", f"clip{clip:02d}", f"p{clip % speakers}"]
                writer.writerow(
                    [*line, CLASSES[label], CLASSES[shown.argmax()], *(f"{value:.6g}" for value in shown)]
                )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluate")
    synthetic.write_folder(place / "data")
    synthetic.write_checkpoint(place / "run")
    words = ["probe", "--checkpoint", "run", "--data", "data", "--label", "tone", "--out", "probe"]
    words = [
        str(place / word) if word in ("run", "data", "probe") and i else word for i, word in enumerate(words)
    ]
    assert main([*words, "--features", "cat4", "--random_seeds", "0"]) == 0
    return place


def write_run(folder, rule, noise, split="f00d", clips=160, names=("ANG", "HAP", "SAD"), seed=0):
    """A run's folder as `avemo finetune` leaves it: the same truth for any noise; what is predicted by it."""
    rng = np.random.default_rng(seed)
    speaker = np.array([f"p{clip % 16:02d}" for clip in range(clips)])
    if rule == "values":
        target, truth, other = Target(rule, names), *rng.normal(size=(2, clips, 3))
    else:
        target, truth, other = Target(rule, ("votes",), names), *rng.dirichlet(np.ones(3), (2, clips))
        truth = truth if rule == "distribution" else (truth > 0.3).astype(float)
        truth = truth.argmax(1) if rule == "class" else truth
    guess = (1 - noise) * (np.eye(3)[truth] if rule == "class" else truth) + noise * other
    row = {"target": rule, "split_hash": split, "selection": "last", "modalities": "audio_video"}
    ids = np.array([f"clip{clip:03d}" for clip in range(clips)])
    one = Outcome(row, np.full(clips, "1"), ids, speaker, truth, guess)
    folder.mkdir()
    outcome_files.write(folder, target, [one], "")
    return target, one


def evaluate(out, *words):
    code = main([str(word) for word in ("evaluate", "--out", out, *words)])
    return json.loads((out / "suites.json").read_text()) if code == 0 else code


def test_calibration_tells_a_model_that_is_too_sure_from_one_that_is_right(tmp_path, capsys):
    write_predictions(tmp_path / "predictions.csv")
    found = evaluate(
        tmp_path / "out", "--suite", "calibration", "--predictions", tmp_path / "predictions.csv"
    )
    right, sure = found["calibration"]
    assert right["model"] == {"selection": BEST, "modalities": "audio_video"}
    assert sure["ece"] > 2 * right["ece"] and sure["temperature"] > 2 > right["temperature"]
    assert sure["tempered"]["ece"] < sure["ece"] / 2 and sure["by"] == "speaker"
    assert sure["ece_ci95"][0] <= sure["ece"] <= sure["ece_ci95"][1] and sure["ci_unit"] == "speaker"
    assert sum(sure["reliability"]["clips"]) == 240 and sure["risk_coverage"]["coverage"][-1] == 1
    printed = capsys.readouterr().out
    assert BEST in printed and "results: " in printed
    assert (tmp_path / "out" / "table.txt").read_text() in printed
    assert "fitted on other speakers' clips" in printed


def test_temperatures_of_one_speaker_are_said_to_be_of_other_parts(tmp_path, capsys):
    write_predictions(tmp_path / "predictions.csv", speakers=1)
    text = (tmp_path / "predictions.csv").read_text()
    (tmp_path / "predictions.csv").write_text(text.replace("1,clip1", "2,clip1"))
    words = ("--suite", "calibration", "--predictions", tmp_path / "predictions.csv")
    assert evaluate(tmp_path / "out", *words)["calibration"][0]["by"] == "part"
    assert "fitted on clips of other parts of the test" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["torn", "latin-1"])
def test_damaged_predictions_are_one_line(tmp_path, capsys, how):
    path = tmp_path / "predictions.csv"
    write_predictions(path)
    text = path.read_text()
    path.write_bytes(text[:-20].encode() if how == "torn" else text.replace("p1", "é1").encode("latin-1"))
    assert evaluate(tmp_path / "out", "--suite", "calibration", "--predictions", path) == 2
    error = capsys.readouterr().err
    assert f"{path} is damaged" in error and error.count("\n") == 1


@pytest.mark.parametrize("config", ["config.json", "fold_1/config.json"])
def test_the_results_of_a_run_s_own_test_are_not_replaced(place, tmp_path, capsys, config):
    run = tmp_path / "run"
    (run / config).parent.mkdir(parents=True)
    (run / config).write_text("{}")
    write_predictions(run / "predictions.csv")
    kept = (run / "predictions.csv").read_text()
    assert evaluate(run, "--suite", "calibration", "--predictions", run) == 2
    where = ("--checkpoint", place / "run", "--data", place / "data", "--label", "tone", "--out", run)
    assert main(["probe", *map(str, where)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(
        "is a run's own folder, whose results would be" in line for line in errors
    )
    assert (run / "predictions.csv").read_text() == kept and not (run / "table.txt").exists()


KINDS = ("class", "distribution", "multi_label", "values")


@pytest.mark.parametrize("rule", KINDS)
def test_fairness_is_told_in_the_scores_of_what_is_predicted(tmp_path, capsys, monkeypatch, rule):
    target, one = write_run(tmp_path / "run", rule, 0.7)
    gender = {f"clip{clip:03d}": {"gender": "fm"[clip % 2]} for clip in range(160)}
    monkeypatch.setattr(suites, "facts_of", lambda data, clips: gender)
    words = ("--suite", "fairness", "--checkpoint", tmp_path / "run", "--data", tmp_path)
    (row,) = evaluate(tmp_path / "out", *words)["fairness"]
    score = outcomes.main_scores(target)[0]
    assert row["gap"]["score"] == score and row["split_hash"] == "f00d" and row["trait"] == "gender"
    values = {}
    for group in row["groups"]:
        own = np.arange(160) % 2 == "fm".index(group["group"])
        known = outcomes.scores_of(target, one.predicted[own], one.truth[own])
        assert {name: group[name] for name in known.keys() & group.keys()} == pytest.approx(
            {name: known[name] for name in known.keys() & group.keys()}, abs=1e-4
        )
        low, high = group[f"{score}_ci95"]
        assert low < group[score] < high and group["n"] == 80 and group["speakers"] == 8
        values[group["group"]] = group[score]
    best = (min if rule == "distribution" else max)(values, key=values.get)
    assert row["gap"]["best"] == best and row["gap"]["permuted"] == "speaker"
    assert (
        row["gap"]["gap"] == pytest.approx(abs(values["f"] - values["m"])) and row["gap"]["gap_ci95"][1] > 0
    )
    assert f"gap of {score.upper()}" in capsys.readouterr().out


def test_shares_of_votes_and_several_classes_are_asked_what_classes_are(tmp_path, capsys, monkeypatch):
    for rule in KINDS:
        _, one = write_run(tmp_path / rule, rule, 0.7)
        likeliest = one.predicted.argmax(1)
        votes = {"majority_voice": "ANG", "majority_face": "HAP", "majority_both": "HAP"}
        monkeypatch.setattr(suites, "facts_of", lambda data, clips, votes=votes: dict.fromkeys(clips, votes))
        words = ("--checkpoint", tmp_path / rule, "--data", tmp_path)
        found = evaluate(tmp_path / "out", "--suite", "calibration", "conflict", *words)
        if rule == "values":
            assert (
                found == 2 and "asked of classes, and these are values (ANG, HAP" in capsys.readouterr().err
            )
            continue
        (row,) = found["conflict"]
        assert (row["voice"], row["face"]) == ((likeliest == 0).sum(), (likeliest == 1).sum())
        rows = found["calibration"]
        classes = [row["model"].get("class") for row in rows]
        assert classes == (["ANG", "HAP", "SAD"] if rule == "multi_label" else [None])
        for k, row in enumerate(rows):
            known = one.predicted, one.truth
            if rule == "distribution":
                known = one.predicted, one.truth.argmax(1)
            elif rule == "multi_label":
                known = (
                    np.stack([1 - one.predicted[:, k], one.predicted[:, k]], 1),
                    one.truth[:, k].astype(int),
                )
            for name in ("ece", "brier", "aurc"):
                assert row[name] == pytest.approx(calibration.scores(*known)[name], abs=1e-4)
                low, high = row[f"{name}_ci95"]
                assert low < high and low - 0.02 <= row[name] <= high


def test_clips_whose_votes_are_tied_are_not_asked_for_calibration():
    truth = np.array([[0.5, 0.5], [0.4, 0.6], [0.9, 0.1]] * 4)
    names = [np.array([f"{kind}{number}" for number in range(12)]) for kind in "cs"]
    rest = (truth, truth[:, ::-1], truth[:, ::-1].argmax(1), "distribution")
    one = predicted.Predicted({}, ("a", "b"), *names, np.full(12, "1"), *rest)
    (row,) = suites.calibration_rows([one])
    assert (row["n"], row["tied"], row["uar"]) == (8, 4, 0.0)


def turn_names(path):
    """The same file with its classes or values the other way round: a probe's are in the order of the alphabet."""
    lines = [line.split(",") for line in path.read_text().splitlines()]
    after = lines[0].index("speaker") + 1
    path.write_text("".join(",".join(line[:after] + line[after:][::-1]) + "\n" for line in lines))


@pytest.mark.parametrize("rule", KINDS)
def test_two_runs_of_the_same_clips_are_compared_clip_by_clip(tmp_path, capsys, rule):
    target, one = write_run(tmp_path / "good", rule, 0.3)
    _, other = write_run(tmp_path / "poor", rule, 0.9)
    turn_names(tmp_path / "poor" / "predictions.csv")
    words = ("--suite", "paired", "--checkpoint", tmp_path / "good", "--against")
    (row,) = evaluate(tmp_path / "out", *words, tmp_path / "poor")["paired"]
    score = outcomes.main_scores(target)[0]
    here, there = (outcomes.scores_of(target, each.predicted, each.truth)[score] for each in (one, other))
    assert (row["score"], row["n"], row["groups"]) == (score, 160, 16)
    assert (row[score], row[f"{score}_against"]) == pytest.approx((here, there), abs=1e-4)
    assert row[f"{score}_difference"] == pytest.approx(here - there, abs=2e-4) and row["p_permutation"] < 0.01
    low, high = sorted(abs(bound) for bound in row[f"{score}_difference_ci95"])
    assert 0 < low < abs(here - there) < high and ("p_mcnemar" in row) == (rule == "class")
    assert score.upper() in capsys.readouterr().out
    (same,) = evaluate(tmp_path / "out", *words, tmp_path / "good")["paired"]
    assert same[f"{score}_difference"] == 0 and same["p_permutation"] == 1


@pytest.mark.parametrize(
    ("words", "pairs", "says"),
    [
        ((), {"last": "last", BEST: BEST}, False),
        (("--models", "last"), {"last": "last"}, False),
        (("--against_models", BEST), {BEST: BEST}, False),
        (("--models", "last", "--against_models", f"selection={BEST}"), {"last": BEST}, False),
        (("--models", "last", "--against_models", "audio"), {"last": BEST}, True),
    ],
)
def test_models_of_either_side_are_chosen_by_their_words(tmp_path, capsys, words, pairs, says):
    write_predictions(tmp_path / "here.csv")
    write_predictions(tmp_path / "there.csv")
    there = tmp_path / "there.csv"
    if says:  # no two are called the same
        there.write_text(there.read_text().replace("audio_video", "audio"))
    files = ("--predictions", tmp_path / "here.csv", "--against", there)
    rows = evaluate(tmp_path / "out", "--suite", "paired", *files, *words)["paired"]
    assert {row["model"]["selection"]: row["against"]["selection"] for row in rows} == pairs
    printed = capsys.readouterr().out
    assert ("no two models are called the same" in printed) == says
    assert ("is compared with" in printed) == any(one != other for one, other in pairs.items())
    assert evaluate(tmp_path / "out", "--suite", "paired", *files, "--against_models", "video") == 2
    assert "no model has all of --against_models video" in capsys.readouterr().err


def test_wholes_of_the_same_name_in_several_folds_are_each_one_that_is_tested(tmp_path):
    for name, noise in (("good", 0.3), ("poor", 0.9)):
        write_run(tmp_path / name, "class", noise)
        path = tmp_path / name / "predictions.csv"
        path.write_text(path.read_text().replace("1,clip150", "2,clip149"))
    words = ("--suite", "paired", "--checkpoint", tmp_path / "good", "--against", tmp_path / "poor")
    (row,) = evaluate(tmp_path / "out", *words)["paired"]
    assert row["n"] == 160 and "p_mcnemar" in row


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ({"split": "beef"}, "was split otherwise (hash beef, here f00d)"),
        ({"clips": 159}, "1 of these are not there"),
        ({"names": ("ANG", "HAP", "NEU")}, "it predicts ANG, HAP, NEU (class), not ANG, HAP, SAD (class)"),
        ({"rule": "distribution"}, "(distribution), not"),
        ({"seed": 1}, "have other labels there"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_in_one_line(tmp_path, capsys, run, says):
    write_run(tmp_path / "a", "class", 0.3)
    write_run(tmp_path / "b", **({"rule": "class", "noise": 0.3} | run))
    words = ("--suite", "paired", "--checkpoint", tmp_path / "a", "--against", tmp_path / "b")
    assert evaluate(tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_share_that_there_is_not_is_null_in_the_file_and_a_dash_in_the_table(tmp_path, monkeypatch):
    """A model that names neither the voice's emotion nor the face's."""
    write_predictions(tmp_path / "predictions.csv")
    votes = {"majority_voice": "FEA", "majority_face": "DIS", "majority_both": "FEA"}
    monkeypatch.setattr(suites, "facts_of", lambda data, clips: dict.fromkeys(clips, votes))
    words = ("--predictions", tmp_path / "predictions.csv", "--data", tmp_path, "--models", "last")
    (row,) = evaluate(tmp_path / "out", "--suite", "conflict", *words)["conflict"]
    assert row["other"] == 240 and row["face_share"] is None and row["ci95"] == [None, None]
    line = (tmp_path / "out" / "table.txt").read_text().splitlines()[1]
    assert line.split()[-2:] == ["–", "–"]


def test_a_probes_predictions_are_judged_by_what_is_known_of_their_clips(place, tmp_path):
    words = ("--predictions", place / "probe", "--data", place / "data", "--traits", "shade,tone,age")
    found = evaluate(tmp_path / "out", "--suite", "fairness", "calibration", *words, "--models", "cat4")
    assert [row["trait"] for row in found["fairness"]] == ["shade", "tone"]  # of ages nothing is known
    (one,) = [
        model
        for model in predicted.read(place / "probe" / "predictions.csv")
        if model.model["feature"] == "cat4"
    ]
    shade = found["fairness"][0]
    assert {row["group"] for row in shade["groups"]} == {"bright", "dark"}
    assert sum(row["n"] for row in shade["groups"]) == len(one.label) == 48
    assert shade["gap"]["gap"] == pytest.approx(
        abs(shade["groups"][0]["uar"] - shade["groups"][1]["uar"]), abs=1e-9
    )
    assert found["calibration"][0]["model"] == one.model
    split = json.loads((place / "probe" / "rows.json").read_text())[0]["split_hash"]
    assert all(row["split_hash"] == split for rows in found.values() for row in rows)
    steps = {row["model"]["weights"]: row["step"] for rows in found.values() for row in rows}
    assert steps["checkpoint"] == 7


def test_retrieval_has_a_row_for_each_layer_and_for_random_weights(place, tmp_path):
    words = ("--checkpoint", place / "run", "--data", place / "data", "--batch_size", 16)
    rows = evaluate(tmp_path / "out", "--suite", "retrieval", *words)["retrieval"]
    assert [(row["weights"], row["layer"]) for row in rows] == [
        (weights, layer) for weights in ("checkpoint", "random") for layer in (0, 1, "all")
    ]
    for row in rows:
        assert row["n"] == 48 and row["chance"]["r1"] == pytest.approx(1 / 48)
        assert row["split_hash"] == clips_hash(open_records(place / "data").clip_ids)
        for way in ("video_to_audio", "audio_to_video"):
            assert row[way]["r1"] <= row[way]["r5"] <= row[way]["r10"]
            low, high = row[way]["r10_ci95"]
            assert low <= row[way]["r10"] <= high


def test_a_clip_that_lacks_picture_or_sound_is_neither_asked_nor_found(place, tmp_path, capsys):
    missing = {3: "picture", 20: "sound", 21: "sound"}
    synthetic.write_folder(tmp_path / "some", lambda number: missing.get(number, ""))
    synthetic.write_folder(tmp_path / "none", lambda number: "picture")
    words = ("--suite", "retrieval", "--checkpoint", place / "run", "--batch_size", 16, "--random_seeds", 0)
    row = evaluate(tmp_path / "out", *words, "--data", tmp_path / "some")["retrieval"][-1]
    known = open_records(tmp_path / "some").clip_ids
    assert row["n"] == 45 and row["lacking"] == 3 and row["chance"]["r1"] == pytest.approx(1 / 45)
    assert row["split_hash"] == clips_hash([name for place, name in enumerate(known) if place not in missing])
    assert "of 45 clips (3 others lack picture or sound)" in capsys.readouterr().out
    words = [
        str(word) for word in ("evaluate", *words, "--data", tmp_path / "none", "--out", tmp_path / "no")
    ]
    assert main(words) == 2
    assert "has 0 clips with picture and sound" in capsys.readouterr().err


@pytest.mark.slow
def test_identity_is_the_speaker_probe_of_the_features_beside_random_weights_and_statistics(
    place, tmp_path, capsys
):
    words = ("--checkpoint", place / "run", "--data", place / "data", "--batch_size", 16)
    rows = evaluate(tmp_path / "out", "--suite", "identity", *words)["identity"]
    probed = synthetic.probe_rows(place, tmp_path / "probe", "speaker", random_seeds=1)
    by = {(row["feature"], row["weights"]): row for row in rows}
    assert {("cat4", "checkpoint"), ("cat4", "random"), ("log_mel", "none")} <= by.keys()
    for one in probed:
        same = by[one["feature"], one["weights"]]
        assert {key: one[key] for key in same if key != "label"} == {
            k: v for k, v in same.items() if k != "label"
        }
    for row in rows:
        assert (
            row["split"] == "within_speakers" and not row["speaker_disjoint"] and row["inner_unit"] == "fold"
        )
        assert row["n"] == 48 and row["chance"] == 1 / row["speakers"] == 0.25
        assert (
            row["ci95"][0] <= row["uar"] <= row["ci95"][1] < 0.9
        )  # the clips tell nothing of their speakers
    assert "48 clips of 4 speakers, chance 25.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, says",
    [
        (("identity", "robustness"), "is not a fine-tuned run with test clips"),
        (("identity", "robustness", "--label", "tone", "--feature", "cat5"), "no feature 'cat5'"),
        (("identity", "neighbours", "--feature", "video_tokens"), "no feature 'video_tokens'"),
        (("identity", "neighbours", "--feature", "layers"), "neighbours are of one vector"),
        (("identity", "neighbours", "--index", "tree"), "--index: no 'tree'"),
    ],
)
def test_a_suite_that_cannot_be_asked_is_refused_before_another_has_done_its_work(
    place, tmp_path, capsys, monkeypatch, words, says
):
    monkeypatch.setattr(identity, "rows", None)
    where = ("--checkpoint", place / "run", "--data", place / "data")
    assert evaluate(tmp_path / "new", *where, "--suite", *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, says",
    [
        (("--suite", "beauty"), "no 'beauty'; there are calibration"),
        (("--suite", "fairness", "--predictions", "{probe}"), "suite fairness needs the clips"),
        (("--suite", "calibration"), "give --predictions"),
        (("--suite", "calibration", "--predictions", "{data}"), "No such file"),
        (("--suite", "calibration", "--predictions", "{data}/clips.csv"), "has no column test_of"),
        (("--suite", "calibration", "--predictions", "{probe}", "--models", "cat5"), "no model has all of"),
        (("--suite", "retrieval", "--data", "{data}"), "give --checkpoint"),
        (("--suite", "retrieval", "--batch_size", "0", *_ASKED), "--batch_size is 0, it must be at least 1"),
        (
            ("--suite", "retrieval", "--random_seeds", "-1", *_ASKED),
            "--random_seeds is -1, it must be at least 0",
        ),
        (
            ("--suite", "conflict", "--predictions", "{probe}", "--data", "{data}"),
            "no clip has labels majority_voice",
        ),
        (
            ("--suite", "fairness", "--predictions", "{probe}", "--data", "{data}", "--traits", "gender,age"),
            "less than two groups of each of gender, age",
        ),
        (("--suite", "paired", "--predictions", "{probe}"), "give --against another run"),
        (("--suite", "calibration", "--predictions", "{probe}", "--against", "{probe}"), "name one of them"),
    ],
)
def test_what_cannot_be_answered_is_one_line(place, tmp_path, capsys, words, says):
    where = {name: place / name for name in ("probe", "data", "run")}
    assert evaluate(tmp_path / "new", *(word.format(**where) for word in words)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "new").exists()
