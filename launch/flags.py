"""The flags that launchers share, and what a process of a run is started with."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from avemo_jax import platforms

from .crew import Process, share_of_gpus
from .supervisor import Rules

_THREADS_A_DEVICE = 8
_JAX_PATIENCE = 3  # times ours: JAX aborts a group too, later and without saying for whom


class Parser(argparse.ArgumentParser):
    """argparse, with its errors as one line."""

    def error(self, message: str):
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def parser(name: str, doc: str | None) -> Parser:
    """A launcher's parser, its help the module's own words."""
    return Parser(
        prog=f"avemo launch {name}",
        usage=f"avemo launch {name} [--flags] [@FILE with flags] -- VERB …",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_processes(flags: argparse.ArgumentParser, what: str) -> None:
    """How many processes."""
    flags.add_argument(f"--{what}", type=int, default=1, help="how many")
    flags.add_argument(
        "--devices_per_process",
        type=int,
        default=0,
        help="CPU devices that each process shows; 0: as they are",
    )


def add_platform(flags: argparse._ActionsContainer) -> None:
    """Which preset of XLA flags and environment."""
    flags.add_argument(
        "--platform",
        default=platforms.AUTO,
        choices=[platforms.AUTO, platforms.NONE, *platforms.PRESETS],
        help="preset of XLA flags and environment; what the environment says wins (%(default)s)",
    )


def expect_tpu(args: argparse.Namespace) -> None:
    """In place of looking: the preset of the TPU that `--topology` names."""
    if args.platform == platforms.AUTO:
        args.platform = platforms.of_tpu(args.topology.partition(":")[0])


def say_platform(args: argparse.Namespace) -> None:
    """For a dry run: what the preset will set on hosts whose environment says nothing of it."""
    if args.platform == platforms.AUTO:
        line = "platform auto: every host looks what it has"
    else:
        line = platforms.describe(args.platform, platforms.settings(args.platform, {}))
    print(f"# {line}", file=sys.stderr)


def add_rules(flags: argparse.ArgumentParser, restarts: int, stall_s: float = 0) -> None:
    """What is tolerated, and what is done about the rest."""
    rules = Rules()
    flags.add_argument(
        "--heartbeat_s",
        type=float,
        default=rules.heartbeat_s,
        help="a process or host that is silent for so long is given up (%(default)g)",
    )
    flags.add_argument(
        "--stall_s",
        type=float,
        default=stall_s,
        help="a run that does nothing new for so long is given up; 0: never (%(default)g)",
    )
    flags.add_argument(
        "--grace_s", type=float, default=rules.grace_s, help="time to save in after SIGTERM (%(default)g)"
    )
    flags.add_argument(
        "--restarts",
        type=int,
        default=restarts,
        help="start all processes again after a failure, at most so often at the same step (%(default)d)",
    )
    flags.add_argument(
        "--backoff_s",
        type=float,
        default=rules.backoff_s,
        help="pause before the first restart; doubles with each (%(default)g)",
    )


def read(
    flags: argparse.ArgumentParser, argv: Sequence[str], needs_verb: Callable[[str], bool] = lambda _: True
) -> argparse.Namespace:
    """The flags, and as `verb` the command behind `--`; exits with 2 and one line where they make no sense.

    Args:
      needs_verb: is there to be a command, given the first word?
    """
    flags.add_argument("--dry_run", action="store_true", help="print what would be run")
    cut = argv.index("--") if "--" in argv else len(argv)
    args = flags.parse_args(_with_files(flags, argv[:cut]))
    args.verb = list(argv[cut + 1 :])
    if not args.verb and needs_verb(argv[0] if argv else ""):
        flags.error(
            "nothing to run: write the command behind --, for example -- train --config hicmae:demo …"
        )
    for name in ("heartbeat_s", "grace_s", "restarts", "backoff_s", "stall_s"):
        if getattr(args, name, 0) < 0:
            flags.error(f"--{name} is not below 0")
    try:
        platforms.choose(os.environ, args.platform)
    except ValueError as error:
        flags.error(f"{platforms.VARIABLE}: {error}")
    if getattr(args, "heartbeat_s", 1) < 1:
        flags.error("--heartbeat_s is at least 1: processes beat once a second")
    return args


def _with_files(flags: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The words, with those of a file in place of its `@FILE`."""
    found: list[str] = []
    for word in words:
        if not word.startswith("@"):
            found.append(word)
            continue
        try:
            found += shlex.split(Path(word[1:]).read_text(encoding="utf-8"), comments=True)
        except (OSError, ValueError) as error:
            flags.error(f"{word}: cannot be read ({error})")
    return found


def rules_of(args: argparse.Namespace, memory: Path | None = None) -> Rules:
    """The rules that the flags say."""
    return Rules(
        heartbeat_s=args.heartbeat_s,
        stall_s=args.stall_s,
        grace_s=args.grace_s,
        restarts=args.restarts,
        backoff_s=args.backoff_s,
        memory=memory,
    )


def rules_as_words(args: argparse.Namespace) -> list[str]:
    """The same flags again, for the hosts of a cluster."""
    names = ("heartbeat_s", "stall_s", "grace_s", "restarts", "backoff_s")
    words = [word for name in names for word in (f"--{name}", f"{getattr(args, name):g}")]
    return [*words, "--platform", args.platform]


def processes_of(
    args: argparse.Namespace,
    count: int,
    coordinator: str,
    *,
    first: int = 0,
    total: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Process]:
    """The processes of one host.

    Args:
      args: with `verb`, `platform`, `devices_per_process` and `heartbeat_s`.
      count: on this host.
      coordinator: host:port of process 0.
      first: the number of this host's first process.
      total: of the whole run; this host's unless given.
      environment: ours. A platform that it names is kept.
    """
    environment = os.environ if environment is None else environment
    total = count if total is None else total
    common = {}
    if args.devices_per_process:
        common["JAX_PLATFORMS"] = environment.get("JAX_PLATFORMS", "cpu")
    preset = platforms.choose({**environment, **common}, args.platform)
    common |= {platforms.VARIABLE: preset} | platforms.settings(preset, environment)
    if args.devices_per_process:
        flags = common.get("XLA_FLAGS", environment.get("XLA_FLAGS", ""))
        kept = [f for f in flags.split() if "host_platform_device_count" not in f]
        devices = f"--xla_force_host_platform_device_count={args.devices_per_process}"
        common["XLA_FLAGS"] = " ".join([*kept, devices])
        # XLA's threads. Collectives that do not depend on each other begin at once, and each holds a thread of every
        # device until all have come: with no more threads than devices they may wait for each other for ever.
        common["NPROC"] = environment.get("NPROC", str(_THREADS_A_DEVICE * args.devices_per_process))
    if total > 1:
        common["AVEMO_COORDINATOR"] = coordinator
        common["AVEMO_PROCESSES"] = str(total)
        common["AVEMO_HEARTBEAT_S"] = f"{_JAX_PATIENCE * args.heartbeat_s:.0f}"
    command = [sys.executable, "-m", "avemo_jax", *args.verb]
    return [
        Process(
            command,
            common
            | ({"AVEMO_PROCESS_ID": str(first + index)} if total > 1 else {})
            | share_of_gpus(environment, index, count),
        )
        for index in range(count)
    ]
