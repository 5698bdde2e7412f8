"""Who is trained on, who is tested."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedKFold

from avemo_jax.errors import UserError
from avemo_jax.evaluation import probing, protocols
from avemo_jax.evaluation.heads.examples import centre_views
from avemo_jax.evaluation.labelled import read_labelled
from avemo_jax.evaluation.probes import probe
from tests.evaluation import synthetic


def _clips(speakers=4, per_speaker=6, classes=3, **changes):
    """Clips c0000… of speakers p0…, with labels in turn and four folds that ignore speakers."""
    count = speakers * per_speaker
    number = np.arange(count)
    fields = {
        "position": number,
        "clip_id": np.array([f"c{i:04d}" for i in number]),
        "speaker": np.array([f"p{i // per_speaker}" for i in number]),
        "fold": np.array([str(i % 4) for i in number]),
        "part": np.where(number % 5 == 0, "test", "train"),
        "label": number % classes,
        "classes": tuple("abc"[:classes]),
    }
    return protocols.LabelledClips(**(fields | changes))


def test_leave_one_speaker_out_tests_each_speaker_once_and_never_trains_on_them():
    clips = _clips()
    plan = protocols.make_splits("leave_one_speaker_out", clips)
    assert [split.name for split in plan.splits] == ["p0", "p1", "p2", "p3"] and plan.speaker_disjoint
    for split in plan.splits:
        assert set(clips.speaker[split.test]) == {split.name}
        assert split.name not in clips.speaker[split.train]
    assert sorted(np.concatenate([split.test for split in plan.splits])) == list(range(len(clips)))


@given(st.integers(3, 9), st.integers(2, 6), st.integers(0, 99))
def test_folds_are_as_even_as_scikit_learn_s_and_test_each_clip_once(speakers, folds, seed):
    folds = min(folds, speakers)
    rng = np.random.default_rng(seed)
    per_speaker = rng.integers(1, 12, speakers)
    speaker = rng.permutation(np.repeat([f"p{i}" for i in range(speakers)], per_speaker))
    count = len(speaker)
    clips = replace(_clips(1, count), speaker=speaker, fold=speaker)
    nothing = np.zeros((count, 1))
    for protocol, oracle in (
        ("speaker_folds", GroupKFold(folds)),
        ("leave_one_speaker_out", LeaveOneGroupOut()),
        ("folds", LeaveOneGroupOut()),
    ):
        plan = protocols.make_splits(protocol, clips, folds=folds, need_classes=False)
        expected = list(oracle.split(nothing, groups=speaker))
        assert sorted(len(s.test) for s in plan.splits) == sorted(len(test) for _, test in expected)
        if protocol != "speaker_folds":  # where there is one way to do it
            parts = {tuple(test): tuple(train) for train, test in expected}
            assert {tuple(s.test): tuple(s.train) for s in plan.splits} == parts
        np.testing.assert_array_equal(
            np.sort(np.concatenate([s.test for s in plan.splits])), np.arange(count)
        )
        for split in plan.splits:
            sides = [set(speaker[split.train]), set(speaker[split.test])]
            assert not sides[0] & sides[1] and len(split.train) + len(split.test) == count
            if len(sides[0]) > 1:
                own = split.inner[split.train]
                inner = GroupKFold(min(5, len(sides[0]))).split(split.train, groups=speaker[split.train])
                assert sorted(np.bincount(own)) == sorted(len(test) for _, test in inner)


@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 99))
def test_speakers_clips_are_dealt_as_evenly_as_scikit_learn_s_stratified_folds_are(speakers, folds, seed):
    rng = np.random.default_rng(seed)
    speaker = np.repeat([f"p{i}" for i in range(speakers)], rng.integers(folds, 12, speakers))
    clips = replace(
        _clips(1, len(speaker)), speaker=rng.permutation(speaker), label=np.zeros(len(speaker), int)
    )
    plan = protocols.make_splits("within_speakers", clips, folds=folds, need_classes=False)
    oracle = StratifiedKFold(folds).split(np.zeros((len(clips), 1)), clips.speaker)

    def each(tests):
        """How many clips of each speaker are tested, from the part with the fewest to that with the most."""
        counts = [
            [int((clips.speaker[test] == name).sum()) for test in tests] for name in sorted(set(speaker))
        ]
        return [sorted(of_speaker) for of_speaker in counts]

    assert each([split.test for split in plan.splits]) == each([test for _, test in oracle])


def test_the_regularisation_is_chosen_among_training_speakers_only():
    clips = _clips()
    for split in protocols.make_splits("leave_one_speaker_out", clips).splits:
        assert (split.inner[split.test] == -1).all() and (split.inner[split.train] >= 0).all()
        assert split.inner_unit == "speaker"
        for speaker in set(clips.speaker[split.train]):
            assert len(set(split.inner[clips.speaker == speaker])) == 1


def test_folds_come_from_the_manifest_and_clips_without_one_are_left_out_and_counted():
    clips = _clips(fold=np.array([""] * 4 + [str(i % 2) for i in range(20)]))
    plan = protocols.make_splits("folds", clips)
    assert [split.name for split in plan.splits] == ["0", "1"] and plan.left_out == 4
    assert not np.isin(np.arange(4), np.concatenate([split.train for split in plan.splits])).any()


@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
def test_one_clip_of_each_class_is_enough_to_train_on(head):
    part = np.where(np.arange(24) < 3, "train", "test")
    clips = _clips(speaker=np.full(24, ""), part=part)
    (split,) = protocols.make_splits("split", clips).splits
    assert sorted(split.inner[:3]) == [0, 1, 2] and split.inner_unit == "clip"
    features = np.eye(3, dtype=np.float32)[clips.label]
    (found,) = probe(features, centre_views(clips.label, 3), [split], head)
    assert np.isfinite(found.predicted).all()


def test_folds_that_share_speakers_are_reported_and_choose_their_penalty_by_speaker_all_the_same():
    plan = protocols.make_splits("folds", _clips())
    assert not plan.speaker_disjoint
    assert {split.inner_unit for split in plan.splits} == {"speaker"}


@given(st.integers(1, 5), st.integers(2, 11), st.integers(2, 6), st.integers(1, 3), st.integers(0, 3))
def test_within_speakers_each_speakers_clips_of_each_class_are_dealt_evenly(
    speakers, each, folds, classes, seed
):
    clips = _clips(speakers, each, max(2, classes))
    group = protocols.PROTOCOLS["within_speakers"](clips, folds, seed)[0]
    for speaker in set(clips.speaker):
        own = clips.speaker == speaker
        counts = [int((group[own] == str(fold)).sum()) for fold in range(folds)]
        assert max(counts) - min(counts) <= 1 and sum(counts) == each
        for label in set(clips.label[own]):
            of_class = group[own & (clips.label == label)]
            assert max(map(of_class.tolist().count, of_class)) - len(of_class) // folds <= 1
    shuffled = np.random.default_rng(0).permutation(len(clips))
    np.testing.assert_array_equal(
        protocols.PROTOCOLS["within_speakers"](clips.at(shuffled), folds, seed)[0], group[shuffled]
    )


def test_speakers_are_told_apart_by_clips_on_both_sides_and_one_clip_alone_is_left_out():
    speaker = np.array(["p0"] * 6 + ["p1"] * 6 + ["p2"] + [""])
    number = np.unique(speaker, return_inverse=True)[1]
    clips = replace(_clips(2, 7), speaker=speaker, label=number, classes=("", "p0", "p1", "p2"))
    plan = protocols.make_splits("within_speakers", clips, folds=3)
    assert plan.left_out == 2 and not plan.speaker_disjoint and len(plan.splits) == 3
    for split in plan.splits:
        assert set(clips.speaker[split.train]) == set(clips.speaker[split.test]) == {"p0", "p1"}
        assert split.inner_unit == "fold"
        for fold in set(split.inner[split.train]):
            assert set(clips.speaker[split.inner == fold]) == {"p0", "p1"}
    each_once = replace(clips, speaker=clips.clip_id)
    with pytest.raises(UserError, match="no speaker has two clips"):
        protocols.make_splits("within_speakers", each_once, need_classes=False)
    with pytest.raises(UserError, match="one clip is left to train on beside"):
        protocols.make_splits("leave_one_speaker_out", each_once.at(np.arange(2)), need_classes=False)
    kept = clips.at(plan.rows).of_found_classes()
    assert kept.classes == ("p0", "p1") and [kept.classes[k] for k in kept.label] == kept.speaker.tolist()


def test_where_a_class_has_one_speaker_the_penalty_is_chosen_by_fold():
    speakers = np.array([f"p{i // 6}" for i in range(24)])
    plan = protocols.make_splits("folds", _clips(label=np.arange(24) // 6 % 3, speaker=speakers))
    assert {split.inner_unit for split in plan.splits} == {"fold"}


def test_two_folds_of_one_speaker_choose_their_penalty_by_clip():
    clips = _clips(speakers=1, per_speaker=24, fold=np.array([str(i // 12) for i in range(24)]))
    split = protocols.make_splits("folds", clips).splits[0]
    assert split.inner_unit == "clip"
    for label in range(3):  # each class is dealt evenly
        dealt = split.inner[split.train][clips.label[split.train] == label]
        assert np.bincount(dealt).max() - np.bincount(dealt).min() <= 1


def test_split_trains_on_train_tests_on_test_and_leaves_other_parts_out():
    clips = _clips(part=np.array(["train", "test", "val"] * 8), label=np.arange(24) // 3 % 3)
    plan = protocols.make_splits("split", clips)
    (split,) = plan.splits
    assert set(clips.part[split.train]) == {"train"} and set(clips.part[split.test]) == {"test"}
    assert plan.left_out == 8


def test_another_split_or_column_than_the_usual_one_is_tested_on(tmp_path):
    synthetic.write_folder(tmp_path / "data")
    number = iter(range(48))

    def change(record):
        place = next(number)
        record.metadata["session"] = str(place % 4 // 2)
        record.split = "noise" if place >= 40 else record.split
        record.labels["votes"] = {
            "glad": place % 3,
            "sad": 1,
            "none": 0,
        }  # of every third clip none has the most
        record.labels["other"] = 1.5 if place else "none"
        return record

    synthetic.write_changed(tmp_path / "more", tmp_path / "data", change)
    options = probing.ProbeOptions("tone", "folds", fold_by="session")
    clips, _, plan, _ = probing.divided(str(tmp_path / "more"), options)
    assert [len(split.test) for split in plan.splits] == [24, 24] and plan.left_out == 0
    options = probing.ProbeOptions("tone", "split", test_split="noise")
    clips, left_out, plan, _ = probing.divided(str(tmp_path / "more"), options)
    (split,) = plan.splits
    assert split.name == "noise" and len(split.test) == 8 and left_out == {"in no fold": 12}
    assert len(split.train) == 28
    clips, left_out = read_labelled(str(tmp_path / "more"), "votes")
    assert clips.classes == ("glad", "sad") and left_out == {"no class with the most votes": 16}
    assert np.bincount(clips.label).tolist() == [16, 16]
    with pytest.raises(UserError, match="label 'other' is 1.5 for every clip"):
        read_labelled(str(tmp_path / "more"), "other")


def test_speaker_folds_keep_each_speaker_in_one_fold():
    clips = _clips(speakers=7)
    plan = protocols.make_splits("speaker_folds", clips, folds=3)
    assert len(plan.splits) == 3 and plan.speaker_disjoint
    assert max(len(s.test) for s in plan.splits) == 3 * 6


def test_seeds_that_deal_alike_or_leave_a_class_untrained_are_passed_over():
    of_two_classes = _clips(classes=2)
    seeds = range(300)
    plan = protocols.make_splits("speaker_folds", of_two_classes, folds=2, seeds=seeds, dealings=3)
    ways = {frozenset(frozenset(s.test) for s in plan.splits if s.seed == seed) for seed in plan.hashes}
    assert len(ways) == 3 == len(set(plan.hashes.values())) and list(plan.hashes)[:1] == [0]
    found = "give only 3 different dealings that can be used; ask for --split_seeds 3"
    with pytest.raises(UserError, match=found):
        protocols.make_splits("speaker_folds", of_two_classes, folds=2, seeds=seeds, dealings=4)
    # Class b is of p0 and p1 alone, whom seed 0 deals apart: not to be put into one fold.
    apart = _clips(label=(np.arange(24) % 2) * (np.arange(24) < 12), classes=2)
    plan = protocols.make_splits("speaker_folds", apart, folds=2, seeds=seeds, dealings=2)
    assert all(len(set(apart.label[split.train])) == 2 for split in plan.splits)
    with pytest.raises(UserError, match="give only 2 different dealings"):
        protocols.make_splits("speaker_folds", apart, folds=2, seeds=seeds, dealings=3)


def test_clips_without_a_speaker_s_name_are_no_speaker_and_every_seed_deals_as_many_folds():
    speaker = np.concatenate([np.repeat([f"p{i}" for i in range(6)], 4), np.full(100, "")])
    clips = replace(_clips(1, len(speaker)), speaker=speaker)
    plan = protocols.make_splits("speaker_folds", clips, folds=3, seeds=range(400), dealings=4)
    assert [split.seed for split in plan.splits] == [seed for seed in plan.hashes for _ in range(3)]
    assert plan.left_out == 100 and plan.speaker_disjoint
    assert [len(split.test) for split in plan.splits[:3]] == [8, 8, 8]


def test_the_hash_ignores_the_order_of_clips_and_notices_a_moved_clip():
    clips = _clips()
    order = np.random.default_rng(0).permutation(len(clips))
    fields = ("position", "clip_id", "speaker", "fold", "part", "label")
    shuffled = _clips(**{field: getattr(clips, field)[order] for field in fields})
    first = protocols.make_splits("folds", clips).split_hash
    assert protocols.make_splits("folds", shuffled).split_hash == first
    moved = clips.fold.copy()
    moved[0] = "3"
    assert protocols.make_splits("folds", _clips(fold=moved)).split_hash != first


@given(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=80), st.integers(1, 8), st.integers(0, 3))
def test_dealing_keeps_units_whole_and_uses_every_fold(units, folds, seed):
    dealt = protocols.deal(np.array(units), folds, seed)
    assert len(set(zip(units, dealt, strict=True))) == len(set(units))
    assert set(dealt) == set(range(min(folds, len(set(units)))))


@pytest.mark.parametrize(
    ("protocol", "changes", "message"),
    [
        ("leave_one_speaker_out", {"speakers": 1}, "only 'p0', at least 2 speakers are needed"),
        ("folds", {"fold": np.array([""] * 24)}, "column 'fold' gives 0 fold"),
        ("split", {"part": np.array(["train"] * 24)}, "no clip with this label has split test"),
        (
            "leave_one_speaker_out",
            {"label": np.array([2] * 6 + [0, 1] * 9)},
            "class 'c' is only among the test",
        ),
        ("leave_two_out", {}, "unknown protocol 'leave_two_out'"),
    ],
)
def test_data_that_cannot_be_split_that_way_is_refused_with_the_reason(protocol, changes, message):
    with pytest.raises(UserError, match=message):
        protocols.make_splits(protocol, _clips(**changes))
