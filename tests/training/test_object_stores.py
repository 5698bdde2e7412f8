"""A run whose folder is on object storage: killed, resumed, told apart, damaged, as one on disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from avemo_jax import files, paths
from avemo_jax.cli import main
from avemo_jax.errors import UserError
from avemo_jax.evaluation.runs import gather_run
from avemo_jax.training.checkpoint_files import load_params
from avemo_jax.training.lease import Lease
from avemo_jax.training.manifest import NAME as MANIFEST
from input_pipeline import stores
from tests import object_stores
from tests.processes import environment
from tests.training.tiny import ROOT, losses_of, run_here, tiny_config


@pytest.fixture(scope="module", params=object_stores.SCHEMES)
def bucket(request, tmp_path_factory):
    """gs:// or s3:// of a server of its own."""
    folder = tmp_path_factory.mktemp("store")
    with object_stores.running(request.param, folder) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables, "AVEMO_SCRATCH": str(folder / "scratch")}.items():
            patch.setenv(name, value)
        yield object_stores.make_bucket(request.param)


def start(workdir: str, output, *overrides: str) -> subprocess.Popen:
    with output.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.training.tiny", workdir, *overrides],
            cwd=ROOT, env=environment(1), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def wait_for(path, child, seconds=90.0):
    ends = time.monotonic() + seconds
    while not path.exists():
        assert child.poll() is None, "it ended before"
        assert time.monotonic() < ends, f"no {path}"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint_with_the_same_losses(bucket, tmp_path, uninterrupted):
    workdir, output = paths.to_path(f"{bucket}/killed"), tmp_path / "output.txt"
    child = start(str(workdir), output, "tiny.sleep_s=0.5")
    try:
        wait_for(workdir / "checkpoints" / "00000004" / MANIFEST, child)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert start(str(workdir), output, "tiny.sleep_s=0.5").wait(timeout=120) == 0, output.read_text()
    assert "resuming at step" in output.read_text()
    assert losses_of(workdir) == uninterrupted

    config, params, step = load_params(str(workdir))
    assert step == 12 and config.batch_size == 8
    assert all(np.isfinite(leaf).all() for leaf in params["head"].values())
    run = gather_run(str(workdir))
    assert run.checkpoint_step == 12 and len(run.metrics) == 12 and run.time["restarts"] == 1
    assert [call["exit_code"] for call in run.calls] == [0]  # of the start that was not killed
    assert not (workdir / ".lease").exists()


