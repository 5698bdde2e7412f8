"""What a training step of a config computes, counted from its traced form: nothing is compiled or allocated.

`python -m avemo_jax.comparing.counting`: a config as JSON → {"flops", "parameters"}. In a process of its own, since the
devices belong to those that train.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

from ml_collections import ConfigDict

from avemo_jax.config import from_json, to_json
from avemo_jax.errors import UserError


class Counted(NamedTuple):
    """flops: of a step, forward and backward, matrix products, without what is computed twice to save memory;
    parameters: of the model that is trained."""

    flops: int
    parameters: int


def count(config: ConfigDict) -> Counted:
    """Counts in a process of its own.

    Raises:
      UserError: the config's values do not go together.
    """
    done = subprocess.run(
        [sys.executable, "-m", "avemo_jax.comparing.counting"],
        input=to_json(config),
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"a step of {config.method}:{config.size} cannot be traced: {last}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise UserError(answer["error"])
    return Counted(**answer)


def count_here(config: ConfigDict) -> Counted:
    """Counts in this process.

    Raises:
      UserError: the config's values do not go together.
    """
    import jax

    from avemo_jax.planning import worker
    from avemo_jax.planning.flops import traced_flops
    from avemo_jax.training import mesh as mesh_lib

    mesh = mesh_lib.make_mesh({"replica": 1, "data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    traced, state = worker.trace_step(worker.as_written(config), mesh)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)]
    return Counted(traced_flops(traced.jaxpr), sum(sizes))


def main() -> int:
    try:
        print(json.dumps(count_here(from_json(sys.stdin.read()))._asdict()))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
