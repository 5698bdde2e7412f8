"""Where the time went: by kind, over restarts, and never in the way of a run."""

import json
import signal
import time
from types import SimpleNamespace

import pytest

from avemo_jax.training import goodput as goodput_module
from avemo_jax.training.goodput import KINDS, NAME, Goodput
from tests.training.test_survival import wait_until
from tests.training.tiny import rows_of, run_here, start, tiny_config


def sums_of(workdir):
    return json.loads((workdir / NAME).read_text())


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand: `clock.now += seconds`."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(goodput_module, "time", clock)
    return clock


def test_time_counts_for_the_innermost_kind_and_all_of_it_counts(tmp_path, clock):
    goodput = Goodput(tmp_path)
    clock.now += 1
    with goodput.on("steps"):
        clock.now += 10
        with goodput.on("checkpoints"):
            clock.now += 100
        clock.now += 20
    goodput.save()
    sums = sums_of(tmp_path)
    assert sums["seconds"] == dict.fromkeys(KINDS, 0.0) | {"other": 1, "steps": 30, "checkpoints": 100}
    assert sums["wall_s"] == 131 and sums["restarts"] == 0


def test_what_the_devices_waited_for_input_is_taken_out_of_the_steps(tmp_path, clock):
    goodput = Goodput(tmp_path)
    with goodput.on("steps"):
        clock.now += 10
        goodput.waited(2.0)
        goodput.waited(5.0)
        goodput.waited(1.0)  # of a new feed, after a rollback
    goodput.save()
    seconds = sums_of(tmp_path)["seconds"]
    assert seconds["input"] == 6 and seconds["steps"] == 4


def test_the_line_at_the_end_gives_the_shares_of_this_start_and_of_all(tmp_path, clock):
    said = []
    for stepping in (30, 90):
        goodput = Goodput(tmp_path)
        with goodput.on("pictures"):
            clock.now += 10
        with goodput.on("steps"):
            clock.now += stepping
        goodput.close(said.append)
    first, second = said
    assert first.startswith("goodput: steps 75.0%, compiling 0.0%") and first.endswith("of 0:00:40")
    assert second.startswith("goodput: steps 90.0%")
    assert second.endswith("of 0:01:40; over all 2 starts steps 85.7% of 0:02:20")
    assert sums_of(tmp_path)["restarts"] == 1 and sums_of(tmp_path)["seconds"]["pictures"] == 20


@pytest.mark.parametrize("text", ["", "[]", '{"seconds": {}}', '{"seconds": {"steps": "x"}, "restarts": 1}'])
def test_a_file_that_is_not_ours_begins_anew(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    Goodput(tmp_path).save()
    assert sums_of(tmp_path)["restarts"] == 0


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    said = []
    goodput = Goodput(tmp_path / "not there")
    goodput.close(said.append)
    assert len(said) == 1 and not (tmp_path / "not there").exists()


def test_a_run_accounts_for_its_time_by_kind_and_goes_on_counting(tmp_path, capsys):
    settings = ("tiny.sleep_s=0.1", "log.samples_every_steps=2", "checkpoint.every_steps=2")
    began = time.monotonic()
    run_here(tiny_config("total_steps=4", *settings), tmp_path, devices=2)
    took, sums = time.monotonic() - began, sums_of(tmp_path)
    assert sums["wall_s"] == pytest.approx(took, rel=0.2)
    assert sums["devices"] == "2 × cpu (cpu), data 2" and sums["restarts"] == 0
    for kind in ("compiling", "input", "pictures", "checkpoints", "steps"):
        assert sums["seconds"][kind] > 0, kind
    waited = sum(row["input_wait_share"] * row["step_s"] for row in rows_of(tmp_path))
    assert sums["seconds"]["input"] == pytest.approx(waited, rel=0.05) and waited > 0.05
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("goodput: ")]
    assert len(said) == 1 and "input" in said[0]

    run_here(tiny_config("total_steps=6", *settings), tmp_path, devices=2)
    again = sums_of(tmp_path)
    assert again["restarts"] == 1 and again["seconds"]["restoring"] > sums["seconds"]["restoring"]
    assert all(again["seconds"][kind] >= sums["seconds"][kind] for kind in KINDS)
    assert "over all 2 starts" in capsys.readouterr().out


def test_a_run_with_nothing_left_to_do_is_no_restart(tmp_path):
    for _ in range(2):
        run_here(tiny_config("total_steps=2"), tmp_path, devices=1)
    assert sums_of(tmp_path)["restarts"] == 0


@pytest.mark.slow
def test_a_preempted_run_says_where_its_time_went_and_a_killed_one_counts_as_a_restart(tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, "tiny.sleep_s=0.1")
    wait_until(lambda: (workdir / "metrics.jsonl").exists() and rows_of(workdir), process)
    process.terminate()
    assert process.wait(60) == 143
    assert (tmp_path / "output.txt").read_text().count("goodput: ") == 1
    process = start(workdir, "tiny.sleep_s=0.1")
    wait_until(lambda: sums_of(workdir)["restarts"] == 1, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert start(workdir, "tiny.sleep_s=0.1").wait(120) == 0
    assert sums_of(workdir)["restarts"] == 2
    assert "over all 3 starts" in (tmp_path / "output.txt").read_text()