@pytest.mark.slow
def test_a_damaged_or_unfinished_checkpoint_is_passed_over_and_taken_away(bucket, capsys):
    workdir = paths.to_path(f"{bucket}/damaged")
    run_here(tiny_config(), workdir, devices=1)
    newest = workdir / "checkpoints" / "00000012"
    arrays = max(paths.files_under(newest / "arrays"), key=paths.size_of)
    data = bytearray(arrays.read_bytes())
    data[len(data) // 2] ^= 1
    arrays.write_bytes(bytes(data))
    (workdir / "checkpoints" / "00000008" / MANIFEST).unlink()
    run_here(tiny_config("total_steps=6"), workdir, devices=1)
    said = capsys.readouterr().out
    assert "00000012 has a file with a wrong checksum" in said and "00000008 was not finished" in said
    assert "resuming at step 4 of 6" in said
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert kept == {"00000004", "00000006"}


@pytest.mark.slow
def test_a_checkpoint_is_not_taken_away_because_its_store_does_not_answer(bucket, monkeypatch):
    workdir = paths.to_path(f"{bucket}/silent")
    run_here(tiny_config(), workdir, devices=1)

    def silent(path):
        raise ConnectionError(f"no answer for {path}")

    with monkeypatch.context() as patch:
        patch.setattr(paths, "size_of", silent)
        with pytest.raises(UserError, match="00000012 cannot be read: no answer") as caught:
            run_here(tiny_config("total_steps=14"), workdir, devices=1)
    assert caught.value.exit_code == 1
    assert run_here(tiny_config("total_steps=14"), workdir, devices=1).step == 14


@pytest.mark.slow
def test_pictures_and_profile_are_there_and_the_oldest_checkpoints_are_not(bucket):
    workdir = paths.to_path(f"{bucket}/pictures")
    words = ("log.samples_every_steps=6", "checkpoint.keep=1", "profile.steps=1", "profile.after=2")
    run_here(tiny_config(*words), workdir, devices=1)
    assert (workdir / "samples" / "00000006_outputs.png").read_bytes().startswith(b"\x89PNG")
    assert list(gather_run(str(workdir)).samples) == [6, 12]
    assert any(path.name.endswith(".xplane.pb") for path in paths.files_under(workdir / "profile"))
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["00000012"]


@pytest.mark.slow
def test_a_folder_is_one_runs_at_a_time_and_a_silent_holder_loses_it(bucket):
    folder = paths.to_path(f"{bucket}/leased")
    first = Lease(folder, beat_s=0.2)
    first._me["host"] = "elsewhere"  # whose processes cannot be looked at
    time.sleep(0.5)
    with pytest.raises(UserError, match="is in use by process .* on elsewhere"):
        Lease(folder, beat_s=0.2, silent_s=5.0)
    first._ended.set()  # as if it were frozen
    first._thread.join()
    second = Lease(folder, beat_s=0.2, silent_s=1.0)
    first._ended.clear()
    first._keep_beating()  # it wakes up
    with pytest.raises(UserError, match="was taken over by process"):
        first.check()
    first.close()
    second.check()
    second.close()
    assert not (folder / ".lease").exists()


@pytest.mark.slow
def test_an_object_that_is_replaced_while_it_is_read_is_read_whole(bucket):
    path = paths.to_path(f"{bucket}/replaced")
    path.write_text("0")
    ended = threading.Event()

    def replace():
        while not ended.is_set():
            for digit in "123456789":
                path.write_text(digit * 1000 * int(digit))

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        read = [paths.read_whole(path) for _ in range(300)]
    finally:
        ended.set()
        writer.join()
    assert len(set(read)) > 1
    assert all(data == b"0" or data == data[:1] * 1000 * int(data[:1]) for data in read)


@pytest.mark.slow
def test_a_lease_of_a_process_that_is_gone_is_taken_at_once(bucket):
    folder = paths.to_path(f"{bucket}/gone")
    gone = subprocess.Popen(["true"])
    gone.wait()
    holder = {"pid": gone.pid, "host": os.uname().nodename, "token": "x", "beat": 1}
    (folder / ".lease").write_text(json.dumps(holder))
    Lease(folder, silent_s=60.0).close()


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_line(bucket, capsys, tmp_path):
    nowhere = bucket.replace("bucket", "no-such-bucket")
    assert (
        main(["train", "--config", "hicmae:demo", "--workdir", f"{nowhere}/run", "--config.data.path=x"]) == 2
    )
    words = ["--config", "hicmae:demo", "--workdir", str(tmp_path), f"--config.data.path={nowhere}/data"]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert f"{nowhere}/data: " in error and "Traceback" not in error


@pytest.mark.parametrize(
    "error, code, said",
    [
        (
            OSError(errno.EBUSY, "Please reduce your request rate."),
            1,
            "Please reduce your request rate.; start again",
        ),
        (Exception("Could not connect"), 1, "Could not connect; start again"),
        (PermissionError("Access Denied"), 2, "Access Denied; choose another place"),
        (OSError("Forbidden: b/report.html\nno right"), 2, "Forbidden: b/report.html; choose another place"),
    ],
)
def test_a_result_that_a_store_does_not_take_may_be_written_by_the_next_start(monkeypatch, error, code, said):
    class Object(str):
        name, with_name = "report.html", str

        def __fspath__(self):
            return str(self)

        def write_bytes(self, data):
            raise error

    monkeypatch.setattr(paths, "to_path", Object)
    with pytest.raises(UserError) as caught:
        files.write_file("gs://b/report.html", "text")
    assert str(caught.value) == f"gs://b/report.html cannot be written: {said}"
    assert caught.value.exit_code == code


def test_data_on_a_store_that_does_not_answer_ends_the_run_with_1(monkeypatch, capsys, tmp_path):
    class Silent:
        def find(self, root, detail):
            raise ConnectionError("no answer")

    monkeypatch.setattr(stores, "open_store", lambda url: (Silent(), "bucket/clips"))
    words = ["--config", "hicmae:demo", "--workdir", str(tmp_path), "--config.data.path=s3://bucket/clips"]
    assert main(["train", *words]) == 1
    assert "avemo: error: s3://bucket/clips: cannot be read (no answer)" in capsys.readouterr().err


def test_what_has_no_package_or_is_not_known_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for url, said in (
        ("gs://b/run", "pip install 'avemo_jax[gcs]'"),
        ("s3://b/run", "avemo_jax[s3]"),
        ("ftp://b", "is not known"),
    ):
        assert main(["train", "--config", "hicmae:demo", "--workdir", url]) == 2
        assert said in capsys.readouterr().err


def test_what_can_only_be_made_on_a_disk_says_so(capsys):
    assert main(["prepare", "--manifest", "m.csv", "--root", ".", "--out", "gs://b/data"]) == 2
    assert "gs://b/data: this is made on a disk" in capsys.readouterr().err
