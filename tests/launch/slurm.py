"""A SLURM of two nodes on this machine, for tests: Debian's own programs, in a folder of their own.

Needs root and Debian's `slurm-wlm` and `munge`. `why_not()` says what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from launch.supervisor import free_port

NODES = ("node1", "node2")
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
# A requeued job waits until the credentials of its last start have expired: 2 minutes, unless said otherwise.
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
SchedulerParameters=bf_interval=2,sched_interval=2
"""
# Beside each other on one host, nodes need a line and a port each.
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=2000 State=UNKNOWN\n"
_PARTITION = "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"


def why_not() -> str:
    """Why SLURM cannot be started here; empty when it can."""
    missing = [name for name in _PROGRAMS if not shutil.which(name, path=_path())]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "only root can start slurmctld and slurmd here"


class Slurm:
    """The cluster, started. `environment` is for SLURM's commands."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf"),
        }  # fmt: skip
        host = socket.gethostname().partition(".")[0]
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        conf = _CONF.format(host=host, port=free_port(), folder=folder)
        conf += "".join(_NODE.format(name=name, host=host, port=free_port()) for name in NODES) + _PARTITION
        (folder / "slurm.conf").write_text(conf)
        self._munge()
        self._run("slurmctld")
        for node in NODES:
            self.start(node)
        self.wait_for(lambda: self.states() == ["idle", "idle"])

    def start(self, node: str) -> None:
        """Starts the node's daemon."""
        self._run("slurmd", "-N", node)

    def kill(self, node: str) -> None:
        """Kills the node as a power cut does: its daemon and everything that it started, at once."""
        daemon = self._pid(node)
        tree = [daemon, *(each for step in self.steps(node) for each in (step, *descendants(step)))]
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def output(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout

    def states(self) -> list[str]:
        """idle, alloc, down, … of each node."""
        return [line.strip("*") for line in self.output("sinfo", "-h", "-N", "-o", "%T").split()]

    def job(self, number: int) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Restarts, ExitCode, …"""
        words = self.output("scontrol", "show", "job", "--oneliner", str(number)).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, happened, seconds: float = 180.0) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, ValueError):
                if happened():
                    return
            time.sleep(0.2)
        raise AssertionError(f"it did not happen within {seconds:g} s{self.logs()}")

    def stop(self) -> None:
        """Ends all of it."""
        for node in NODES:
            with contextlib.suppress(OSError, ValueError):
                self.kill(node)
        for name in ("slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(self._pid(name), signal.SIGKILL)

    def steps(self, node: str) -> list[int]:
        """The processes that hold the node's job steps: daemons of their own, which write to the node's log."""
        log = str(self.folder / f"{node}.log")
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if any(os.readlink(fd) == log for fd in (process / "fd").iterdir()):
                    found.append(int(process.name))
        return found

    def logs(self) -> str:
        """The ends of the daemons' logs, for a failing test."""
        return "".join(
            f"\n--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:])
            for path in sorted(self.folder.glob("*.log"))
        )

    def _munge(self) -> None:
        """A munge of our own, with a key of our own: that of the machine stays as it is."""
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        flags = {
            "key-file": key,
            "socket": self.folder / "munge.socket",
            "pid-file": self.folder / "munged.pid",
        }
        flags |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munge.seed"}
        self._run("munged", "--force", *(f"--{name}={path}" for name, path in flags.items()))

    def _run(self, *command: str) -> None:
        # Daemons keep what they inherit open: nothing that anybody waits for.
        with (self.folder / "started.log").open("a") as log:
            done = subprocess.run(command, env=self.environment, stdout=log, stderr=log, timeout=60)
        assert done.returncode == 0, f"{command} failed{self.logs()}"

    def _pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those have."""
    children = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(word) for word in task.read_text().split()]
    return children + [each for child in children for each in descendants(child)]
