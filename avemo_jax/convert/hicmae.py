"""HiCMAE's parameter names and layouts beside ours: one table, read in both directions.

Reference: the state dicts of Sun et al. 2024, "HiCMAE", pretraining model and fine-tuning classifier, which
share the names of both encoders and the fusion. Depth, width and heads come from the shapes; nothing here
depends on a size. Files are `weight_files.py`'s business, the model in PyTorch `torch_model.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.convert import layout
from avemo_jax.convert.layout import Layout, Shape
from avemo_jax.errors import UserError
from avemo_jax.models.params import Params, flatten, unflatten

StateDict = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One parameter: `{layer}` in the reference's key numbers what is our array's leading axis."""

    key: str
    path: str
    layout: Layout
    first_layer: int = 0  # the reference's number of our layer 0

    @property
    def stack(self) -> str:
        """The reference's list of layers that the row belongs to; empty outside of one."""
        return self.key.partition("{layer}")[0] if "{layer}" in self.key else ""


def _norm(key: str, path: str) -> list[Row]:
    return [
        Row(f"{key}.weight", f"{path}/scale", layout.SAME),
        Row(f"{key}.bias", f"{path}/bias", layout.SAME),
    ]


def _linear(key: str, path: str, kernel: Layout = layout.LINEAR) -> list[Row]:
    return [Row(f"{key}.weight", f"{path}/kernel", kernel), Row(f"{key}.bias", f"{path}/bias", layout.SAME)]


# Registration order, as everywhere below: a module's own parameters, then its parts. Biases of queries and
# values and the layer scale (gamma) are there only in models that were built with them.
BLOCK = [
    Row("gamma_1", "gamma_1", layout.SAME),
    Row("gamma_2", "gamma_2", layout.SAME),
    *_norm("norm1", "norm1"),
    Row("attn.q_bias", "attn/q_bias", layout.HEADS_BIAS),
    Row("attn.v_bias", "attn/v_bias", layout.HEADS_BIAS),
    Row("attn.qkv.weight", "attn/qkv", layout.QKV),
    *_linear("attn.proj", "attn/out", layout.HEADS_OUT),
    *_norm("norm2", "norm2"),
    *_linear("mlp.fc1", "mlp/fc1"),
    *_linear("mlp.fc2", "mlp/fc2"),
]
CROSS_BLOCK = [
    Row("gamma_0", "gamma_0", layout.SAME),
    *BLOCK[:2],
    Row("cross_attn.q_bias", "cross_attn/q_bias", layout.HEADS_BIAS),
    Row("cross_attn.v_bias", "cross_attn/v_bias", layout.HEADS_BIAS),
    Row("cross_attn.q.weight", "cross_attn/q", layout.QUERY),
    Row("cross_attn.kv.weight", "cross_attn/kv", layout.QKV),
    *_linear("cross_attn.proj", "cross_attn/out", layout.HEADS_OUT),
    *_norm("cross_norm1", "cross_norm"),
    *_norm("cross_norm2", "context_norm"),
    *BLOCK[2:],
]


def _inside(key: str, path: str, rows: list[Row], first_layer: int = 0) -> list[Row]:
    return [Row(f"{key}.{row.key}", f"{path}/{row.path}", row.layout, first_layer) for row in rows]


def _encoder(key: str, path: str, patch: Layout) -> list[Row]:
    return [
        *_linear(f"{key}.patch_embed.proj", f"{path}/patch_embed", patch),
        *_inside(f"{key}.blocks.{{layer}}", f"{path}/blocks", BLOCK),
        *_norm(f"{key}.norm", f"{path}/norm"),
    ]


def _decoder(key: str, path: str) -> list[Row]:
    return [
        *_inside(f"{key}.blocks.0", f"{path}/first_block", BLOCK),
        *_inside(f"{key}.blocks.{{layer}}", f"{path}/blocks", CROSS_BLOCK, first_layer=1),
        *_norm(f"{key}.norm", f"{path}/norm"),
        *_linear(f"{key}.head", f"{path}/head"),
    ]


TABLE: list[Row] = [
    Row("mask_token", "video_decoder/mask_token", layout.TOKEN),
    Row("mask_token_audio", "audio_decoder/mask_token", layout.TOKEN),
    Row("video_layer_weights", "video_layer_weights", layout.SAME),
    Row("audio_layer_weights", "audio_layer_weights", layout.SAME),
    *_encoder("encoder", "video", layout.TUBELET_PATCH),
    *_decoder("decoder", "video_decoder"),
    Row("encoder_to_decoder.weight", "video_decoder/embed/kernel", layout.LINEAR),
    *_encoder("encoder_audio", "audio", layout.AUDIO_PATCH),
    *_decoder("decoder_audio", "audio_decoder"),
    Row("encoder_to_decoder_audio.weight", "audio_decoder/embed/kernel", layout.LINEAR),
    *_inside("encoder_fusion.blocks.{layer}", "fusion/video_blocks", CROSS_BLOCK),
    *_norm("encoder_fusion.norm", "fusion/video_norm"),
    *_inside("encoder_fusion.blocks_audio.{layer}", "fusion/audio_blocks", CROSS_BLOCK),
    *_norm("encoder_fusion.norm_audio", "fusion/audio_norm"),
    *_norm("fc_norm", "feature_norm"),
    *_linear("head", "head"),
]
SHARED = ("video", "audio", "fusion")  # our parts that pretraining hands to the classifier
_OURS_ALONE = ("contrast_scale",)  # parts that the reference has not, and no encoder or decoder needs


