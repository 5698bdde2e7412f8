"""Runs `avemo train …` (or `finetune`) on TPU VMs that come from Google's queue.

    avemo launch tpu-vm create base --zone us-west4-a --topology v5e:4x4 --spot
    avemo launch tpu-vm wait base --zone us-west4-a
    avemo launch tpu-vm copy base --zone us-west4-a
    avemo launch tpu-vm run base --zone us-west4-a -- train --config hicmae:base --workdir /mnt/data/runs/base …
    avemo launch tpu-vm logs base --zone us-west4-a
    avemo launch tpu-vm stop|status|delete base --zone us-west4-a

`up` does the first four, watches, and after a preemption does them again until the run is done: what it writes has to
lie on storage that outlives the VMs. `copy` brings this source tree to all workers and installs it there; `run`
starts one supervisor on every worker and returns, so that this machine may go. `--dry_run` prints the gcloud commands.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import flags, tpus
from .supervisor import HOST_LOST, PREEMPTED

_PORT = 7700
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number"
_LEFT_OUT = {".git", ".venv", "venv", "runs", "build", "dist", "__pycache__", "node_modules"}
# uv brings the Python that is needed, whatever the image holds.
_INSTALL = "curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv --quiet --clear --python 3.12 venv"
_INSTALL += " && ~/.local/bin/uv pip install --quiet --python venv/bin/python 'source[tpu]'"
_STOPPED = -1  # by `stop`, not by a preemption
_SILENT_S = 600.0  # without one answer while a run is watched
_GONE = ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING")


class Failed(Exception):
    """Something did not work; the message is one line."""


def main(argv: Sequence[str]) -> int:
    """Does what the first word says."""
    args = read_flags(argv)
    if not args.dry_run and not shutil.which("gcloud"):
        _say("error: no gcloud here: install the Google Cloud CLI, or see the commands with --dry_run")
        return 2
    try:
        return _ACTIONS[args.action](args) or 0
    except Failed as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _create(args: argparse.Namespace) -> None:
    """Asks for the VMs."""
    nodes = ["--node-count", str(args.slices)] if args.slices > 1 else ["--node-id", args.name]
    words = ["queued-resources", "create", args.name, "--accelerator-type", args.slice.accelerator_type]
    words += ["--runtime-version", args.runtime_version or args.slice.kind.runtime, *nodes]
    words += [f"--{name}" for name in ("spot", "reserved") if getattr(args, name)]
    words += ["--valid-until-duration", args.valid_for] if args.valid_for else []
    given = {"--network": args.network, "--subnetwork": args.subnetwork}
    given["--service-account"] = args.service_account
    words += [word for flag, value in given.items() if value for word in (flag, value)]
    words += ["--internal-ips"] if args.internal_ip else []
    _gcloud(args, *words, "--async")


def _wait(args: argparse.Namespace) -> None:
    """Returns when the VMs are there."""
    before = ""
    while True:
        state = _state(args)
        if args.dry_run or state == "ACTIVE":
            return
        if state in _GONE:
            raise Failed(f"{args.name} is {state}: delete it, and create it again")
        if state != before:
            _say(f"{args.name} is {state}")
        before = state
        time.sleep(args.poll_s)


def _copy(args: argparse.Namespace) -> None:
    """Brings the source tree to all workers and installs it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path("source.tar.gz")
        if not args.dry_run:
            archive = folder / archive
            _pack(args.source, archive)
        script = f"mkdir -p {_home(args)} && cd {_home(args)} && rm -rf source && mkdir source"
        script += f" && tar -xzf ~/{archive.name} -C source && {args.install}"
        for node in _nodes(args):
            ssh = ["--worker", "all", *_inside(args)]
            _gcloud(args, "tpu-vm", "scp", str(archive), f"{node}:~/{archive.name}", *ssh)
            _gcloud(args, "tpu-vm", "ssh", node, *ssh, "--command", script)


def _run(args: argparse.Namespace) -> None:
    """Starts a supervisor on every worker; returns while they run."""
    if args.dry_run:
        flags.say_platform(args)
    addresses = [_addresses(args, node) for node in _nodes(args)]
    hosts, lead, first = sum(map(len, addresses)), addresses[0][0], 0
    run = f"{args.name}-{int(time.time())}"  # of this start alone
    for node, workers in zip(_nodes(args), addresses, strict=True):
        script = _start_script(args, hosts, first, f"{lead}:{args.port}", run)
        _gcloud(args, "tpu-vm", "ssh", node, "--worker", "all", *_inside(args), "--command", script)
        first += len(workers)


