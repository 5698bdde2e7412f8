"""Devices, cores, memory, shared memory, open files, disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from avemo_jax.doctor.findings import Finding, note, ok, wrong

_GB = 1e9
_DEVICES_S = 180  # a TPU that another process holds is waited for, and would be for ever
_SHARED_BYTES = 256 << 20  # loader workers pass batches through /dev/shm; Docker gives 64 MB by default
_OPEN_FILES = 512  # a process reads up to 128 shards at once
_DISK_BYTES = 2 * _GB  # three checkpoints of hicmae:base with its optimiser

_ASK_JAX = """
import json, jax, jax.numpy as jnp
devices = jax.local_devices()
assert float(jnp.ones((8, 8)).sum()) == 64
limits = [(d.memory_stats() or {}).get("bytes_limit", 0) for d in devices]
print(json.dumps([[d.platform, d.device_kind, limit] for d, limit in zip(devices, limits)]))
"""


def check_devices(environment: Mapping[str, str]) -> Iterator[Finding]:
    """What JAX finds and can compute with, asked in a process of its own since finding them may hang."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_JAX],
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=_DEVICES_S,
        )
    except subprocess.TimeoutExpired:
        mend = "end the process that holds them, or set JAX_PLATFORMS=cpu"
        yield wrong("devices", f"JAX found none within {_DEVICES_S} s", mend)
        return
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        mend = "mend the packages first; JAX_PLATFORMS=cpu leaves accelerators alone"
        yield wrong("devices", f"JAX does not work: {reason}", mend)
        return
    devices = json.loads(asked.stdout.splitlines()[-1])
    platform, kind, limit = devices[0]
    memory = f", {limit / _GB:.0f} GB each" if limit else ""
    yield ok("devices", f"{len(devices)} × {kind} ({platform}){memory}")
    accelerator = _accelerator()
    if platform == "cpu" and accelerator:
        extra, name = accelerator
        if asked_for := environment.get("JAX_PLATFORMS"):
            yield note("devices", f"a {name} is there and left alone: JAX_PLATFORMS={asked_for}")
        else:
            text = f"a {name} is there, but JAX does not use it"
            yield wrong("devices", text, f"pip install 'avemo_jax[{extra}]'")


def check_host() -> Iterator[Finding]:
    """Cores, memory, shared memory, open files."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    if quota and quota < cores:
        yield note("host", f"{cores} cores, but the container may use {quota:g} of them", "see data.workers")
    else:
        yield ok("host", f"{cores} cores")
    available = _memory_available()
    if available:
        yield ok("host", f"{available / _GB:.1f} GB of memory free")
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        text = f"{free / _GB:.2f} GB of shared memory free"
        mend = "docker run --shm-size=8g (loader workers pass batches through it)"
        yield ok("host", text) if free >= _SHARED_BYTES else wrong("host", text, mend)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files != resource.RLIM_INFINITY and files < _OPEN_FILES
    text = f"{files} open files allowed"
    yield wrong("host", text, "ulimit -n 4096") if few else ok("host", text)


def check_disk(workdir: Path) -> Iterator[Finding]:
    """Can a run write in `workdir` (or where it would be made), and how much?"""
    folder = workdir.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        yield wrong("disk", f"{folder} cannot be written ({error.strerror})", "choose another --workdir")
        return
    text = f"{free / _GB:.1f} GB free in {folder}"
    mend = f"{_DISK_BYTES / _GB:g} GB are needed for the checkpoints of hicmae:base alone: make room"
    yield ok("disk", text) if free >= _DISK_BYTES else wrong("disk", text, mend)


def _accelerator() -> tuple[str, str] | None:
    """(our extra, what it is) of a device whose driver is loaded here."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "cuda", "GPU"
    if any(Path("/dev").glob("accel[0-9]*")):
        return "tpu", "TPU"
    return None


def _cpu_quota() -> float:
    """Cores that the container may use, 0 for no limit (cgroup v2)."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return 0.0 if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return 0.0


def _memory_available() -> int:
    """Bytes that this process may still take, 0 where it cannot be told."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(found, default=0)
