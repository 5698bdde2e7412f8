"""Several prepared folders in one stream: in the proportions asked for, exact after a restart, the same anywhere."""

import dataclasses
import json
import pickle
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.errors import DataError
from input_pipeline.loader import Share, make_loader
from input_pipeline.mixtures import folders_of, open_data
from input_pipeline.orders import Draw
from input_pipeline.prepare import prepare
from input_pipeline.records import encode, open_records, shard_name, write_dataset, write_shard
from input_pipeline.storing import ClipOptions
from tests import real_clips

SHAPE = {"frames": 4, "image_size": 32, "audio_frames": 64}
# Of each folder: speaker and emotion of its clips. Speaker "1" of two folders is two people.
CONTENTS = {
    "large": [("1", "ANG")] * 7 + [("2", "HAP")] * 3 + [("3", "HAP")],
    "small": [("1", "SAD")] * 2 + [("4", "ANG")],
    "middle": [("5", "ANG"), ("6", "HAP"), ("7", "HAP"), ("8", "HAP"), ("8", "SAD")],
}
GENDERS = ("f", "m")  # of speakers of even and odd names


def make_folder(path, records, *, listed=True):
    """A prepared folder of these records, with or without speakers and labels in its list of clips."""
    path.mkdir()
    write_shard(path / shard_name("clips", 0, 1), [encode(record) for record in records])
    clips = [
        {"position": i, "clip_id": record.clip_id, "split": "clips", "frames": 1, "samples": 16_000}
        | ({"speaker": record.speaker, "labels": json.dumps(record.labels)} if listed else {})
        for i, record in enumerate(records)
    ]
    write_dataset(path, {"clips": ([len(records)], 1)}, clips)
    return str(path)


@pytest.fixture(scope="module")
def real_records(prepared_folder):
    return list(open_records(prepared_folder))


@pytest.fixture(scope="module")
def paths(real_records, tmp_path_factory):
    """Three folders of real clips, by the speakers and labels of CONTENTS."""
    root = tmp_path_factory.mktemp("mixture")
    made = []
    for name, clips in CONTENTS.items():
        records = [
            dataclasses.replace(
                real_records[i % len(real_records)],
                clip_id=f"{name}{i}",
                speaker=speaker,
                gender=GENDERS[int(speaker) % 2],
                labels={"emotion": emotion, "votes": {"ANG": 1}, "valence": 0.5},
            )
            for i, (speaker, emotion) in enumerate(clips)
        ]
        made.append(make_folder(root / name, records, listed=name != "middle"))
    return tuple(made)


@pytest.fixture(scope="module")
def mixture(paths):
    return open_data(SimpleNamespace(path="", paths=paths))


CLIPS = [(folder, *clip) for folder, clips in CONTENTS.items() for clip in clips]


def loader(paths, *, workers=0, batch_size=4, seed=7, weights=(), balance="", per_group=1, **more):
    data = SimpleNamespace(path="", paths=paths, weights=weights, balance=balance, workers=workers)
    data.per_group = per_group
    data.frame_stride, data.crop, data.flip, data.prefetch = 1, "none", False, 1
    return make_loader(data, **SHAPE, batch_size=batch_size, seed=seed, **more)


def take(loader, count):
    stream = iter(loader)
    batches = [next(stream) for _ in range(count)]
    loader.close()
    return batches


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def rows(mixture, count, seed=3, first=0, **how):
    order = Draw(mixture, **how).order(seed)
    return [order[row] for row in range(first, first + count)]


def test_several_folders_are_one_dataset_with_every_clip_at_its_own_position(mixture, paths):
    assert len(mixture) == len(CLIPS) == 19 and mixture.sizes == [11, 3, 5]
    assert [record.speaker for record in mixture] == [speaker for _, speaker, _ in CLIPS]
    assert [mixture[i].clip_id for i in (0, 10, 11, 13, 14, 18)] == [
        *("large0", "large10", "small0", "small2", "middle0", "middle4")
    ]
    assert mixture.clip_ids[11] == "small/small0" and mixture.sound_s == 19
    with pytest.raises(IndexError):
        mixture[19]
    assert open_data(SimpleNamespace(path=paths[0])).clip_ids[0] == "large0"


def test_without_weights_every_clip_comes_once_an_epoch(mixture):
    drawn = rows(mixture, 57)
    for epoch in range(3):
        assert sorted(drawn[19 * epoch : 19 * epoch + 19]) == list(range(19))
    assert drawn[:19] != drawn[19:38] and drawn != rows(mixture, 57, seed=4)


@settings(max_examples=40)
@given(
    weights=st.lists(st.sampled_from([0.5, 1, 2, 3, 10]), min_size=3, max_size=3),
    seed=st.integers(0, 2**31),
    first=st.sampled_from([0, 1, 977, 10**9]),
    count=st.integers(1, 200),
)
def test_folders_come_as_often_as_their_weights_say_among_any_rows(mixture, weights, seed, first, count):
    drawn = rows(mixture, count, seed, first, weights=weights)
    got = Counter(CLIPS[index][0] for index in drawn)
    for name, weight in zip(CONTENTS, weights, strict=True):
        assert abs(got[name] - Fraction(weight) / Fraction(sum(weights)) * count) < 2


