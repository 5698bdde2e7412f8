"""The launchers: programs that run `avemo train …` (or `finetune`) as several processes, here or on a cluster.

    python -m launch local --processes 2 -- train --config hicmae:demo --workdir runs/a

They need Python alone, so that a login node or a laptop without JAX can launch. `avemo launch` calls the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

LAUNCHERS = {
    "local": "several processes on this machine",
    "slurm": "a SLURM job that requeues itself until it is done",
    "gke": "a JobSet on TPU node pools of a Kubernetes cluster",
    "tpu-vm": "TPU VMs from the queue: create, copy, run on all workers, logs, delete",
    "host": "one host's part of a run: what the other launchers start there",
}


def main(argv: Sequence[str]) -> int:
    """Runs one launcher; returns the process's exit code."""
    name, words = argv[0], list(argv[1:])
    if name not in LAUNCHERS:
        print(f"avemo launch: error: {unknown(name)}", file=sys.stderr)
        return 2
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}").main(words)


def unknown(name: str) -> str:
    """What to say about a launcher that there is not."""
    return f"no launcher '{name}': there are {', '.join(LAUNCHERS)}"
