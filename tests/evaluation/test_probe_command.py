"""`avemo probe` as a person calls it, on clips whose labels are known by construction."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from avemo_jax.cli import main
from avemo_jax.config import load_config, to_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation import report
from avemo_jax.training.checkpoint_files import load_params, save_params
from avemo_jax.training.watching import write_looks
from tests.evaluation.synthetic import probe_rows, words
from tests.processes import environment

REQUIRED = {"feature", "weights", "seed", "head", "split", "split_hash", "n", "uar", "war", "wf1", "ci95"}


def _by_name(rows):
    return {(row["feature"], row["weights"], row["seed"], row["loudness"]): row for row in rows}


def test_every_feature_stands_beside_random_weights_and_plain_statistics(place, tmp_path, capsys):
    flags = {"features": "default", "random_seeds": 2, "json": tmp_path / "copy.json", "scores": "kappa"}
    rows = probe_rows(place, tmp_path / "out", "tone", **flags)
    features = ["cat4", "video", "audio", "fused_video", "fused_audio", "audio_rows", "video_cells"]
    expected = [(f, w, s) for f in features for w, s in (("checkpoint", 0), ("random", 0), ("random", 1))]
    expected += [(f, "none", 0) for f in ("log_mel", "log_mel_spans", "pixels", "log_mel+pixels")]
    assert {(row["feature"], row["weights"], row["seed"]) for row in rows} == set(expected)
    assert len(rows) == len(expected)
    for row in rows:
        assert row.keys() >= REQUIRED and row.keys() == rows[0].keys()
        assert row["n"] == 48 and row["split"] == "leave_one_speaker_out" and row["head"] == "linear"
        assert row["ci95"][0] <= row["uar"] <= row["ci95"][1] and row["ci_unit"] == "speaker"
        assert np.sum(row["confusion"]) == 48 and len(row["folds"]) == 4
        assert (row["step"] == 7) == (row["weights"] == "checkpoint")
    assert json.loads((tmp_path / "copy.json").read_text()) == rows
    printed = capsys.readouterr().out
    assert "random, 2 seeds" in printed and "[" in printed and "confusion" in printed
    assert printed.splitlines()[-1].startswith("results: ") and str(tmp_path / "out") in printed
    assert (tmp_path / "out" / "table.txt").read_text().strip() in printed
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 48 * len(rows)
    assert "kappa" in (tmp_path / "out" / "table.txt").read_text().splitlines()[5]
    log_mel = [line for line in predictions if line["feature"] == "log_mel"]
    right = sum(line["label"] == line["predicted"] for line in log_mel)
    row = _by_name(rows)["log_mel", "none", 0, "as_recorded"]
    assert right / 48 == pytest.approx(row["war"])
    words = ([line[key] for line in log_mel] for key in ("label", "predicted"))
    assert row["kappa"] == pytest.approx(cohen_kappa_score(*words)) and row["further"] == ["kappa"]
    assert row["kappa_ci95"][0] <= row["kappa"] <= row["kappa_ci95"][1]


@pytest.mark.slow
def test_sound_is_found_in_sound_and_picture_in_the_picture(place, tmp_path):
    tone = _by_name(probe_rows(place, tmp_path / "tone", "tone"))
    shade = _by_name(probe_rows(place, tmp_path / "shade", "shade"))
    assert tone["log_mel", "none", 0, "as_recorded"]["uar"] > 0.95
    assert tone["pixels", "none", 0, "as_recorded"]["uar"] < 0.6
    assert shade["pixels", "none", 0, "as_recorded"]["uar"] > 0.95
    assert shade["log_mel", "none", 0, "as_recorded"]["uar"] < 0.75


def test_at_equal_loudness_what_only_loudness_told_is_gone(place, tmp_path):
    rows = _by_name(probe_rows(place, tmp_path, "level", loudness="both"))
    assert rows["log_mel", "none", 0, "as_recorded"]["uar"] > 0.95
    assert rows["log_mel", "none", 0, "normalised"]["uar"] < 0.7
    assert ("cat4", "checkpoint", 0, "normalised") in rows


def test_clips_without_the_label_are_left_out_and_counted(place, tmp_path, capsys):
    rows = probe_rows(place, tmp_path, "half")
    assert rows[0]["n"] == 24
    assert "left out: 24 no label" in capsys.readouterr().out


@pytest.mark.slow
def test_folds_and_split_of_the_manifest_are_used(place, tmp_path, capsys):
    folds = probe_rows(place, tmp_path / "folds", "tone", protocol="folds")[0]
    assert folds["n"] == 36 and not folds["speaker_disjoint"]
    assert "left out: 12 in no fold" in capsys.readouterr().out
    split = probe_rows(place, tmp_path / "split", "tone", protocol="split")[0]
    assert split["n"] == 12 and split["ci_unit"] == "clip" and split["fold_uar_std"] is None
    assert 0.5 <= split["auc"] <= 1 and 0 < split["map"] <= 1 and split["top2"] >= split["war"]


def test_a_label_that_is_a_number_is_learnt_by_ridge_and_judged_by_its_agreement(place, tmp_path, capsys):
    rows = probe_rows(place, tmp_path, "rating", random_seeds=1)
    by = {(row["feature"], row["weights"]): row for row in rows}
    assert by.keys() >= {("cat4", "checkpoint"), ("cat4", "random"), ("log_mel", "none")}
    with open(tmp_path / "predictions.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["feature"] == "log_mel"]
    truth, predicted = (np.array([float(line[key]) for line in lines]) for key in ("true_rating", "p_rating"))
    row = by["log_mel", "none"]
    assert row["head"] == "ridge" and row["target"] == "values" and len(truth) == row["n"] == 48
    assert row["pcc"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1], abs=1e-4) and row["pcc"] > 0.2
    assert row["mae"] == pytest.approx(np.abs(truth - predicted).mean(), abs=1e-4)
    for score, interval in (("ccc", "ci95"), ("pcc", "pcc_ci95"), ("mae", "mae_ci95")):
        low, high = row[interval]
        assert low <= row[score] <= high and row["ci_unit"] == "speaker"
        folds = [fold[score] for fold in row["folds"]]
        assert row[f"fold_{score}_mean"] == pytest.approx(np.mean(folds)) and len(folds) == 4
        assert row[f"fold_{score}_std"] == pytest.approx(np.std(folds, ddof=1))
    printed = capsys.readouterr().out
    assert "48 clips tested, speakers: 4, a number" in printed and "folds' CCC" in printed
    assert "confusion" not in printed and "by speaker" in printed
    probe_rows(place, tmp_path / "b", "rating", against=tmp_path)
    (pair,) = json.loads((tmp_path / "b" / "paired.json").read_text())
    assert (pair["feature"], pair["head"], pair["score"], pair["n"]) == ("cat4", "ridge", "ccc", 48)
    assert pair["ccc_difference"] == pytest.approx(0, abs=1e-4) and "p_mcnemar" not in pair
    assert f"against {tmp_path}: CCC here minus there" in capsys.readouterr().out
    probe_rows(place, tmp_path / "b", "rating")
    assert not (tmp_path / "b" / "paired.json").exists()
    capsys.readouterr()
    both = [
        "--predictions",
        tmp_path,
        "--suite",
        "paired",
        "--against",
        tmp_path,
        "--out",
        tmp_path / "paired",
    ]
    assert main(["evaluate", *map(str, both)]) == 0
    compared = json.loads((tmp_path / "paired" / "suites.json").read_text())["paired"]
    assert {one["score"] for one in compared} == {"ccc"} and {one["ccc_difference"] for one in compared} == {
        0
    }
    capsys.readouterr()
    assert main(words(place, tmp_path / "c", "rating", test_data=place / "data")) == 2
    assert "--test_data needs classes, label 'rating' is a number" in capsys.readouterr().err
    suite = ["evaluate", "--checkpoint", place / "run", "--data", place / "data", "--out", tmp_path / "c"]
    assert main([*map(str, suite), "--suite", "robustness", "--label", "rating"]) == 2
    assert "robustness of a probe needs a label of classes" in capsys.readouterr().err


def test_classes_can_be_chosen_so_that_what_one_speaker_has_alone_is_left_out(place, tmp_path, capsys):
    assert main(words(place, tmp_path, "rare")) == 2
    assert "class 'b' is only among the test clips of 'p1'" in capsys.readouterr().err
    rows = probe_rows(place, tmp_path, "rare", classes="a,c")
    assert rows[0]["classes"] == ["a", "c"] and rows[0]["n"] == 45


@pytest.mark.parametrize(
    ("label", "flags", "message"),
    [
        ("emotion", {}, "no clip has the label 'emotion'; it has: constant (48 clips), half (24 clips)"),
        (
            "rating",
            {"head": "ridge,linear"},
            "--head: linear tells classes apart, the label is a number; there are ",
        ),
        (
            "rating",
            {"classes": "1,2"},
            "label 'rating' is a number, so there is nothing to choose by --classes",
        ),
        ("tone", {"fold_by": "session"}, "--fold_by session is of --protocol folds"),
        (
            "tone",
            {"fold_by": "session", "protocol": "folds"},
            "the manifest's column 'session' gives 0 fold(s)",
        ),
        ("tone", {"test_split": "noise", "protocol": "split"}, "data has no such split (found: test, train)"),
        ("constant", {}, "has one class, 'same'"),
        ("tone", {"classes": "low,shrill"}, "--classes shrill: label 'tone' has only high, low, middle"),
        ("tone", {"features": "cat5"}, "no feature 'cat5'"),
        ("tone", {"protocol": "leave_one_out"}, "unknown protocol 'leave_one_out'"),
        ("tone", {"random_seeds": -1}, "--random_seeds is -1"),
        ("tone", {"checkpoint": "/nowhere"}, "no usable checkpoint in /nowhere"),
        ("tone", {"data": "/nowhere"}, "/nowhere: no prepared dataset"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(place, tmp_path, capsys, label, flags, message):
    assert main(words(place, tmp_path / "out", label, **flags)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_named_before_any_work(place, tmp_path, capsys):
    (tmp_path / "out").write_text("a file, not a folder")
    assert main(words(place, tmp_path / "out", "tone")) == 2
    error = capsys.readouterr().err.strip()
    assert error.endswith("out is a file; choose another place") and len(error.splitlines()) == 1


def test_an_interrupted_write_leaves_the_earlier_file_whole(tmp_path, monkeypatch):
    report.write_file(tmp_path / "rows.json", "first")

    def full(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"rows.json cannot be written: No space left on device \(6 bytes\)"):
        report.write_file(tmp_path / "rows.json", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    assert (tmp_path / "rows.json").read_text() == "first"


def test_a_network_with_values_that_are_not_finite_is_refused(place, tmp_path, capsys):
    config, params, _ = load_params(place / "run")
    params["audio"]["norm"]["scale"] = np.full_like(params["audio"]["norm"]["scale"], np.nan)
    save_params(tmp_path / "run", config, params)
    assert main(words(place, tmp_path / "out", "tone", checkpoint=tmp_path / "run")) == 2
    assert "not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "probe --label tone",
        "features",
        "evaluate --suite identity",
        "evaluate --suite neighbours",
        "evaluate --suite rollout",
        "evaluate --suite robustness --label tone",
    ],
)
def test_of_a_fine_tuned_run_the_weights_that_it_chose_are_taken(place, tmp_path, capsys, command):
    """They were deleted here, which only who asks for them notices."""
    run, chosen = tmp_path / "run", ["select.by=development", "select.score=uar"]
    config = load_config("finetune/recipe:demo", ["data.label=tone", *chosen])
    save_params(run, config, load_params(place / "run")[1], step=9)
    (run / "config.json").write_text(to_json(config))
    write_looks(run / "looks.jsonl", [{"step": step, "development_uar": step / 9} for step in (4, 3)])
    words = ["--checkpoint", run, "--data", place / "data", "--out", tmp_path / "out"]
    assert main([*command.split(), *map(str, words)]) == 2
    assert f"no usable checkpoint in {run}/best/checkpoints/00000004" in capsys.readouterr().err


@pytest.mark.slow
def test_several_devices_give_the_scores_of_one(place, tmp_path):
    one = probe_rows(place, tmp_path / "one", "tone", random_seeds=1, batch_size=10)
    devices = 3 if jax.device_count() != 3 else 2
    line = words(place, tmp_path / "many", "tone", random_seeds=1, batch_size=10)
    subprocess.run(
        [sys.executable, "-m", "avemo_jax", *line], env=environment(devices), check=True, timeout=300
    )
    many = json.loads((tmp_path / "many" / "rows.json").read_text())
    assert [row["feature"] for row in many] == [row["feature"] for row in one]
    for a, b in zip(one, many, strict=True):
        assert abs(a["uar"] - b["uar"]) <= 1 / 48 + 1e-9 and a["split_hash"] == b["split_hash"]
