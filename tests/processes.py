"""What programs of tests are compiled with, and the environment of processes that tests start."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Most of a test is compiling: with level 1 of LLVM two files of models took 39 s where they had taken 54 s.
COMPILER = "--xla_backend_optimization_level=1"


def device_flags(devices: int) -> str:
    """XLA_FLAGS for so many fake CPU devices."""
    return f"--xla_force_host_platform_device_count={devices} {COMPILER}"


def environment(devices: int) -> dict[str, str]:
    """For a process with so many fake CPU devices."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": device_flags(devices)}


def shell_environment() -> dict[str, str]:
    """As in a reader's shell, without what other tests set for this process but with the programs they compiled."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_") or "_CACHE_" in key}
    return {**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": COMPILER}


def run_together(command: list[str], *, processes: int, devices: int) -> None:
    """The command as a group of processes that find each other, with so many fake devices each; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    group = {
        "AVEMO_COORDINATOR": coordinator,
        "AVEMO_PROCESSES": str(processes),
        # A program that comes from the cache starts its collectives in another order than one just compiled, and a
        # process of each kind wait for each other for ever.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    started = []
    try:
        for index in range(processes):
            env = {**environment(devices), **group, "AVEMO_PROCESS_ID": str(index)}
            started.append(subprocess.Popen(command, cwd=ROOT, env=env))
        assert [process.wait(600) for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()
