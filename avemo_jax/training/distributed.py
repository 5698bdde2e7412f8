"""Joining the other processes of a run. To be called before anything asks JAX for its devices.

A launcher names the group in the environment; on a cluster that JAX knows (SLURM, TPU pods, Kubernetes, MPI)
`AVEMO_DISTRIBUTED=auto` lets it find the group by itself. Without either, a run is one process.
"""

from __future__ import annotations

import os
import sys
import traceback

import jax

from avemo_jax.errors import UserError
from input_pipeline.errors import DataError

COORDINATOR = "AVEMO_COORDINATOR"  # host:port of process 0
PROCESSES = "AVEMO_PROCESSES"
PROCESS_ID = "AVEMO_PROCESS_ID"
MODE = "AVEMO_DISTRIBUTED"  # "auto": ask the cluster
HEARTBEAT_S = "AVEMO_HEARTBEAT_S"

_NOT_JOINED = 1  # not that of bad input: with the next start it may go well
_SHUTDOWN_S = 60  # how long a process that is done waits for the others


def initialize() -> None:
    """Joins the group that the environment describes; does nothing when it describes none.

    A process that dies or hangs ends the others after the heartbeat's time-out (JAX aborts them, since a
    collective cannot be left). A launcher is quicker, and says which one it was.

    Raises:
      UserError: the description is incomplete, or the group did not come together.
    """
    given = {name: os.environ[name] for name in (COORDINATOR, PROCESSES, PROCESS_ID) if os.environ.get(name)}
    auto = os.environ.get(MODE) == "auto"
    if not given and not auto:
        return
    if given and len(given) < 3:
        missing = ", ".join({COORDINATOR, PROCESSES, PROCESS_ID} - given.keys())
        raise UserError(f"{', '.join(given)} set without {missing}: a launcher sets all three")
    # The CPU has no collectives of its own between processes; elsewhere this setting is not read.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator_address=given.get(COORDINATOR),
            num_processes=int(given[PROCESSES]) if given else None,
            process_id=int(given[PROCESS_ID]) if given else None,
            initialization_timeout=120,
            heartbeat_timeout_seconds=int(os.environ.get(HEARTBEAT_S, "30")),
            shutdown_timeout_seconds=_SHUTDOWN_S,
        )
    except (RuntimeError, ValueError) as error:
        whom = (
            f"process {given[PROCESS_ID]} of {given[PROCESSES]} at {given[COORDINATOR]}"
            if given
            else "the cluster"
        )
        raise UserError(
            f"could not join {whom}: {str(error).splitlines()[0]}", exit_code=_NOT_JOINED
        ) from error


def leave_after(error: BaseException) -> None:
    """In a group: says what went wrong and ends this process at once. Alone: does nothing.

    An ordinary exit would first wait for the other processes, which are waiting for this one in a collective.
    """
    if jax.process_count() == 1:
        return
    if isinstance(error, (UserError, DataError)):
        code = getattr(error, "exit_code", 2)
        print(f"avemo: error: {error}", file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        code = 130
        print("avemo: interrupted", file=sys.stderr)
    else:
        code = 1
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_first() -> bool:
    """Is this the process that speaks and writes for all?"""
    return jax.process_index() == 0
