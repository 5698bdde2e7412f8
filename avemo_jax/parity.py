"""This build against numbers recorded from the PyTorch reference.

A fixture is a PREFIX: `PREFIX_info.json` (hyper-parameters and loss settings), `PREFIX_weights.safetensors`
(reference names), `PREFIX_io.npz` (inputs, masks, expected arrays) and, where gradients were recorded,
`PREFIX_grads.safetensors`. The model is built from the info file alone, for any sizes in it; forward and
backward run in float32 with exact matrix products. An array that the fixture does not have is not compared,
so weights and inputs alone are a way to run a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Clip, Masks
from avemo_jax.config import run_defaults
from avemo_jax.convert import hicmae
from avemo_jax.errors import UserError
from avemo_jax.models.params import Params, merge, split
from avemo_jax.objectives.contrastive import contrast_logits
from avemo_jax.objectives.supervised import cross_entropy, mean_squared_error
from avemo_jax.tasks.pretrain import Pretrain

Arrays = dict[str, np.ndarray]


class Row(NamedTuple):
    """One compared array."""

    name: str
    max_abs: float  # largest absolute difference
    max_rel: float  # the same over the largest expected magnitude
    ok: bool


def run(prefix: str) -> tuple[list[Row], Arrays]:
    """Compares everything that the fixture expects and this build computes.

    Returns:
      One row an array, and all computed arrays (gradients as `grad/<reference key>`).

    Raises:
      UserError: a file that is missing or unreadable, hyper-parameters that make no model, weights of other
        names or shapes, masks of unequal counts.
    """
    info, arrays = _read_info(prefix), _read_arrays(prefix)
    compute = _pretraining if "ddim" in info["config"] else _classifier
    with jax.default_matmul_precision("highest"):
        computed = compute(prefix, info, arrays)
    rows = [
        _compare(name, computed[name], expected, _limit(name, expected))
        for name, expected in arrays.items()
        if name in computed and not name.startswith("grad/")
    ]
    noise = info.get("grad_fp64", {})
    for key, expected in _read_tensors(f"{prefix}_grads.safetensors", optional=True).items():
        if f"grad/{key}" not in computed:
            raise UserError(
                f"{prefix}_grads.safetensors holds a gradient for '{key}', which the model does not have"
            )
        peak = _peak(expected)
        recorded = noise.get(key, {}).get("max_abs_fp32_minus_fp64")
        limit = 1e-5 * peak if recorded is None else 8 * recorded + 2e-6 * peak
        rows.append(_compare(f"grad/{key}", computed[f"grad/{key}"], expected, limit))
    return rows, computed


def _pretraining(prefix: str, info: dict, arrays: Arrays) -> Arrays:
    settings, engine = info["config"], info["engine"]
    config = _shared_config(prefix, settings)
    config.task = "pretrain"
    config.model.update(
        decoder_dim=settings["ddim"],
        decoder_heads=settings["dheads"],
        decoder_depth=settings["ddepth"],
        skip_layers=tuple(settings["skip"]),
    )
    weight = engine.get("target_diff_weight")
    config.target = ConfigDict(
        {
            "normalize_video": engine.get("normlize_target", True),
            "normalize_audio": engine.get("normlize_target_audio", True),
            "frame_difference": engine.get("use_frame_diff_as_target", True),
            "frame_group": engine.get("frame_diff_group_size", 2),
            "difference_weight": -1.0 if weight is None else float(weight),
        }
    )
    config.contrast = ConfigDict(
        {
            "weight": float(engine.get("loss_weight", 0.0025)),
            "temperature": float(engine.get("temperature", 0.07)),
            "negatives": "global",
            "group_size": 0,
            "chunk": 0,
            "cached": False,
        }
    )
    task = Pretrain(config)
    graphdef, params = _load(prefix, config)
    clip = _clip(prefix, arrays)
    masks = Masks(*(masking.from_boolean(_need(prefix, arrays, f"mask_{m}")) for m in ("video", "audio")))
    targets = task.targets(clip, masks)

    def objective(params):
        outputs = merge(graphdef, params)(clip, masks)
        loss, metrics = task.score(outputs, targets)
        compared = task.compared_by(outputs, targets)
        contrast = task.comparison(compared)[1]  # as a term, even where its weight is 0
        return loss, (outputs, metrics, contrast)

    (loss, (outputs, metrics, contrast)), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    logits = contrast_logits(
        outputs.video_levels, outputs.audio_levels, config.contrast.temperature, "global", 0
    )[:, 0]
    match = jnp.arange(logits.shape[-1])
    by_direction = jnp.stack(
        [-jax.nn.log_softmax(logits, axis)[:, match, match].mean(-1) for axis in (-1, -2)], axis=1
    )
    errors = np.square(np.float64(outputs.video_prediction) - np.float64(targets.video))
    first, second = (half.mean() for half in np.split(errors, 2, axis=-1))
    return _host(
        {
            "pred_video": outputs.video_prediction,
            "pred_audio": outputs.audio_prediction,
            "target_video": targets.video,
            "target_audio": targets.audio,
            "logits_per_video": logits,
            "logits_per_audio": logits.swapaxes(1, 2),
            "loss_video": metrics["loss_video"],
            "loss_audio": metrics["loss_audio"],
            "loss_hcmcl": contrast.get("loss_contrast", 0.0),
            "loss_total": loss,
            "loss_ce": by_direction.reshape(-1),
            "loss_video_frame0": first,
            "loss_video_framediff": second,
            "loss_org": first,
            "loss_diff": second,
            "act/decoder#0": outputs.video_prediction,
            "act/decoder_audio#0": outputs.audio_prediction,
        }
    ) | _gradients(grads)


def _classifier(prefix: str, info: dict, arrays: Arrays) -> Arrays:
    settings = info["config"]
    regression = settings.get("task", info.get("task")) == "regression"
    config = _shared_config(prefix, settings)
    config.task = "finetune"
    activation = settings.get("head_act", info.get("head_act")) or ""
    config.model.update(
        classes=settings["classes"], head_activation="" if activation == "identity" else activation
    )
    graphdef, params = _load(prefix, config)
    clip = _clip(prefix, arrays)
    target = arrays.get("target")

    def forward(params):
        model = merge(graphdef, params)
        outputs, feature = model(clip)
        return outputs, feature, model.head(feature), model.encode(clip)

    def criterion(outputs, target, **options):
        return (
            mean_squared_error(outputs, target) if regression else cross_entropy(outputs, target, **options)
        )

    outputs, feature, head, tokens = jax.jit(forward)(params)
    computed = {
        "logits": outputs,
        "feature_fc_norm": feature,
        "act/fc_norm#0": feature,
        "act/head#0": head,
        "act/encoder#0": jnp.moveaxis(tokens.video_layers, 0, 2),
        "act/encoder_audio#0": jnp.moveaxis(tokens.audio_layers, 0, 2),
        "act/encoder_fusion.out0#0": tokens.fused_video,
        "act/encoder_fusion.out1#0": tokens.fused_audio,
    }
    if target is None:
        return _host(computed)
    wanted = jnp.asarray(target, jnp.float32 if regression else jnp.int32)
    loss, grads = jax.jit(jax.value_and_grad(lambda params: criterion(forward(params)[0], wanted)))(params)
    computed["loss"] = loss
    if not regression:
        slope = jax.grad(lambda outputs: criterion(outputs, wanted, smoothing=0.1))
        computed["dlogits_label_smoothing_0p1"] = slope(outputs)
        if "soft_target_lam0p37_smooth0p1" in arrays:
            soft = jnp.asarray(arrays["soft_target_lam0p37_smooth0p1"])
            computed["dlogits_soft_target"] = jax.grad(criterion)(outputs, soft)
    return _host(computed) | _gradients(grads)


def _shared_config(prefix: str, settings: dict) -> ConfigDict:
    """The part of the config that both kinds of fixture have."""
    try:
        audio_frames, mels = settings["audio"]
        sizes = {
            "dim": settings["dim"],
            "heads": settings["heads"],
            "depth": settings["depth"],
            "fusion_depth": settings["fdepth"],
            "drop_path": 0.0,
            "frames": settings["frames"],
            "image_size": settings["img"],
            "audio_frames": audio_frames,
            "mel_bins": mels,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{prefix}_info.json: its 'config' lacks or garbles {error}") from error
    config = run_defaults()
    config.method, config.dtype, config.model = "hicmae", "float32", ConfigDict(sizes)
    frontend.video_grid(config.model.frames, config.model.image_size)
    frontend.audio_grid(audio_frames, mels)
    return config


def _load(prefix: str, config: ConfigDict) -> tuple[nnx.GraphDef, Params]:
    """The model's structure and the fixture's weights, strictly."""
    graphdef, shapes = split(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))
    path = f"{prefix}_weights.safetensors"
    return graphdef, jax.tree.map(jnp.asarray, hicmae.from_reference(_read_tensors(path), shapes, path))


def _clip(prefix: str, arrays: Arrays) -> Clip:
    """The recorded inputs, channel-last."""
    if "video" in arrays:
        video = jnp.asarray(arrays["video"], jnp.float32).transpose(0, 2, 3, 4, 1)
    else:
        pixels = _need(prefix, arrays, "video_u8")
        video = frontend.normalise_video(jnp.asarray(pixels).transpose(0, 2, 3, 4, 1))
    return Clip(video, jnp.asarray(_need(prefix, arrays, "audio"), jnp.float32)[:, 0])


def _gradients(grads: Params) -> Arrays:
    by_key = {f"grad/{key}": array for key, array in hicmae.to_reference(grads).items()}
    total = np.sqrt(sum(np.square(np.float64(array)).sum() for array in by_key.values()))
    return by_key | {"grad_norm_total": total}


def _host(computed: dict[str, Any]) -> Arrays:
    return {name: np.asarray(array) for name, array in computed.items()}


def _limit(name: str, expected: np.ndarray) -> float:
    if name.startswith("loss") or name == "grad_norm_total":
        return 1e-6 * _peak(expected)
    return 2e-5 * max(1.0, _peak(expected))


def _compare(name: str, computed: np.ndarray, expected: np.ndarray, limit: float) -> Row:
    if computed.shape != expected.shape:
        return Row(name, float("inf"), float("inf"), False)
    difference = float(np.max(np.abs(np.float64(computed) - np.float64(expected)), initial=0.0))
    relative = difference / peak if (peak := _peak(expected)) else difference
    return Row(name, difference, relative, bool(difference <= limit))


def _peak(array: np.ndarray) -> float:
    return float(np.max(np.abs(np.float64(array)), initial=0.0))


def _read_info(prefix: str) -> dict:
    info = _read(Path(f"{prefix}_info.json"), lambda path: json.loads(path.read_text()))
    if not isinstance(info.get("config"), dict) or ("ddim" in info["config"] and "engine" not in info):
        raise UserError(f"{prefix}_info.json has no 'config' (and for pretraining 'engine'): not a fixture")
    if "ddim" not in info["config"] and "classes" not in info["config"]:
        raise UserError(
            f"{prefix}_info.json: 'config' has neither 'ddim' (pretraining) nor 'classes' (fine-tuning)"
        )
    return info


def _read_arrays(prefix: str) -> Arrays:
    return _read(Path(f"{prefix}_io.npz"), lambda path: dict(np.load(path, allow_pickle=False)))


def _read_tensors(path: str, optional: bool = False) -> Arrays:
    return {} if optional and not Path(path).exists() else _read(Path(path), load_file)


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"no fixture file {path}: --fixture takes the part before _info.json") from None
    except (OSError, ValueError, EOFError, KeyError, SafetensorError) as error:
        raise UserError(f"fixture file {path} cannot be read: {error}") from error


def _need(prefix: str, arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{prefix}_io.npz has no array '{name}', which this kind of fixture needs")
    return arrays[name]
