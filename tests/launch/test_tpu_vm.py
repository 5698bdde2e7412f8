"""`avemo launch tpu-vm` against a gcloud that checks its arguments and acts them out on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.supervisor import free_port
from launch.tpu_vm import main
from tests.training.tiny import CONFIG, ROOT, losses_of

ZONE = ("--zone", "us-west4-a")
CREATE = ("base", *ZONE, "--topology", "v5e:2x4", "--poll_s", "0.2")
TRAIN = ("train", "--config", "hicmae:base", "--workdir", "/mnt/a b")
REAL = shutil.which("gcloud")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A folder with the stand-in on PATH. `plans` holds the states of each resource that will be created."""
    folder = tmp_path / "cloud"
    (folder / "bin").mkdir(parents=True)
    stand_in = Path(__file__).with_name("gcloud_stand_in.py")
    (folder / "bin" / "gcloud").write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
    (folder / "bin" / "gcloud").chmod(0o755)
    (folder / "plans").write_text("WAITING_FOR_RESOURCES PROVISIONING ACTIVE\n")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_STAND_IN", str(folder))
    monkeypatch.setenv("GCLOUD_STAND_IN_WORKERS", "2")
    yield folder
    for home in folder.glob("*.home"):
        for pid in home.glob("avemo/*/pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)


def calls(cloud) -> list[list]:
    return [json.loads(line) for line in (cloud / "calls.jsonl").read_text().splitlines()]


def test_create_asks_for_the_slice_and_wait_returns_when_it_is_there(cloud, capsys):
    assert main(["create", *CREATE, "--spot", "--valid_for", "6h"]) == 0
    assert main(["wait", *CREATE]) == 0
    create, *asked = calls(cloud)
    assert create[:3] == ["queued-resources", "create", ["base"]]
    assert create[3] == {
        "--accelerator-type": "v5litepod-8", "--runtime-version": "v2-alpha-tpuv5-lite", "--node-id": "base",
        "--spot": "", "--valid-until-duration": "6h", "--async": "", "--zone": "us-west4-a",
    }  # fmt: skip
    assert [each[:2] for each in asked] == [["queued-resources", "describe"]] * 3
    assert "base is PROVISIONING" in capsys.readouterr().err


def test_several_slices_are_asked_for_together(cloud):
    assert main(["create", *CREATE, "--slices", "3"]) == 0
    assert calls(cloud)[0][3]["--node-count"] == "3"


def test_what_gcloud_refuses_is_told_in_one_line(cloud, capsys):
    assert main(["wait", *CREATE]) == 1  # nothing was created
    assert "gcloud could not do 'queued-resources describe base'" in capsys.readouterr().err


def test_a_request_that_failed_is_not_waited_for(cloud, capsys):
    (cloud / "plans").write_text("WAITING_FOR_RESOURCES FAILED\n")
    main(["create", *CREATE])
    assert main(["wait", *CREATE]) == 1
    assert "base is FAILED: delete it" in capsys.readouterr().err


def test_copy_brings_what_git_knows_to_all_workers_and_installs_it(cloud, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    for name, text in {"setup.py": "", ".gitignore": "runs/\n", "runs/big": "", "new file": "new"}.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    assert main(["copy", "base", *ZONE, "--source", str(source), "--install", "touch installed"]) == 0
    for worker in (0, 1):
        home = cloud / f"base.{worker}.home" / "avemo" / "base"
        assert {path.name for path in (home / "source").iterdir()} == {"setup.py", ".gitignore", "new file"}
        assert (home / "installed").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["create", "base", *ZONE], "--topology ''"),
        (["create", "base", *ZONE, "--topology", "tpu7x:2x2x2"], "use avemo launch gke"),
        (["create", "Base", *ZONE, "--topology", "v5e:4x4"], "small letters"),
        (["run", "base", *ZONE], "nothing to run"),
        (["copy", "base", *ZONE, "--source", "/nowhere"], "no setup.py there"),
        (["create", "base"], "--zone"),
    ],
)
def test_flags_that_make_no_sense_are_refused_in_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_dry_run_calls_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["up", *CREATE, "--dry_run", "--", *TRAIN]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "gcloud compute tpus queued-resources create base --accelerator-type v5litepod-8 "
    )
    assert "tpu-vm scp source.tar.gz" in printed
    assert "launch host --hosts 2 --lead ADDRESS_OF_base:7700" in printed


