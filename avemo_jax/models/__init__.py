"""Models: layers → encoders → decoders → one file an assembly. `build` makes the one a config names.

An assembly is a module in this folder with `MODELS`, the class of each task. A config takes the one of its method's
name, or that `assembly` names: so several methods are one assembly with different values. `assembly` may also be a
Python file elsewhere. A class may have `complaints(config.model)`: what is wrong with the values that it reads.
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
from avemo_jax.models.contrast_scale import scale_complaints
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
    # What a class says of its own values is beside it, or nowhere: a file of one's own need not have it.
    complaints = _complaints(config)
    if hasattr(make, "complaints"):
        complaints += make.complaints(config.model)
    if complaints:
        raise UserError("config does not make a model: " + "; ".join(complaints))
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


def _complaints(config: ConfigDict) -> list[str]:
    """Of what any model may have; what it has not is not asked for."""
    model, found = config.model, []
    if config.dtype not in ("auto", "float32", "bfloat16"):
        found.append(f"dtype is '{config.dtype}', not auto, float32 or bfloat16")
    if config.remat not in ("none", "dots", "full"):
        found.append(f"remat is '{config.remat}', not none, dots or full")
    if "heads" in model and (model.heads < 1 or model.dim % model.heads):
        found.append(f"model.dim {model.dim} is not a multiple of model.heads {model.heads}")
    if model.get("depth", 1) < 1:
        found.append(f"model.depth {model.depth} must be at least 1")
    return found + scale_complaints(model)
