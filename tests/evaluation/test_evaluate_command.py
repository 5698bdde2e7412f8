"""`avemo evaluate` as a person calls it, on a probe's predictions and a checkpoint."""

import csv
import json

import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.evaluation import calibration, identity, predicted, suites
from tests.evaluation import synthetic

CLASSES = ("ANG", "HAP", "SAD")


def write_predictions(path, clips=240, speakers=12):
    """A file as `avemo finetune` writes it: two choices of weights, one of them too sure."""
    rng = np.random.default_rng(0)
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
        for name, sharp in (("best on the development clips", 1.0), ("last", 3.0)):
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


def evaluate(out, *words):
    code = main([str(word) for word in ("evaluate", "--out", out, *words)])
    return json.loads((out / "suites.json").read_text()) if code == 0 else code


def test_calibration_tells_a_model_that_is_too_sure_from_one_that_is_right(tmp_path, capsys):
    write_predictions(tmp_path / "predictions.csv")
    found = evaluate(
        tmp_path / "out", "--suite", "calibration", "--predictions", tmp_path / "predictions.csv"
    )
    right, sure = found["calibration"]
    assert right["model"] == {"selection": "best on the development clips", "modalities": "audio_video"}
    assert sure["ece"] > 2 * right["ece"] and sure["temperature"] > 2 > right["temperature"]
    assert sure["tempered"]["ece"] < sure["ece"] / 2 and sure["by"] == "speaker"
    assert sure["ece_ci95"][0] <= sure["ece"] <= sure["ece_ci95"][1] and sure["ci_unit"] == "speaker"
    assert sum(sure["reliability"]["clips"]) == 240 and sure["risk_coverage"]["coverage"][-1] == 1
    printed = capsys.readouterr().out
    assert "best on the development clips" in printed and "results: " in printed
    assert (tmp_path / "out" / "table.txt").read_text() in printed


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
        for way in ("video_to_audio", "audio_to_video"):
            assert row[way]["r1"] <= row[way]["r5"] <= row[way]["r10"]
            low, high = row[way]["r10_ci95"]
            assert low <= row[way]["r10"] <= high


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
        (
            ("--suite", "conflict", "--predictions", "{probe}", "--data", "{data}"),
            "no clip has labels majority_voice",
        ),
        (("--suite", "fairness", "--predictions", "{probe}", "--data", "{data}"), "less than two groups"),
    ],
)
def test_what_cannot_be_answered_is_one_line(place, tmp_path, capsys, words, says):
    where = {"probe": place / "probe", "data": place / "data"}
    assert evaluate(tmp_path / "new", *(word.format(**where) for word in words)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "new").exists()
