"""Exported weights in the PyTorch model against the JAX model they came from, on random clips."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Clip, Masks
from avemo_jax.convert.hicmae import StateDict
from avemo_jax.convert.weight_files import import_torch
from avemo_jax.models.params import Params, merge, split

LIMIT = 2e-5  # times max(1, largest output): float32 rounding through some thirty layers
_CLIPS = 2


class Difference(NamedTuple):
    """How far apart the two models are in one output."""

    name: str
    max_abs: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.max_abs <= self.limit  # not so for NaN


def verify(state: StateDict, config: ConfigDict, params: Params) -> list[Difference]:
    """Runs `state` in PyTorch (loaded strictly) and `params` in JAX, in float32, on the same random clips.

    Args:
      state: arrays by the reference's names, for instance read back from an exported file.
      config: the run's, with `task` and `model`; pretraining also has `mask`.
      params: ours.
    """
    torch = import_torch()
    config = copy.deepcopy(config)
    config.dtype = "float32"
    sizes = config.model
    rng = np.random.default_rng(0)
    video = rng.standard_normal((_CLIPS, sizes.frames, sizes.image_size, sizes.image_size, 3), np.float32)
    audio = rng.standard_normal((_CLIPS, sizes.audio_frames, sizes.mel_bins), np.float32)
    their_clip = torch.from_numpy(video.transpose(0, 4, 1, 2, 3).copy()), torch.from_numpy(audio[:, None])

    graphdef = split(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))[0]
    run = jax.jit(lambda params, *inputs: merge(graphdef, params)(*inputs))
    our_clip = Clip(jnp.asarray(video), jnp.asarray(audio))
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
            ours = run(params, our_clip, Masks(*map(masking.from_boolean, masks)))._asdict()
            theirs = twin(*their_clip, *map(torch.from_numpy, masks))._asdict()
        else:
            names = ("logits", "feature")
            ours = dict(zip(names, run(params, our_clip), strict=True))
            theirs = dict(zip(names, twin(*their_clip), strict=True))
    return [_difference(name, np.asarray(ours[name]), theirs[name].numpy()) for name in ours]


def torch_twin(config: ConfigDict):
    """The PyTorch model of the same sizes, uninitialised."""
    from avemo_jax.convert import torch_model

    model = config.model
    names = ["dim", "heads", "depth", "fusion_depth"]
    if config.task == "pretrain":
        names += ["decoder_dim", "decoder_heads", "decoder_depth", "skip_layers"]
        return torch_model.PretrainingModel(**{name: model[name] for name in names})
    names += ["classes", "head_activation"]
    return torch_model.Classifier(**{name: model[name] for name in names})


def _random_mask(rng: np.random.Generator, tokens: int, ratio: float) -> np.ndarray:
    """Boolean [B, N], True where hidden, with one count for all clips."""
    hidden = np.arange(tokens) < min(max(int(ratio * tokens), 1), tokens - 1)
    return rng.permuted(np.tile(hidden, (_CLIPS, 1)), axis=1)


def _difference(name: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    if ours.shape != theirs.shape:
        return Difference(name, float("inf"), LIMIT)
    return Difference(name, float(np.abs(ours - theirs).max()), LIMIT * max(1.0, float(np.abs(theirs).max())))
