"""Trained on one corpus, tested on another: mapped names, what has no counterpart, who is on both sides."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from avemo_jax.cli import main
from avemo_jax.errors import UserError
from avemo_jax.evaluation import cross_corpus, extraction
from avemo_jax.training.checkpoints import load_params
from tests.evaluation import synthetic
from tests.evaluation.synthetic import probe_rows, words

NAMES = {"low": "deep", "middle": "mid", "high": "shrill"}  # here → there
MAP = "deep=low,mid=middle,shrill=high"


@pytest.fixture(scope="module")
def other(place, tmp_path_factory):
    """The clips of `data` under other names: of clips, speakers (q0 …) and of the label, `pitch`; three of them have
    a class of their own, two no speaker."""

    def change(record):
        number = int(record.clip_id.removeprefix("clip"))
        name = "hum" if number < 3 else NAMES[record.labels["tone"]]
        speaker = "" if 3 <= number < 5 else record.speaker.replace("p", "q")
        return replace(record, clip_id=f"other{number}", speaker=speaker, labels={"pitch": name})

    path = tmp_path_factory.mktemp("corpora") / "other"
    synthetic.write_changed(path, place / "data", change)
    return path


def join(place, other, classes=(), **options):
    given = cross_corpus.Other(str(other), **{"label": "pitch", **options})
    return cross_corpus.join(str(place / "data"), "tone", classes, given)


def test_all_of_the_second_corpus_is_tested_by_what_the_first_taught_as_scikit_learn_finds(
    place, other, tmp_path, capsys
):
    flags = {"test_data": other, "test_label": "pitch", "map": MAP, "drop_unmapped": True}
    rows = probe_rows(place, tmp_path, "tone", **flags)
    row = {row["feature"]: row for row in rows}["log_mel"]
    assert row["split"] == "cross_corpus" and row["n"] == 45 and row["classes"] == ["high", "low", "middle"]
    assert row["trained_on"] == str(place / "data") and row["tested_on"] == str(other)
    assert row["inner_unit"] == "speaker" and row["uar"] > 0.95
    printed = capsys.readouterr().out
    assert f"tested on {other}" in printed and "left out: 3 no counterpart" in printed

    with open(tmp_path / "predictions.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["feature"] == "pixels"]
    assert [line["clip_id"] for line in lines] == [f"other{number}" for number in range(3, 48)]
    pixels = {row["feature"]: row for row in rows}["pixels"]
    config, params, _ = load_params(place / "run")
    networks = [extraction.Network("checkpoint", 0, params)]
    (train, test) = (
        next(matrix for source, matrix in found.items() if source.feature == "pixels")
        for _, found in (
            extraction.extract_folder(config, str(path), range(48), networks, ("cat4",), batch_size=16)
            for path in (place / "data", other)
        )
    )
    mean, deviation = train.mean(0), train.std(0)
    penalty = pixels["folds"][0]["inverse_penalty"]
    fitted = LogisticRegression(C=penalty, max_iter=5000, tol=1e-8)
    labels = [["high", "low", "middle"][number] for number in _tones(place)]
    fitted.fit((train - mean) / deviation, labels)
    expected = fitted.predict_proba((test[3:] - mean) / deviation)
    found = np.array([[float(line[f"p_{name}"]) for name in fitted.classes_] for line in lines])
    np.testing.assert_allclose(found, expected, atol=2e-3)


def _tones(place):
    opened = synthetic.records.open_records(place / "data")
    return [["high", "low", "middle"].index(opened[n].labels["tone"]) for n in range(opened.count)]


@pytest.mark.slow
def test_augmented_views_are_of_the_clips_trained_on_alone(place, other, tmp_path):
    flags = {"test_data": other, "test_label": "pitch", "map": MAP, "classes": "low,high"}
    flags |= {"views": "augmented", "views_per_clip": 2, "cache": tmp_path / "cache"}
    rows = probe_rows(place, tmp_path / "out", "tone", **flags)
    row = {row["feature"]: row for row in rows}["log_mel"]
    assert row["classes"] == ["low", "high"] and row["n"] == 30 and row["uar"] > 0.9
    assert len(list((tmp_path / "cache").iterdir())) == 5 * (
        2 + 2
    )  # both centre views, two random ones of one


def test_labels_without_a_counterpart_are_refused_or_dropped(place, other):
    with pytest.raises(UserError) as refused:
        join(place, other, names={"deep": "low", "mid": "middle"})
    assert f"high of {place / 'data'}; hum, shrill of {other}" in str(refused.value)
    assert "--drop_unmapped" in str(refused.value)
    dropped = join(place, other, names={"deep": "low", "mid": "middle"}, drop=True)
    assert dropped.clips.classes == ("low", "middle")
    assert dropped.left_out["no counterpart"] == 16 + 16 - 1 + 3
    merged = join(
        place, other, names={"deep": "low", "mid": "low", "middle": "low", "shrill": "high", "hum": "low"}
    )
    assert merged.clips.classes == ("high", "low") and len(merged.clips) == 96
    truth = [merged.clips.classes[number] for number in merged.clips.label]
    assert truth[48:51] == ["low"] * 3 and truth[:48].count("high") == 16 == truth[51:].count("high") + 1


def test_nobody_is_trained_on_and_tested(place, tmp_path):
    def change(record):
        speaker = {"p0": "p3", "p1": "q1", "p2": "q2", "p3": "q3"}[record.speaker]
        return replace(record, clip_id=f"other {record.clip_id}", speaker=speaker)

    synthetic.write_changed(tmp_path / "other", place / "data", change)
    with pytest.raises(UserError, match="share 1 names of speakers, the first is p3: --shared_speakers drop"):
        join(place, tmp_path / "other", label="")
    dropped = join(place, tmp_path / "other", label="", shared="drop")
    assert len(dropped.clips) == 36 + 48 and dropped.left_out == {"of a speaker who is tested": 12}
    differ = join(place, tmp_path / "other", label="", shared="differ")
    assert len(differ.clips) == 96 and "other/p3" in differ.clips.speaker
    for joined in (dropped, differ):
        (split,) = joined.splits().splits
        train, test = (set(joined.clips.speaker[rows]) for rows in (split.train, split.test))
        assert not train & test and joined.splits().speaker_disjoint
        assert (split.inner[split.test] == -1).all() and (split.inner[split.train] >= 0).all()


def test_a_map_is_read_from_pairs_lines_or_json(tmp_path):
    expected = {"angry": "ANG", "sad": "SAD"}
    assert cross_corpus.read_names("angry=ANG, sad = SAD") == expected
    (tmp_path / "lines").write_text("# RAVDESS → CREMA-D\nangry=ANG\n\nsad=SAD  # not calm\n")
    (tmp_path / "map.json").write_text(json.dumps(expected))
    for name in ("lines", "map.json"):
        assert cross_corpus.read_names(str(tmp_path / name)) == expected
    assert cross_corpus.read_names("") == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"map": "deep=low,mid"}, "--map: 'mid' is no pair"),
        ({"map": "deep=low,deep=high"}, "'deep' is mapped to 'low' and to 'high'"),
        ({"map": "/nowhere"}, "--map /nowhere: neither pairs"),
        ({"map": "growl=low"}, "no clip has the value 'growl'"),
        ({}, "0 classes in common"),
        ({"drop_unmapped": False}, "labels without a counterpart in the other folder: high, low, middle of"),
        ({"protocol": "folds"}, "--protocol folds: with --test_data all of it is tested"),
        ({"shared_speakers": "maybe"}, "no 'maybe'; there are refuse, drop, differ"),
        ({"test_data": "{data}", "test_label": "tone"}, "holds the very clips of"),
        (
            {"test_data": False, "test_label": False, "drop_unmapped": False, "map": MAP},
            "give --test_data its folder",
        ),
        (
            {"test_data": False, "test_label": False, "drop_unmapped": False, "shared_speakers": "drop"},
            "--shared_speakers is of a second corpus: give --test_data its folder",
        ),
        ({"map": MAP, "classes": "low,shrill"}, "--classes: no 'shrill' after --map"),
    ],
)
def test_what_cannot_be_joined_is_one_clear_line(place, other, tmp_path, capsys, flags, message):
    given = {"test_data": other, "test_label": "pitch", "drop_unmapped": True} | flags
    given = {name: value for name, value in given.items() if value is not False}
    if given.get("test_data") == "{data}":
        given["test_data"] = place / "data"
    assert main(words(place, tmp_path / "out", "tone", **given)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