def test_within_a_folder_each_clip_comes_once_before_any_comes_again(mixture):
    drawn = [index for index in rows(mixture, 400, weights=(1, 3, 2)) if index >= 14]
    assert len(drawn) > 100
    for first in range(0, 100, 5):
        assert sorted(drawn[first : first + 5]) == list(range(14, 19))


def test_corpora_balanced_are_equal_weights(mixture):
    assert rows(mixture, 300, balance="corpus") == rows(mixture, 300, weights=(5, 5, 5))


@pytest.mark.parametrize(("balance", "count"), [("speaker", 9), ("label_emotion", 3), ("gender", 2)])
@given(seed=st.integers(0, 2**31), first=st.sampled_from([0, 5, 10**9 + 7]))
@settings(max_examples=20)
def test_each_speaker_gender_or_label_comes_as_often_as_any_other(mixture, balance, count, seed, first):
    def group(clip):
        return {"speaker": clip[:2], "label_emotion": clip[2], "gender": int(clip[1]) % 2}[balance]

    groups = {group(clip) for clip in CLIPS}
    assert len(groups) == count
    start = first // len(groups) * len(groups)
    drawn = rows(mixture, 30 * len(groups), seed, start, balance=balance)
    assert set(Counter(group(CLIPS[index]) for index in drawn).values()) == {30}
    for turn in range(30):
        assert len({group(CLIPS[i]) for i in drawn[turn * len(groups) : (turn + 1) * len(groups)]}) == len(
            groups
        )


def test_a_groups_clips_come_equally_often_and_in_another_order_each_time_round(mixture):
    drawn = [i for i in rows(mixture, 9 * 7 * 20, balance="speaker") if i < 7]  # seven clips of one speaker
    rounds = [tuple(drawn[7 * k : 7 * k + 7]) for k in range(20)]
    assert all(sorted(once) == list(range(7)) for once in rounds) and len(set(rounds)) > 15


def test_with_weights_groups_are_balanced_within_their_folder(mixture):
    drawn = rows(mixture, 6000, weights=(1, 1, 2), balance="label_emotion")
    got = Counter((CLIPS[index][0], CLIPS[index][2]) for index in drawn)
    assert got[("large", "ANG")] == pytest.approx(750, abs=2) and got[("large", "HAP")] == pytest.approx(
        750, abs=2
    )
    assert got[("small", "SAD")] == pytest.approx(750, abs=2) and got[("middle", "SAD")] == pytest.approx(
        1000, abs=2
    )


@pytest.mark.parametrize(
    ("per_group", "weights"), [(1, ()), (2, ()), (3, ()), (2, (1, 2, 3)), (2, (5, 1, 1))]
)
@given(seed=st.integers(0, 2**31), turn=st.sampled_from([0, 7, 10**9]))
@settings(max_examples=20)
def test_as_many_clips_of_a_group_as_asked_for_come_together_none_twice(
    mixture, per_group, weights, seed, turn
):
    speakers = Counter(clip[:2] for clip in CLIPS)
    chosen = np.flatnonzero([speakers[clip[:2]] >= per_group for clip in CLIPS])
    how = {"weights": weights, "balance": "speaker", "per_group": per_group, "chosen": chosen}
    drawn = rows(mixture, 300 * per_group, seed, turn * per_group, **how)
    turns = np.reshape(drawn, (300, per_group)).tolist()
    assert all(len(set(together)) == per_group for together in turns)
    whose = [{CLIPS[index][:2] for index in together} for together in turns]
    assert all(len(owners) == 1 for owners in whose)
    assert set(drawn) == set(chosen.tolist())
    if not weights:
        counts = Counter(owner for owners in whose for owner in owners).values()
        assert max(counts) - min(counts) <= 2


def test_an_order_is_the_same_in_another_process_and_at_any_row(mixture):
    for how in (
        {},
        {"weights": (1, 2, 3)},
        {"balance": "speaker"},
        {"weights": (3, 1, 1), "balance": "speaker"},
        {"balance": "label_emotion", "per_group": 3},
    ):
        order = Draw(mixture, **how).order(5)
        whole = [order[row] for row in range(120)]
        copy = pickle.loads(pickle.dumps(order))
        assert [copy[row] for row in reversed(range(120))] == whole[::-1]


