"""The local launcher: what it starts, and that its processes live and end together."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time

import pytest

from avemo_jax.cli import main as avemo_main
from tests.training.tiny import ROOT, losses_of, rows_of

FLAGS = ("--processes", "2", "--devices_per_process", "4")


@pytest.fixture(scope="module")
def local():
    spec = importlib.util.spec_from_file_location("local_launcher", ROOT / "launch" / "local.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(local, *programs: str):
    """Processes that run these programs in place of a verb."""
    return [local.Process([sys.executable, "-c", program], {}) for program in programs]


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


def test_one_process_needs_no_group_and_a_named_platform_is_kept(local):
    args = local.read_flags(["--processes", "1", "--", "train"])
    (process,) = local.plan(args, {"JAX_PLATFORMS": "cuda"})
    assert process.environment == {"JAX_PLATFORMS": "cuda"}


@pytest.mark.parametrize(
    "words", [["--processes", "2"], ["--processes", "0", "--", "train"], ["--what", "--", "train"]]
)
def test_wrong_flags_exit_with_2(words, local):
    with pytest.raises(SystemExit) as caught:
        local.main(words)
    assert caught.value.code == 2


def test_an_unknown_launcher_is_named_with_the_known_ones(capsys):
    assert avemo_main(["launch", "nowhere", "--", "train"]) == 2
    assert "no launcher 'nowhere': there are local" in capsys.readouterr().err


def test_output_is_shown_behind_the_number_of_its_process(local, capfd):
    assert local.run_together(python(local, "print('one')", "print('two')"), grace_s=1) == 0
    assert {"[0] one", "[1] two"} <= set(capfd.readouterr().out.splitlines())


@pytest.mark.parametrize(
    "program, code, said",
    [
        ("raise SystemExit(7)", 7, "process 1 failed with exit code 7; stopping process 0"),
        ("import os; os.kill(os.getpid(), 9)", 137, "process 1 was ended by SIGKILL; stopping process 0"),
    ],
)
def test_when_one_process_fails_the_others_are_stopped_within_seconds(program, code, said, local, capfd):
    began = time.monotonic()
    assert local.run_together(python(local, "import time; time.sleep(60)", program), grace_s=60) == code
    assert time.monotonic() - began < 10
    assert said in capfd.readouterr().err


def test_preempted_processes_are_reported_as_to_be_resumed(local, capfd):
    assert local.run_together(python(local, *["raise SystemExit(143)"] * 2), grace_s=1) == 143
    assert "start the same command again" in capfd.readouterr().err


def test_processes_that_ignore_sigterm_are_ended_after_their_grace(local, capfd):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    strike_when(lambda: "deaf" in capfd.readouterr().out)
    began = time.monotonic()
    assert local.run_together(python(local, deaf), grace_s=0.5) == 137
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_losses_of_one_device(local, tmp_path, uninterrupted):
    assert (
        local.run_together(tiny_processes(local, tmp_path, "mesh.fsdp=2", "mesh.tensor=2"), grace_s=60) == 0
    )
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.slow
def test_two_processes_save_together_on_sigterm_and_go_on(local, tmp_path, uninterrupted, capfd):
    slowly = "tiny.sleep_s=0.3"
    strike_when(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and len(rows_of(tmp_path / "run")) >= 2)
    assert local.run_together(tiny_processes(local, tmp_path, slowly), grace_s=60) == 143
    assert "stopped at step" in capfd.readouterr().out
    assert local.run_together(tiny_processes(local, tmp_path, slowly), grace_s=60) == 0
    assert "resuming at step" in capfd.readouterr().out
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.slow
def test_two_processes_stop_when_only_one_is_told_to_or_one_is_killed(local, tmp_path, uninterrupted, capfd):
    slowly, run = "tiny.sleep_s=0.3", tmp_path / "run"

    def second() -> int:
        return int((tmp_path / "second").read_text())

    begun = lambda: (run / "metrics.jsonl").exists() and len(rows_of(run)) >= 2  # noqa: E731
    strike_when(begun, lambda: os.kill(second(), signal.SIGTERM))
    assert local.run_together(tiny_processes(local, tmp_path, slowly), grace_s=60) == 143
    reached = max(losses_of(run))

    more = lambda: max(losses_of(run)) > reached  # noqa: E731
    strike_when(more, lambda: os.kill(second(), signal.SIGKILL))
    assert local.run_together(tiny_processes(local, tmp_path, slowly), grace_s=60) == 137
    assert "process 1 was ended by SIGKILL; stopping process 0" in capfd.readouterr().err
    assert local.run_together(tiny_processes(local, tmp_path, slowly), grace_s=60) == 0
    assert losses_of(run) == pytest.approx(uninterrupted, rel=1e-5)


def tiny_processes(local, folder, *overrides):
    """The tiny run as two processes of four devices."""
    args = local.read_flags([*FLAGS, "--", "train"])
    command = [sys.executable, "-m", "tests.training.tiny", str(folder / "run"), *overrides]
    own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    first, second = (process.environment | own for process in local.plan(args, {}))
    note_its_id = ["sh", "-c", f'echo $$ > {folder}/second; exec "$@"', "sh"]
    return [local.Process(command, first), local.Process([*note_its_id, *command], second)]


def strike_when(happened, strike=lambda: os.kill(os.getpid(), signal.SIGTERM)):
    """Sends SIGTERM to this process, which is the launcher, as soon as something has happened."""

    def watch():
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            try:
                if happened():
                    return strike()
            except (ValueError, OSError):  # a line that is being written
                pass
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
