"""Batches from real prepared clips: the same for any number of hosts and workers, exact after a restart, and
going on past damaged records."""

import multiprocessing
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline import sampling
from input_pipeline.augment import crop_and_resize, multi_scale_boxes
from input_pipeline.errors import DataError
from input_pipeline.loader import Share, eval_batches, make_loader, most_unreadable
from input_pipeline.records import encode, open_records, shard_name, write_dataset, write_shard

SHAPE = {"frames": 8, "image_size": 48, "audio_frames": 128}


def loader(path, *, workers=0, batch_size=4, seed=7, **more):
    names = ("frame_stride", "crop", "flip", "prefetch", "label", "classes", "target", "rand_augment")
    names = (*names, "split", "balance", "device_crop")
    values = {"frame_stride": 2, "crop": "multi_scale", "flip": False, "prefetch": 1}
    values |= {name: more.pop(name) for name in names if name in more}
    data = SimpleNamespace(path=str(path), workers=workers, **values)
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


def damage(folder, index):
    """Flips one bit in the middle of a record of a one-shard folder."""
    (shard,) = folder.glob("*.array_record-*")
    data = bytearray(shard.read_bytes())
    record = encode(open_records(folder)[index])
    middle = len(record) // 2
    data[data.index(record[middle : middle + 200]) + 100] ^= 4
    shard.write_bytes(data)


@pytest.fixture
def one_shard(prepared_folder, tmp_path):
    """The real records in one file of our own, to be damaged."""
    records = list(open_records(prepared_folder))
    write_shard(tmp_path / shard_name("clips", 0, 1), [encode(record) for record in records])
    clips = [
        {"position": i, "clip_id": record.clip_id, "split": "clips", "frames": 1, "samples": 1}
        for i, record in enumerate(records)
    ]
    write_dataset(tmp_path, {"clips": ([len(records)], 1)}, clips)
    return tmp_path


def test_a_batch_has_the_promised_names_shapes_and_types(prepared_folder):
    (batch,) = take(loader(prepared_folder), 1)
    samples = 127 * 160 + 400
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "video": ("uint8", (4, 8, 48, 48, 3)),
        "waveform": ("int16", (4, samples)),
        "waveform_length": ("int32", (4,)),
        "waveform_mean": ("float32", (4,)),
        "position": ("int32", (4,)),
    }
    assert all(type(value) is np.ndarray for value in batch.values())
    for i in range(4):
        length = batch["waveform_length"][i]
        assert 0 < length <= samples and not batch["waveform"][i, length:].any()


def test_an_example_is_a_cut_of_its_record_by_the_rules_of_pretraining(prepared_folder):
    records = open_records(prepared_folder)
    (batch,) = take(loader(prepared_folder), 1)
    for i, position in enumerate(batch["position"]):
        record = records[position]
        count = len(record.frames)
        found = []
        for start in range(sampling.pretrain_starts(count, 8, 2)):
            indices = sampling.pretrain_frames(count, start, 8, 2)
            first, length = sampling.pretrain_sound(indices, count, 2, record.fps)
            sound = record.audio[first : first + length]
            kept = sound[: batch["waveform"].shape[1]]
            if batch["waveform_length"][i] == len(kept) and np.array_equal(
                batch["waveform"][i, : len(kept)], kept
            ):
                pictures = record.pictures(indices)
                boxes = multi_scale_boxes(*pictures[0].size, 48)
                for box in boxes:  # the first frame tells them apart, the others must agree
                    if np.array_equal(crop_and_resize(pictures[:1], box, 48), batch["video"][i, :1]):
                        np.testing.assert_array_equal(crop_and_resize(pictures, box, 48), batch["video"][i])
                        found.append(box)
                assert batch["waveform_mean"][i] == pytest.approx(sound.mean() / 32768, abs=1e-6)
        assert found, f"no start and box of clip {record.clip_id} gives this example"


