"""Runs `avemo train …` (or `finetune`) as a SLURM job that requeues itself until the run is done.

    avemo launch slurm --nodes 4 --partition gpu --gpus_per_node 8 --time 24:00:00 --setup 'source venv/bin/activate' \\
        -- train --config hicmae:base --workdir runs/base --config.data.path=data/clips

Writes an sbatch file and submits it; `--dry_run` prints both and does neither. On every node one supervisor starts
the node's processes and holds them together with all others. `--warn_s` before the time limit, or at a preemption,
the run saves and the job is requeued; so it is when a node is lost. A run that fails at the same step again and again
ends the job, which says why. Values may stand in a file, a flag a line: `avemo launch slurm @cluster.flags -- …`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import flags
from .supervisor import HOST_LOST, PREEMPTED

# Ports for the supervisors, below those that systems give out themselves; a job's follows from its number.
_FIRST_PORT, _PORTS = 20000, 10000

# All supervisors leave together. One that has not by then died with its node, which may be back already, so that
# SLURM does not miss it.
_LEAVING_S = 20

_SCRIPT = r"""#!/bin/bash
{options}
# Written by `avemo launch slurm`. Submitted again, it goes on from the newest checkpoint.
{setup}
set -u  # not before: hooks of conda and of modules read what is unset
mkdir -p {folder}
lead_pid={folder}/lead-$SLURM_JOB_ID.pid  # of the first node's supervisor, which runs beside this script
rm -f "$lead_pid"
export AVEMO_LEAD=$(hostname):$(({port}))

# Shortly before the time limit, and at a preemption, this script alone is told, and tells the first supervisor.
# Not srun: told to end, it kills its tasks within seconds. Not the step: SLURM would signal every process in it.
trap '[ -s "$lead_pid" ] && kill -TERM "$(cat "$lead_pid")"' TERM

srun --kill-on-bad-exit=0 --wait={leaving} ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} bash -c '
    [ "$SLURM_NODEID" = 0 ] && echo $$ > "$0"
    exec {host} "$@"
' "$lead_pid" {words} &
step=$!
code=
while [ -z "$code" ]; do
    wait "$step"; code=$?
    kill -0 "$step" 2>/dev/null && code=  # a signal ended the waiting, not the step
done
rm -f "$lead_pid"
{after}"""

_REQUEUE = r"""
# {preempted}: saved. {lost}: a node was lost. Over {killed}: killed, as a rule with its node. Others: given up.
starts=$((${{SLURM_RESTART_COUNT:-0}} + 1))
case "$code" in
    0) again= ;;
    {preempted} | {lost}) again=yes ;;
    *) again=; [ "$code" -gt {killed} ] && again=yes ;;
esac
if [ -n "$again" ]; then
    if [ "$starts" -gt {requeues} ]; then
        echo "avemo launch slurm: job $SLURM_JOB_ID was started $starts times: not requeued again" >&2
        exit "$code"
    fi
    echo "avemo launch slurm: exit code $code: requeued, to go on from the newest checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # SLURM ends this script meanwhile
