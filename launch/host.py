"""One host's part of a run on several: starts its processes and holds them together with those of the others.

    avemo launch host --hosts 4 --host 2 --lead node0:7700 --processes 1 -- train --config hicmae:base …

What `slurm`, `gke` and `tpu-vm` start on every host, and what to start by hand where neither is. Host 0 leads: it
listens at the port, the others connect. Exit codes: 0; 143, saved, start again to go on; 75, a host was lost, start
again on hosts that work; anything else is a failure that starting again did not mend.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from . import flags, links
from .crew import Process
from .supervisor import HOST_LOST, POLL_S, PREEMPTED, Host, Lead, free_port, say_as

_PARTING_S = 5.0  # for the others to hear how it ended, and leave


def main(argv: Sequence[str]) -> int:
    """This host's exit code, the same on all hosts that are left."""
    args = read_flags(argv)
    address, port = args.lead

    def make(coordinator: str) -> list[Process]:
        first, total = args.host * args.processes, args.hosts * args.processes
        return flags.processes_of(args, args.processes, coordinator, first=first, total=total)

    if args.dry_run:
        for process in make(f"{address}:PORT"):
            settings = [f"{name}={shlex.quote(value)}" for name, value in process.environment.items()]
            print(" ".join([*settings, shlex.join(process.command)]))
        return 0
    say = say_as(f"host {args.host}")
    rules = flags.rules_of(args, memory=args.memory)._replace(join_s=args.join_s)
    with Host(make, first_id=args.host * args.processes, name=args.name) as host:
        if args.host:
            return links.follow(host, args.host, (address, port), args.run, rules, say)
        return _lead(args, host, rules, say)


def _lead(args: argparse.Namespace, host: Host, rules, say) -> int:
    address, port = args.lead
    members: list = [host]
    gate = None
    if args.hosts > 1:
        try:
            gate = links.Gate(port, args.run, args.hosts - 1, rules.heartbeat_s)
        except OSError as error:
            say(f"port {port} cannot be listened at ({os.strerror(error.errno)}): give another one to --lead")
            return 2
        members += gate.await_all(rules.join_s, lambda: bool(host.report().told))
        if len(members) < args.hosts:
            if host.report().told == signal.SIGTERM:
                return PREEMPTED
            names = ", ".join(map(str, gate.missing())) or "one"  # which came a moment too late
            say(f"host {names} of {args.hosts} did not come within {rules.join_s:g} s")
            return HOST_LOST
    code = Lead(members, rules, lambda: f"{address}:{free_port('')}", say).run()
    ends = time.monotonic() + _PARTING_S
    while any(not other.lost() for other in members[1:]) and time.monotonic() < ends:
        time.sleep(POLL_S)
    return code


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own flags, and the command behind `--`."""
    parser = flags.parser("host", __doc__)
    parser.add_argument("--hosts", type=int, default=1, help="how many there are")
    parser.add_argument("--host", type=int, default=0, help="which one this is, from 0")
    parser.add_argument("--lead", type=_address, default=("127.0.0.1", 7700), help="host 0 as address:port")
    parser.add_argument("--run", default="", help="names the run; only hosts of the same run join")
    parser.add_argument("--name", default="", help="of this host in messages, instead of its own")
    parser.add_argument(
        "--join_s", type=float, default=600, help="all hosts come within so long (%(default)g)"
    )
    parser.add_argument(
        "--memory", type=Path, help="file that keeps the count of restarts when host 0 is started again"
    )
    flags.add_processes(parser, "processes")
    flags.add_platform(parser)
    flags.add_rules(parser, restarts=3, stall_s=1800)
    args = flags.read(parser, argv)
    if args.processes < 1 or args.devices_per_process < 0:
        parser.error("--processes is at least 1 and --devices_per_process at least 0")
    if not 0 <= args.host < args.hosts:
        parser.error(f"--host {args.host} of --hosts {args.hosts}: they are counted from 0")
    return args


def _address(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is not address:port")
    return address, int(port)
