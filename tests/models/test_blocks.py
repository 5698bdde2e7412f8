"""Every block beside the numbers recorded from the PyTorch reference: outputs and all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avemo_jax.convert import layout
from avemo_jax.convert.hicmae import BLOCK, CROSS_BLOCK
from avemo_jax.frontend import patchify_audio, patchify_video
from avemo_jax.models.layers import (
    Block,
    CrossAttention,
    CrossBlock,
    LayerNorm,
    Linear,
    Mlp,
    SelfAttention,
    position_table,
    torch_uniform,
)
from avemo_jax.models.params import flatten, merge, split, unflatten
from tests.golden_weights import GOLDEN

DIM, HEADS, CONTEXT = 32, 4, 48
RECORDED = np.load(GOLDEN / "blocks.npz")
# tag → (module, rows of the conversion table, what those rows prefix their names with)
MODULES = {
    "attn": (lambda rngs: SelfAttention(DIM, HEADS, rngs=rngs), BLOCK, ("attn.", "attn/")),
    "cross": (
        lambda rngs: CrossAttention(DIM, HEADS, context_dim=DIM, rngs=rngs),
        CROSS_BLOCK,
        ("cross_attn.", "cross_attn/"),
    ),
    "cross_ctx": (
        lambda rngs: CrossAttention(DIM, HEADS, context_dim=CONTEXT, rngs=rngs),
        CROSS_BLOCK,
        ("cross_attn.", "cross_attn/"),
    ),
    "mlp": (lambda rngs: Mlp(DIM, rngs=rngs), BLOCK, ("mlp.", "mlp/")),
    "ln": (lambda rngs: LayerNorm(DIM), BLOCK, ("norm1.", "norm1/")),
    "block": (lambda rngs: Block(DIM, HEADS, rngs=rngs), BLOCK, ("", "")),
    "block_nobias": (lambda rngs: Block(DIM, HEADS, bias=False, rngs=rngs), BLOCK, ("", "")),
    "csblock": (lambda rngs: CrossBlock(DIM, HEADS, context_dim=DIM, rngs=rngs), CROSS_BLOCK, ("", "")),
    "csblock_ctx_gamma": (
        lambda rngs: CrossBlock(DIM, HEADS, context_dim=CONTEXT, layer_scale=0.1, rngs=rngs),
        CROSS_BLOCK,
        ("", ""),
    ),
}


def recorded(tag, part):
    return {
        key.removeprefix(f"{tag}/{part}/"): RECORDED[key]
        for key in RECORDED.files
        if key.startswith(f"{tag}/{part}/")
    }


@pytest.mark.parametrize("tag", MODULES)
def test_block_gives_the_recorded_output_and_gradients(tag):
    make, rows, (their_prefix, our_prefix) = MODULES[tag]
    graphdef, params = split(make(nnx.Rngs(0)))
    ours = flatten(params)
    weights = recorded(tag, "w")
    table = {row.key.removeprefix(their_prefix): row for row in rows if row.key.startswith(their_prefix)}
    loaded = {}
    for key, array in weights.items():
        path = table[key].path.removeprefix(our_prefix)
        loaded[path] = table[key].layout.to_ours(array, ours[path].shape)
    assert sorted(loaded) == sorted(ours)
    inputs = [jnp.asarray(RECORDED[f"{tag}/in{i}"]) for i in range(2) if f"{tag}/in{i}" in RECORDED.files]

    def scalar(params, *inputs):
        output = merge(graphdef, params)(*inputs)
        return jnp.sum(output * RECORDED[f"{tag}/cotangent"]), output

    with jax.default_matmul_precision("highest"):
        grads, output = jax.grad(scalar, argnums=tuple(range(len(inputs) + 1)), has_aux=True)(
            unflatten(loaded), *inputs
        )
    close(output, RECORDED[f"{tag}/out"])
    for i, slope in enumerate(grads[1:]):
        close(slope, RECORDED[f"{tag}/din{i}"])
    slopes = flatten(grads[0])
    for key, expected in recorded(tag, "dw").items():
        row = table[key]
        close(row.layout.to_theirs(np.asarray(slopes[row.path.removeprefix(our_prefix)])), expected)


@pytest.mark.parametrize(
    ("tag", "patchify", "rule"),
    [
        ("patch3d", lambda x: patchify_video(x.transpose(0, 2, 3, 4, 1)), layout.TUBELET_PATCH),
        ("patch2d", lambda x: patchify_audio(x[:, 0]), layout.AUDIO_PATCH),
    ],
)
def test_patch_embedding_is_the_recorded_convolution(tag, patchify, rule):
    weight = RECORDED[f"{tag}/w/proj.weight"]
    patch = int(np.prod(weight.shape[1:]))
    module = Linear(patch, DIM, init=torch_uniform(patch), rngs=nnx.Rngs(0))
    module.kernel[...] = jnp.asarray(rule.to_ours(weight, (patch, DIM)))
    module.bias[...] = jnp.asarray(RECORDED[f"{tag}/w/proj.bias"])
    with jax.default_matmul_precision("highest"):
        close(module(patchify(RECORDED[f"{tag}/in0"])), RECORDED[f"{tag}/out"])


@pytest.mark.parametrize("name", [key for key in RECORDED.files if key.startswith("sinusoid")])
def test_position_table_is_the_recorded_one(name):
    tokens, dim = map(int, name.split("/")[1].split("_")[0].split("x"))
    table, expected = position_table(tokens, dim), RECORDED[name]
    if name.startswith("sinusoid_slice"):
        table = table[[0, 1, min(399, tokens - 1), tokens - 1]]
    elif expected.shape[-1] != dim:
        table = table[:, ::16]
    np.testing.assert_allclose(table, expected.reshape(table.shape), atol=1e-7)


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, atol=5e-6 * max(1.0, np.abs(expected).max()), rtol=0)
