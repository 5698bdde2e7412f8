"""BERT's encoder (Devlin et al. 2019) as it is handed over by Hugging Face, for texts that stand still: no dropout.

A function of a dict of arrays and no module: nothing here is ever trained. RoBERTa's is the same with positions that
begin later. Not here: files and tokens (`avemo_jax.convert.text_tower`).

Sizes: B texts, T tokens, C width, H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}
# Of a layer: our name → that of Hugging Face, whose linear layers are [out, in].
_LINEAR = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
}
_NORMS = {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
_TABLES = ("word", "position", "token_type")


class Sizes(NamedTuple):
    """What weights do not say."""

    heads: int
    layers: int
    epsilon: float  # of the layer norms
    activation: str  # of `ACTIVATIONS`
    first_position: int  # row of the position table that the first token takes


def names(layers: int) -> list[str]:
    """Every tensor that is read, by its name in the file."""
    layer = [
        f"{name}.{kind}" for name in (*_LINEAR.values(), *_NORMS.values()) for kind in ("weight", "bias")
    ]
    of_layers = [f"encoder.layer.{index}.{name}" for index in range(layers) for name in layer]
    tables = [f"embeddings.{table}_embeddings.weight" for table in _TABLES]
    return [*tables, "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias", *of_layers]


def from_huggingface(state: Mapping[str, np.ndarray], layers: int) -> dict:
    """The parameters that `encode` takes, of tensors by the names of `names`: layers stacked, kernels [in, out]."""

    def stack(name: str) -> np.ndarray:
        return np.stack([np.asarray(state[f"encoder.layer.{i}.{name}"], np.float32) for i in range(layers)])

    linear = {
        ours: {"kernel": stack(f"{theirs}.weight").swapaxes(1, 2), "bias": stack(f"{theirs}.bias")}
        for ours, theirs in _LINEAR.items()
    }
    norms = {
        ours: {"scale": stack(f"{theirs}.weight"), "bias": stack(f"{theirs}.bias")}
        for ours, theirs in _NORMS.items()
    }
    tables = {
        table: np.asarray(state[f"embeddings.{table}_embeddings.weight"], np.float32) for table in _TABLES
    }
    norm = {
        ours: np.asarray(state[f"embeddings.LayerNorm.{theirs}"], np.float32)
        for ours, theirs in (("scale", "weight"), ("bias", "bias"))
    }
    return {"tables": tables, "norm": norm, "layers": linear | norms}


@partial(jax.jit, static_argnames="sizes")
def encode(params: dict, tokens: Array, mask: Array, *, sizes: Sizes) -> Array:
    """The last layer's tokens: int32 [B, T], bool [B, T] (false: padding, on the right) → float32 [B, T, C]."""
    with jax.default_matmul_precision("highest"):
        tables, count = params["tables"], tokens.shape[1]
        places = tables["position"][sizes.first_position : sizes.first_position + count]
        x = tables["word"][tokens] + places + tables["token_type"][0]
        x = _norm(x, params["norm"], sizes.epsilon)
        hidden = jnp.where(mask, 0.0, -1e9)[:, None, None, :]

        def layer(x: Array, p: dict) -> tuple[Array, None]:
            query, key, value = (
                _heads(_linear(x, p[name]), sizes.heads) for name in ("query", "key", "value")
            )
            logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
            weights = jax.nn.softmax(logits + hidden, axis=-1)
            seen = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
            x = _norm(x + _linear(seen, p["out"]), p["norm1"], sizes.epsilon)
            inner = ACTIVATIONS[sizes.activation](_linear(x, p["fc1"]))
            return _norm(x + _linear(inner, p["fc2"]), p["norm2"], sizes.epsilon), None

        return jax.lax.scan(layer, x, params["layers"])[0]


def _linear(x: Array, p: dict) -> Array:
    return x @ p["kernel"] + p["bias"]


def _heads(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:2], heads, -1)


def _norm(x: Array, p: dict, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + epsilon) * p["scale"]
        + p["bias"]
    )
