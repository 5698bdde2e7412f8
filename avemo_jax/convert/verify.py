"""Exported weights in the PyTorch model against the JAX model they came from, on random clips."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Clip, Masks
from avemo_jax.convert.hicmae import StateDict
from avemo_jax.convert.weight_files import import_torch
from avemo_jax.evaluation import features
from avemo_jax.models.params import Params, merge, split
from avemo_jax.models.positions import in_words

LIMIT = 2e-5  # times max(1, largest output): float32 rounding through some thirty layers
_CLIPS = 2


class Difference(NamedTuple):
    """How far apart the two models are in one output."""

    name: str
    max_abs: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.max_abs <= self.limit and self.max_abs < math.inf  # not so for NaN


def verify(state: StateDict, config: ConfigDict, params: Params) -> list[Difference]:
    """Runs `state` in PyTorch (loaded strictly) and `params` in JAX, in float32, on the same random clips.

    Args:
      state: arrays by the reference's names, for instance read back from an exported file.
      config: the run's, with `task` and `model`; pretraining also has `mask`.
      params: ours.
    """
    torch = import_torch()
    sizes = config.model
    rng = np.random.default_rng(0)
    clip = random_clips(sizes, rng)
    their_clip = [torch.from_numpy(array) for array in as_torch(clip)]

    rebuild = model_in_float32(config)
    run = jax.jit(lambda params, *inputs: rebuild(params)(*inputs))
    twin = torch_twin(config)
    twin.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=True)
    with jax.default_matmul_precision("highest"), torch.inference_mode():
        if config.task == "pretrain":
            video_tokens = math.prod(frontend.video_grid(sizes.frames, sizes.image_size))
            audio_tokens = math.prod(frontend.audio_grid(sizes.audio_frames, sizes.mel_bins))
            masks = (
                _random_mask(rng, video_tokens, config.mask.video_ratio),
                _random_mask(rng, audio_tokens, config.mask.audio_ratio),
            )
            ours = run(params, clip, Masks(*map(masking.from_boolean, masks)))._asdict()
            theirs = twin(*their_clip, *map(torch.from_numpy, masks))._asdict()
        else:
            names = ("logits", "feature")
            ours = dict(zip(names, run(params, clip), strict=True))
            theirs = dict(zip(names, twin(*their_clip), strict=True))
    return [difference(name, ours[name], theirs[name].numpy()) for name in theirs]


def random_clips(sizes: ConfigDict, rng: np.random.Generator) -> Clip:
    """Some clips of noise of a model's sizes."""
    video = rng.standard_normal((_CLIPS, sizes.frames, sizes.image_size, sizes.image_size, 3), np.float32)
    audio = rng.standard_normal((_CLIPS, sizes.audio_frames, sizes.mel_bins), np.float32)
    return Clip(jnp.asarray(video), jnp.asarray(audio))


def as_torch(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Video [B, 3, T, H, W] and audio [B, 1, frames, mels], as PyTorch's layers take them."""
    video, audio = np.asarray(clip.video), np.asarray(clip.audio)
    return video.transpose(0, 4, 1, 2, 3).copy(), audio[:, None].copy()  # JAX's own cannot be written to


def model_in_float32(config: ConfigDict) -> Callable[[Params], Any]:
    """Makes the model of a config from its parameters, to compute in float32 whatever the config says."""
    config = copy.deepcopy(config)
    config.dtype = "float32"
    graphdef = split(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))[0]
    return partial(merge, graphdef)


def named_outputs(model: Any, clip: Clip, config: ConfigDict) -> dict[str, jax.Array]:
    """All that exported models return for whole clips, under their names: vectors and tokens of an encoder, logits and
    feature of a classifier."""
    if config.task == "finetune":
        return dict(zip(("logits", "feature"), model(clip), strict=True))
    tokens = model.encode(clip)
    weights = features.layer_weights({}, config.model)
    return {
        **features.pool(tokens, weights, features.default(config.model), config.model),
        "video_hidden_states": tokens.video_layers,
        "audio_hidden_states": tokens.audio_layers,
        "fused_video_tokens": tokens.fused_video,
        "fused_audio_tokens": tokens.fused_audio,
    }


def difference(name: str, ours: Any, theirs: np.ndarray, limit: float = LIMIT) -> Difference:
    """The largest difference of two arrays; another shape is an infinite one.

    limit: of the difference, times the largest of `theirs` where that is above 1.
    """
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        return Difference(name, float("inf"), limit)
    return Difference(name, float(np.abs(ours - theirs).max()), limit * max(1.0, float(np.abs(theirs).max())))


def torch_twin(config: ConfigDict):
    """The PyTorch model of the same sizes, uninitialised."""
    from avemo_jax.convert import torch_model

    model = config.model
    resizing: dict[str, Any] = {"positions": in_words(model) or None}
    names = ["dim", "heads", "depth", "fusion_depth"]
    if config.task == "pretrain":
        names += ["decoder_dim", "decoder_heads", "decoder_depth", "skip_layers"]
        return torch_model.PretrainingModel(**{name: model[name] for name in names}, **resizing)
    names += ["classes", "head_activation"]
    return torch_model.Classifier(**{name: model[name] for name in names}, **resizing)


def _random_mask(rng: np.random.Generator, tokens: int, ratio: float) -> np.ndarray:
    """Boolean [B, N], True where hidden, with one count for all clips."""
    hidden = np.arange(tokens) < min(max(int(ratio * tokens), 1), tokens - 1)
    return rng.permuted(np.tile(hidden, (_CLIPS, 1)), axis=1)
