"""Text encoders as they are handed over by Hugging Face, for texts that stand still: no dropout.

BERT's (Devlin et al. 2019); RoBERTa's, the same with positions that begin later; MPNet's (Song et al. 2020), whose
attention also goes by how far apart tokens are; CLIP's (Radford et al. 2021), whose norms come before what they serve,
and whose tokens see only those before them. Functions of a dict of arrays and no module: nothing here is ever trained.
Not here: files and tokens (`avemo_jax.convert.text_tower`).

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
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}
BUCKETS = 32  # of distances between tokens, in MPNet


class Family(NamedTuple):
    """A kind of encoder: how Hugging Face calls its tensors, by our names, and in what it differs from BERT."""

    prefix: str  # before each name, in a model for another task
    tables: Mapping[str, str]
    norm: str  # of the embeddings; of the last layer where norms come first
    layer: str  # with a place for its number
    linear: Mapping[str, str]  # of a layer; [out, in]
    norms: Mapping[str, str]  # of a layer
    first_position: int | None = (
        0  # row of the position table that the first token takes; None: after the padding's
    )
    norm_first: bool = False
    causal: bool = False
    projection: str = ""  # of a text's vector, where the file has one
    defaults: Mapping[str, float | str] = {}  # what its config says without saying it


BERT = Family(
    prefix="bert.",
    tables={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "token_type": "embeddings.token_type_embeddings",
    },
    norm="embeddings.LayerNorm",
    layer="encoder.layer.{}.",
    linear={
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "out": "attention.output.dense",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    norms={"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"},
)
ROBERTA = BERT._replace(prefix="roberta.", first_position=None)
MPNET = BERT._replace(
    prefix="mpnet.",
    tables={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "distance": "encoder.relative_attention_bias",
    },
    linear={
        "query": "attention.attn.q",
        "key": "attention.attn.k",
        "value": "attention.attn.v",
        "out": "attention.attn.o",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    norms={"norm1": "attention.LayerNorm", "norm2": "output.LayerNorm"},
    first_position=2,
)
CLIP = Family(
    prefix="text_model.",
    tables={"word": "embeddings.token_embedding", "position": "embeddings.position_embedding"},
    norm="final_layer_norm",
    layer="encoder.layers.{}.",
    linear={
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "out": "self_attn.out_proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
    norms={"norm1": "layer_norm1", "norm2": "layer_norm2"},
    norm_first=True,
    causal=True,
    projection="text_projection",
    defaults={
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_hidden_layers": 12,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
)
FAMILIES = {  # by `model_type`
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "mpnet": MPNET,
    "clip_text_model": CLIP,
    "clip": CLIP,
}


class Sizes(NamedTuple):
    """What weights do not say."""

    heads: int
    layers: int
    epsilon: float  # of the layer norms
    activation: str  # of `ACTIVATIONS`
    first_position: int  # row of the position table that the first token takes
    norm_first: bool = False
    causal: bool = False


def names(family: Family, layers: int) -> list[str]:
    """Every tensor that an encoder must have, by its name in the file."""
    in_layer = (*family.linear.values(), *family.norms.values())
    each = [family.norm, *(family.layer.format(i) + name for i in range(layers) for name in in_layer)]
    tables = [f"{table}.weight" for table in family.tables.values()]
    return [*tables, *(f"{name}.{kind}" for name in each for kind in ("weight", "bias"))]


def from_huggingface(state: Mapping[str, np.ndarray], family: Family, layers: int) -> dict:
    """The parameters that `encode` takes, of tensors by the names of `names`: layers stacked, kernels [in, out]; and
    `projection` [C, E], where there is one."""

    def read(name: str) -> np.ndarray:
        return np.asarray(state[name], np.float32)

    def stack(name: str) -> np.ndarray:
        return np.stack([read(family.layer.format(i) + name) for i in range(layers)])

    linear = {
        ours: {"kernel": stack(f"{theirs}.weight").swapaxes(1, 2), "bias": stack(f"{theirs}.bias")}
        for ours, theirs in family.linear.items()
    }
    norms = {
        ours: {"scale": stack(f"{theirs}.weight"), "bias": stack(f"{theirs}.bias")}
        for ours, theirs in family.norms.items()
    }
    tables = {ours: read(f"{theirs}.weight") for ours, theirs in family.tables.items()}
    norm = {"scale": read(f"{family.norm}.weight"), "bias": read(f"{family.norm}.bias")}
    params: dict = {"tables": tables, "norm": norm, "layers": linear | norms}
    if (name := f"{family.projection}.weight") in state:
        params["projection"] = read(name).T
    return params


@partial(jax.jit, static_argnames="sizes")
def encode(params: dict, tokens: Array, mask: Array, *, sizes: Sizes) -> Array:
    """The last layer's tokens: int32 [B, T], bool [B, T] (false: padding, on the right) → float32 [B, T, C]."""
    with jax.default_matmul_precision("highest"):
        tables, count = params["tables"], tokens.shape[1]
        places = tables["position"][sizes.first_position : sizes.first_position + count]
        x = tables["word"][tokens] + places
        if "token_type" in tables:
            x += tables["token_type"][0]
        visible = mask[:, None, None, :]
        if sizes.causal:
            visible &= np.tri(count, dtype=bool)
        bias = jnp.where(visible, 0.0, -1e9)  # of the logits, [B, 1 or H, 1 or T, T]
        if "distance" in tables:
            bias += tables["distance"][buckets(count)].transpose(2, 0, 1)

        def before(x: Array, p: dict) -> Array:
            return _norm(x, p, sizes.epsilon) if sizes.norm_first else x

        def after(x: Array, p: dict) -> Array:
            return x if sizes.norm_first else _norm(x, p, sizes.epsilon)

        def layer(x: Array, p: dict) -> tuple[Array, None]:
            inner = before(x, p["norm1"])
            query, key, value = (
                _heads(_linear(inner, p[name]), sizes.heads) for name in ("query", "key", "value")
            )
            logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
            weights = jax.nn.softmax(logits + bias, axis=-1)
            seen = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
            x = after(x + _linear(seen, p["out"]), p["norm1"])
            inner = ACTIVATIONS[sizes.activation](_linear(before(x, p["norm2"]), p["fc1"]))
            return after(x + _linear(inner, p["fc2"]), p["norm2"]), None

        return before(jax.lax.scan(layer, after(x, params["norm"]), params["layers"])[0], params["norm"])


def buckets(count: int) -> np.ndarray:
    """MPNet's bucket of each distance between tokens, as in T5 (Raffel et al. 2020): int [T, T], from a row's token to
    a column's. Half of them are for tokens behind, half for those ahead; up to 7 each distance has its own, further
    ones share one by half an octave."""
    ahead = np.arange(count)[None, :] - np.arange(count)[:, None]
    far = np.abs(ahead)
    shared = 8 + (far[..., None] ** 2 >= 64 * 2 ** np.arange(1, 8)).sum(-1)
    return np.where(far < 8, far, shared) + BUCKETS // 2 * (ahead > 0)


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
