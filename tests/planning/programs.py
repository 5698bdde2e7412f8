"""Small compiled programs that several tests read."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from avemo_jax.tasks.pretrain import Pretrain
from avemo_jax.training import mesh as mesh_lib

LAYERS, ROWS, WIDTH, HIDDEN = 5, 16, 24, 40


@functools.cache
def layers_over_fsdp() -> str:
    """The gradient of a scanned two-layer perceptron on 2 × 4 devices, its weights divided over fsdp 4."""
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 2, "fsdp": 4, "tensor": 1})
    rows = NamedSharding(mesh, P(mesh_lib.ROWS))
    stacked = {"up": P(None, "fsdp", None), "down": P(None, None, "fsdp")}
    weights = {name: NamedSharding(mesh, spec) for name, spec in stacked.items()}

    def loss(weights, x):
        def layer(x, weights):
            x = jax.lax.with_sharding_constraint(x, rows)
            return x + jnp.tanh(x @ weights["up"]) @ weights["down"], None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0] ** 2)

    shapes = {"up": (LAYERS, WIDTH, HIDDEN), "down": (LAYERS, HIDDEN, WIDTH)}
    structs = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    step = jax.jit(jax.grad(loss), in_shardings=(weights, rows), out_shardings=weights)
    return step.lower(structs, jax.ShapeDtypeStruct((ROWS, WIDTH), np.float32)).compile().as_text()


def drawn(compute, count: int):
    """`compute(choice, x)` of one of so many ratios, drawn as pretraining draws it: a function of x."""
    task = SimpleNamespace(config=SimpleNamespace(mask=SimpleNamespace(choices=(None,) * count)))
    task.choice = functools.partial(Pretrain.choice, task)
    return lambda x: Pretrain._at_some_ratio(task, lambda choice: compute(choice, x), jax.random.key(0))
