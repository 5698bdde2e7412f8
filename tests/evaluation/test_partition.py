"""Which clips a fine-tuning run trains on, chooses by and is tested on."""

from dataclasses import replace

import numpy as np
import pytest

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation.partition import fold_names, make_partition
from avemo_jax.tasks.finetuning import absent_in_words
from input_pipeline.examples import Cut
from input_pipeline.records import open_records
from input_pipeline.targets import CLASS, Target
from tests.evaluation import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("partition") / "data"
    synthetic.write_folder(path)
    return path


def data(folder, *overrides):
    words = [f"data.path={folder}", "data.label=tone", "data.classes=low,middle,high", *overrides]
    return load_config("finetune/recipe:demo", words).data


def parts(partition):
    return [set(partition.clips.speaker[r]) for r in (partition.train, partition.development, partition.test)]


def test_no_speaker_is_in_two_parts(folder):
    of = make_partition(
        data(folder, "data.protocol=leave_one_speaker_out", "data.fold=p2", "data.development=3")
    )
    train, development, test = parts(of)
    assert test == {"p2"} and len(development) == 1 and len(train) == 2
    assert not train & development and of.unit == "speaker" and of.speaker_disjoint
    rows = [len(r) for r in (of.train, of.development, of.test)]
    assert rows == [24, 12, 12]
    assert of.class_counts == (8, 8, 8)
    # Positions are the places in the folder, and the order is the folder's.
    assert of.positions(of.test) == list(range(24, 36))


def test_a_class_that_no_clip_is_of_is_named(folder):
    words = ("data.protocol=leave_one_speaker_out", "data.fold=p2")
    assert not make_partition(data(folder, *words)).absent
    of = make_partition(data(folder, *words, "data.classes=low,hihg,middle"))
    assert of.absent == ["hihg"] and "class hihg by its label tone" in absent_in_words(of)


def test_nothing_is_held_out_where_nothing_is_to_be(folder):
    words = ("data.protocol=leave_one_speaker_out", "data.fold=p2", "data.development=0")
    of = make_partition(data(folder, *words))
    assert len(of.train) == 36 and not len(of.development) and of.unit == ""


@pytest.mark.parametrize("owners", [("p1",), ("p1", "p3"), ("p1", "p2", "p3")])
def test_no_class_is_held_out_with_all_its_clips(folder, tmp_path, owners):
    """Of a class that only some speakers have, some are trained on; values have no classes that could be missing."""

    def change(record):
        rare = record.speaker in ("p0", *owners) and record.labels["tone"] == "high"
        record.labels["kind"] = "rare" if rare else record.labels["shade"]
        return record

    synthetic.write_changed(tmp_path / "data", folder, change)
    words = ("data.protocol=leave_one_speaker_out", "data.fold=p0", "data.label=kind")
    words = (*words, "data.classes=bright,dark,rare", "data.development=3")
    of = make_partition(data(tmp_path / "data", *words))
    assert set(of.clips.label[of.test]) == {0, 1, 2} == set(of.clips.label[of.train])
    assert parts(of)[1] == ({"p1"} if len(owners) > 1 else {"p2"})


def test_where_every_group_has_a_class_of_its_own_none_can_be_held_out(folder, tmp_path):
    def change(record):
        record.labels["kind"] = "p0" if int(record.clip_id[4:]) % 4 else record.speaker
        if record.speaker == "p0":
            record.labels["kind"] = f"p{int(record.clip_id[4:]) % 4}"
        return record

    synthetic.write_changed(tmp_path / "data", folder, change)
    words = (
        "data.protocol=leave_one_speaker_out",
        "data.fold=p0",
        "data.label=kind",
        "data.classes=p0,p1,p2,p3",
    )
    with pytest.raises(UserError, match="whichever speakers are held out"):
        make_partition(data(tmp_path / "data", *words, "data.development=3"))
    assert len(make_partition(data(tmp_path / "data", *words, "data.development=0")).train) == 36


def test_values_are_split_whoever_is_above_the_median(folder, tmp_path):
    def change(record):
        record.labels["rating"] = float(record.speaker == "p0")
        return record

    synthetic.write_changed(tmp_path / "data", folder, change)
    words = ("data.target=values", "data.label=rating", "data.classes=", "data.fold=p0")
    of = make_partition(data(tmp_path / "data", *words, "data.protocol=leave_one_speaker_out"))
    assert len(of.test) == 12 and (of.targets[of.test] == 1).all()


def test_folds_are_the_manifest_s_and_what_is_in_none_is_said(folder):
    chosen = data(folder, "data.protocol=folds", "data.fold=1", "data.development=2")
    assert fold_names(chosen) == ["0", "1", "2"]
    of = make_partition(chosen)
    assert set(of.clips.fold[of.test]) == {"1"} and of.left_out == {"in no fold": 12}
    assert not of.speaker_disjoint and of.unit == "speaker"


def test_the_split_of_the_manifest_is_tested_on_whatever_fold_says(folder):
    of = make_partition(data(folder, "data.protocol=split", "data.development=3"))
    assert parts(of)[2] == {"p0"} and of.fold == "test"


