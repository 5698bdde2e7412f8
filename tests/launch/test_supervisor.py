"""What becomes of a run whose processes fail, freeze, or are told to stop: restarts, and their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from avemo_jax.training.heartbeat import Heartbeat
from launch.supervisor import Host, Lead, Rules, host_name, run_here, say_as
from tests.launch.striking import SLOWLY, has_steps, pid_of, python, strike_when, tiny_processes
from tests.training.tiny import ROOT, losses_of

HERE = host_name()
QUICK = Rules(grace_s=10, backoff_s=0.2)
# A program that beats as a training process does, and knows which start of it this is.
BEATS = f"""if True:
    import os, pathlib, signal, sys, time
    sys.path.insert(0, {str(ROOT)!r})
    from avemo_jax.training.heartbeat import HEARTBEAT
    fd = int(os.environ["AVEMO_HEARTBEAT_FD"])
    HEARTBEAT.start()
    starts = pathlib.Path("{{folder}}/starts")
    start = int(starts.read_text()) + 1 if starts.exists() else 1
    starts.write_text(str(start))
    def come_to(step):
        HEARTBEAT.at(step)
        time.sleep(0.5)
        os.write(fd, b"%d %d\\n" % (step, step))  # whenever the next beat is: the pipe keeps it past the end
    """
WAITS = "import time; time.sleep(60)"


def beating(folder, then: str) -> str:
    return BEATS.replace("{folder}", str(folder)) + then


def starts_of(folder) -> int:
    return int((folder / "starts").read_text())


def test_all_processes_are_started_again_until_the_run_succeeds(tmp_path, capfd):
    program = beating(tmp_path, "sys.exit(1 if start < 3 else 0)")
    assert run_here(python(program, "pass"), QUICK._replace(restarts=2)) == 0
    said = capfd.readouterr().err
    assert f"process 0 on {HERE} failed with exit code 1" in said
    assert "starting all again in 0.2 s (restart 1 of 2 at the beginning, before any step)" in said
    assert "in 0.4 s (restart 2 of 2" in said
    assert starts_of(tmp_path) == 3


def test_it_gives_up_when_the_same_step_fails_again_and_again(tmp_path, capfd):
    program = beating(tmp_path, "come_to(7); sys.exit(9)")
    assert run_here(python(program, WAITS), QUICK._replace(restarts=2)) == 9
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.endswith(f"giving up after 2 restarts at step 7: process 0 on {HERE} failed with exit code 9")
    assert starts_of(tmp_path) == 3


def test_a_run_that_gets_further_each_time_is_not_given_up(tmp_path):
    program = beating(tmp_path, "come_to(10 * start); sys.exit(9 if start < 4 else 0)")
    assert run_here(python(program), QUICK._replace(restarts=1)) == 0
    assert starts_of(tmp_path) == 4


def test_refused_input_is_not_tried_again(tmp_path, capfd):
    program = beating(tmp_path, "sys.exit(2)")
    assert run_here(python(program), QUICK._replace(restarts=5)) == 2
    assert "not started again" in capfd.readouterr().err
    assert starts_of(tmp_path) == 1


def test_a_killed_process_is_to_blame_though_another_calls_what_follows_bad_input(tmp_path, capfd):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    blames = beating(tmp_path / "a", "sys.exit(2 if start < 2 else 0)")
    killed = beating(tmp_path / "b", "os.kill(os.getpid(), signal.SIGKILL) if start < 2 else sys.exit(0)")
    assert run_here(python(blames, killed), QUICK._replace(restarts=1)) == 0
    assert f"process 1 on {HERE} was ended by SIGKILL" in capfd.readouterr().err


def test_a_run_that_is_told_to_stop_before_it_began_starts_nothing(tmp_path, capfd):
    with Host(python(beating(tmp_path, "sys.exit(1)"))) as host:
        os.kill(os.getpid(), signal.SIGTERM)
        assert Lead([host], QUICK, lambda: "nowhere:1", say_as("local")).run() == 143
    assert "start the same command again" in capfd.readouterr().err
    assert not (tmp_path / "starts").exists()


def test_a_run_goes_on_when_nobody_reads_what_it_says():
    """As when the reader of a pipe has ended, or the disk of a log is full."""
    program = "for _ in range(4000): print('x' * 79)"  # more than a pipe holds
    code = f"""if True:
        from launch.supervisor import Rules, run_here
        from tests.launch.striking import python
        raise SystemExit(run_here(python({program!r}), Rules()))"""
    reader, writer = os.pipe()
    os.close(reader)
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        assert launcher.wait(60) == 0
    finally:
        launcher.kill()


def test_steps_of_a_run_of_several_parts_only_rise(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setenv("AVEMO_HEARTBEAT_FD", str(writer))
    beats = Heartbeat()
    beats.start()

    def told(step):
        ends, found = time.monotonic() + 20, b""
        while b"\n%d " % step not in b"\n" + found and time.monotonic() < ends:
            found += os.read(reader, 1 << 16)
        return b"\n%d " % step in b"\n" + found

    assert told(-1)
    beats.at(7)
    assert told(7)
    beats.part_done()
    beats.at(2)  # of the second part
    assert told(9)
    os.close(reader)


def test_processes_that_were_told_to_stop_and_saved_are_resumed(tmp_path, capfd):
    program = beating(tmp_path, "sys.exit(143 if start < 2 else 0)")
    assert run_here(python(program), QUICK._replace(restarts=1)) == 0
    assert "were told to stop and saved" in capfd.readouterr().err


def test_sigterm_during_the_pause_ends_the_run_at_once(tmp_path, capfd):
    strike_when(lambda: "starting all again" in capfd.readouterr().err)
    began = time.monotonic()
    program = beating(tmp_path, "sys.exit(1)")
    assert run_here(python(program), QUICK._replace(restarts=1, backoff_s=60)) == 143
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("beats", [True, False])
def test_a_frozen_process_is_named_and_stops_the_others(beats, tmp_path, capfd):
    freezes = "os.kill(os.getpid(), signal.SIGSTOP)"
    program = beating(tmp_path, f"come_to(3); {freezes}") if beats else f"import os, signal; {freezes}"
    assert run_here(python(WAITS, program), QUICK._replace(heartbeat_s=3)) != 0
    said = capfd.readouterr().err
    assert re.search(rf"process 1 on {HERE} has been silent for \d+ s \(it is stopped, as by SIGSTOP\)", said)
    assert "; stopping process 0, still running" in said


def test_a_process_that_only_seems_to_run_is_given_up_when_steps_stop(tmp_path, capfd):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    begun = "while not pathlib.Path({!r}).exists(): time.sleep(0.1)"
    ahead = beating(
        tmp_path / "a", begun.format(str(tmp_path / "b/starts")) + "\n    come_to(6); time.sleep(60)"
    )
    behind = beating(
        tmp_path / "b", begun.format(str(tmp_path / "a/starts")) + "\n    come_to(5); time.sleep(60)"
    )
    assert run_here(python(ahead, behind), QUICK._replace(stall_s=4)) == 1
    assert f"process 1 on {HERE} is still at step 5" in capfd.readouterr().err


def test_a_process_that_does_what_is_no_step_is_not_given_up(tmp_path):
    looks = "come_to(5)\n    for _ in range(8):\n        HEARTBEAT.moved(); time.sleep(1)"
    assert run_here(python(beating(tmp_path, looks)), QUICK._replace(stall_s=4)) == 0


def test_a_process_that_compiles_for_long_is_not_given_up_but_one_that_hangs_after_it_is(tmp_path, capfd):
    compiles = "come_to(5)\n    with HEARTBEAT.busy(): time.sleep(8)\n    print('compiled'); time.sleep(60)"
    assert run_here(python(beating(tmp_path, compiles)), QUICK._replace(stall_s=4)) == 1
    said = capfd.readouterr()
    assert "compiled" in said.out and f"process 0 on {HERE} is still at step 5" in said.err


def test_the_count_of_restarts_outlives_the_launcher(tmp_path, capfd):
    rules = QUICK._replace(restarts=1, memory=tmp_path / "memory.json")
    program = beating(tmp_path, "come_to(7); time.sleep(60)")
    for code in (143, 1):
        (tmp_path / "struck").write_text("")  # before anybody watches it
        strike_when(
            lambda: "7" in (tmp_path / "struck").read_text(), lambda: os.kill(os.getpid(), signal.SIGTERM)
        )
        noting = program.replace("come_to(7)", f"come_to(7); open('{tmp_path}/struck', 'w').write('7')")
        assert run_here(python(noting), rules) == code
    assert "giving up after 1 restarts at step 7" in capfd.readouterr().err


@pytest.mark.nightly
def test_a_launcher_that_was_itself_stopped_for_a_while_blames_nobody(tmp_path):
    program = beating(tmp_path, "come_to(1); time.sleep(15)")
    code = f"""if True:
        from launch.supervisor import Rules, run_here
        from tests.launch.striking import python
        raise SystemExit(run_here(python({program!r}), Rules(heartbeat_s=3)))"""
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    strike_when((tmp_path / "starts").exists, lambda: launcher.send_signal(signal.SIGSTOP))
    time.sleep(10)
    launcher.send_signal(signal.SIGCONT)
    assert launcher.wait(60) == 0


@pytest.mark.slow
def test_a_run_killed_and_frozen_is_restarted_to_the_losses_of_one_that_was_not(
    tmp_path, uninterrupted, capfd
):
    rules = Rules(restarts=1, backoff_s=0.5)  # with the heartbeat that is the default
    strike_when(has_steps(tmp_path, 5), lambda: os.kill(pid_of(tmp_path, 1), signal.SIGKILL))
    frozen: dict[str, float] = {}

    def freeze():
        first = pid_of(tmp_path, 0)
        os.kill(pid_of(tmp_path, 1), signal.SIGSTOP)
        began = time.monotonic()
        while os.path.exists(f"/proc/{first}"):
            time.sleep(0.1)
        frozen["other_stopped_s"] = time.monotonic() - began

    strike_when(has_steps(tmp_path, 9), freeze)
    assert run_here(tiny_processes(tmp_path, SLOWLY), rules) == 0
    said = capfd.readouterr().err
    assert f"process 1 on {HERE} was ended by SIGKILL; " in said
    assert f"process 1 on {HERE} has been silent for" in said
    assert frozen["other_stopped_s"] <= 30
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)
