"""A run on several hosts: supervisors that speak over TCP, here all on one machine under names of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from launch.supervisor import free_port
from tests.processes import environment
from tests.training.tiny import CONFIG, ROOT, losses_of, rows_of

HOSTS = 2


@contextlib.contextmanager
def started(folder, *words, flags=(), run="a", hosts=HOSTS):
    """The supervisors of all hosts, each with one process of the tiny run; their output is in `HOST.txt`."""
    port = free_port()
    hosts = [
        subprocess.Popen(
            [
                sys.executable, "-m", "launch", "host", "--hosts", str(hosts), "--host", str(host),
                "--lead", f"127.0.0.1:{port}", "--run", run, "--name", f"node{host}",
                "--backoff_s", "0.5", "--devices_per_process", "4", *flags, "--", *words,
            ],
            cwd=ROOT,
            env={**environment(4), "PYTHONPATH": f"{ROOT / 'tests' / 'launch' / 'tiny_task'}:{ROOT}"},
            stdout=(folder / f"{host}.txt").open("w"),
            stderr=subprocess.STDOUT,
        )
        for host in range(hosts)
    ]  # fmt: skip
    try:
        yield hosts
    finally:
        for host in hosts:
            with contextlib.suppress(ProcessLookupError):
                host.send_signal(signal.SIGCONT)
                host.kill()
            host.wait()


def train(folder, *overrides):
    words = ["train", "--config", str(CONFIG), "--workdir", str(folder / "run")]
    return [*words, *(f"--config.{each}" for each in ("tiny.sleep_s=0.3", *overrides))]


def wait_for(happened, timeout_s=90.0):
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        with contextlib.suppress(OSError, ValueError):
            if happened():
                return
        time.sleep(0.05)
    raise AssertionError("the moment never came")


def has_steps(folder, count):
    return lambda: len(rows_of(folder / "run")) >= count


def child_of(supervisor) -> int:
    """The process that a supervisor has started."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(supervisor.pid)], capture_output=True, text=True
    )
    return int(listed.stdout.split("\n")[0])


def said_by(folder, host) -> str:
    return (folder / f"{host}.txt").read_text()


@pytest.mark.slow
def test_a_process_frozen_on_one_host_is_named_on_the_first_and_all_go_on(tmp_path, uninterrupted):
    with started(tmp_path, *train(tmp_path), flags=["--heartbeat_s", "6"]) as hosts:
        wait_for(has_steps(tmp_path, 5))
        os.kill(child_of(hosts[1]), signal.SIGSTOP)
        assert [host.wait(300) for host in hosts] == [0, 0]
    said = said_by(tmp_path, 0)
    assert re.search(r"process 1 on node1 has been silent for \d+ s \(it is stopped", said)
    assert "(restart 1 of 3 at step" in said
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.nightly
def test_sigterm_to_any_host_saves_on_all_and_the_next_start_goes_on(tmp_path, uninterrupted):
    with started(tmp_path, *train(tmp_path)) as hosts:
        wait_for(has_steps(tmp_path, 2))
        hosts[1].terminate()
        assert [host.wait(60) for host in hosts] == [143, 143]
    with started(tmp_path, *train(tmp_path)) as hosts:
        assert [host.wait(300) for host in hosts] == [0, 0]
    assert "resuming at step" in said_by(tmp_path, 0)
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
@pytest.mark.parametrize(
    "number, how", [(signal.SIGKILL, "is gone"), (signal.SIGSTOP, "has been silent for")]
)
def test_when_a_host_is_gone_or_frozen_the_other_stops_in_time_and_names_it(gone, number, how, tmp_path):
    flags = ["--heartbeat_s", "6"]
    with started(tmp_path, *train(tmp_path, "tiny.sleep_s=5.0"), flags=flags) as hosts:
        wait_for(lambda: child_of(hosts[1 - gone]))
        time.sleep(3)
        hosts[gone].send_signal(number)
        assert hosts[1 - gone].wait(30) == 75
    name = "127.0.0.1, which leads," if gone == 0 else "node1"
    assert re.search(f"host {name} {how}", said_by(tmp_path, 1 - gone))


def test_a_host_that_does_not_come_is_named(tmp_path):
    with started(tmp_path, "train", flags=["--join_s", "1"], hosts=1) as hosts:
        assert hosts[0].wait(30) == 2  # alone it needs nobody, and runs a command that is refused
    port = str(free_port())
    words = ["--hosts", "3", "--host", "0", "--lead", f"127.0.0.1:{port}", "--join_s", "1", "--", "train"]
    done = subprocess.run(
        [sys.executable, "-m", "launch", "host", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 75
    assert "host 1, 2 of 3 did not come within 1 s" in done.stderr


def test_a_port_that_is_taken_is_refused_in_one_line():
    with socket.create_server(("", 0)) as taken:
        lead = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["--hosts", "2", "--host", "0", "--lead", lead, "--", "train"]
        done = subprocess.run(
            [sys.executable, "-m", "launch", "host", *words], cwd=ROOT, capture_output=True, text=True
        )
    assert done.returncode == 2
    assert "cannot be listened at (Address already in use)" in done.stderr


def test_a_host_of_another_run_is_turned_away(tmp_path):
    port = free_port()
    # The first of two: the last of a flag counts, and nobody else takes the other's place.
    flags = ["--hosts", "2", "--lead", f"127.0.0.1:{port}", "--join_s", "20"]
    with started(tmp_path, "train", flags=flags, hosts=1), contextlib.closing(_connected(port)) as stranger:
        stranger.sendall(b'{"host": 1, "run": "b", "name": "stranger"}\n')
        assert b"is not expected here" in stranger.makefile("rb").readline()


def _connected(port):
    ends = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            assert time.monotonic() < ends
            time.sleep(0.1)