def test_a_run_that_is_stopped_says_so_and_is_not_started_again(cloud, capsys):
    waits = "trap 'exit 143' TERM; touch listens; while sleep 0.1; do :; done"
    python = f"mkdir -p venv/bin && echo {shlex.quote(waits)} > venv/bin/python && chmod +x venv/bin/python"

    def stop():
        ends = time.monotonic() + 600  # the checkout is copied twice, with what git does not ignore of it
        while len([*cloud.glob("base.*.home/avemo/base/listens")]) < 2 and time.monotonic() < ends:
            time.sleep(0.1)
        main(["stop", "base", *ZONE])

    stopped = threading.Thread(target=stop)
    stopped.start()
    assert main(["up", *CREATE, "--source", str(ROOT), "--install", python, "--", *TRAIN]) == 143
    stopped.join()
    assert "base was told to stop" in capsys.readouterr().err
    assert len([call for call in calls(cloud) if call[1] == "create"]) == 1
    assert main(["status", "base", *ZONE]) == 0
    assert "the run ended: stopped" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="no Google Cloud CLI here")
@pytest.mark.parametrize("slices", ["1", "2"])
@pytest.mark.parametrize("action", ["up", "logs", "status", "stop", "delete"])
def test_the_real_gcloud_understands_every_command(action, slices, monkeypatch, capsys, tmp_path):
    flags = [
        *CREATE,
        "--slices",
        slices,
        "--spot",
        "--valid_for",
        "6h",
        "--network",
        "n",
        "--internal_ip",
        "--dry_run",
    ]
    assert main([action, *flags, "--", *(TRAIN if action == "up" else ())]) == 0
    (tmp_path / "source.tar.gz").touch()
    settings = {"CONFIG": str(tmp_path / "none"), "CORE_CHECK_GCE_METADATA": "False", "CORE_PROJECT": "p"}
    environment = {**os.environ, **{f"CLOUDSDK_{name}": value for name, value in settings.items()}}
    # A command may hold lines of its own.
    for command in capsys.readouterr().out.removeprefix("gcloud").split("\ngcloud"):
        words = shlex.split(f"gcloud{command}")
        done = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        # Its arguments are read before it looks for an account, and there is none.
        assert "active account" in done.stderr, f"{words}\n{done.stderr}"


@pytest.mark.slow
def test_up_trains_on_all_workers_through_a_preemption_and_a_second_request(
    cloud, tmp_path, uninterrupted, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests' / 'launch' / 'tiny_task'}:{ROOT}")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    run = tmp_path / "run"  # on storage that outlives the machines
    (cloud / "plans").write_text("ACTIVE\n" * 2)

    def preempt():
        ends = time.monotonic() + 120
        while not (run / "checkpoints" / "00000004" / "manifest.json").exists() and time.monotonic() < ends:
            time.sleep(0.1)
        for home in cloud.glob("base.*.home"):
            os.killpg(int((home / "avemo" / "base" / "pid").read_text()), signal.SIGKILL)
        (cloud / "silent").touch()  # machines are gone before the request says so
        known = len(calls(cloud))
        while (
            not any(call[:2] == ["tpu-vm", "ssh"] for call in calls(cloud)[known:])
            and time.monotonic() < ends
        ):
            time.sleep(0.1)
        (cloud / "base.states").write_text("SUSPENDED\n")
        (cloud / "silent").unlink()

    striker = threading.Thread(target=preempt)
    striker.start()
    python = f"mkdir -p venv/bin && echo 'exec {sys.executable} \"$@\"' > venv/bin/python && chmod +x venv/bin/python"
    words = ["--port", str(free_port()), "--install", python]
    train = ["train", "--config", str(CONFIG), "--workdir", str(run), "--config.tiny.sleep_s=0.5"]
    assert main(["up", *CREATE, "--source", str(ROOT), *words, "--", *train]) == 0
    striker.join()
    made = [call[3] for call in calls(cloud) if call[:2] == ["queued-resources", "create"]]
    assert len(made) == 2
    log = (cloud / "base.0.home" / "avemo" / "base" / "log.txt").read_text()
    assert "resuming at step" in log
    assert losses_of(run) == pytest.approx(uninterrupted, rel=1e-5)