def test_other_folds_and_other_tests_are_a_matter_of_two_keys(folder, tmp_path):
    def change(record):
        if record.speaker == "p1":
            record.split = "noisy"
        record.metadata["half_fold"] = str(record.speaker < "p2")
        return record

    synthetic.write_changed(tmp_path / "data", folder, change)
    words = ("data.protocol=split", "data.development=2")
    configs = [data(tmp_path / "data", *words, *more) for more in ((), ("data.test_split=noisy",))]
    usual, noisy = map(make_partition, configs)
    for of, tested in ((usual, "p0"), (noisy, "p1")):
        train, development, test = parts(of)
        assert test == {tested} and train | development == {"p2", "p3"}
    assert (usual.fold, noisy.fold) == ("test", "noisy") and usual.split_hash != noisy.split_hash
    assert [fold_names(of) for of in configs] == [["test"], ["noisy"]]  # that folders are named after
    assert usual.left_out == noisy.left_out == {"in no fold": 12}
    chosen = data(tmp_path / "data", "data.protocol=folds", "data.fold_by=half_fold", "data.fold=True")
    assert fold_names(chosen) == ["False", "True"] and parts(make_partition(chosen))[2] == {"p0", "p1"}


def test_clips_are_dealt_by_what_is_predicted_of_them(folder):
    words = (
        "data.target=values",
        "data.label=rating",
        "data.classes=",
        "data.protocol=leave_one_speaker_out",
    )
    of = make_partition(data(folder, *words, "data.fold=p0", "data.development=3"))
    assert of.targets.shape == (48, 1) and of.clips.classes == ("below the median", "above the median")
    words = ("data.label=half", "data.classes=x,y", "data.protocol=leave_one_speaker_out", "data.fold=p0")
    of = make_partition(data(folder, *words, "data.development=3"))
    assert len(of.clips) == 24 and of.left_out == {"no label": 24}


def test_who_speaks_is_a_label_like_any_other_and_learnt_from_others_of_the_speaker_s_clips(folder, tmp_path):
    def change(record):
        return replace(record, labels={"who": record.speaker}, gender="fm"[record.speaker > "p1"])

    synthetic.write_changed(tmp_path / "data", folder, change)

    def parted(label, names, *overrides):
        words = (f"data.label={label}", f"data.classes={names}", "data.development=3", *overrides)
        return make_partition(data(tmp_path / "data", *words))

    within = ("data.protocol=within_speakers", "data.fold=1")
    of, same = (parted(label, "p0,p1,p2,p3", *within) for label in ("speaker", "who"))
    assert of.split_hash == same.split_hash and of.unit == "fold" and not of.speaker_disjoint
    for name in ("train", "development", "test"):
        rows = getattr(of, name)
        np.testing.assert_array_equal(rows, getattr(same, name))
        assert {f"p{number}" for number in of.targets[rows]} == {"p0", "p1", "p2", "p3"}
    assert [of.clips.speaker[row] for row in of.test] == [f"p{number}" for number in of.targets[of.test]]
    some = parted("speaker", "p3,p0", *within)
    assert some.left_out == {"no class of the classes": 24}
    assert parts(parted("gender", "m,f", "data.protocol=leave_one_speaker_out", "data.fold=p2"))[2] == {"p2"}
    clip = open_records(tmp_path / "data")[24]
    for label, names in (("speaker", ("p0", "p2")), ("gender", ("f", "m"))):
        cut = Cut(4, 32, 64, target=Target(CLASS, (label,), names))
        assert cut.label_of(clip) == {"label": 1}  # what a training example has


def test_without_a_protocol_there_is_no_partition(folder):
    assert make_partition(data(folder)) is None


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (("data.protocol=leave_one_speaker_out",), "data.fold is '1': .* has p0, p1, p2, p3"),
        (("data.protocol=fold",), "unknown protocol .*choose one of"),
        (
            ("data.protocol=leave_one_speaker_out", "data.label=rare", "data.classes=a,b,c"),
            "class 'b' is only .*data.classes, or use another data.protocol",
        ),
        *(
            (
                (f"data.protocol={protocol}", "data.label=speaker", "data.classes=p0,p1,p2,p3"),
                "class 'p[0-3]'.* is only among the test clips.*another data.protocol, as within_speakers",
            )
            for protocol in ("leave_one_speaker_out", "speaker_folds")
        ),
        (("data.protocol=folds", "data.label="), "needs a data.label"),
        (("data.protocol=folds", "data.split=test"), "say two things"),
        (("data.protocol=folds", "data.label=absent"), "no clip has a class of low, middle, high.*it has: "),
        (("data.protocol=folds", "data.path=", "data.paths=a,b"), "splits one folder"),
        (("data.protocol=folds", "data.target=distribution"), "no clip has a distribution"),
        (("data.protocol=folds", "data.fold_by=set"), "column 'set' gives 0 fold"),
        (
            ("data.protocol=split", "data.test_split=noise"),
            "data.test_split is 'noise': .*found: test, train",
        ),
    ],
)
def test_what_cannot_be_split_is_said_in_one_line(folder, overrides, hint):
    with pytest.raises(UserError, match=hint) as error:
        make_partition(data(folder, *overrides))
    assert "\n" not in str(error.value)
