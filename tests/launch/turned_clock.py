"""Processes whose wall clock can be turned while they run, as by hand or by NTP: libfaketime, monotonic clocks left."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# libfaketime takes the time off the moments on the monotonic clock that a sleep ends at, which is wrong where that
# clock is not turned (its 0.9.10; Python's time.sleep then fails): such sleeps go straight to the kernel.
_SLEEP = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) ? errno : 0;
}
"""


def environment(folder: Path, turned_by: Path) -> dict[str, str]:
    """For processes whose clock goes wrong by what `turned_by` says at each moment, in seconds: "+86400", "-20".

    `folder` takes a small library. The test is skipped where libfaketime or a C compiler is missing.
    """
    faked = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    compiler = shutil.which("cc")
    if faked is None or compiler is None:
        pytest.skip("needs libfaketime and a C compiler: apt-get install libfaketime gcc")
    sleep = folder / "sleep.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(sleep)], input=_SLEEP, text=True, check=True
    )
    turned_by.write_text("+0")
    return os.environ | {
        "LD_PRELOAD": f"{sleep} {faked}",
        "FAKETIME_TIMESTAMP_FILE": str(turned_by),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
