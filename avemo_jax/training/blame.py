"""Which clips make a step's loss or gradients NaN? Asked only when a run is in trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from avemo_jax.batch import Batch
from avemo_jax.models.params import Params
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.step import Given, make_check

_NAMED = 8


def describe_offenders(
    task: Any,
    graphdef: nnx.GraphDef,
    params: Params,
    batch: Batch,
    step: int,
    given: Given,
    mesh: Mesh,
    clip_ids: Callable[[np.ndarray], list[str]],
) -> str:
    """The offending clips of one batch, in words for an error message. Every process calls it.

    Halves of the batch are tried by themselves, then halves of those that fail, so it takes some
    (offenders × log₂ B) steps' time. Clips that are harmless one by one are blamed together.
    """
    check = make_check(task, graphdef, params, batch, given, mesh)
    size = len(batch["position"])
    step_array = mesh_lib.put_everywhere(np.asarray(step - 1, np.int32), mesh)

    def is_bad(rows: list[int]) -> bool:
        places = mesh_lib.put_everywhere(np.resize(np.asarray(rows, np.int32), size), mesh)
        return not bool(check(params, batch, places, step_array, given))

    rows = _search(list(range(size)), is_bad)
    positions = jax.jit(lambda x: x, out_shardings=mesh_lib.replicated(mesh))(batch["position"])
    names = clip_ids(jax.device_get(positions)[rows or slice(None)])
    named = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    if rows and len(rows) < size:
        return f"offending clips: {named}"
    return f"no single clip of the batch is to blame, it held: {named}"


def _search(rows: list[int], is_bad: Callable[[list[int]], bool]) -> list[int]:
    """The rows that are bad by themselves."""
    if not is_bad(rows):
        return []
    if len(rows) == 1:
        return rows
    middle = len(rows) // 2
    return _search(rows[:middle], is_bad) + _search(rows[middle:], is_bad)
