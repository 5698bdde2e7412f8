"""A fine-tuned run on another corpus, which has other names for the same and some that the run has not."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.config import load_config, to_json
from avemo_jax.convert.huggingface.judged import suites_of
from avemo_jax.evaluation import metrics, predicted
from avemo_jax.evaluation.protocols import clips_hash
from avemo_jax.evaluation.runs import gather_run
from avemo_jax.evaluation.views import Viewer
from avemo_jax.models.params import split
from avemo_jax.tasks import make_task
from avemo_jax.training.checkpoint_files import load_params, save_params
from avemo_jax.training.mesh import make_mesh
from input_pipeline.records import open_records
from input_pipeline.targets import target_of
from tests.evaluation import synthetic
from tests.tasks.small import fresh
from tests.tasks.test_several import teacher_config

NAMES = {"low": "deep", "middle": "deep", "high": "shrill"}  # as the other corpus calls the run's classes
TONES = ("data.label=tone", "data.classes=low,middle,high", "model.classes=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The run's `data`, another corpus `other` of other speakers, and the `run`."""
    place = tmp_path_factory.mktemp("transfer")
    synthetic.write_folder(place / "data")

    def change(record):
        number = int(record.clip_id[4:])
        tone = "noise" if number % 12 == 0 else NAMES[record.labels["tone"]]
        labels = {"pitch": tone, "tone": record.labels["tone"]}
        return replace(record, speaker=f"q{number % 6}", labels=labels)

    synthetic.write_changed(place / "other", place / "data", change)
    words = ("data.protocol=folds", "data.fold=1", "data.development=0", *TONES)
    config = teacher_config(f"data.path={place / 'data'}", *words)
    save_params(
        place / "run", config, jax.tree.map(np.asarray, split(fresh(make_task(config), seed=5))[1]), 3
    )
    return place


def evaluate(place, out, *words, suite="cross_corpus"):
    flags = ("--suite", suite, "--checkpoint", place / "run", "--data", place / "other", "--out", out)
    return main([str(word) for word in ("evaluate", *flags, *words)])


def test_all_of_another_corpus_is_tested_under_common_names(place, tmp_path, capsys):
    words = ("--label", "pitch", "--map", "low=deep,middle=deep,high=shrill", "--drop_unmapped")
    assert evaluate(place, tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "suites.json").read_text())["cross_corpus"]
    shutil.copytree(tmp_path / "out", tmp_path / "run" / "other")
    (tmp_path / "run" / "config.json").write_text("{}")
    records = [record for record in open_records(place / "other") if record.labels["pitch"] != "noise"]
    assert row["n"] == 44 and row["outputs"] == ["deep", "shrill"] and row["speakers"] == 6
    assert row["split_hash"] == clips_hash([record.clip_id for record in records])
    assert row["left_out"] == {"no counterpart": 4} and "left out: 4 no counterpart" in printed

    config, params, _ = load_params(place / "run", say=lambda _: None)
    viewer = Viewer(config, target_of(config.data), make_mesh(load_config("finetune/recipe:demo").mesh))
    positions = [number for number in range(48) if number % 12]
    _, outputs = viewer.merged(viewer.placed(params), positions)  # the clips are those of the run's folder
    shrill = (outputs[:, 2] > outputs[:, 0] + outputs[:, 1]).astype(int)
    truth = np.array([record.labels["pitch"] == "shrill" for record in records]).astype(int)
    assert row["uar"] == pytest.approx(float(metrics.uar(metrics.confusion_matrix(truth, shrill, 2))))
    told = suites_of(gather_run(tmp_path / "run").suites[0].results.items())
    assert (
        "- On another corpus, `other` (last, audio + video), 44 clips of 6 speakers, 2 classes: UAR" in told
    )
    (one,) = predicted.read(tmp_path / "out" / "predictions.csv")
    np.testing.assert_allclose(one.outputs[:, 1], outputs[:, 2], atol=1e-5)
    assert set(one.part.tolist()) == {"other"} and one.truth.tolist() == truth.tolist()
    judged = ("--suite", "paired", "--predictions", tmp_path / "out", "--against", tmp_path / "out")
    assert main([str(word) for word in ("evaluate", *judged, "--out", tmp_path / "paired")]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--label", "pitch"), "labels without a counterpart in the other folder"),
        (("--label", "pitch", "--map", "loud=deep"), "--map: no clip has the value 'loud'"),
        (("--shared_speakers", "keep"), "--shared_speakers: no 'keep'"),
        (("--label", "mood"), "no clip has the label 'mood'"),
        (("--data", "{data}"), "holds the very clips of"),
        (("--data", "{data}", "--shared_speakers", "differ"), "holds the very clips of"),
    ],
)
def test_a_corpus_that_cannot_be_asked_is_refused_in_one_line(place, tmp_path, capsys, words, says):
    words = [word.format(data=place / "data") for word in words]
    assert evaluate(place, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_speakers_who_were_trained_on_are_not_tested_unless_they_are_others(place, tmp_path, capsys):
    synthetic.write_changed(tmp_path / "same", place / "other", lambda record: replace(record, speaker="p1"))

    def some(record):
        return replace(record, speaker="p1" if int(record.clip_id[4:]) % 2 else "q")

    synthetic.write_changed(tmp_path / "some", place / "other", some)
    words = ("--data", tmp_path / "some", "--shared_speakers")
    assert evaluate(place, tmp_path / "out", *words[:2]) == 2
    assert "names of speakers who were trained on, the first is p1" in capsys.readouterr().err
    for how, count in (("drop", 24), ("differ", 48)):
        assert evaluate(place, tmp_path / how, *words, how) == 0
        (row,) = json.loads((tmp_path / how / "rows.json").read_text())
        assert row["n"] == count
    assert evaluate(place, tmp_path / "out", "--data", tmp_path / "same", "--shared_speakers", "drop") == 2
    assert "nothing is left to test" in capsys.readouterr().err


def test_what_taught_the_other_heads_or_the_run_before_was_trained_on_too(place, tmp_path, capsys):
    config, params, step = load_params(place / "run", say=lambda _: None)
    shutil.copytree(place / "run", tmp_path / "both" / "heads" / "mine")
    whole = json.loads(to_json(config)) | {"heads": {"mine": {}, "theirs": {}}}
    whole["data"] |= {"path": "", "paths": [str(place / "data"), str(place / "other")]}
    (tmp_path / "both" / "config.json").write_text(json.dumps(whole))
    with config.unlocked():
        config.data.path = str(place / "other")
    save_params(tmp_path / "before", config, params, step)
    with config.unlocked():
        config.data.path, config.init.checkpoint = str(place / "data"), str(tmp_path / "before")
    save_params(tmp_path / "after", config, params, step)
    for run in ("both/heads/mine", "after"):
        words = ("--checkpoint", tmp_path / run, "--label", "tone", "--shared_speakers", "differ")
        assert evaluate(place, tmp_path / "out", *words) == 2
        assert f"holds the very clips of {place / 'other'}" in capsys.readouterr().err


def test_clips_that_lack_picture_or_sound_are_tested_without_and_counted(place, tmp_path, capsys):
    synthetic.write_folder(tmp_path / "heard", lambda number: "picture" if number % 4 else "")
    assert evaluate(place, tmp_path / "out", "--data", tmp_path / "heard", "--shared_speakers", "differ") == 0
    (row,) = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert (row["n"], row["unreadable"], row["lacking"]) == (48, 0, {"picture": 36, "sound": 0})
    assert "note: 36 without picture are tested with black frames" in capsys.readouterr().out
