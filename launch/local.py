"""Runs `avemo train …` (or another verb) as several processes on this machine, as one run.

    python launch/local.py --processes 2 --devices_per_process 4 -- train --config hicmae:demo --workdir runs/a

A program of its own that needs only Python: it sets each process's environment, shows their output line by line
behind a `[process]`, and holds them together. When one fails the others are stopped within seconds, and it is
said which one failed and how. SIGTERM is passed on to all; exit code 143 then means "saved, start again to go on".
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Loaded here, since little is safe between fork and exec.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PREEMPTED = 128 + signal.SIGTERM
GOOD_ENDINGS = (0, PREEMPTED, -signal.SIGTERM)  # the last: told to stop before there was anything to save
POLL_S = 0.1
INTERRUPT_GRACE_S = 5.0  # after Ctrl-C, which saves nothing


class Process(NamedTuple):
    """What one process is started with."""

    command: list[str]
    environment: dict[str, str]  # what is set in addition to our own


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the processes and returns the run's exit code."""
    args = read_flags(sys.argv[1:] if argv is None else argv)
    processes = plan(args, os.environ)
    if args.dry_run:
        for process in processes:
            settings = [f"{name}={shlex.quote(value)}" for name, value in process.environment.items()]
            print(" ".join([*settings, shlex.join(process.command)]))
        return 0
    return run_together(processes, grace_s=args.grace_s)


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own flags, and the command behind `--`."""
    parser = argparse.ArgumentParser(
        prog="avemo launch local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="how many")
    parser.add_argument(
        "--devices_per_process",
        type=int,
        default=0,
        help="CPU devices that each process shows; 0: as they are",
    )
    parser.add_argument("--port", type=int, default=0, help="of process 0; 0: a free one")
    parser.add_argument(
        "--heartbeat_s", type=int, default=30, help="a process that is silent for so long is given up"
    )
    parser.add_argument("--grace_s", type=float, default=60, help="time to save in after SIGTERM")
    parser.add_argument("--dry_run", action="store_true", help="print what would be run")
    parser.add_argument("verb", nargs=argparse.REMAINDER, help="-- and the command, without 'avemo'")
    args = parser.parse_args(argv)
    args.verb = args.verb[1:] if args.verb[:1] == ["--"] else args.verb
    if not args.verb:
        parser.error(
            "nothing to run: write the command behind --, for example -- train --config hicmae:demo …"
        )
    if args.processes < 1 or args.devices_per_process < 0:
        parser.error("--processes is at least 1 and --devices_per_process at least 0")
    return args


def plan(args: argparse.Namespace, environment: Mapping[str, str]) -> list[Process]:
    """The processes to start. A platform that the environment names is kept, otherwise it is the CPU."""
    port = args.port or _free_port()
    common = {"JAX_PLATFORMS": environment.get("JAX_PLATFORMS", "cpu")}
    if args.devices_per_process:
        kept = [f for f in environment.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
        count = f"--xla_force_host_platform_device_count={args.devices_per_process}"
        common["XLA_FLAGS"] = " ".join([*kept, count])
    if args.processes > 1:
        common["AVEMO_COORDINATOR"] = f"127.0.0.1:{port}"
        common["AVEMO_PROCESSES"] = str(args.processes)
        common["AVEMO_HEARTBEAT_S"] = str(args.heartbeat_s)
    command = [sys.executable, "-m", "avemo_jax", *args.verb]
    own = [{"AVEMO_PROCESS_ID": str(index)} if args.processes > 1 else {} for index in range(args.processes)]
    return [Process(command, common | mine) for mine in own]


def run_together(processes: Sequence[Process], grace_s: float) -> int:
    """0 when all succeed, 143 when they were told to stop and saved, otherwise the first failure's code."""
    children = [_start(process) for process in processes]
    readers = [_show(child, f"[{index}] ") for index, child in enumerate(children)]
    ends_at: list[float] = []  # when what still runs after a signal is ended

    def pass_on(number, _frame):
        ends_at.append(time.monotonic() + (grace_s if number == signal.SIGTERM else INTERRUPT_GRACE_S))
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            codes = [child.poll() for child in children]
            failed = [
                index for index, code in enumerate(codes) if code is not None and code not in GOOD_ENDINGS
            ]
            if failed and not ends_at:
                return _fail(failed[0], children)
            if None not in codes:
                break
            if ends_at and time.monotonic() > ends_at[0]:
                _say("not all processes ended in time after the signal: ending them")
                break
            time.sleep(POLL_S)
    finally:
        _stop(children)
        for reader in readers:
            reader.join(timeout=5)
        for number, handler in before.items():
            signal.signal(number, handler)
    codes = [_exit_code(child.returncode) for child in children]
    if all(code == 0 for code in codes):
        return 0
    code = next((code for code in codes if code not in (0, PREEMPTED)), PREEMPTED)
    if code == PREEMPTED:
        _say("stopped: start the same command again to go on")
    return code


def _fail(index: int, children: Sequence[subprocess.Popen]) -> int:
    code = children[index].returncode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    if code == -signal.SIGABRT:
        how += " (JAX gave up on another process, which died or hangs)"
    running = [str(other) for other, child in enumerate(children) if child.poll() is None]
    rest = f"; stopping process {', '.join(running)}, still running" if running else ""
    _say(f"process {index} {how}{rest}")
    return _exit_code(code)


def _start(process: Process) -> subprocess.Popen:
    return subprocess.Popen(
        process.command,
        env={**os.environ, **process.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # its workers end with it, and Ctrl-C reaches it through us only
        preexec_fn=_end_with_parent if LIBC else None,
    )


def _end_with_parent() -> None:
    """A launcher that is killed outright takes its processes along, so that none writes on unseen."""
    LIBC.prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def _show(child: subprocess.Popen, prefix: str) -> threading.Thread:
    def copy():
        for line in child.stdout:
            sys.stdout.write(prefix + line.decode(errors="replace"))
            sys.stdout.flush()

    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    return reader


def _stop(children: Sequence[subprocess.Popen]) -> None:
    """Ends what still runs, workers included: a process inside a collective hears no gentler signal."""
    for child in children:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    for child in children:
        child.wait()


def _exit_code(code: int) -> int:
    """As a shell gives it: 128 + the signal's number."""
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _say(line: str) -> None:
    print(f"avemo launch local: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