def _start_script(args: argparse.Namespace, hosts: int, first: int, lead: str, run: str) -> str:
    """What every worker of a slice runs: the same text, so the worker asks for its own number."""
    command = ["venv/bin/python", "-m", "avemo_jax", "launch", "host", "--hosts", str(hosts), "--lead", lead]
    command += ["--run", run, "--memory", "restarts.json", *flags.rules_as_words(args)]
    own = f'--host "$(({first} + worker))" --name "$(hostname)"'
    log = f"{shlex.join(command)} {own} -- {shlex.join(args.verb)} >> log.txt 2>&1; code=$?"
    log += "; [ -e stopped ] && code=stopped; echo $code > code"
    return "\n".join(
        [
            f"set -e; cd {_home(args)}",
            'if kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then',
            '    echo "it runs already: stop it first" >&2; exit 1',
            "fi",
            f"export worker=$(curl --fail --silent --header 'Metadata-Flavor: Google' {_METADATA})",
            *(f"export {name}={shlex.quote(value)}" for name, value in args.env),
            "rm -f code stopped",
            # Apart from this connection, which ends.
            f"setsid nohup bash -c {shlex.quote(log)} > /dev/null 2>&1 < /dev/null & echo $! > pid",
        ]
    )


def _logs(args: argparse.Namespace) -> None:
    """Shows what the first worker said."""
    tail = f"tail -n {args.lines} {'-F ' if args.follow else ''}{_home(args)}/log.txt"
    _gcloud(args, "tpu-vm", "ssh", _nodes(args)[0], "--worker", "0", *_inside(args), "--command", tail)


def _status(args: argparse.Namespace) -> None:
    """Says whether the VMs are there and the run goes on."""
    state = _state(args)
    code = _code(args) if state == "ACTIVE" or args.dry_run else ""
    if args.dry_run:
        return
    print(f"{args.name} is {state}")
    if state == "ACTIVE":
        print(f"the run ended: {code}" if code else "the run goes on, or was not started")


def _stop(args: argparse.Namespace) -> None:
    """Tells the first supervisor, and through it all others, to save and stop."""
    script = f'cd {_home(args)} && touch stopped && pkill -TERM --parent "$(cat pid)"'
    _gcloud(args, "tpu-vm", "ssh", _nodes(args)[0], "--worker", "0", *_inside(args), "--command", script)


def _delete(args: argparse.Namespace) -> None:
    """Gives the VMs back, and whatever lies on them."""
    _gcloud(args, "queued-resources", "delete", args.name, "--force", "--quiet")


def _up(args: argparse.Namespace) -> int:
    """Create, wait, copy, run; watch, and do it again after a preemption, until the run ends by itself."""
    while True:
        if args.dry_run or _state(args, missing_ok=True) == "":
            _create(args)
        try:
            _wait(args)
            _copy(args)
            _run(args)
            code = _watch(args)
        except Failed as error:
            if _state(args, missing_ok=True) not in _GONE:
                raise
            _say(f"{error}; asking for new ones")
            code = HOST_LOST
        if args.dry_run or code == 0:
            return 0
        if code == _STOPPED:
            _say(f"{args.name} was told to stop: `run` or `up` goes on, `delete` gives the VMs back")
            return int(PREEMPTED)
        if code not in (PREEMPTED, HOST_LOST):
            raise Failed(f"the run ended with exit code {code}: see `avemo launch tpu-vm logs {args.name}`")
        if _state(args, missing_ok=True) in _GONE:
            _delete(args)


def _watch(args: argparse.Namespace) -> int:
    """The run's exit code; that of a lost host when the VMs are taken away.

    VMs that are being taken away do not answer while they are still called active, and a run of weeks outlives a
    network that fails for a moment: it is asked again, for a while.
    """
    answered_at = time.monotonic()
    while not args.dry_run:
        try:
            state = _state(args)
            code = "" if state in _GONE else _code(args)
        except Failed as error:
            if time.monotonic() - answered_at > _SILENT_S:
                raise
            _say(f"{error}; asking again")
            time.sleep(args.poll_s)
            continue
        answered_at = time.monotonic()
        if state in _GONE:
            _say(f"{args.name} is {state}: it was preempted")
            return HOST_LOST
        if code == "stopped":
            return _STOPPED
        if code:
            return int(code)
        time.sleep(args.poll_s)
    return 0


def _state(args: argparse.Namespace, missing_ok: bool = False) -> str:
    words = ["queued-resources", "describe", args.name, "--format", "value(state.state)"]
    return _gcloud(args, *words, capture=True, missing_ok=missing_ok)


def _code(args: argparse.Namespace) -> str:
    """The exit code that the first worker noted, or `stopped`; empty while it runs."""
    script = f"cat {_home(args)}/code 2>/dev/null || true"
    words = ["tpu-vm", "ssh", _nodes(args)[0], "--worker", "0", *_inside(args), "--command", script]
    return _gcloud(args, *words, capture=True)


def _addresses(args: argparse.Namespace, node: str) -> list[str]:
    """The internal addresses of a node's workers, in their order."""
    words = ["tpu-vm", "describe", node, "--format", "value(networkEndpoints[].ipAddress)"]
    said = _gcloud(args, *words, capture=True)
    if args.dry_run:
        return [f"ADDRESS_OF_{node}"] * (args.slice.hosts if args.slice else 1)
    addresses = [word for word in re.split(r"[;,\s]+", said) if word]
    if not addresses:
        raise Failed(f"{node} has no workers yet: wait for it first")
    return addresses


