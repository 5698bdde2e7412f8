"""`avemo finetune` as a person calls it, on clips whose labels are known by construction."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy import special

from avemo_jax.cli import main
from avemo_jax.errors import UserError
from avemo_jax.evaluation.corruptions import CORRUPTIONS
from avemo_jax.tasks import finetuning
from avemo_jax.training.checkpoint_files import FOLDER, load_params, step_name
from avemo_jax.training.watching import BEST, LOOKS, read_looks
from tests.evaluation import synthetic
from tests.processes import environment
from tests.training.test_survival import wait_until
from tests.training.tiny import ROOT

MODEL = [word for word in synthetic.TINY if not word.startswith(("model.decoder", "model.skip"))]
SHORT = (
    "batch_size=8", "optimizer.learning_rate=0.1", "log.every_steps=20", "log.samples_every_steps=0",
    "data.protocol=leave_one_speaker_out", "data.fold=p0", "data.development=3", "data.workers=0", "views.crops=1",
)  # fmt: skip
SHADE = (
    "data.label=shade",
    "data.classes=dark,bright",
    "model.classes=2",
    "epochs=40",
    "select.every_epochs=10",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the prepared `data` and the pretrained `run`."""
    place = tmp_path_factory.mktemp("finetune")
    synthetic.write_folder(place / "data")
    synthetic.write_checkpoint(place / "run")
    return place


def words(place, workdir, *overrides):
    config = [*MODEL, *SHORT, f"data.path={place / 'data'}", f"init.checkpoint={place / 'run'}", *overrides]
    flags = [f"--config.{override}" for override in config]
    return ["finetune", "--config", "finetune/recipe:demo", "--workdir", str(workdir), *flags]


def rows_of(workdir):
    return json.loads((workdir / "rows.json").read_text())


