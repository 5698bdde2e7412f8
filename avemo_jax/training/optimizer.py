"""AdamW as the reference groups it: which parameters decay, and how far each layer may move.

Everything is decided by a parameter's path (`video/blocks/attn/qkv`), so it holds for every model made of the
same parts. Layers are stacked, so a layer's own scale is an entry of an array along the leading axis.
"""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.models.params import Params, flatten, unflatten
from avemo_jax.training.schedules import Schedules

# One-dimensional in the reference, or ending in `.bias`: never decayed. Nor are tokens and what contrast learns.
_NEVER_DECAYED = re.compile(
    r"(^|/)(scale|bias|q_bias|v_bias|qkv_bias|tau|gamma_\d|(video|audio)_layer_weights|registers|"
    r"modality_token(/\w+)?|mask_token/\w+)$"
)


def make_optimizer(config: ConfigDict, params: Params, schedules: Schedules) -> optax.GradientTransformation:
    """AdamW with scheduled learning rate and weight decay, optional clipping and layer-wise decay.

    Args:
      config: the run's; reads `optimizer` and `freeze`.
      params: the model's parameters, or their shapes.
      schedules: of the run; their numbers may be traced.
    """
    options = config.optimizer
    transform = adamw(
        params,
        rate=schedules.learning_rate,
        decay=schedules.weight_decay,
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        decay_audio_mask_token=options.decay_audio_mask_token,
        scales=layer_scales(params, options.layer_decay) if options.layer_decay < 1 else None,
    )
    if options.clip_norm > 0:
        transform = optax.chain(optax.clip_by_global_norm(options.clip_norm), transform)
    if "freeze" in config and (config.freeze.encoders or config.freeze.layers):
        moving = moving_parts(params, layers=config.freeze.layers, encoders=config.freeze.encoders)
        hold = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, moving))
        # Before: what does not move is not clipped by either. After: nor is it decayed.
        transform = optax.chain(hold, transform, hold)
    return transform


def adamw(
    params: Params,
    *,
    rate: optax.Schedule,
    decay: optax.Schedule,
    b1: float,
    b2: float,
    eps: float,
    decay_audio_mask_token: bool,
    scales: Params | None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) on the reference's groups; `scales` multiply each parameter's rate."""
    steps = [
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(decay, decay_mask(params, decay_audio_mask_token=decay_audio_mask_token)),
        optax.scale_by_learning_rate(rate),
    ]
    if scales is not None:
        steps.append(optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales)))
    return optax.chain(*steps)


def decay_mask(params: Params, *, decay_audio_mask_token: bool) -> Params:
    """True where weight decay applies: matrices, but not the mask tokens.

    The reference decays the audio mask token and not the video one, because its list of exceptions holds one
    exact name; `decay_audio_mask_token` repeats that.
    """

    def decays(path: str) -> bool:
        if path.endswith("/mask_token"):
            return decay_audio_mask_token and path.startswith("audio_decoder")
        return not _NEVER_DECAYED.search(path)

    return unflatten({path: decays(path) for path in flatten(params)})


def moving_parts(params: Params, *, layers: int, encoders: bool) -> Params:
    """1 where parameters are trained and 0 where they are frozen, as arrays that broadcast over each parameter.

    Args:
      layers: so many first layers of both encoders are frozen, and before the first of them the patch embeddings.
      encoders: all of the encoders and their fusion is: what is left is the head, its norm and the layer weights.
    """

    def moves(path: str, leaf) -> np.ndarray:
        shape = (-1, *[1] * (len(leaf.shape) - 1))
        if re.match(r"(video|audio|fusion)/", path):
            if encoders:
                return np.zeros(1, np.float32).reshape(shape)
            if layers and "/patch_embed/" in path:
                return np.zeros(1, np.float32).reshape(shape)
            if re.match(r"(video|audio)/blocks/", path):
                return np.float32(np.arange(leaf.shape[0]) >= layers).reshape(shape)
        return np.ones(1, np.float32).reshape(shape)

    return unflatten({path: moves(path, leaf) for path, leaf in flatten(params).items()})


def layer_scales(params: Params, layer_decay: float) -> Params:
    """Learning-rate factors `layer_decay^(last id − id)` (BEiT), as arrays that broadcast over each parameter.

    Ids: patch embeddings 0; encoder block i of either modality i + 1; fusion block i follows the deeper
    encoder; everything else, the encoders' and the fusion's final norms included, has the last id and factor 1.

    Raises:
      UserError: the model is not of HiCMAE's encoders.
    """
    flat = flatten(params)
    if not any(path.startswith("video/blocks/") for path in flat):
        raise UserError(
            "optimizer.layer_decay is below 1, and only HiCMAE's layers are counted for it: set it to 1"
        )
    encoder_depth = max(
        leaf.shape[0] for path, leaf in flat.items() if re.match(r"(video|audio)/blocks/", path)
    )
    fusion_depth = max(leaf.shape[0] for path, leaf in flat.items() if re.match(r"fusion/\w+_blocks/", path))
    last = encoder_depth + fusion_depth + 1

    def factor(path: str, leaf) -> np.ndarray:
        if "/patch_embed/" in path:
            ids = np.zeros(1)
        elif re.match(r"(video|audio)/blocks/", path):
            ids = 1 + np.arange(leaf.shape[0])
        elif re.match(r"fusion/\w+_blocks/", path):
            ids = 1 + encoder_depth + np.arange(leaf.shape[0])
        else:
            ids = np.full(1, last)
        factors = np.float32(layer_decay ** (last - ids))
        return factors.reshape(-1, *[1] * (len(leaf.shape) - 1))

    return unflatten({path: factor(path, leaf) for path, leaf in flat.items()})