def _gcloud(args: argparse.Namespace, *words: str, capture: bool = False, missing_ok: bool = False) -> str:
    """Runs one command of `gcloud compute tpus`; returns what it printed, where that is wanted.

    Raises:
      Failed: gcloud did not do it; unless the thing is missing and may be.
    """
    command = ["gcloud", "compute", "tpus", *words, "--zone", args.zone]
    command += ["--project", args.project] if args.project else []
    if args.dry_run:
        print(shlex.join(command))
        return ""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE if missing_ok else None,
        text=True,
    )
    if done.returncode and missing_ok and "NOT_FOUND" in done.stderr:
        return ""
    if done.returncode:
        said = f": {done.stderr.strip().splitlines()[-1]}" if missing_ok and done.stderr.strip() else ""
        raise Failed(f"gcloud could not do '{' '.join(words[:3])}'{said}")
    return done.stdout.strip() if capture else ""


def _pack(source: Path, archive: Path) -> None:
    """What a checkout tracks or would; elsewhere everything but what can be made again."""
    listed = subprocess.run(
        ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name and (source / name).is_file()]
    else:
        paths = (path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file())
        names = [str(path) for path in paths if not _LEFT_OUT & set(path.parts)]
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(source / name, arcname=name)


def _nodes(args: argparse.Namespace) -> list[str]:
    return [args.name] if args.slices == 1 else [f"{args.name}-{index}" for index in range(args.slices)]


def _inside(args: argparse.Namespace) -> list[str]:
    return ["--internal-ip"] if args.internal_ip else []


def _home(args: argparse.Namespace) -> str:
    """The run's folder on every worker."""
    return f"~/avemo/{args.name}"


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own flags, and the command behind `--`."""
    parser = flags.parser("tpu-vm", __doc__)
    parser.add_argument("action", choices=list(_ACTIONS), help="what to do")
    parser.add_argument("name", help="of the queued resource")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="as gcloud has it, unless given")
    parser.add_argument(
        "--slices", type=int, default=1, help="how many (%(default)d); the same in every call"
    )
    parser.add_argument(
        "--internal_ip", action="store_true", help="VMs without addresses outside, and ssh to them"
    )
    parser.add_argument("--poll_s", type=float, default=30, help="how often wait and up look (%(default)g)")
    create = parser.add_argument_group("create, up")
    create.add_argument("--topology", default="", help="of one slice, as v5e:4x4")
    create.add_argument(
        "--runtime_version", default="", help="of the VMs; that of the TPU's kind unless given"
    )
    create.add_argument("--spot", action="store_true")
    create.add_argument("--reserved", action="store_true")
    create.add_argument("--valid_for", default="", help="as 6h: no longer in the queue than this")
    create.add_argument("--network", default="")
    create.add_argument("--subnetwork", default="")
    create.add_argument("--service_account", default="")
    copy = parser.add_argument_group("copy, up")
    copy.add_argument("--source", type=Path, default=Path(), help="the checkout to copy (this folder)")
    copy.add_argument(
        "--install", default=_INSTALL, metavar="LINE", help="a shell line that makes venv/ of source/"
    )
    run = parser.add_argument_group("run, up")
    run.add_argument("--port", type=int, default=_PORT, help="of the first supervisor (%(default)d)")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="repeatable")
    flags.add_platform(run)
    flags.add_rules(run, restarts=3, stall_s=1800)
    logs = parser.add_argument_group("logs")
    logs.add_argument("--lines", type=int, default=100, help="(%(default)d)")
    logs.add_argument("--follow", action="store_true")
    args = flags.read(parser, argv, needs_verb=lambda action: action in ("run", "up"))
    args.slice = None
    if args.action in ("create", "up") or args.topology:
        try:
            args.slice = tpus.parse(args.topology)
        except ValueError as error:
            parser.error(f"--topology {error}")
        if not args.slice.kind.vm:
            parser.error(
                f"--topology {args.topology}: its VMs are not to be had this way; use avemo launch gke"
            )
    flags.expect_tpu(args)
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", args.name) or len(args.name) > 60:
        parser.error(f"{args.name}: a name has small letters, digits and dashes, at most 60, a letter first")
    if args.slices < 1:
        parser.error("--slices is at least 1")
    if not (args.source / "setup.py").is_file() and args.action in ("copy", "up"):
        parser.error(f"--source {args.source}: no setup.py there; it is to be a checkout of avemo_jax")
    pairs = [text.partition("=") for text in args.env]
    if wrong := [text for text in args.env if not re.match(r"[A-Za-z_]\w*=", text)]:
        parser.error(f"--env {wrong[0]}: it is not NAME=VALUE")
    args.env = [(name, value) for name, _, value in pairs]
    return args


def _say(line: str) -> None:
    print(f"avemo launch tpu-vm: {line}", file=sys.stderr, flush=True)


_ACTIONS = {
    "create": _create,
    "wait": _wait,
    "copy": _copy,
    "run": _run,
    "logs": _logs,
    "status": _status,
    "stop": _stop,
    "delete": _delete,
    "up": _up,
}
