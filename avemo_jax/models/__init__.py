"""Models: layers → encoders → decoders → one file a method. `build` makes the one a config names."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.models import attention
from avemo_jax.models.hicmae import HEAD_ACTIVATIONS, HiCMAE, HiCMAEClassifier

_MODELS = {("hicmae", "pretrain"): HiCMAE, ("hicmae", "finetune"): HiCMAEClassifier}


def build(config: ConfigDict, key: jax.Array) -> nnx.Module:
    """The freshly initialised model of `config`; under `jax.eval_shape` its shapes alone.

    Raises:
      UserError: no such method or task, or sizes that do not fit together.
    """
    try:
        make = _MODELS[config.method, config.task]
    except KeyError:
        known = ", ".join(f"{method} ({task})" for method, task in _MODELS)
        raise UserError(
            f"no model for method '{config.method}', task '{config.task}': there are {known}"
        ) from None
    _check_sizes(config)
    return make(
        config.model,
        dtype=compute_dtype(config),
        remat_policy=config.remat,
        attention=attention.choice(config),
        rngs=nnx.Rngs(params=key),
    )


def compute_dtype(config: ConfigDict, platform: str = "") -> jnp.dtype:
    """The dtype of matrix products and activations; "auto" is bfloat16 on TPU and GPU, float32 on CPU.

    `platform` is where the program will run, if not on this process's own devices.
    """
    name = config.dtype
    if name == "auto":
        name = "float32" if (platform or jax.default_backend()) == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _check_sizes(config: ConfigDict) -> None:
    model = config.model
    complaints = []
    if model.dim % model.heads:
        complaints.append(f"model.dim {model.dim} is not a multiple of model.heads {model.heads}")
    if config.dtype not in ("auto", "float32", "bfloat16"):
        complaints.append(f"dtype is '{config.dtype}', not auto, float32 or bfloat16")
    if config.remat not in ("none", "dots", "full"):
        complaints.append(f"remat is '{config.remat}', not none, dots or full")
    if model.depth < 1 or model.fusion_depth < 1:
        complaints.append(
            f"model.depth {model.depth} and model.fusion_depth {model.fusion_depth} must be at least 1"
        )
    if config.task == "finetune" and model.head_activation not in HEAD_ACTIVATIONS:
        known = ", ".join(repr(name) for name in HEAD_ACTIVATIONS)
        complaints.append(f"model.head_activation is '{model.head_activation}', not one of {known}")
    if config.task == "pretrain":
        if model.decoder_dim % model.decoder_heads:
            complaints.append(
                f"model.decoder_dim {model.decoder_dim} is not a multiple of model.decoder_heads {model.decoder_heads}"
            )
        if len(model.skip_layers) != model.decoder_depth - 1:
            complaints.append(
                f"model.skip_layers {tuple(model.skip_layers)} must name model.decoder_depth − 1 = "
                f"{model.decoder_depth - 1} encoder layers"
            )
        if any(not 0 <= layer < model.depth for layer in model.skip_layers):
            complaints.append(
                f"model.skip_layers {tuple(model.skip_layers)} must lie in 0 … {model.depth - 1}"
            )
    if complaints:
        raise UserError("config does not make a model: " + "; ".join(complaints))