@pytest.mark.parametrize(
    "how",
    [{}, {"weights": (1, 2, 2)}, {"balance": "speaker"}, {"weights": (5, 1, 1), "balance": "label_emotion"}],
)
def test_hosts_and_a_restart_change_nothing(paths, how):
    whole = take(loader(paths, **how), 6)
    halves = [take(loader(paths, **how, share=Share((p,), 2)), 6) for p in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert_same(batch, {key: np.concatenate([part[key] for part in parts]) for key in batch})
    first = loader(paths, **how)
    take(first, 4)
    state = first.state()
    assert state == {"seed": 7, "step": 4, "data_offset": 0, "folder_sizes": [11, 3, 5]}
    again = loader(paths, **how, seed=1)
    again.restore(state)
    for a, b in zip(take(again, 2), whole[4:], strict=True):
        assert_same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(paths, workers):
    how = {"weights": (5, 1, 1), "balance": "speaker"}
    for a, b in zip(
        take(loader(paths, **how), 5), take(loader(paths, **how, workers=workers), 5), strict=True
    ):
        assert_same(a, b)


def test_batches_hold_the_clips_that_their_positions_name(paths, mixture):
    a = loader(paths, balance="corpus")
    for batch in take(a, 4):
        names = a.clip_ids(batch["position"])
        assert names == [f"{CLIPS[p][0]}/{mixture[int(p)].clip_id}" for p in batch["position"]]
    assert a.dataset_size == 19


def test_other_folders_or_another_order_of_them_are_refused_at_a_restart(paths):
    state = loader(paths).state()
    with pytest.raises(
        DataError, match="folders of 5, 3, 11 clips, the run was begun with 11, 3, 5: .* same order"
    ):
        loader(paths[::-1]).restore(state)
    with pytest.raises(DataError, match="folders of 11 clips, the run was begun with 11, 3, 5"):
        loader(paths[:1]).restore(state)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weights": (1, 2)}, "2 weights for 3 folders of data.paths"),
        ({"weights": (1, 0, 1)}, "each must be above 0"),
        ({"weights": (1, float("nan"), 1)}, "each must be above 0"),
        ({"weights": (1, 1, 1), "balance": "corpus"}, "say two things"),
        ({"per_group": 2}, "more only with data.balance=speaker, gender or label_NAME"),
        ({"per_group": 0, "balance": "speaker"}, "1 or more"),
        (
            {"per_group": 3, "balance": "speaker"},
            r"speaker groups of fewer clips: 7, as that of large/large10 \(1\); lower it",
        ),
        ({"per_group": 2, "balance": "label_emotion", "weights": (1, 1, 1)}, r"groups of fewer clips: 3, as"),
        ({"balance": "age"}, "data.balance 'age': there are corpus, speaker, gender and label_NAME"),
        ({"balance": "label_"}, "there are corpus"),
        (
            {"balance": "label_votes"},
            r"19 of 19 clips have no label 'votes' that is a class, as large/large0;",
        ),
        ({"balance": "label_valence"}, "no label 'valence' that is a class"),
        ({"balance": "label_absent"}, "no label 'absent'"),
    ],
)
def test_what_cannot_be_weighted_or_balanced_is_one_line(mixture, how, message):
    with pytest.raises(DataError, match=message) as caught:
        Draw(mixture, **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", [{"weights": (1, 1, 1)}, {"balance": "corpus"}])
def test_a_folder_that_has_a_share_of_the_batches_and_no_clip_to_be_drawn_is_named(mixture, how):
    chosen = np.array([0, 1, 2, 15])  # of the second folder none
    with pytest.raises(DataError, match=r"small: none of its clips .*: leave the folder out"):
        Draw(mixture, chosen=chosen, **how)
    assert Draw(mixture, chosen=chosen).count == 4


@pytest.mark.parametrize("field", ["speaker", "gender"])
def test_clips_without_a_speaker_or_gender_cannot_be_balanced_by_it(real_records, tmp_path, field):
    records = [dataclasses.replace(record, **{field: ""}) for record in real_records[:2]]
    with pytest.raises(DataError, match=f"2 of 2 clips have no {field}"):
        Draw(open_records(make_folder(tmp_path / "a", records)), balance=field)


def test_a_path_and_paths_or_a_folder_twice_are_refused(tmp_path):
    with pytest.raises(DataError, match="data.path .* and data.paths are both set"):
        folders_of(SimpleNamespace(path="a", paths=("b",)))
    with pytest.raises(DataError, match="is there twice; data.weights"):
        folders_of(SimpleNamespace(path="", paths=("a", "b", "./a")))


def test_prepare_lists_speakers_and_labels_so_that_no_record_is_read_for_them(tmp_path):
    some = [
        dataclasses.replace(row, speaker=f"s{i}", labels={"kind": "ä", "votes": {"a": 1}})
        for i, row in enumerate(real_clips.talking_rows()[:2])
    ]
    prepare(some, real_clips.root(), tmp_path / "out", ClipOptions(short_side=32), workers=0)
    (shard,) = (tmp_path / "out").glob("*.array_record-*")
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert list(open_records(tmp_path / "out").known()) == [(row.speaker, row.labels) for row in some]