def check_method(config: ConfigDict) -> None:
    """Raises a UserError where the config is of another method or task, for which PyTorch knows no names."""
    if config.method != "hicmae":
        raise UserError(
            f"weights go to PyTorch and come from it for method hicmae only, and this is '{config.method}'; "
            "`avemo features` writes what it makes of clips"
        )
    if not config.model.get("decoder_skips", True):
        raise UserError(
            "weights go to PyTorch with HiCMAE's decoder, which looks at encoder layers, and this run has "
            "model.decoder_skips=False: fine-tune it first, the classifier has no decoder"
        )
    if config.task == "align_text":
        raise UserError(
            "weights go to PyTorch as a pretraining model or as a classifier, and this run was aligned with texts: "
            f"export its first stage ({config.init.checkpoint or 'init.checkpoint'}), or fine-tune it first"
        )
    if config.task == "several":
        raise UserError(
            "this run has a head for each of several folders: export heads/NAME in its work directory"
        )


def to_reference(params: Params) -> StateDict:
    """Our parameters under the reference's names and layouts, in its registration order."""
    arrays = {path: np.asarray(array) for path, array in flatten(their_part(params)).items()}
    return {
        tensor.key: tensor.layout.to_theirs(tensor.of(arrays[tensor.path]))
        for tensor in _tensors({path: array.shape for path, array in arrays.items()})
    }


def reference_shapes(expected: Params) -> dict[str, Shape]:
    """Names and shapes of the state dict that parameters like `expected` (anything with shapes) become."""
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(their_part(expected)).items()}
    return {tensor.key: tensor.their_shape for tensor in _tensors(shapes)}


def from_reference(state: Mapping[str, np.ndarray], expected: Params, source: str) -> Params:
    """A reference state dict as our parameters, float32 on the host.

    Args:
      state: arrays by the reference's names.
      expected: our parameters, or anything with their shapes (`jax.eval_shape`).
      source: where the weights come from, for the message.

    Raises:
      UserError: names that are missing or left over, or shapes that differ; lists the first of each.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in flatten(expected).items()}
    tensors = list(_tensors(shapes))
    _compare({tensor.key: tensor.their_shape for tensor in tensors}, state, source)
    arrays = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for tensor in tensors:
        ours = tensor.of(arrays[tensor.path])
        ours[...] = tensor.layout.to_ours(np.asarray(state[tensor.key], np.float32), ours.shape)
    return unflatten(arrays)


def their_part(params: Params) -> Params:
    """All but what the reference has not."""
    return {part: arrays for part, arrays in params.items() if part not in _OURS_ALONE}


def shared_part(params: Params) -> Params:
    """The encoders and the fusion: what fine-tuning takes over from pretraining."""
    return {part: params[part] for part in SHARED}


def shared_keys(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same part of a state dict."""
    keys = {row.key.split(".")[0] for row in TABLE if row.path.split("/")[0] in SHARED}
    return {key: value for key, value in state.items() if key.split(".")[0] in keys}


def task_of(names: Mapping[str, Any]) -> str | None:
    """Which of the two models a state dict is: "pretrain", "finetune", or None if neither."""
    if "mask_token" in names:
        return "pretrain"
    return "finetune" if "video_layer_weights" in names else None


@dataclass(frozen=True)
class _Tensor:
    """One entry of a state dict, and where it is here."""

    key: str
    path: str
    layer: int | None
    layout: Layout
    their_shape: Shape

    def of(self, array: np.ndarray) -> np.ndarray:
        """A view of the tensor's own part of our (stacked) array."""
        return array if self.layer is None else array[self.layer]


def _tensors(shapes: Mapping[str, Shape]) -> Iterator[_Tensor]:
    """Every tensor of the state dict that parameters of these shapes become, in the reference's order."""
    unknown = sorted(set(shapes) - {row.path for row in TABLE})
    if unknown:
        raise UserError(f"HiCMAE has no parameter like ours called {_first(unknown)}: this is another model")
    present = (row for row in TABLE if row.path in shapes)
    for stack, group in groupby(present, key=lambda row: row.stack):
        rows = list(group)
        layers = range(shapes[rows[0].path][0]) if stack else [None]
        for layer in layers:
            for row in rows:
                shape = shapes[row.path] if layer is None else shapes[row.path][1:]
                key = row.key if layer is None else row.key.format(layer=layer + row.first_layer)
                yield _Tensor(key, row.path, layer, row.layout, row.layout.their_shape(shape))


def _compare(wanted: Mapping[str, Shape], state: Mapping[str, np.ndarray], source: str) -> None:
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    differing = [
        f"{key} {list(state[key].shape)} for {list(shape)}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", missing),
            ("of another shape", differing),
            ("left over", unexpected),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{source}: weights that do not fit the config: of {len(wanted)} tensors {'; '.join(problems)}. "
            "Choose the config of the model that was saved (task, size, depths, classes)"
        )


def _first(names: list[str], limit: int = 4) -> str:
    more = f", … and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