@pytest.mark.nightly
def test_a_run_learns_what_clips_show_and_a_kill_changes_none_of_its_numbers(place, tmp_path):
    started = words(place, tmp_path / "killed", *SHADE)
    process = subprocess.Popen([sys.executable, "-m", "avemo_jax", *started], cwd=ROOT, env=environment(1))
    wait_until(lambda: len(read_looks(tmp_path / "killed" / LOOKS)) >= 2, process, timeout_s=500)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = subprocess.run(
        [sys.executable, "-m", "avemo_jax", *started, "--json", str(tmp_path / "copy.json")],
        cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stdout and "results: " in again.stdout
    assert main(words(place, tmp_path / "whole", *SHADE)) == 0

    chosen, last = rows_of(tmp_path / "whole")
    assert chosen["selection"] == "best on the development clips" and last["step"] == 120
    assert chosen["n"] == 12 and chosen["n_train"] == 24 and chosen["n_development"] == 12
    assert chosen["uar"] > 0.9 and chosen["chance"] == 0.5  # of a speaker that nobody has seen
    assert np.sum(chosen["confusion"]) == 12 and len(chosen["split_hash"]) == 64
    assert chosen["ci95"][0] <= chosen["uar"] <= chosen["ci95"][1]

    killed = rows_of(tmp_path / "killed")
    assert killed == json.loads((tmp_path / "copy.json").read_text())
    for one, other in zip((chosen, last), killed, strict=True):
        fitted, again = one.pop("decision"), other.pop("decision")
        assert fitted["clips"] == 12 and fitted["speakers"] == 1 and fitted["thresholds"] is None
        assert fitted["temperature"] == pytest.approx(again["temperature"], rel=1e-3)
        assert fitted["test"]["before"].keys() == {"ece", "brier", "cross_entropy"}
        assert one == {**other, "auc": pytest.approx(other["auc"], abs=1e-9)}
    whole, resumed = (read_looks(tmp_path / name / LOOKS) for name in ("whole", "killed"))
    assert [look["step"] for look in whole] == [30, 60, 90, 120] == [look["step"] for look in resumed]
    with open(tmp_path / "whole" / "predictions.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 24 and {line["speaker"] for line in lines} == {"p0"}
    right = sum(line["label"] == line["predicted"] for line in lines[:12])
    assert right / 12 == pytest.approx(chosen["war"])
    _is_judged(place, tmp_path / "whole", chosen)


def _is_judged(place, run, chosen):
    """By `avemo evaluate`, from what the run left: a label that is seen does not fall without sound."""
    out = run / "judged"
    words = [
        "--checkpoint",
        run,
        "--data",
        place / "data",
        "--suite",
        "robustness",
        "calibration",
        "--out",
        out,
    ]
    assert main([str(word) for word in ("evaluate", *words)]) == 0
    found = json.loads((out / "suites.json").read_text())
    rows = {(row["corruption"], row["level"]): row for row in found["robustness"]}
    clean = rows["none", None]
    assert clean["uar"] == chosen["uar"] and clean["change"] == 0 and clean["kept"] == 1
    assert len(rows) == 1 + sum(len(one.levels) for one in CORRUPTIONS.values())
    assert rows["silence", 1.0]["kept"] > rows["black", 1.0]["kept"]
    assert rows["black", 1.0]["change"] < -0.3 < rows["silence", 1.0]["change"]
    low, high = rows["black", 1.0]["change_ci95"]
    assert low <= rows["black", 1.0]["change"] <= high
    assert found["calibration"][0]["model"]["selection"] == chosen["selection"]
    _is_reported(run, chosen, found)


def _is_reported(run, chosen, found):
    """On its page stand its scores, what was asked of it, and how much of each layer it learned to take."""
    words = ["report", run, "--clips", 0, "--out", run / "page.html", "--json", run / "page.json"]
    assert main([str(word) for word in words]) == 0
    numbers = json.loads((run / "page.json").read_text())
    (one,) = numbers["judged"]["outcomes"]
    assert one["lines"][0]["scores"]["uar"]["value"] == chosen["uar"]
    changes = [row["change"] for row in numbers["tables"]["robustness"]]
    assert changes == [row["change"] for row in found["robustness"]]
    (looked,) = numbers["rollouts"]
    assert looked["step"] == chosen["step"] and looked["selection"] == chosen["selection"]
    folder = run / BEST / FOLDER / step_name(chosen["step"])
    (layers,) = numbers["layers"]
    shares = [row["share"] for row in numbers["tables"][layers["table"]]]
    learned = load_params(folder)[1]
    expected = [special.softmax(np.asarray(learned[f"{s}_layer_weights"])) for s in ("video", "audio")]
    assert shares == pytest.approx(np.concatenate(expected).tolist(), abs=1e-6)


@pytest.mark.slow
def test_all_folds_are_run_apart_and_scored_together_also_with_one_modality_alone(place, tmp_path, capsys):
    overrides = (
        "data.label=rating", "data.target=values", "model.classes=1", "loss.kind=ccc", "mix.probability=0.0",
        "augment.erase=0.0", "model.drop_path=0.0", "data.audio_gain=false", "data.protocol=folds",
        "data.development=0", "select.by=test", "select.score=mae", "views.alone=true", "total_steps=4",
        "data.fold=all",
    )  # fmt: skip
    assert main(words(place, tmp_path, *overrides)) == 0
    printed = capsys.readouterr().out
    assert "legacy" in printed and "says too much" in printed
    rows = rows_of(tmp_path)
    assert [row["modalities"] for row in rows] == ["audio_video", "video", "audio"] * 2
    assert {row["n"] for row in rows} == {36} and rows[0]["speakers"] == 3 and rows[0]["ci_unit"] == "speaker"
    for row in rows:
        assert [fold["fold"] for fold in row["folds"]] == ["0", "1", "2"]
        assert row["fold_mae_mean"] == pytest.approx(np.mean([fold["mae"] for fold in row["folds"]]))
        sizes = [fold["n"] for fold in row["folds"]]
        assert row["mae"] == pytest.approx(np.average([fold["mae"] for fold in row["folds"]], weights=sizes))
    assert rows[0]["selection"].startswith("legacy") and rows[3]["selection"] == "last"
    assert rows[0]["mae"] <= rows[3]["mae"]  # chosen by the very clips
    assert rows_of(tmp_path / "fold_2")[0] == rows[0]["folds"][2]


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (("data.protocol=",), "data.protocol is empty"),
        (("data.fold=p9",), "data.fold is 'p9'"),
        (("select.by=dev",), "select.by is 'dev'"),
        (("data.development=0",), "nothing is held out to choose by"),
        (("select.score=ccc",), "select.score is 'ccc': data.target=class has uar, war"),
        (("init.checkpoint=/nowhere",), "no usable checkpoint"),
        (("model.dim=32",), "does not fit this config: .*audio/blocks"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_trained(place, tmp_path, capsys, overrides, hint):
    assert main(words(place, tmp_path / "run", *SHADE, *overrides)) == 2
    error = capsys.readouterr().err
    assert re.search(hint, error) and error.count("\n") == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_results_of_one_fold_and_of_all_do_not_replace_each_other(place, tmp_path, capsys):
    for kept, fold, hint in (
        ("config.json", "all", "is the run of one fold: give data.fold=all another --workdir"),
        ("fold_0/config.json", "1", "holds the runs of all folds: give a single one another --workdir"),
    ):
        run = tmp_path / fold
        (run / kept).parent.mkdir(parents=True)
        (run / kept).write_text("{}")
        assert main(words(place, run, *SHADE, f"data.fold={fold}")) == 2
        assert hint in capsys.readouterr().err
        assert not (run / "commands.jsonl").exists() and (run / kept).read_text() == "{}"


def test_what_is_wrong_with_a_later_fold_is_said_before_the_first_is_trained(
    place, tmp_path, capsys, monkeypatch
):
    whole = finetuning.partition_of

    def partition_of(config):
        if config.data.fold == "p2":
            raise UserError("nobody can be held out of fold 2")
        return whole(config)

    monkeypatch.setattr(finetuning, "partition_of", partition_of)
    assert main(words(place, tmp_path / "run", *SHADE, "data.fold=all")) == 2
    assert "nobody can be held out of fold 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/fold_*"))


def test_a_config_of_pretraining_is_refused(tmp_path, capsys):
    assert main(["finetune", "--config", "hicmae:demo", "--workdir", str(tmp_path)]) == 2
    assert "takes one of finetune/" in capsys.readouterr().err


@pytest.mark.slow
def test_clips_that_lack_a_stream_are_counted_and_used_where_asked(tmp_path, capsys):
    lacking = lambda number: {1: "sound", 2: "picture"}.get(number % 12, "")  # noqa: E731
    synthetic.write_folder(tmp_path / "data", lacking)
    synthetic.write_checkpoint(tmp_path / "run")
    short = ("total_steps=2", *SHADE[:3], "data.max_unreadable_share=0.5", "scores=kappa")
    for allowed, tested in (("false", 10), ("true", 12)):
        run = tmp_path / allowed
        assert main(words(tmp_path, run, *short, f"data.allow_missing={allowed}")) == 0
        said = capsys.readouterr().out
        assert "2 without picture and 2 without sound among 24 train clips" in said
        assert "1 without picture and 1 without sound among 12 test clips" in said
        assert ("used with black frames or silence" in said) == (allowed == "true")
        assert [row["n"] for row in rows_of(run)] == [tested] * 2
        assert rows_of(run)[0]["unreadable"] == 12 - tested
        assert rows_of(run)[0]["kappa_ci95"][0] <= rows_of(run)[0]["kappa"] and "KAPPA %" in said
        look = read_looks(run / LOOKS)[0]
        assert {"development_kappa", "development_recall_dark", "development_recall_bright"} <= look.keys()
        assert "development_kappa" in said and "development_recall" not in said
