"""A run as a process that is really killed, or told to stop, and started again: nothing of it shows in the losses."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import time

import pytest

from tests.training.tiny import losses_of, start

SLOWLY = ("tiny.sleep_s=0.1",)  # so that there is a moment to strike in


def wait_until(happened, process, timeout_s=120.0):
    """Polls closely, since some moments are short."""
    ends = time.monotonic() + timeout_s
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} before it was struck"
        assert time.monotonic() < ends, "the moment never came"
        time.sleep(0.001)


def rows(workdir) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_being_written(workdir, step) -> bool:
    folder = workdir / "checkpoints" / f"{step:08d}"
    return folder.exists() and not (folder / "manifest.json").exists()


MOMENTS = {
    "right after its start": lambda workdir: (workdir / ".lock").exists(),
    "while it writes a checkpoint": lambda workdir: any(
        is_being_written(workdir, step) for step in (4, 8, 12)
    ),
    "in the middle of a step": lambda workdir: rows(workdir) >= 7,
}


@pytest.mark.slow
def test_a_run_killed_at_three_moments_has_the_losses_of_one_never_killed(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    for happened in MOMENTS.values():
        process = start(workdir, *SLOWLY)
        wait_until(lambda happened=happened: happened(workdir), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert start(workdir, *SLOWLY).wait(120) == 0
    assert losses_of(workdir) == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.slow
def test_sigterm_saves_the_step_it_reaches_and_the_next_start_goes_on_from_there(tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    seldom = (*SLOWLY, "checkpoint.every_steps=100")
    process = start(workdir, *seldom)
    wait_until(lambda: rows(workdir) >= 5, process)
    process.terminate()
    assert process.wait(60) == 143
    saved = max(int(path.parent.name) for path in (workdir / "checkpoints").glob("*/manifest.json"))
    assert 5 <= saved < 12
    assert max(losses_of(workdir)) == saved
    assert start(workdir, *seldom).wait(120) == 0
    assert f"resuming at step {saved}" in (tmp_path / "output.txt").read_text()
    assert losses_of(workdir) == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_many_times_at_random_has_the_losses_of_one_never_killed(seed, tmp_path, uninterrupted):
    workdir, rng = tmp_path / "run", random.Random(seed)
    for _ in range(12):
        process = start(workdir, *SLOWLY, "checkpoint.every_steps=1", devices=rng.choice([1, 2, 4]))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(1.0, 12.0))
        process.kill()
        process.wait()
    assert start(workdir, *SLOWLY, "checkpoint.every_steps=1").wait(120) == 0
    assert losses_of(workdir) == pytest.approx(uninterrupted, rel=1e-5)
