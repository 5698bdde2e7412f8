"""How a function of arrays says that clips stay divided over the mesh, without knowing the mesh."""

from __future__ import annotations

import jax
from jax import Array
from jax.sharding import PartitionSpec

CLIP_AXES = ("replica", "data", "fsdp")  # the mesh axes that divide the clips of a batch


def divided_by_clips(x: Array, axis: int = 0) -> Array:
    """`x`, whose dimension `axis` are the clips of the batch, kept divided as the batch is.

    Where weights are divided over `fsdp` the compiler has a choice: gather the weights, or divide the widths of
    activations and add up partial results. The second moves far more, so it is ruled out here. Other
    dimensions are left to the compiler. Outside a step that runs on a mesh this does nothing.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    free = PartitionSpec.UNCONSTRAINED
    spec = PartitionSpec(*(CLIP_AXES if i == axis else free for i in range(x.ndim)))
    return jax.lax.with_sharding_constraint(x, spec)
