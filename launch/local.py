"""Runs `avemo train …` (or `finetune`) as several processes on this machine, as one run.

    avemo launch local --processes 2 --devices_per_process 4 -- train --config hicmae:demo --workdir runs/a

Sets each process's environment, shows their output line by line behind a `[process]`, and holds them together. When
one fails or freezes the others are stopped within seconds, and it is said which one and how; `--restarts N` starts
all of them again. SIGTERM is passed on to all; exit code 143 then means "saved, start again to go on".
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence

from . import flags
from .crew import Process
from .supervisor import free_port, run_here


def main(argv: Sequence[str]) -> int:
    """Starts the processes and returns the run's exit code."""
    args = read_flags(argv)
    if args.dry_run:
        for process in plan(args, f"127.0.0.1:{args.port or free_port()}"):
            settings = [f"{name}={shlex.quote(value)}" for name, value in process.environment.items()]
            print(" ".join([*settings, shlex.join(process.command)]))
        return 0
    return run_here(lambda coordinator: plan(args, coordinator), flags.rules_of(args), port=args.port)


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own flags, and the command behind `--`."""
    parser = flags.parser("local", __doc__)
    flags.add_processes(parser, "processes")
    parser.add_argument("--port", type=int, default=0, help="of process 0; 0: a free one")
    flags.add_platform(parser)
    flags.add_rules(parser, restarts=0)
    args = flags.read(parser, argv)
    if args.processes < 1 or args.devices_per_process < 0:
        parser.error("--processes is at least 1 and --devices_per_process at least 0")
    return args


def plan(
    args: argparse.Namespace, coordinator: str, environment: Mapping[str, str] | None = None
) -> list[Process]:
    """The processes to start. A platform that the environment names is kept, otherwise it is the CPU."""
    environment = os.environ if environment is None else environment
    platform = {"JAX_PLATFORMS": environment.get("JAX_PLATFORMS", "cpu")}
    environment = {**environment, **platform}
    processes = flags.processes_of(args, args.processes, coordinator, environment=environment)
    return [Process(each.command, platform | each.environment) for each in processes]
