"""The local launcher: what it starts, and that its processes live and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from avemo_jax.cli import main as avemo_main
from launch.crew import Process
from launch.local import main, plan, read_flags
from launch.supervisor import Rules, host_name, run_here
from tests.launch import turned_clock
from tests.launch.striking import SLOWLY, has_steps, pid_of, python, strike_when, tiny_processes
from tests.training.tiny import ROOT, losses_of, rows_of

FLAGS = ("--processes", "2", "--devices_per_process", "4")
HERE = host_name()


def test_a_dry_run_prints_the_command_and_settings_of_every_process(capsys):
    words = [
        *FLAGS,
        "--port",
        "1234",
        "--dry_run",
        "--",
        "train",
        "--config",
        "hicmae:demo",
        "--config.seed=1",
    ]
    assert avemo_main(["launch", "local", *words]) == 0
    first, second = capsys.readouterr().out.splitlines()
    for line in (first, second):
        assert "--xla_force_host_platform_device_count=4" in line
        assert "AVEMO_COORDINATOR=127.0.0.1:1234 AVEMO_PROCESSES=2" in line
        assert line.endswith("-m avemo_jax train --config hicmae:demo --config.seed=1")
    assert "AVEMO_PROCESS_ID=0" in first and "AVEMO_PROCESS_ID=1" in second


def test_one_process_needs_no_group_and_a_named_platform_is_kept():
    args = read_flags(["--processes", "1", "--", "train"])
    (process,) = plan(args, "127.0.0.1:1234", {"JAX_PLATFORMS": "cuda"})
    assert process.environment["JAX_PLATFORMS"] == "cuda"


@pytest.mark.parametrize(
    "words", [["--processes", "2"], ["--processes", "0", "--", "train"], ["--what", "--", "train"]]
)
def test_wrong_flags_exit_with_2(words):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_an_unknown_launcher_is_named_with_the_known_ones(capsys):
    assert avemo_main(["launch", "nowhere", "--", "train"]) == 2
    assert "no launcher 'nowhere': there are local" in capsys.readouterr().err


def test_output_is_shown_behind_the_number_of_its_process(capfd):
    assert run_here(python("print('one')", "print('two')"), Rules(grace_s=1)) == 0
    assert {"[0] one", "[1] two"} <= set(capfd.readouterr().out.splitlines())


@pytest.mark.parametrize(
    "program, code, said",
    [
        ("raise SystemExit(7)", 7, f"process 1 on {HERE} failed with exit code 7; stopping process 0"),
        (
            "import os; os.kill(os.getpid(), 9)",
            137,
            f"process 1 on {HERE} was ended by SIGKILL; stopping process 0",
        ),
    ],
)
def test_when_one_process_fails_the_others_are_stopped_within_seconds(program, code, said, capfd):
    began = time.monotonic()
    assert run_here(python("import time; time.sleep(60)", program), Rules(grace_s=60)) == code
    assert time.monotonic() - began < 30
    assert said in capfd.readouterr().err


def test_preempted_processes_are_reported_as_to_be_resumed(capfd):
    assert run_here(python(*["raise SystemExit(143)"] * 2), Rules(grace_s=1)) == 143
    assert "start the same command again" in capfd.readouterr().err


def test_processes_that_ignore_sigterm_are_ended_after_their_grace(capfd):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    strike_when(lambda: "deaf" in capfd.readouterr().out)
    began = time.monotonic()
    assert run_here(python(deaf), Rules(grace_s=0.5)) == 137
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_losses_of_one_device(tmp_path, uninterrupted):
    assert run_here(tiny_processes(tmp_path, "mesh.fsdp=2", "mesh.tensor=2"), Rules(grace_s=60)) == 0
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.slow
def test_two_processes_save_together_on_sigterm_and_go_on(tmp_path, uninterrupted, capfd):
    strike_when(has_steps(tmp_path, 2))
    assert run_here(tiny_processes(tmp_path, SLOWLY), Rules(grace_s=60)) == 143
    assert "stopped at step" in capfd.readouterr().out
    assert run_here(tiny_processes(tmp_path, SLOWLY), Rules(grace_s=60)) == 0
    assert "resuming at step" in capfd.readouterr().out
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.slow
def test_two_processes_stop_when_only_one_is_told_to_or_one_is_killed(tmp_path, uninterrupted, capfd):
    run = tmp_path / "run"
    strike_when(has_steps(tmp_path, 2), lambda: os.kill(pid_of(tmp_path, 1), signal.SIGTERM))
    assert run_here(tiny_processes(tmp_path, SLOWLY), Rules(grace_s=60)) == 143
    reached = max(losses_of(run))

    more = lambda: max(losses_of(run)) > reached  # noqa: E731
    strike_when(more, lambda: os.kill(pid_of(tmp_path, 1), signal.SIGKILL))
    assert run_here(tiny_processes(tmp_path, SLOWLY), Rules(grace_s=60)) == 137
    assert f"process 1 on {HERE} was ended by SIGKILL; " in capfd.readouterr().err
    assert run_here(tiny_processes(tmp_path, SLOWLY), Rules(grace_s=60)) == 0
    assert losses_of(run) == pytest.approx(uninterrupted, rel=1e-5)


LEFT_ALONE = """
import os, signal, sys
from pathlib import Path
import jax, numpy as np
from jax.experimental import multihost_utils
from avemo_jax.errors import UserError
from avemo_jax.training import distributed
from avemo_jax.training.checkpoints import Checkpoints, Record
from avemo_jax.training.state import TrainState
distributed.initialize()
multihost_utils.sync_global_devices("all here")
if jax.process_index():
    os.kill(os.getpid(), signal.SIGKILL)