@pytest.mark.parametrize("processes", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(prepared_folder, processes):
    whole = take(loader(prepared_folder), 3)
    parts = [take(loader(prepared_folder, share=Share((p,), processes)), 3) for p in range(processes)]
    for step, batch in enumerate(whole):
        joined = {key: np.concatenate([part[step][key] for part in parts]) for key in batch}
        assert_same(batch, joined)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_give_the_same_batches_in_the_same_order(prepared_folder, workers):
    for a, b in zip(
        take(loader(prepared_folder), 5), take(loader(prepared_folder, workers=workers), 5), strict=True
    ):
        assert_same(a, b)


def test_a_restored_loader_goes_on_exactly_where_the_state_was_taken(prepared_folder):
    original = loader(prepared_folder)
    stream = iter(original)
    for _ in range(3):
        next(stream)
    state = original.state()
    assert state == {"seed": 7, "step": 3, "data_offset": 0}
    expected = [next(stream) for _ in range(2)]
    original.close()

    restored = loader(prepared_folder, seed=99)
    restored.restore(state)
    for a, b in zip(expected, take(restored, 2), strict=True):
        assert_same(a, b)
    for a, b in zip(expected, take(loader(prepared_folder, start_step=3), 2), strict=True):
        assert_same(a, b)


def test_restoring_in_the_middle_of_a_pass_takes_effect(prepared_folder):
    a = loader(prepared_folder)
    first, _ = take(a, 2)
    a.restore({"step": 0})
    assert_same(first, take(a, 1)[0])


def test_a_data_offset_moves_on_to_the_data_of_later_steps(prepared_folder):
    batches = take(loader(prepared_folder), 4)
    moved = loader(prepared_folder)
    moved.restore({"step": 1, "data_offset": 2})
    assert_same(take(moved, 1)[0], batches[3])
    assert moved.state() == {"seed": 7, "step": 2, "data_offset": 2}


def test_every_clip_comes_once_an_epoch_in_an_order_of_its_own_and_of_its_seed(prepared_folder):
    size = len(open_records(prepared_folder))

    def epochs(seed):
        positions = np.concatenate(
            [b["position"] for b in take(loader(prepared_folder, batch_size=1, seed=seed), 2 * size)]
        )
        return positions[:size].tolist(), positions[size:].tolist()

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(size))
    assert first != second and first != epochs(2)[0]


def test_the_same_clip_is_cut_anew_each_time(prepared_folder):
    size = len(open_records(prepared_folder))
    batches = take(loader(prepared_folder, batch_size=1), 2 * size)
    for position in range(size):
        a, b = (batch["video"] for batch in batches if batch["position"][0] == position)
        if not np.array_equal(a, b):
            return
    raise AssertionError("no clip was cut differently in the second epoch")


def test_clip_ids_name_the_positions_of_a_batch(prepared_folder):
    a = loader(prepared_folder)
    (batch,) = take(a, 1)
    records = open_records(prepared_folder)
    assert a.clip_ids(batch["position"]) == [records[p].clip_id for p in batch["position"]]
    assert a.dataset_size == len(records)


def test_a_damaged_record_is_named_counted_and_replaced_by_the_same_other_one_everywhere(one_shard, caplog):
    damage(one_shard, 2)
    a = loader(one_shard, max_unreadable_share=0.5)
    batches = take(a, 8)
    assert all(2 not in batch["position"] for batch in batches)
    assert list(a.unreadable) == [2]
    assert "hash" in a.unreadable[2]
    assert a.clip_ids([2])[0] in caplog.text
    for p in range(2):
        parts = take(loader(one_shard, share=Share((p,), 2)), 8)
        for whole, part in zip(batches, parts, strict=True):
            assert_same({key: value[2 * p : 2 * p + 2] for key, value in whole.items()}, part)


def test_a_frame_that_is_no_jpeg_is_a_damaged_record(one_shard):
    records = list(open_records(one_shard))
    records[1].frames = [b"no picture"] * len(records[1].frames)
    (shard,) = one_shard.glob("*.array_record-*")
    write_shard(shard, [encode(record) for record in records])
    a = loader(one_shard)
    assert all(1 not in batch["position"] for batch in take(a, 6))
    assert list(a.unreadable) == [1]


def test_more_unreadable_records_than_allowed_stop_the_run_with_their_names(one_shard):
    names = open_records(one_shard).clip_ids
    for index in (1, 3):
        damage(one_shard, index)
    with pytest.raises(DataError, match=r"2 of .* unreadable") as caught:
        take(loader(one_shard, max_unreadable_share=0.1), 20)
    assert names[1] in str(caught.value) and names[3] in str(caught.value)


def test_one_of_many_hosts_need_not_see_all_of_a_dataset_to_tell_that_it_is_damaged():
    """Of half a million damaged clips in a million each of 64 hosts meets 7,800 in an epoch: fewer than 1 % of all."""
    allowed = [most_unreadable(0.01, 1_000_000, drawn) for drawn in (1, 100, 10_000, 1_000_000)]
    assert allowed == pytest.approx([1.0, 5.0, 140.0, 10_000.0])
    assert most_unreadable(0.01, 150, 40) == 1.5  # never more than the dataset's own share, and always one
    assert most_unreadable(0.0, 150, 150) == 1.0


def test_data_that_is_gone_altogether_stops_the_run(one_shard):
    (shard,) = one_shard.glob("*.array_record-*")
    shard.write_bytes(b"\0" * shard.stat().st_size)
    with pytest.raises(DataError, match="in a row are unreadable"):
        take(loader(one_shard, max_unreadable_share=1.0), 1)


