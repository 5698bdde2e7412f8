"""The loss of a batch and its gradients, at once or in microbatches. Pure; knows no method.

`config.accumulate` cuts a batch into so many microbatches that are computed one after the other and averaged:
the same gradients in less memory, where the loss is a mean over clips; where it is one over some of them, the task's
`before_cutting` says what each counts. A loss that compares clips with each other (contrast) sees only its microbatch
then, unless the task offers `pulled_loss`: GradCache (Gao et al. 2021).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from avemo_jax.batch import Batch
from avemo_jax.errors import UserError
from avemo_jax.models.params import Params, merge
from avemo_jax.sharding import divided_by_clips
from avemo_jax.training.mesh import rows_divisor


def loss_and_grads(
    task: Any,
    graphdef: nnx.GraphDef,
    params: Params,
    batch: Batch,
    key: Array,
    mesh: Mesh,
    average: Params | None = None,
    step: Array | None = None,
    teacher: Params | None = None,
) -> tuple[tuple[Array, dict[str, Array]], Params]:
    """((loss, terms), grads) of the task on one batch; the mesh is known to `avemo_jax.sharding` meanwhile.

    `average` is the moving average of the parameters, which a task that `learns_from_average` is given as a model;
    `step` is for one that `changes_with_step`, `teacher` holds the parameters of `frozen_teacher`.

    Raises:
      UserError: the batch does not cut into `config.accumulate` microbatches that the mesh can divide.
    """
    count = task.config.accumulate
    told = {"step": step} if getattr(task, "changes_with_step", False) else {}
    taught = {}
    if getattr(task, "learns_from_average", False) and average is not None:
        taught["teacher"] = merge(graphdef, average)
    elif teacher is not None:
        taught["teacher"] = merge(task.frozen_teacher.graphdef, teacher)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        if count == 1:
            return _at_once(task, graphdef, params, batch, key, taught | told)
        check_microbatches(len(next(iter(batch.values()))), count, rows_divisor(mesh))
        batch = getattr(task, "before_cutting", lambda batch: batch)(batch)
        parts = jax.tree.map(lambda field: _cut(field, count), batch)
        if getattr(task, "compares_whole_batch", False):
            return _cached(task, graphdef, params, parts, key, taught, told)
        return _mean(lambda part: _at_once(task, graphdef, params, part, key, taught | told), parts)


def check_microbatches(batch_size: int, count: int, devices: int) -> None:
    """Raises a UserError when a batch cannot be cut into `count` equal parts over `devices` parts of the mesh."""
    if count < 1 or batch_size % (count * devices):
        raise UserError(
            f"accumulate={count}: batch_size {batch_size} does not cut into {count} microbatches for {devices} "
            f"devices; make it a multiple of {max(count, 1) * devices}"
        )


def _at_once(task, graphdef, params, batch, key, given):
    return jax.value_and_grad(lambda p: task.loss(merge(graphdef, p), batch, key, **given), has_aux=True)(
        params
    )


def _cached(task, graphdef, params, parts, key, taught, told):
    """What clips are compared by is computed first, for all; then each microbatch is pulled the right way.

    With e the embeddings of all clips and L(e) their loss, ∂L/∂θ = Σ ∂L/∂e · ∂e/∂θ, and ∂L/∂e is known after the
    first pass. Twice the forward pass of the encoders, the memory of one microbatch.
    """
    count = len(next(iter(parts.values())))
    embeddings = jax.lax.map(
        lambda part: task.embeddings(merge(graphdef, params), part, key, **taught), parts
    )
    whole = jax.tree.map(_join, embeddings)
    (compared, terms), pulls = jax.value_and_grad(lambda of: task.comparison(of, **told), has_aux=True)(whole)
    pulls = jax.tree.map(lambda pull: _cut(pull * count, count), pulls)  # the mean is over microbatches

    def part_loss(params, part, pull):
        return task.pulled_loss(merge(graphdef, params), part, key, pull, **taught, **told)

    grad = jax.value_and_grad(part_loss, has_aux=True)
    (loss, more), grads = _mean(lambda both: grad(params, *both), (parts, pulls))
    return (loss + compared, terms | more), grads


def _mean(function, parts):
    """The mean of `function` over the leading axis of `parts`, one part after the other."""
    first = jax.tree.map(lambda field: field[0], parts)
    count = len(jax.tree.leaves(parts)[0])
    total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, first))
    add = lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None)  # noqa: E731
    total, _ = jax.lax.scan(add, total, parts)
    return jax.tree.map(lambda leaf: leaf / count, total)


def _cut(field: Array, count: int) -> Array:
    """[B, …] → [count, B / count, …]: every count-th clip, so that each device's clips stay where they are."""
    cut = field.reshape(-1, count, *field.shape[1:])
    return divided_by_clips(jnp.moveaxis(cut, 1, 0), axis=1)


def _join(parts: Array) -> Array:
    """Inverse of `_cut`."""
    return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])
