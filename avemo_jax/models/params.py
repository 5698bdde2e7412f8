"""Parameters as a nested dict of arrays: what optimiser, checkpoint, sharding and conversion work on."""

from __future__ import annotations

from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

Params = dict[str, Any]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """A model as its static structure and its nested dict of arrays."""
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: nnx.GraphDef, params: Params) -> nnx.Module:
    """The model with these arrays; inverse of `split`."""
    return nnx.merge(graphdef, nnx.State(params))


def flatten(params: Params) -> dict[str, Array]:
    """`{"video/blocks/attn/qkv": array, …}`, in sorted order of paths."""
    return dict(sorted(flatten_dict(params, sep="/").items()))


def unflatten(flat: dict[str, Any]) -> Params:
    """Inverse of `flatten`."""
    return unflatten_dict(flat, sep="/")