def test_labels_are_numbers_in_the_order_of_the_classes_and_frames_follow_the_finetune_rule(one_shard):
    records = list(open_records(one_shard))
    for i, record in enumerate(records):
        record.labels = {"kind": ["even", 7][i % 2]}
    (shard,) = one_shard.glob("*.array_record-*")
    write_shard(shard, [encode(record) for record in records])
    for batch in take(loader(one_shard, label="kind", classes=["7", "even"], crop="none"), 3):
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], 1 - batch["position"] % 2)
    with pytest.raises(DataError, match=r"label 'kind' is 7.*classes even"):
        take(loader(one_shard, label="kind", classes=["even"]), 3)


def relabelled(folder, label_of):
    """The same records with other labels."""
    records = list(open_records(folder))
    for i, record in enumerate(records):
        record.labels = label_of(i)
    (shard,) = folder.glob("*.array_record-*")
    write_shard(shard, [encode(record) for record in records])


def test_votes_are_given_as_a_distribution_and_their_clips_are_augmented_alike_each_time(one_shard):
    relabelled(one_shard, lambda i: {"votes": {"a": i, "b": 1}})
    options = SimpleNamespace(operations=4, magnitude=7.0, deviation=0.5)
    more = {"label": "votes", "classes": ["a", "b"], "target": "distribution", "crop": "none"}
    plain = take(loader(one_shard, **more), 3)
    changed, again = (take(loader(one_shard, **more, rand_augment=options), 3) for _ in range(2))
    for before, batch, same in zip(plain, changed, again, strict=True):
        assert_same(batch, same)
        place = batch["position"]
        assert batch["label"].dtype == np.float32
        np.testing.assert_allclose(batch["label"][:, 0], place / (place + 1), rtol=1e-6)
        for name in ("position", "waveform", "label"):  # only the picture is another one
            np.testing.assert_array_equal(batch[name], before[name])
        assert not np.array_equal(batch["video"], before["video"])


def test_only_chosen_clips_are_drawn_each_once_an_epoch_for_any_number_of_hosts(prepared_folder):
    chosen = [0, 1, 3, 5]  # of at least six
    whole = take(loader(prepared_folder, batch_size=2, positions=chosen), 6)
    assert loader(prepared_folder, positions=chosen).dataset_size == 4
    drawn = np.concatenate([batch["position"] for batch in whole])
    assert [sorted(drawn[at : at + 4]) for at in (0, 4, 8)] == [chosen] * 3
    halves = [
        take(loader(prepared_folder, batch_size=2, positions=chosen, share=Share((p,), 2)), 6)
        for p in range(2)
    ]
    for step, batch in enumerate(whole):
        for name in batch:
            parts = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(parts, batch[name])


def test_chosen_clips_can_be_balanced_and_a_damaged_one_gives_way_to_another_of_them(one_shard):
    relabelled(one_shard, lambda i: {"kind": "ab"[i % 3 == 0]} if i != 2 else {})
    chosen = [0, 1, 4, 5]  # one b, three a; 2 has no label and is not asked for one
    batches = take(loader(one_shard, positions=chosen, balance="label_kind"), 12)
    drawn = np.concatenate([batch["position"] for batch in batches])
    assert set(drawn) == set(chosen) and (drawn == 0).sum() == len(drawn) / 2
    damage(one_shard, 4)
    batches = take(loader(one_shard, positions=chosen), 14)
    assert set(np.concatenate([batch["position"] for batch in batches])) == set(chosen) - {4}