state = TrainState(np.int32(7), np.int32(0), np.int32(0), {"w": np.ones(3)}, averaged=None, opt_state=None)
try:
    Checkpoints(Path(sys.argv[1]), keep=1, background=False).save(state, Record(7, {}))
except UserError as error:
    distributed.leave_after(error)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_a_checkpoint_is_written_is_not_taken_for_bad_input(tmp_path, capfd):
    def make(coordinator: str) -> list[Process]:
        own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        planned = plan(read_flags(["--processes", "2", "--", "train"]), coordinator, {})
        command = [sys.executable, "-c", LEFT_ALONE, str(tmp_path)]
        return [Process(command, each.environment | own) for each in planned]

    assert run_here(make, Rules(grace_s=1)) == 137  # that of the one that was killed
    said = capfd.readouterr()
    assert f"lost one another while checkpoint {tmp_path}/checkpoints/00000007 was written" in said.out
    assert "there is no earlier one" in said.out
    assert f"process 1 on {HERE} was ended by SIGKILL" in said.err


@pytest.mark.parametrize(
    "seconds, restarts",
    [pytest.param(10, 0, marks=pytest.mark.nightly), pytest.param(86_400, 1, marks=pytest.mark.slow)],
)
def test_a_clock_that_is_set_ahead_and_back_costs_no_step(seconds, restarts, tmp_path, uninterrupted):
    """That of the launcher, of both processes and of all their libraries. JAX's heartbeats go by it, two in the time of
    its patience (here 30 s): a jump ahead of more than that is as if all processes had been silent, and they start
    again from the last checkpoint; from half of it on it depends on when the last beat was. A jump back can be taken
    so too, when a beat is looked for between two."""
    turned, run = tmp_path / "turned_by", tmp_path / "run"
    environment = {**turned_clock.environment(tmp_path, turned), "JAX_PLATFORMS": "cpu"}
    launcher = [
        sys.executable,
        "-c",
        "import sys; from pathlib import Path; from launch.supervisor import Rules, run_here; "
        "from tests.launch.striking import SLOWLY, tiny_processes; folder, restarts = sys.argv[1:]; "
        "sys.exit(run_here(tiny_processes(Path(folder), SLOWLY), Rules(restarts=int(restarts), backoff_s=0.1)))",
        *(str(tmp_path), str(restarts)),
    ]
    ahead = strike_when(has_steps(tmp_path, 2), lambda: turned.write_text(f"+{seconds}"))
    back = strike_when(has_steps(tmp_path, 8), lambda: turned.write_text(f"-{seconds}"))
    done = subprocess.run(launcher, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert len(ahead) == len(back) == 1
    seen = subprocess.run(["date", "+%s"], env=environment, capture_output=True, text=True).stdout
    assert int(seen) - time.time() == pytest.approx(-seconds, abs=5)
    assert ("(restart 1 of 1 at" in done.stderr) == (restarts > 0)
    assert losses_of(run) == pytest.approx(uninterrupted, rel=1e-5)
    assert 0 < json.loads((run / "time.json").read_text())["wall_s"] < 3600
    assert all(0 < row["step_s"] < 600 for row in rows_of(run))
