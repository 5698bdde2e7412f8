"""Models: layers → encoders → decoders → one file an assembly. `build` makes the one a config names.

An assembly is a module in this folder with `MODELS`, the class of each task. A config takes the one of its method's
name, or that `assembly` names: so several methods are one assembly with different values. `assembly` may also be a
Python file elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.models import attention
from avemo_jax.models.autoencoder import DECODERS
from avemo_jax.models.hicmae import HEAD_ACTIVATIONS
from avemo_jax.models.layers import GELUS, POSITIONS
from avemo_jax.models.streams import WEIGHTS
from input_pipeline import own_files

_FOLDER = Path(__file__).parent


def build(config: ConfigDict, key: jax.Array) -> nnx.Module:
    """The freshly initialised model of `config`; under `jax.eval_shape` its shapes alone.

    Raises:
      UserError: no such method or task, or sizes that do not fit together.
    """
    make = _models_of(config).get(config.task)
    if make is None:
        raise UserError(
            f"method '{config.method}' has no model for task '{config.task}': it has one for "
            f"{', '.join(_models_of(config))}"
        )
    _check_sizes(config)
    return make(
        config.model,
        dtype=compute_dtype(config),
        remat_policy=config.remat,
        attention=attention.choice(config),
        rngs=nnx.Rngs(params=key),
    )


def _models_of(config: ConfigDict) -> dict[str, Callable[..., nnx.Module]]:
    name = config.get("assembly") or config.method
    if name.endswith(own_files.ENDING):
        # As it stands where configs are read (`load_config`). A relative one would mean another file in another folder,
        # and what a checkpoint brings along is never run.
        if not Path(name).is_absolute():
            raise UserError(f"assembly {name} is not the whole path of a file")
        return own_files.load(name, f"assembly {name}", "MODELS").MODELS
    if (_FOLDER / f"{name}.py").is_file():
        module = importlib.import_module(f"avemo_jax.models.{name}")
        if hasattr(module, "MODELS"):
            return module.MODELS
    known = sorted(path.stem for path in _FOLDER.glob("*.py") if "\nMODELS = " in path.read_text())
    raise UserError(
        f"no model '{name}' (method '{config.method}'): there are {', '.join(known)}, or a file of your own, NAME.py"
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
    if model.heads < 1 or model.dim % model.heads:
        complaints.append(f"model.dim {model.dim} is not a multiple of model.heads {model.heads}")
    if config.dtype not in ("auto", "float32", "bfloat16"):
        complaints.append(f"dtype is '{config.dtype}', not auto, float32 or bfloat16")
    if config.remat not in ("none", "dots", "full"):
        complaints.append(f"remat is '{config.remat}', not none, dots or full")
    if model.depth < 1:
        complaints.append(f"model.depth {model.depth} must be at least 1")
    if config.task == "pretrain" and (model.decoder_heads < 1 or model.decoder_dim % model.decoder_heads):
        complaints.append(
            f"model.decoder_dim {model.decoder_dim} is not a multiple of model.decoder_heads {model.decoder_heads}"
        )
    if model.get("learned_temperature", 0.0) < 0:
        complaints.append(
            f"model.learned_temperature {model.learned_temperature} must be above 0, or 0 for none"
        )
    if model.get("learned_bias", 0.0) and not model.learned_temperature:
        complaints.append("model.learned_bias needs model.learned_temperature: without it there is no bias")
    complaints += _stream_complaints(model) if "modalities" in model else _hicmae_complaints(config)
    if complaints:
        raise UserError("config does not make a model: " + "; ".join(complaints))


def _hicmae_complaints(config: ConfigDict) -> list[str]:
    model, complaints = config.model, []
    if model.fusion_depth < 1:
        complaints.append(f"model.fusion_depth {model.fusion_depth} must be at least 1")
    if "head_activation" in model and model.head_activation not in HEAD_ACTIVATIONS:
        known = ", ".join(repr(name) for name in HEAD_ACTIVATIONS)
        complaints.append(f"model.head_activation is '{model.head_activation}', not one of {known}")
    if config.task == "pretrain":
        if model.get("decoder_skips", True) and len(model.skip_layers) != model.decoder_depth - 1:
            complaints.append(
                f"model.skip_layers {tuple(model.skip_layers)} must name model.decoder_depth − 1 = "
                f"{model.decoder_depth - 1} encoder layers"
            )
        if any(not 0 <= layer < model.depth for layer in model.skip_layers):
            complaints.append(
                f"model.skip_layers {tuple(model.skip_layers)} must lie in 0 … {model.depth - 1}"
            )
    return complaints


def _stream_complaints(model: ConfigDict) -> list[str]:
    """Of what `streams.StreamEncoder` reads."""
    complaints = []
    modalities = tuple(model.modalities)
    if modalities not in (("video", "audio"), ("video",), ("audio",)):
        complaints.append(f"model.modalities is {modalities}, not video, audio or video,audio")
    for key, known in (
        ("weights", WEIGHTS),
        ("positions", POSITIONS),
        ("decoder", DECODERS),
        ("gelu", GELUS),
    ):
        if key in model and model[key] not in known:
            complaints.append(f"model.{key} is '{model[key]}', not one of {', '.join(known)}")
    if model.joint_depth and len(modalities) < 2:
        complaints.append(
            f"model.joint_depth is {model.joint_depth}, and there is only {modalities[0]} to join: set it to 0, with "
            "joint_alone and joint_norms False, and add its layers to model.depth"
        )
    if "teacher_layers" in model:
        if not 1 <= model.teacher_layers <= model.depth:
            complaints.append(f"model.teacher_layers {model.teacher_layers} must lie in 1 … {model.depth}")
        if model.joint_depth:
            complaints.append(
                f"model.joint_depth is {model.joint_depth}, and what joins both would see what it is to predict"
            )
    one_sequence = model.get("decoder") == "joint" and len(modalities) == 2 and model.positions == "flat"
    if one_sequence and not (model.decoder_modality_tokens or model.decoder_own_entry):
        complaints.append(
            "model.decoder=joint cannot tell the hidden tokens of picture and sound apart: set "
            "model.decoder_modality_tokens or model.decoder_own_entry"
        )
    if (model.joint_alone or model.joint_norms) and not model.joint_depth:
        complaints.append("model.joint_alone and model.joint_norms need joint layers: model.joint_depth is 0")
    if model.positions == "grid" and (model.dim % 8 or model.get("decoder_dim", 0) % 8):
        complaints.append(
            "model.positions=grid needs model.dim and model.decoder_dim that are multiples of 8"
        )
    if window := tuple(model.get("decoder_window", ())):
        said = f"model.decoder_window is {window}"
        if "audio" not in modalities:
            complaints.append(f"{said}, and there is no sound to decode: windows are of time and frequency")
        elif len(modalities) > 1 and model.decoder != "separate":
            complaints.append(f"{said} and needs a decoder of the sound alone: model.decoder=separate")
    return complaints
