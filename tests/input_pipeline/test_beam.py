"""Preparing on Apache Beam's local runner, in a venv that has Beam and whatever its requirements pin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

from input_pipeline import beam
from input_pipeline.errors import DataError
from input_pipeline.talking_faces import generate
from tests.input_pipeline.test_prepare import contents

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Of a venv with Beam before the packages that these tests run with: Beam is not among them, because it would
    have all others tested with the older Pillow, protobuf and pyarrow that it takes."""
    folder = tmp_path_factory.mktemp("beam")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "tested_with.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "apache-beam>=2.77"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"Apache Beam cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    generate(folder, 12, speakers=5)
    (folder / "clip000003.mp4").write_bytes(b"not a video")
    return folder


def command(python, videos, out, *words):
    place = ["--manifest", videos / "manifest.csv", "--root", videos, "--out", out]
    return [python, "-m", "avemo_jax", "prepare", *place, "--clips_per_shard", "2", *words]


def run(*words):
    return subprocess.run(command(*words), capture_output=True, text=True)


@pytest.mark.slow
def test_its_workers_make_the_same_folder_and_go_on_when_one_is_killed(python, videos, tmp_path):
    alone = run(python, videos, tmp_path / "alone", "--workers", "0")
    assert alone.returncode == 0, alone.stderr
    out = tmp_path / "beam"
    job = subprocess.Popen(
        command(python, videos, out, "--beam_options", TWO_PROCESSES), stderr=subprocess.PIPE, text=True
    )
    while not (workers := workers_of(job.pid)) or not list(out.glob("prepare/shard-*.json")):
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)
    said = job.communicate(timeout=300)[1]
    assert job.returncode == 0, said
    assert "what is finished stays; going on with the rest" in said
    assert contents(out) == contents(tmp_path / "alone")
    ends = time.monotonic() + 30
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < ends, left
        time.sleep(0.1)


@pytest.mark.slow
def test_options_that_beam_does_not_have_are_refused_in_one_line(python, videos, tmp_path):
    done = run(python, videos, tmp_path / "out", "--beam_options=--direct_num_worker=2")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--direct_num_worker=2: Beam has no such option")
    assert not (tmp_path / "out" / "prepare").exists()


def test_without_beam_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DataError, match=r"pip install 'avemo_jax\[beam\]'"):
        beam.check(["--runner=DirectRunner"])


def workers_of(pid: int) -> list[int]:
    """Beam's worker processes below a process."""
    children: dict[int, list[int]] = {}
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    below, waiting = [], [pid]
    while waiting:
        found = children.get(waiting.pop(), [])
        below += found
        waiting += found
    return [
        each for each in below if b"sdk_worker_main" in lines[each] and not lines[each].startswith(b"/bin/sh")
    ]
