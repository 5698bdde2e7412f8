"""What a training run carries from step to step, and how it comes into being already divided over the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from avemo_jax.models.params import Params, split
from avemo_jax.training import mesh as mesh_lib


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """One pytree; nothing in it knows the mesh, so it can be restored onto another one."""

    step: Array  # int32 [], steps done, skipped ones included
    bad_steps: Array  # int32 [], steps in a row, up to this one, whose update was skipped
    skipped_steps: Array  # int32 [], all skipped steps so far
    params: Params
    averaged: Params | None  # exponential moving average of params; None without `config.ema.decay`
    opt_state: Any


def run_keys(seed: int) -> tuple[Array, Array]:
    """(key of the initial parameters, key of the run); the key of step s, from 1, is `fold_in(run key, s - 1)`."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    return init_key, run_key


def abstract_params(task: Any, key: Array) -> tuple[nnx.GraphDef, Params]:
    """The model's static structure and its parameters as shapes; allocates nothing."""
    return split(nnx.eval_shape(lambda: task.init_model(key)))


def abstract_state(
    params: Params, optimizer: optax.GradientTransformation, *, average: bool = False
) -> TrainState:
    """The shapes of a whole state, from the shapes of its parameters; average: with a moving average of them."""
    return jax.eval_shape(lambda p: _at_start(p, optimizer, average), params)


def create_state(
    task: Any, optimizer: optax.GradientTransformation, key: Array, mesh: Mesh, *, average: bool = False
) -> TrainState:
    """A fresh state, computed where it will live: no device ever holds the whole of a divided array.

    Random numbers do not depend on the layout, so every mesh starts from the same parameters.
    """
    init = lambda key: _at_start(split(task.init_model(key))[1], optimizer, average)  # noqa: E731
    # On the CPU a program of many random draws takes minutes to optimise, and it runs once.
    options = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else None
    places = mesh_lib.shardings(jax.eval_shape(init, key), mesh)
    return jax.jit(init, out_shardings=places, compiler_options=options)(key)


def start_from(
    params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, *, average: bool = False
) -> TrainState:
    """A state at step 0 with these parameters, already on the mesh, and a fresh optimiser."""
    init = lambda params: _at_start(params, optimizer, average)  # noqa: E731
    return jax.jit(init, out_shardings=mesh_lib.shardings(jax.eval_shape(init, params), mesh))(params)


def with_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """The shapes of a state, each with its place on the mesh: what a checkpoint is restored onto."""
    place = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(place, state, mesh_lib.shardings(state, mesh))


def averaged(average: Params | None, params: Params, step: Array, decay: float) -> Params | None:
    """The moving average after an update that made `params`; None stays None.

    Early steps count for more, min(decay, (1 + s) / (10 + s)) at step s, so that short runs forget where they
    began (TensorFlow's ExponentialMovingAverage with num_updates).
    """
    if average is None:
        return None
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, average, params)


def _at_start(params: Params, optimizer: optax.GradientTransformation, average: bool) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        bad_steps=zero,
        skipped_steps=zero,
        params=params,
        averaged=jax.tree.map(jnp.copy, params) if average else None,  # both are given away at each step
        opt_state=optimizer.init(params),
    )
