"""The variables that join several processes to one run: are they whole, and would they be used?"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from avemo_jax.doctor.findings import Finding, note, ok, wrong
from avemo_jax.training.distributed import COORDINATOR, HEARTBEAT_S, MODE, PROCESS_ID, PROCESSES

_SHOWN = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_DEVICES")
_LAUNCHED = f"start it with `avemo launch`, which sets {COORDINATOR}, {PROCESSES} and {PROCESS_ID}"


def check_cluster(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Our own variables, then those of a cluster around us."""
    for name in _SHOWN:
        if environment.get(name):
            yield note("cluster", f"{name}={environment[name]}")
    for name in (PROCESSES, PROCESS_ID, HEARTBEAT_S):
        if environment.get(name) and not environment[name].isdecimal():
            yield wrong("cluster", f"{name}={environment[name]} is not a number", _LAUNCHED)
            return
    ours = {name: environment[name] for name in (COORDINATOR, PROCESSES, PROCESS_ID) if environment.get(name)}
    auto = environment.get(MODE) == "auto"
    if environment.get(MODE) and not auto:
        yield wrong("cluster", f"{MODE}={environment[MODE]} means nothing", "set it to auto, or unset it")
    if ours:
        yield from _own(ours)
    tasks, cluster = _surroundings(environment)
    if tasks > 1 and not ours and not auto:
        text = f"{tasks} processes of {cluster}, but nothing joins them: each would train alone"
        yield wrong("cluster", text, f"export {MODE}=auto, so that they find each other")
    elif cluster:
        how = f"joined by {MODE if auto else COORDINATOR}" if auto or ours else "alone"
        yield ok("cluster", f"process of {cluster}, {how}")
    elif auto:
        yield wrong("cluster", f"{MODE}=auto, but no cluster that JAX knows is around", f"unset {MODE}")
    elif not ours:
        yield ok("cluster", "none: a run is one process")


def _own(given: Mapping[str, str]) -> Iterator[Finding]:
    if len(given) < 3:
        missing = ", ".join(sorted({COORDINATOR, PROCESSES, PROCESS_ID} - given.keys()))
        yield wrong("cluster", f"{', '.join(sorted(given))} set without {missing}", _LAUNCHED)
        return
    if int(given[PROCESS_ID]) >= int(given[PROCESSES]):
        text = f"process {given[PROCESS_ID]} of {given[PROCESSES]}: they are numbered from 0"
        yield wrong("cluster", text, _LAUNCHED)
    host, colon, port = given[COORDINATOR].rpartition(":")
    if not (host and colon and port.isdecimal()):
        yield wrong("cluster", f"{COORDINATOR}={given[COORDINATOR]} is not host:port", _LAUNCHED)
        return
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, OverflowError) as error:
        mend = "give an address that every host can resolve and reach"
        yield wrong("cluster", f"{COORDINATOR}: the host {host} is not found ({error})", mend)
    else:
        place = f"process {given[PROCESS_ID]} of {given[PROCESSES]}"
        yield ok("cluster", f"{place}, process 0 is at {given[COORDINATOR]}")


def _surroundings(environment: Mapping[str, str]) -> tuple[int, str]:
    """How many processes the cluster around us starts for this job, and its name; (0, "") without one."""
    if environment.get("SLURM_JOB_ID"):
        step = environment.get("SLURM_STEP_NUM_TASKS", "")
        job = f"SLURM job {environment['SLURM_JOB_ID']}"
        return int(step) if step.isdecimal() else 1, job  # outside `srun` we are its batch script, alone
    hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if hosts:
        return len(hosts), f"a TPU slice of {len(hosts)} hosts"
    return 0, ""