def test_further_fields_are_each_clip_s_own_and_only_labels_change_how_clips_are_cut(prepared_folder):
    count = len(open_records(prepared_folder))
    vectors = np.arange(count, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    plain = take(loader(prepared_folder), 2)
    for one, bare in zip(take(loader(prepared_folder, tables={"text": vectors}), 2), plain, strict=True):
        np.testing.assert_array_equal(one["text"], vectors[one["position"]])
        assert_same({name: field for name, field in one.items() if name != "text"}, bare)
    tuned = take(loader(prepared_folder, tables={"label": vectors}), 2)
    assert all((one["position"] == bare["position"]).all() for one, bare in zip(tuned, plain, strict=True))
    assert any((one["waveform"] != bare["waveform"]).any() for one, bare in zip(tuned, plain, strict=True))


def test_evaluation_gives_every_record_once_in_order_and_marks_the_filling(prepared_folder):
    size = len(open_records(prepared_folder))
    batches = list(eval_batches(str(prepared_folder), **SHAPE, batch_size=4, frame_stride=2))
    positions = np.concatenate([b["position"] for b in batches])
    valid = np.concatenate([b["valid"] for b in batches])
    assert positions[valid].tolist() == list(range(size))
    assert (positions[~valid] == -1).all()
    assert all(len(b["valid"]) == 4 for b in batches)
    again = list(eval_batches(str(prepared_folder), **SHAPE, batch_size=4, frame_stride=2))
    for a, b in zip(batches, again, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("view", [{}, {"view": "segment", "segment": (1, 2)}])
def test_evaluation_batches_are_shared_between_hosts_row_by_row(prepared_folder, view):
    options = {**SHAPE, "batch_size": 4, "frame_stride": 2, **view}
    whole = list(eval_batches(str(prepared_folder), **options))
    parts = [list(eval_batches(str(prepared_folder), **options, share=Share((p,), 2))) for p in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        assert_same(batch, {key: np.concatenate([half[key] for half in halves]) for key in batch})


def test_evaluation_marks_a_damaged_record_as_not_valid(one_shard):
    damage(one_shard, 1)
    batches = list(eval_batches(str(one_shard), **SHAPE, batch_size=2))
    assert not batches[0]["valid"][1] and batches[0]["position"][1] == 1
    assert sum(int(b["valid"].sum()) for b in batches) == len(open_records(one_shard)) - 1


def test_a_batch_that_cannot_be_shared_is_refused(prepared_folder):
    with pytest.raises(DataError, match="cannot be divided into 3 parts"):
        loader(prepared_folder, share=Share((0,), 3))


@given(st.permutations(range(12)), st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 4), st.integers(0, 5))
def test_the_rows_of_all_hosts_are_the_rows_of_one(parts, processes, part_size, step):
    batch_size, found = 12 * part_size, set()
    for process in range(processes):
        share = Share(tuple(sorted(parts[process::processes])), 12)
        size = share.size(batch_size)
        rows = [share.row(step * size + own, batch_size) for own in range(size)]
        assert rows == sorted(rows) and {row % batch_size // part_size for row in rows} == set(share.parts)
        found |= set(rows)
    assert found == set(range(step * batch_size, (step + 1) * batch_size))


WORKERS_PROGRAM = """
import os, signal, sys, time
from types import SimpleNamespace
from input_pipeline.loader import make_loader
if __name__ == "__main__":
    data = SimpleNamespace(path=sys.argv[1], workers=2, prefetch=1, frame_stride=2, crop="none", flip=False)
    loader = make_loader(data, frames=4, image_size=32, audio_frames=64, batch_size=2, seed=0)
    stream = iter(loader)
    for _ in range(4):  # each worker has given one
        next(stream)
    print("ready", flush=True)
    if sys.argv[2] == "signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
            os.killpg(os.getpid(), number)
        for _ in range(8):
            next(stream)
        loader.close()
    elif sys.argv[2] == "end":
        loader.close()
    else:
        time.sleep(60)
"""


def group(session):
    """Process ids of a session."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True)
    lines = (line.split() for line in listed.stdout.splitlines())
    return [int(pid) for pid, state in lines if "Z" not in state]


def shared_memory_of(pids):
    """Files of shared memory that these processes have open now."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    return {Path(name) for name in re.findall(r"/dev/shm/psm_\w+", maps)}


@pytest.mark.slow
def test_workers_end_with_a_killed_parent_and_leave_no_shared_memory(prepared_folder):
    command = [sys.executable, "-c", WORKERS_PROGRAM, str(prepared_folder), "sleep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        processes = group(process.pid)
        assert len(processes) >= 3
        files = shared_memory_of(processes)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while (group(process.pid) or any(file.exists() for file in files)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert group(process.pid) == []
        assert not [file for file in files if file.exists()]
        process.stdout.close()


@pytest.mark.slow
def test_workers_go_on_when_a_scheduler_signals_the_whole_job(prepared_folder):
    command = [sys.executable, "-c", WORKERS_PROGRAM, str(prepared_folder), "signals"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_clear_error(prepared_folder):
    a = loader(prepared_folder, workers=1)
    stream = iter(a)
    next(stream)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(DataError, match=r"a loader process died .*exit code -9.* data.workers") as caught:
        for _ in range(20):
            next(stream)
    assert caught.value.exit_code == 1  # that of a run which may be started again


@pytest.mark.slow
def test_a_program_that_ends_says_nothing_about_workers(prepared_folder):
    command = [sys.executable, "-c", WORKERS_PROGRAM, str(prepared_folder), "end"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""


def test_opening_what_is_no_prepared_folder_says_what_to_do(tmp_path, prepared_folder):
    with pytest.raises(DataError, match="no prepared dataset in it; make one with `avemo prepare`"):
        loader(tmp_path)
    with pytest.raises(DataError, match="no split 'nope'"):
        loader(prepared_folder, split="nope")
    copy = tmp_path / "copy"
    shutil.copytree(prepared_folder, copy)
    next(copy.glob("*.array_record-00000-*")).unlink()
    with pytest.raises(DataError, match="shard is missing"):
        loader(copy)
