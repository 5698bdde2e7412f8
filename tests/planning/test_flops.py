"""FLOPs of traced functions beside counts by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.config import load_config
from avemo_jax.planning.flops import traced_flops
from avemo_jax.planning.worker import as_written, trace_step
from avemo_jax.training import mesh as mesh_lib
from tests.planning import hicmae_flops
from tests.training.random_clips import SMALL

A, B = np.zeros((3, 5, 7), np.float32), np.zeros((3, 7, 11), np.float32)
PRODUCT = 2 * 3 * 5 * 7 * 11


def counted(function, *arguments):
    return traced_flops(jax.make_jaxpr(function)(*arguments))


def test_a_batched_product_is_two_for_each_multiplication():
    assert counted(jnp.matmul, A, B) == PRODUCT


def test_a_convolution_is_two_for_each_multiplication():
    image, kernel = np.zeros((2, 8, 8, 3), np.float32), np.zeros((3, 3, 3, 16), np.float32)

    def convolved(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert counted(convolved, image, kernel) == 2 * (2 * 6 * 6 * 16) * (3 * 3 * 3)


def test_the_body_of_a_scan_counts_as_often_as_it_runs_inside_jit_and_nested():
    @jax.jit
    def inner(x):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, length=4)[0]

    def outer(x):
        return jax.lax.scan(lambda y, _: (inner(y), None), x, length=3)[0]

    assert counted(outer, np.zeros((6, 6), np.float32)) == 3 * 4 * 2 * 6**3


def test_of_a_branch_the_larger_side_counts():
    x = np.zeros((6, 6), np.float32)
    assert (
        counted(lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x), x)
        == 2 * 2 * 6**3
    )


def test_the_backward_pass_is_twice_the_forward_pass_and_recomputing_is_counted():
    w, x = np.zeros((6, 6), np.float32), np.zeros((5, 6), np.float32)

    def loss(w, x, wrap):
        return jnp.sum(wrap(lambda w, x: jnp.sin(x @ w) @ w)(w, x))

    plain = counted(jax.grad(lambda w, x: loss(w, x, lambda f: f), argnums=(0, 1)), w, x)
    again = counted(jax.grad(lambda w, x: loss(w, x, jax.checkpoint), argnums=(0, 1)), w, x)
    forward = 2 * (2 * 5 * 6 * 6)
    assert plain == 3 * forward
    assert plain < again <= 4 * forward


@pytest.mark.parametrize("size", ["base", "huge"])
def test_the_models_flops_are_those_counted_by_hand(size):
    config = load_config(f"hicmae:{size}", ("batch_size=4",))
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    traced = traced_flops(trace_step(config, mesh)[0].jaxpr)
    by_hand = hicmae_flops.training_step(config)
    # Patches are given, so their embedding needs no gradient of its input: slightly less than by hand.
    assert 0.97 * by_hand <= traced <= by_hand


def test_of_a_batch_that_is_encoded_twice_to_be_contrasted_whole_one_pass_is_the_models():
    def flops(*overrides):
        config = load_config("hicmae:demo", (*SMALL, "batch_size=8", *overrides))
        mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
        return [traced_flops(trace_step(of, mesh)[0].jaxpr) for of in (config, as_written(config))]

    (whole, plain), (cached, cached_plain) = flops(), flops("accumulate=2", "contrast.cached=True")
    assert whole == plain == cached_plain
    assert cached > 1.2 * plain
