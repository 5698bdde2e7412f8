"""The compiled training step: forward, backward, guard, update. Pure; knows no method.

A step whose loss or gradients are not finite changes nothing but its counters; what happens after several of
them is decided by the loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from avemo_jax.batch import Batch
from avemo_jax.models.params import Params
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.gradients import loss_and_grads
from avemo_jax.training.optimizer import make_optimizer
from avemo_jax.training.schedules import Schedules
from avemo_jax.training.state import TrainState, averaged

Metrics = dict[str, Array]


class Given(NamedTuple):
    """What every step of a run is given: arguments of its program, which changes none of them."""

    run_bits: Array | np.ndarray  # uint32 [2], the run key's, as a checkpoint keeps them
    schedules: Schedules
    teacher: Params | None = None  # of a task that learns from a frozen one


def make_step(
    task: Any,
    graphdef: nnx.GraphDef,
    state: TrainState,
    batch: Batch,
    given: Given,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """`step(state, batch, given) -> (state, metrics)`, jitted; the old state is given away.

    Metrics are float32 or int32 scalars, the same on every device: the loss, the task's terms, `grad_norm`,
    `learning_rate`, `bad_steps`, `skipped_steps`.
    """

    def step(state: TrainState, batch: Batch, given: Given) -> tuple[TrainState, Metrics]:
        key = _step_key(given, state.step)
        (loss, terms), grads = loss_and_grads(
            task, graphdef, state.params, batch, key, mesh, state.averaged, state.step, given.teacher
        )
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        optimizer = make_optimizer(task.config, state.params, given.schedules)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        keep_if_bad = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)  # noqa: E731
        params = keep_if_bad(params, state.params)
        average = averaged(state.averaged, params, state.step, task.config.ema.decay)
        new_state = TrainState(
            step=state.step + 1,
            bad_steps=jnp.where(good, 0, state.bad_steps + 1),
            skipped_steps=state.skipped_steps + ~good,
            params=params,
            averaged=keep_if_bad(average, state.averaged),
            opt_state=keep_if_bad(opt_state, state.opt_state),
        )
        metrics = {
            "loss": loss,
            **terms,
            "grad_norm": grad_norm,
            # The schedule counts updates, as the optimiser does, so skipped steps do not move it.
            "learning_rate": given.schedules.learning_rate(state.step - state.skipped_steps),
            "bad_steps": new_state.bad_steps,
            "skipped_steps": new_state.skipped_steps,
        }
        return new_state, metrics

    state_shardings, whole = mesh_lib.shardings(state, mesh), mesh_lib.replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(
            state_shardings,
            mesh_lib.batch_shardings(batch, mesh),
            mesh_lib.shardings(given, mesh),
        ),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )


def make_check(task: Any, graphdef: nnx.GraphDef, params: Params, batch: Batch, given: Given, mesh: Mesh):
    """`check(params, batch, rows, step, given) -> bool []`: are loss and gradients finite on these clips only?

    Who learns from the average of the parameters learns from these here: what breaks a step breaks this one too.

    `rows` int32 [B] are the clips to put in the batch's places, repeated to fill it, so that one compiled
    program serves to search for the clip that breaks a step.
    """

    def check(params: Params, batch: Batch, rows: Array, step: Array, given: Given) -> Array:
        batch = jax.tree.map(lambda field: jnp.take(field, rows, axis=0), batch)
        key = _step_key(given, step)
        (loss, _), grads = loss_and_grads(
            task, graphdef, params, batch, key, mesh, params, step, given.teacher
        )
        return jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(grads))

    whole = mesh_lib.replicated(mesh)
    places, given_places = mesh_lib.shardings(params, mesh), mesh_lib.shardings(given, mesh)
    placed = (places, mesh_lib.batch_shardings(batch, mesh), whole, whole, given_places)
    return jax.jit(check, in_shardings=placed, out_shardings=whole)


def _step_key(given: Given, step: Array) -> Array:
    return jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(given.run_bits)), step)
