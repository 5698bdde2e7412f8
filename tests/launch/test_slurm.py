"""`avemo launch slurm`: what it writes, and what a real SLURM of two nodes makes of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from avemo_jax.cli import main as avemo_main
from launch.slurm import main, read_flags, script_of
from tests.launch import slurm as cluster
from tests.training.tiny import CONFIG, ROOT, losses_of, rows_of

VERB = ("--", "train", "--config", "hicmae:base", "--workdir", "runs/a b")


def script(tmp_path, *words):
    return script_of(read_flags([*words, *VERB]), tmp_path)


def test_a_dry_run_prints_the_file_and_the_command_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert avemo_main(["launch", "slurm", "--nodes", "4", "--time", "24:00:00", "--dry_run", *VERB]) == 0
    printed = capsys.readouterr().out
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --time=24:00:00",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:TERM@120",
    ):
        assert f"\n{line}\n" in printed
    assert printed.rstrip().endswith(f"# sbatch --parsable {tmp_path}/slurm/avemo.sbatch")
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_a_valid_script_whatever_stands_in_the_command_and_its_folder(tmp_path):
    folder = tmp_path / 'it\'s "a" $folder'
    text = script(folder, "--setup", "source 'venv/bin/activate'", "--sbatch=--exclusive")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert "\nsource 'venv/bin/activate'\n" in text and "\n#SBATCH --exclusive\n" in text
    assert "'runs/a b' &" in text


def test_the_setup_may_read_variables_that_are_not_set(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\necho "runs after $SETUP"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    text = script(tmp_path / "logs", "--setup", 'export SETUP="the hook$NOT_SET_ANYWHERE"')
    done = subprocess.run(
        ["bash"], input=text, capture_output=True, text=True,
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "runs after the hook\n"), done.stderr


@pytest.mark.parametrize("name", ["a b", "it's", 'it\'s "a" $folder # here'])
def test_sbatch_reads_the_folder_of_the_output_as_it_is_called(tmp_path, name):
    if not shutil.which("sbatch"):
        pytest.skip("no sbatch here (Debian: slurm-wlm)")
    # It says what it has read before it finds that there is no cluster.
    (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\nMessageTimeout=1\n")
    (tmp_path / "avemo.sbatch").write_text(script(tmp_path / name, "--nodes", "3"))
    done = subprocess.run(
        ["sbatch", "--test-only", "--verbose", "avemo.sbatch"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")},
    )  # fmt: skip
    read = dict(re.findall(r"^sbatch: ([\w-]+) +: (.*)$", done.stderr, re.M))
    assert read["output"] == f"{tmp_path}/{name}/avemo-%j.txt", done.stderr
    assert read["nodes"] == "3"


def test_flags_may_stand_in_a_file(tmp_path):
    (tmp_path / "cluster.flags").write_text("--nodes 3  # of the big ones\n--setup 'module load python'\n")
    args = read_flags([f"@{tmp_path}/cluster.flags", "--nodes", "2", "--", "train", "@not_ours"])
    assert (args.nodes, args.setup, args.verb) == (2, ["module load python"], ["train", "@not_ours"])


@pytest.mark.parametrize(
    "words, said",
    [
        (["--nodes", "0"], "--nodes and --processes are at least 1"),
        (["--grace_s", "300"], "could not save in time"),
        (["--job_name", "a b"], "letters, digits"),
        (["--folder", "a%b"], "sbatch takes no %"),
        (["--folder", "a\\b"], "sbatch takes no %"),
        (["--restarts", "-1"], "--restarts is not below 0"),
        (["@no_such_file"], "cannot be read"),
    ],
)
def test_flags_that_make_no_sense_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*words, *VERB])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_where_there_is_no_sbatch_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(list(VERB)) == 2
    assert "no sbatch here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if reason := cluster.why_not():
        pytest.skip(reason)
    started = cluster.Slurm(tmp_path_factory.mktemp("slurm"))
    yield started
    started.stop()


class Job:
    """The tiny run, submitted as its user would."""

    def __init__(self, slurm, folder, *overrides, flags=()):
        self.slurm, self.folder, self.logs = slurm, folder, folder / 'it\'s "slurm" here'
        words = [
            "--nodes",
            "2",
            "--devices_per_process",
            "4",
            "--python",
            sys.executable,
            "--backoff_s",
            "0.5",
        ]
        words += ["--folder", str(self.logs), "--heartbeat_s", "10", *flags]
        train = ["train", "--config", str(CONFIG), "--workdir", str(folder / "run")]
        train += [f"--config.{each}" for each in ("tiny.sleep_s=1.0", *overrides)]
        done = subprocess.run(
            [sys.executable, "-m", "avemo_jax", "launch", "slurm", *words, "--", *train],
            cwd=ROOT,
            env={
                **slurm.environment,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "",
                "PYTHONPATH": f"{ROOT / 'tests' / 'launch' / 'tiny_task'}:{ROOT}",
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        self.number = int(re.search(r"job (\d+) is submitted", done.stdout)[1])

    def output(self) -> str:
        path = self.logs / f"avemo-{self.number}.txt"
        return path.read_text() if path.exists() else ""

    def await_steps(self, count):
        self.slurm.wait_for(lambda: len(rows_of(self.folder / "run")) >= count, 120)

    def await_end(self, state="COMPLETED", seconds=180):
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        try:
            self.slurm.wait_for(lambda: self.slurm.job(self.number)["JobState"] in ended, seconds)
        finally:
            print(self.output())
        assert self.slurm.job(self.number)["JobState"] == state

    def restarts(self) -> int:
        return int(self.slurm.job(self.number)["Restarts"])


@pytest.mark.slow
def test_a_job_goes_on_after_a_killed_process_a_warning_and_a_killed_node(slurm, tmp_path, uninterrupted):
    job = Job(slurm, tmp_path)

    # A training process on the second node is killed: all are started again, in the same job.
    job.await_steps(2)
    os.kill(_training_process(slurm, "node2"), signal.SIGKILL)
    slurm.wait_for(lambda: "restart 1 of 3" in job.output())
    assert "process 1 on node2 was ended by SIGKILL" in job.output()
    assert job.restarts() == 0

    # What SLURM does before the time limit: the run is saved, and the job requeued.
    job.await_steps(4)
    slurm.output("scancel", "--batch", "--signal=TERM", str(job.number))
    slurm.wait_for(lambda: job.restarts() == 1)
    assert "exit code 143: requeued" in job.output()
    saved = len(rows_of(tmp_path / "run"))

    # The second node dies, and comes back so soon that SLURM misses nothing. The job is requeued, and goes on.
    job.await_steps(saved + 1)
    slurm.kill("node2")
    slurm.wait_for(lambda: re.search("host node2 (is gone|has been silent)", job.output()))
    assert f"resuming at step {saved} of 12" in job.output()
    slurm.start("node2")
    slurm.wait_for(lambda: job.restarts() == 2)

    job.await_end()
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.nightly
def test_a_job_saves_before_its_time_limit_and_is_requeued_as_often_as_it_takes(
    slurm, tmp_path, uninterrupted
):
    job = Job(
        slurm, tmp_path, "tiny.sleep_s=10.0", flags=["--time", "2", "--warn_s", "60", "--grace_s", "30"]
    )
    job.await_end(seconds=600)
    assert job.restarts() >= 1
    assert "exit code 143: requeued" in job.output()
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.nightly
def test_a_job_outlives_the_node_that_leads_it(slurm, tmp_path, uninterrupted):
    job = Job(slurm, tmp_path)
    job.await_steps(2)
    slurm.kill("node1")  # with the batch script: SLURM itself notices, and requeues
    slurm.wait_for(lambda: "down" in slurm.states(), 90)
    slurm.start("node1")
    slurm.wait_for(lambda: job.restarts() == 1, 90)
    job.await_end()
    assert losses_of(tmp_path / "run") == pytest.approx(uninterrupted, rel=1e-5)


@pytest.mark.nightly
def test_a_job_whose_input_is_refused_fails_once(slurm, tmp_path):
    job = Job(slurm, tmp_path, "optimizer.learning_rat=1")
    job.await_end("FAILED")
    assert job.restarts() == 0
    assert "its input is wrong" in job.output()


def _training_process(slurm: cluster.Slurm, node: str) -> int:
    (pid,) = [
        pid
        for step in slurm.steps(node)
        for pid in cluster.descendants(step)
        if b"avemo_jax\0train" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid
