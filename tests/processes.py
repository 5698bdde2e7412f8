"""What programs of tests are compiled with, and the environment of processes that tests start."""

from __future__ import annotations

import os

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
