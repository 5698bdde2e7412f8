"""What the benchmarks share: clips, one core, CPU time of a process and all that it started, the machine, results.

CPU time and not wall time wherever it can be, so that a busy machine disturbs the figures little. Not here: what is
measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

SUFFIXES = {".mp4", ".avi", ".flv", ".mkv", ".mov", ".webm", ".mpg", ".mpeg"}


def flags(about: str | None) -> argparse.ArgumentParser:
    """A parser that all benchmarks begin with."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="also write the figures to this file")
    return parser


def add_clips(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--clips", type=int, default=24, help="how many clips (24)")
    add("--videos", help="folder that they are taken from, spread over all in it (else drawn faces are made)")


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="avemo-benchmark-") as folder:
        yield Path(folder)


def take_clips(args: argparse.Namespace, folder: Path) -> list[Path]:
    """The files of `--videos`, or made in `folder`."""
    if args.videos is None:
        from input_pipeline.talking_faces import generate

        generate(folder / "videos", args.clips, speakers=5, workers=0)
    root = Path(args.videos or folder / "videos")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{root}: no video files in it (--videos)")
    count = min(args.clips, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def need(package: str, why: str) -> None:
    """Ends with one line where a package is missing."""
    try:
        __import__(package)
    except ImportError:
        raise SystemExit(f"{why} needs {package}: pip install 'avemo_jax[benchmarks]'") from None


def apart(function: Callable, *args: Any, cores: int = 1, env: dict[str, str] | None = None) -> Any:
    """function(*args) in a new process that has `cores` cores, and so has all that it starts."""
    with _environment(env or {}):
        pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_take_cores, initargs=(cores,)
        )
        with pool:
            return pool.submit(function, *args).result()


class Stopwatch:
    """CPU seconds since it was made, of this process and of all that it had started by then."""

    def __init__(self):
        self._stats = [Path("/proc", str(pid), "stat") for pid in _family()]
        self._before = self._sum()

    def __call__(self) -> float:
        return self._sum() - self._before

    def _sum(self):
        return sum(sum(map(int, _fields(stat)[11:13])) for stat in self._stats) / os.sysconf("SC_CLK_TCK")


def rate(batches: Iterator[Any], size: int, seconds: float) -> dict[str, float]:
    """Clips per second of one core while `batches` of `size` clips are taken for `seconds` of CPU time."""
    for _ in range(3):  # what was read ahead while processes started
        next(batches)
    clips, wall, cpu = 0, time.monotonic(), Stopwatch()
    while cpu() < seconds:
        next(batches)
        clips += size
    spent, wall = cpu(), time.monotonic() - wall
    return {"clips_per_core_s": clips / spent, "cpu_ms": 1000 * spent / clips, "clips_per_s": clips / wall}


def timed(work: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    """CPU milliseconds of this process for one call, the fastest of `times`, and what it gave."""
    best, result = float("inf"), None
    for _ in range(times):
        began = time.process_time()
        result = work()
        best = min(best, time.process_time() - began)
    return 1000 * best, result


def machine(*packages: str) -> dict[str, Any]:
    """Where this ran: processor, cores, load of the last minute, versions."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    versions = {}
    for name in ("avemo_jax", *packages):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; the first row is the heading, the first column is left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def goals(figures: dict[str, tuple[float, str, float]]) -> list[dict[str, Any]]:
    """Rows of {goal: (reached, "at least" or "at most", target)}."""
    return [
        {
            "what": what,
            "reached": reached,
            "target": f"{how} {target:g}",
            "met": reached >= target if how == "at least" else reached <= target,
        }
        for what, (reached, how, target) in figures.items()
    ]


def report(args: argparse.Namespace, figures: dict[str, Any], text: str) -> None:
    """Prints the text, the goals and the machine; writes `--json`."""
    print(text)
    rows = [["goal", "target", "reached", ""]]
    for goal in figures.get("goals", ()):
        rows.append(
            [goal["what"], goal["target"], f"{goal['reached']:.3g}", "met" if goal["met"] else "missed"]
        )
    if len(rows) > 1:
        print("\n" + table(rows))
    where = figures["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(
        f"\n{where['processor']}, {where['cores']} cores, load {where['load']}, Python {where['python']}, {packages}",
        file=sys.stderr,
    )
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _family():
    """This process and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):  # it ended meanwhile
                parents[int(entry)] = int(_fields(Path("/proc", entry, "stat"))[1])
    family, found = set(), {os.getpid()}
    while found:
        family |= found
        found = {pid for pid, parent in parents.items() if parent in found}
    return family


def _fields(stat):
    """Of /proc/PID/stat, from the state on: its second field may hold spaces and brackets."""
    return stat.read_text().rpartition(")")[2].split()


def _take_cores(count):
    """The last ones: the first is where machines do their own work."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])


@contextmanager
def _environment(more):
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