fi
exit "$code"
"""


def main(argv: Sequence[str]) -> int:
    """Writes and submits the job; returns 0, or the exit code of sbatch."""
    args = read_flags(argv)
    folder = args.folder.absolute()
    script = script_of(args, folder)
    path = folder / f"{args.job_name}.sbatch"
    command = ["sbatch", "--parsable", str(path)]
    if args.dry_run:
        print(f"# {path}")
        print(script)
        print(f"# {shlex.join(command)}")
        flags.say_platform(args)
        return 0
    if not shutil.which("sbatch"):
        print(
            "avemo launch slurm: error: no sbatch here: run it where jobs are submitted, or see the job with --dry_run",
            file=sys.stderr,
        )
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(f"avemo launch slurm: error: sbatch refused {path} (see above)", file=sys.stderr)
        return done.returncode
    number = done.stdout.strip().partition(";")[0]
    print(f"job {number} is submitted; its output goes to {folder / f'{args.job_name}-{number}.txt'}")
    print(f"scancel {number} ends it, scancel --batch --signal=TERM {number} has it save and be requeued")
    return 0


def script_of(args: argparse.Namespace, folder: Path) -> str:
    """The sbatch file."""
    options = {
        "job-name": args.job_name,
        "nodes": args.nodes,
        "ntasks-per-node": 1,  # the supervisor; it starts the node's processes
        "partition": args.partition,
        "account": args.account,
        "qos": args.qos,
        "time": args.time,
        "gpus-per-node": args.gpus_per_node,
        "cpus-per-task": args.cpus_per_node,
        "mem": args.mem,
        "output": _within_double_quotes(f"{folder}/{args.job_name}-%j.txt"),
        "open-mode": "append",
        # To the script alone.
        "signal": f"B:TERM@{args.warn_s}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    lines.append("#SBATCH --requeue" if args.requeue else "#SBATCH --no-requeue")
    lines += [f"#SBATCH {option}" for option in args.sbatch]
    host = [args.python, "-m", "avemo_jax", "launch", "host"]
    host_flags = ' --hosts "$SLURM_JOB_NUM_NODES" --host "$SLURM_NODEID" --name "$SLURMD_NODENAME"'
    host_flags += ' --lead "$AVEMO_LEAD" --run "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"'
    host_flags += f' --memory {_within_single_quotes(shlex.quote(f"{folder}/"))}"restarts-$SLURM_JOB_ID.json"'
    words = ["--processes", str(args.processes), "--devices_per_process", str(args.devices_per_process)]
    words += [*flags.rules_as_words(args), "--", *args.verb]
    port = args.port or f"{_FIRST_PORT} + SLURM_JOB_ID % {_PORTS}"
    after = _REQUEUE.format(preempted=int(PREEMPTED), lost=HOST_LOST, killed=128, requeues=args.requeues)
    return _SCRIPT.format(
        options="\n".join(lines),
        setup="\n".join(args.setup),
        folder=shlex.quote(str(folder)),
        port=port,
        host=_within_single_quotes(shlex.join(host)) + host_flags,
        words=shlex.join(words),
        leaving=_LEAVING_S,
        after=after if args.requeue else 'exit "$code"\n',
    )


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own flags, and the command behind `--`."""
    parser = flags.parser("slurm", __doc__)
    parser.add_argument("--nodes", type=int, default=1, help="how many (%(default)d)")
    flags.add_processes(parser, "processes")
    parser.add_argument("--partition", default="", help="as in sbatch, like the next ones")
    parser.add_argument("--account", default="")
    parser.add_argument("--qos", default="")
    parser.add_argument("--time", default="", help="limit of one start, as 24:00:00; the run may take many")
    parser.add_argument("--gpus_per_node", default="", help="how many, or as TYPE:N")
    parser.add_argument("--cpus_per_node", type=int, default=0)
    parser.add_argument("--mem", default="", help="of each node, as 200G")
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="any other option of sbatch; repeatable",
    )
    parser.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="a shell line to run first; repeatable"
    )
    parser.add_argument(
        "--python", default="python", help="the Python of the nodes, after the setup (%(default)s)"
    )
    parser.add_argument("--job_name", default="avemo", help="(%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("slurm"), help="for the sbatch file and logs, shared by all nodes"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="of the first supervisor; 0: from the job's number"
    )
    parser.add_argument(
        "--warn_s", type=int, default=120, help="this long before the limit it saves (%(default)d)"
    )
    parser.add_argument(
        "--requeue", action=argparse.BooleanOptionalAction, default=True, help="after saving or a lost node"
    )
    parser.add_argument("--requeues", type=int, default=1000, help="at most so often (%(default)d)")
    flags.add_platform(parser)
    flags.add_rules(parser, restarts=3, stall_s=1800)
    args = flags.read(parser, argv)
    if args.gpus_per_node and args.platform == "auto":
        args.platform = "gpu"
    if min(args.nodes, args.processes) < 1 or min(args.devices_per_process, args.warn_s) < 0:
        parser.error("--nodes and --processes are at least 1, --devices_per_process and --warn_s at least 0")
    if not re.fullmatch(r"[\w.-]+", args.job_name):
        parser.error(f"--job_name {args.job_name}: letters, digits, dots, dashes")
    folder = str(args.folder.absolute())
    if any(sign in folder for sign in "%\\\n"):
        parser.error(f"--folder {folder!r}: sbatch takes no %, \\ or second line in it; choose another")
    if args.grace_s > args.warn_s > 0:
        parser.error(
            f"--grace_s {args.grace_s:g} is longer than --warn_s {args.warn_s}: it could not save in time"
        )
    return args


def _within_single_quotes(text: str) -> str:
    return text.replace("'", "'\\''")


def _within_double_quotes(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
