"""What a graph's file says of itself beside its operations: inputs, outputs, preprocessing, labels, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

import avemo_jax
from avemo_jax.convert.hicmae import StateDict
from avemo_jax.convert.huggingface.folder import model_config
from avemo_jax.errors import UserError

SIZES = ("frames", "image_size", "audio_frames", "mel_bins")
VECTORS = ("cat4", "video", "audio", "fused_video", "fused_audio", "audio_rows", "video_cells")
_LARGEST = 2_000_000_000  # bytes of weights: a protobuf message and a flatbuffer are shorter than 2^31
TOKENS = ("fused_video_tokens", "fused_audio_tokens")


def check_size(form: str, state: StateDict) -> None:
    """Raises a UserError for weights that one file of this form cannot hold."""
    size = sum(4 * array.size for array in state.values())
    if size > _LARGEST:
        raise UserError(
            f"a graph in one file ({form}) holds at most 2 GB and these weights are {size / 1e9:.1f} GB: use "
            "--format huggingface"
        )


def output_names(task: str) -> tuple[str, ...]:
    """Of a graph, in order: as in the Hugging Face folder."""
    return (*VECTORS, *TOKENS) if task == "pretrain" else ("logits", "feature")


def describe(
    config: ConfigDict, step: int, inputs: Mapping[str, str], decision: Mapping[str, Any] | None
) -> dict[str, Any]:
    """JSON values. `labels` and `head` (see `HiCMAEConfig`) are those of the Hugging Face folder."""
    about: dict[str, Any] = {
        "written_by": f"avemo_jax {avemo_jax.__version__}",
        "model": f"HiCMAE {config.size} {config.task}",
        "step": step,
        "inputs": dict(inputs),
        "outputs": list(output_names(config.task)),
        **{name: config.model[name] for name in SIZES},
        "frame_stride": config.data.frame_stride,
        "crop": config.data.crop,
    }
    if config.task == "finetune":
        folder = model_config(config, decision)
        about |= {"labels": list(folder["id2label"].values()), "head": folder["head"]}
        about["segments"] = config.views.segments
    return about
