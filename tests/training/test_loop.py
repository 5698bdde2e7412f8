"""The loop, on the tiny task: the same losses on every layout, resuming, reporting, and getting out of trouble."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from jax.experimental import multihost_utils
from PIL import Image

from avemo_jax.errors import UserError
from avemo_jax.training import loop
from avemo_jax.training.heartbeat import Heartbeat
from tests.training.tiny import TinyTask, losses_of, rows_of, run_here, tiny_config


def assert_same_losses(workdir, expected):
    losses = losses_of(workdir)
    assert losses.keys() == expected.keys()
    np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=1e-5)


@pytest.mark.parametrize(
    "mesh", [(), ("mesh.fsdp=4",), ("mesh.fsdp=2", "mesh.tensor=2"), ("mesh.replica=2", "mesh.fsdp=2")]
)
def test_eight_devices_in_any_layout_give_the_losses_of_one(mesh, tmp_path, uninterrupted):
    run_here(tiny_config(*mesh), tmp_path / "run")
    assert_same_losses(tmp_path / "run", uninterrupted)


def test_a_run_goes_on_from_its_last_checkpoint_on_another_mesh(tmp_path, uninterrupted):
    assert run_here(tiny_config("total_steps=12", "checkpoint.every_steps=4"), tmp_path, devices=1).step == 12
    for folder in ("00000012", "00000008"):  # as if killed after step 8 was begun to be saved
        (tmp_path / "checkpoints" / folder / "manifest.json").unlink()
    run_here(tiny_config("mesh.fsdp=2", "mesh.tensor=2"), tmp_path, devices=8)
    assert_same_losses(tmp_path, uninterrupted)


def test_a_finished_run_has_nothing_left_to_do(tmp_path, uninterrupted, capsys):
    run_here(tiny_config(), tmp_path, devices=1)
    assert run_here(tiny_config(), tmp_path, devices=1) == (12, False)
    assert "nothing left to do" in capsys.readouterr().out
    assert_same_losses(tmp_path, uninterrupted)


@pytest.mark.parametrize("question", [14, 15, 16])
def test_who_is_told_to_stop_while_a_run_ends_or_the_next_one_compiles_does_not_begin_it(
    tmp_path, monkeypatch, question
):
    """Before a run, after compiling and after each of 12 steps it is asked; the service answers to one question."""
    asked = []
    answer = lambda count: asked.append(count) or len(asked) == question  # noqa: E731
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", answer)
    for fold, ending in (("one", (12, False)), ("two", (0, True)), ("two", (12, False))):
        assert run_here(tiny_config(), tmp_path / fold) == ending
    # It picks a number that comes after all that were asked.
    assert asked == [asked[0] + n for n in range(len(asked))]


def test_fewer_steps_than_a_run_has_are_refused_and_change_nothing(tmp_path):
    run_here(tiny_config("total_steps=4"), tmp_path, devices=1)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="is at step 4 already, and only 2 are asked for"):
        run_here(tiny_config("total_steps=2"), tmp_path, devices=1)
    assert (tmp_path / "config.json").read_text() == before


def test_a_longer_run_goes_on_where_a_finished_one_ended(tmp_path):
    run_here(tiny_config("total_steps=4"), tmp_path, devices=1)
    assert run_here(tiny_config("total_steps=6"), tmp_path, devices=1).step == 6
    assert sorted(losses_of(tmp_path)) == [1, 2, 3, 4, 5, 6]


def test_every_row_has_the_numbers_that_scripts_read(tmp_path):
    run_here(tiny_config("log.every_steps=5"), tmp_path, devices=2)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [5, 10, 12]
    for row in rows:
        assert {"loss", "loss_copy", "largest", "learning_rate", "grad_norm", "bad_steps"} <= row.keys()
        assert row["clips_per_s"] > 0 and 0 <= row["input_wait_share"] <= 1
        assert list(row)[:2] == ["step", "loss"]


def test_a_slow_loader_shows_as_time_spent_waiting_for_data(tmp_path):
    config = tiny_config("tiny.sleep_s=0.2", "total_steps=4", "checkpoint.every_steps=100")
    run_here(config, tmp_path, devices=1)
    assert rows_of(tmp_path)[2]["input_wait_share"] > 0.8


def test_a_damaged_last_line_of_the_metrics_is_taken_back(tmp_path, uninterrupted):
    run_here(tiny_config("total_steps=8"), tmp_path, devices=1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:7]) + lines[7][:20])
    (tmp_path / "checkpoints" / "00000008" / "manifest.json").unlink()
    run_here(tiny_config("total_steps=8"), tmp_path, devices=1)
    assert sorted(losses_of(tmp_path)) == list(range(1, 9))


def test_pictures_are_drawn_during_training(tmp_path):
    run_here(tiny_config("log.samples_every_steps=6", "mesh.fsdp=2"), tmp_path, devices=4)
    pictures = sorted((tmp_path / "samples").glob("*.png"))
    assert [picture.name for picture in pictures] == ["00000006_outputs.png", "00000012_outputs.png"]
    assert Image.open(pictures[0]).size == (6, 4)


def test_pictures_are_drawn_with_the_random_numbers_of_their_step(tmp_path, monkeypatch):
    drawn = []
    draw = lambda task, *of: drawn.append(float(task.loss(*of)[0])) or {}  # noqa: E731
    monkeypatch.setattr(TinyTask, "figures", draw)
    still = ("optimizer.learning_rate=0.0", "optimizer.min_learning_rate=0.0", "batch_size=4")
    run_here(tiny_config("log.samples_every_steps=5", *still), tmp_path, devices=1)
    losses = losses_of(tmp_path)
    assert drawn == pytest.approx([losses[5], losses[10]], rel=1e-5)


@pytest.mark.parametrize("done", [0, 4])
def test_a_run_does_not_seem_to_hang_while_its_step_is_compiled(done, tmp_path, monkeypatch):
    if done:
        run_here(tiny_config(f"total_steps={done}"), tmp_path, devices=1)
    reader, writer = os.pipe()
    monkeypatch.setenv("AVEMO_HEARTBEAT_FD", str(writer))
    beats, told, loss = Heartbeat(), [], TinyTask.loss
    beats.start()

    def slow(*of):
        os.read(reader, 1 << 16)
        time.sleep(5)
        told.extend(os.read(reader, 1 << 16).splitlines())
        return loss(*of)

    monkeypatch.setattr(loop, "HEARTBEAT", beats)
    monkeypatch.setattr(TinyTask, "loss", slow)
    run_here(tiny_config(f"total_steps={done + 1}"), tmp_path, devices=1)
    os.close(reader)
    assert len(set(told)) > 2 and all(line.startswith(b"%d " % done) for line in told)


def test_epochs_are_counted_in_whole_batches(tmp_path):
    assert run_here(tiny_config("total_steps=0", "epochs=2"), tmp_path, devices=1).step == 2 * (24 // 8)


def test_a_dataset_smaller_than_a_batch_cannot_be_counted_in_epochs(tmp_path):
    with pytest.raises(UserError, match="24 clips with batch_size 32"):
        run_here(tiny_config("total_steps=0", "epochs=2", "batch_size=32"), tmp_path, devices=1)


def test_a_folder_holds_one_run_and_says_which_keys_differ(tmp_path):
    run_here(tiny_config("total_steps=2"), tmp_path, devices=1)
    with pytest.raises(UserError, match=r"optimizer.b1 was 0.9 and is 0.8; seed was 0 and is 5"):
        run_here(tiny_config("total_steps=2", "seed=5", "optimizer.b1=0.8"), tmp_path, devices=1)


def test_another_dataset_is_refused_on_resuming(tmp_path):
    run_here(tiny_config("total_steps=2"), tmp_path, devices=1)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"clips": 24', '"clips": 30'))
    with pytest.raises(UserError, match="30 clips, the run was begun with 24"):
        run_here(tiny_config("total_steps=4", "tiny.clips=30"), tmp_path, devices=1)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path):
    config = tiny_config("tiny.poisoned_from=4", "tiny.poisoned_to=6")
    run_here(config, tmp_path, devices=2)
    rows = {row["step"]: row for row in rows_of(tmp_path)}
    assert [rows[step]["bad_steps"] for step in range(4, 9)] == [0, 1, 2, 0, 0]
    assert rows[5]["loss"] is None and rows[12]["skipped_steps"] == 2
    assert rows[7]["learning_rate"] == pytest.approx(rows[5]["learning_rate"])  # the schedule waited too


def test_after_too_many_bad_steps_a_run_goes_back_and_on_with_other_clips(tmp_path, capsys):
    config = tiny_config("tiny.poisoned_from=5", "tiny.poisoned_to=9")
    run_here(config, tmp_path, devices=1)
    said = capsys.readouterr().out
    assert "rolling back to step 4" in said
    rows = rows_of(tmp_path)
    assert sorted(losses_of(tmp_path)) == list(range(1, 13))
    assert [row["rollbacks"] for row in rows] == [0] * 4 + [1] * 8
    # Batches 5, 6 and 7 (from 0) were bad and are behind; 8 is met again and skipped.
    assert [row["bad_steps"] for row in rows] == [0] * 4 + [1] + [0] * 7


@pytest.mark.parametrize("keep", [1, 3])
def test_a_checkpoint_amid_bad_steps_is_not_rolled_back_to(keep, tmp_path, capsys):
    poisoned = ("tiny.poisoned_from=6", "tiny.poisoned_to=9")
    run_here(tiny_config(f"checkpoint.keep={keep}", *poisoned), tmp_path, devices=1)
    said = capsys.readouterr().out
    assert "00000008 was written amid skipped steps; going back to step 4" in said
    assert sorted(losses_of(tmp_path)) == list(range(1, 13))


def test_a_run_without_any_good_checkpoint_goes_back_to_its_start(tmp_path, capsys):
    run_here(tiny_config("tiny.poisoned_from=1", "tiny.poisoned_to=4"), tmp_path, devices=1)
    assert "rolling back to step 0" in capsys.readouterr().out
    assert sorted(losses_of(tmp_path)) == list(range(1, 13))


def test_a_run_that_stays_bad_stops_with_the_offending_clips(tmp_path, capsys):
    poisoned = (3, 7, 11, 15, 19, 23, 2, 6, 10)  # some in nearly every batch
    with pytest.raises(UserError, match="after a rollback") as caught:
        run_here(tiny_config(f"tiny.poisoned={poisoned}"), tmp_path, devices=2)
    named = set(str(caught.value).split("offending clips: ")[1].split(" (after")[0].split(", "))
    assert named and named <= {f"clip{position}" for position in poisoned}


def test_two_runs_do_not_share_a_folder(tmp_path):
    import subprocess
    import sys

    hold = (
        "import pathlib, sys, time; from avemo_jax.training.workdir import claim; "
        f"lock = claim(pathlib.Path({str(tmp_path)!r})); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            run_here(tiny_config(), tmp_path, devices=1)
    finally:
        holder.kill()
        holder.wait()
    assert run_here(tiny_config("total_steps=2"), tmp_path, devices=1).step == 2


def test_a_kernel_that_the_devices_do_not_have_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="attention.kernel=pallas needs a TPU, and the devices are cpu"):
        run_here(tiny_config("attention.kernel=pallas"), tmp_path / "run", devices=1)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="batch_size 6 cannot be divided over 4 devices"):
        run_here(tiny_config("batch_size=6"), tmp_path, devices=4)
