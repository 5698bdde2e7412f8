"""HiCMAE (Sun et al., Information Fusion 2024): the pretraining model and the classifier made from it.

Two encoders, a fusion of their streams, and for pretraining two decoders with skip connections; contrast
between the mean visible tokens of matching encoder layers. Parameter names and shapes are what
`avemo_jax.convert.hicmae` maps to the PyTorch reference.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn import initializers
from ml_collections import ConfigDict

from avemo_jax.batch import Clip, Features, Masks, Outputs
from avemo_jax.frontend import (
    AUDIO_PATCH,
    VIDEO_PATCH,
    patchify_audio,
    patchify_video,
    target_widths,
    token_grids,
)
from avemo_jax.models.aligned import Aligned
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.contrast_scale import contrast_scale
from avemo_jax.models.decoders import SkipDecoder, decoder_complaints
from avemo_jax.models.encoders import Encoder, Fusion, fold_keys
from avemo_jax.models.layers import LayerNorm, Linear, glorot, torch_uniform
from avemo_jax.models.positions import audio_positions, video_positions

HEAD_ACTIVATIONS = {"": lambda x: x, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}


class AudioVisualEncoder(nnx.Module):
    """The part that pretraining hands on: a video encoder, an audio encoder and their fusion.

    `model` is `config.model`; `dtype` that of matrix products and activations; `remat_policy` a name that
    `layers.remat` knows; `init` makes the encoders' kernels (fusion is always Glorot-uniform).
    """

    def __init__(
        self,
        model: ConfigDict,
        *,
        dtype,
        remat_policy: str,
        attention: Choice = PLAIN,
        init=glorot,
        rngs: nnx.Rngs,
    ):
        shared = {
            "dim": model.dim,
            "heads": model.heads,
            "drop_path": model.drop_path,
            "remat_policy": remat_policy,
            "attention": attention,
        }
        video, audio = video_positions(model), audio_positions(model)
        of_both = {"depth": model.depth, "init": init, "rngs": rngs, **shared}
        self.video = Encoder(patch_dim=VIDEO_PATCH, positions=video, **of_both)
        self.audio = Encoder(patch_dim=AUDIO_PATCH, positions=audio, **of_both)
        self.fusion = Fusion(depth=model.fusion_depth, rngs=rngs, **shared)
        self.dtype = jnp.dtype(dtype)

    @classmethod
    def complaints(cls, model: ConfigDict) -> list[str]:
        """What is wrong with the values that it reads."""
        if model.fusion_depth < 1:
            return [f"model.fusion_depth {model.fusion_depth} must be at least 1"]
        return []

    def encode(self, clip: Clip, keys: Array | None = None) -> Features:
        """Features of whole, unmasked clips; every layer goes through its encoder's final norm."""
        video = self.video(patchify_video(clip.video).astype(self.dtype), keys=fold_keys(keys, 0))
        audio = self.audio(patchify_audio(clip.audio).astype(self.dtype), keys=fold_keys(keys, 1))
        video, audio = self.video.norm(video), self.audio.norm(audio)
        fused_video, fused_audio = self.fusion(video[-1], audio[-1], fold_keys(keys, 2))
        return Features(video, audio, fused_video, fused_audio)


class HiCMAE(AudioVisualEncoder):
    """The pretraining model."""

    def __init__(
        self, model: ConfigDict, *, dtype, remat_policy: str, attention: Choice = PLAIN, rngs: nnx.Rngs
    ):
        super().__init__(model, dtype=dtype, remat_policy=remat_policy, attention=attention, rngs=rngs)
        shared = {
            "encoder_dim": model.dim,
            "dim": model.decoder_dim,
            "heads": model.decoder_heads,
            "depth": model.decoder_depth,
            "skips": model.get("decoder_skips", True),  # runs from before there was a choice have them
            "remat_policy": remat_policy,
            "attention": attention,
        }
        counts = [math.prod(grid) for grid in token_grids(model).values()]
        widths = target_widths(model)
        self.video_decoder = SkipDecoder(patch_dim=widths["video"], tokens=counts[0], rngs=rngs, **shared)
        self.audio_decoder = SkipDecoder(patch_dim=widths["audio"], tokens=counts[1], rngs=rngs, **shared)
        self.skip_layers = tuple(model.skip_layers)
        self.contrast_scale = contrast_scale(model)

    @classmethod
    def complaints(cls, model: ConfigDict) -> list[str]:
        found = [*super().complaints(model), *decoder_complaints(model)]
        layers = tuple(model.skip_layers)
        if model.get("decoder_skips", True) and len(layers) != model.decoder_depth - 1:
            found.append(
                f"model.skip_layers {layers} must name model.decoder_depth − 1 = {model.decoder_depth - 1} "
                "encoder layers"
            )
        if any(not 0 <= layer < model.depth for layer in layers):
            found.append(f"model.skip_layers {layers} must lie in 0 … {model.depth - 1}")
        return found

    def __call__(self, clip: Clip, masks: Masks, keys: Array | None = None) -> Outputs:
        """Encodes the visible tokens and predicts the masked ones."""
        assert masks.video is not None and masks.audio is not None  # it looks at both
        video = patchify_video(clip.video).astype(self.dtype)
        audio = patchify_audio(clip.audio).astype(self.dtype)
        video = self.video(video, masks.video.visible, fold_keys(keys, 0))
        audio = self.audio(audio, masks.audio.visible, fold_keys(keys, 1))
        layers = jnp.asarray(self.skip_layers, jnp.int32)
        video_skips, audio_skips = self.video.norm(video[layers]), self.audio.norm(audio[layers])
        fused_video, fused_audio = self.fusion(
            self.video.norm(video[-1]), self.audio.norm(audio[-1]), fold_keys(keys, 2)
        )
        return Outputs(
            video_prediction=self.video_decoder(fused_video, video_skips, masks.video),
            audio_prediction=self.audio_decoder(fused_audio, audio_skips, masks.audio),
            video_levels=video_skips.astype(jnp.float32).mean(2),
            audio_levels=audio_skips.astype(jnp.float32).mean(2),
            scale=None if self.contrast_scale is None else self.contrast_scale(len(clip.video)),
        )


class HiCMAEClassifier(AudioVisualEncoder):
    """The fine-tuning model: learned layer mixture of both modalities + both fused means → norm → linear."""

    def __init__(
        self, model: ConfigDict, *, dtype, remat_policy: str, attention: Choice = PLAIN, rngs: nnx.Rngs
    ):
        super().__init__(
            model,
            dtype=dtype,
            remat_policy=remat_policy,
            attention=attention,
            init=lambda in_axes: initializers.normal(
                0.02
            ),  # the reference cuts at ±2, which is 100 deviations
            rngs=rngs,
        )
        uniform = torch_uniform(4 * model.dim)
        self.video_layer_weights = nnx.Param(jnp.full(model.depth, 1 / model.depth))
        self.audio_layer_weights = nnx.Param(jnp.full(model.depth, 1 / model.depth))
        self.feature_norm = LayerNorm(4 * model.dim)
        self.head = Linear(4 * model.dim, model.classes, init=uniform, bias_init=uniform, rngs=rngs)
        self.head_activation = model.head_activation

    @classmethod
    def complaints(cls, model: ConfigDict) -> list[str]:
        found = super().complaints(model)
        if model.head_activation not in HEAD_ACTIVATIONS:
            known = ", ".join(repr(name) for name in HEAD_ACTIVATIONS)
            found.append(f"model.head_activation is '{model.head_activation}', not one of {known}")
        return found

    def __call__(self, clip: Clip, keys: Array | None = None) -> tuple[Array, Array]:
        """Logits (after the head's activation, where it has one) and the normed feature.

        Returns:
          float32 [B, classes] and float32 [B, 4C]; the feature is ordered video, audio, fused video, fused audio.
        """
        feature = self.feature_norm(
            pooled(self.encode(clip, keys), self.video_layer_weights[...], self.audio_layer_weights[...])
        )
        return HEAD_ACTIVATIONS[self.head_activation](self.head(feature)), feature


def pooled(features: Features, video_layer_weights: Array, audio_layer_weights: Array) -> Array:
    """HiCMAE's clip vector: softmax-weighted layer means of both modalities and both fused means.

    Args:
      features: of B clips.
      video_layer_weights: [L], before the softmax; all equal for an encoder that has none.
      audio_layer_weights: likewise.

    Returns:
      float32 [B, 4C], ordered video, audio, fused video, fused audio.
    """

    assert features.fused_video is not None and features.fused_audio is not None
    return jnp.concatenate(
        [
            mixed_layers(features.video_layers, video_layer_weights),
            mixed_layers(features.audio_layers, audio_layer_weights),
            features.fused_video.astype(jnp.float32).mean(1),
            features.fused_audio.astype(jnp.float32).mean(1),
        ],
        axis=-1,
    )


def mixed_layers(layers: Array | None, weights: Array) -> Array:
    """Token means of an encoder's layers [L, B, N, C], mixed by the softmax of `weights` [L]: float32 [B, C]."""
    assert layers is not None  # who does not look at this modality is not asked
    return jnp.einsum("l,lbc->bc", jax.nn.softmax(weights), layers.astype(jnp.float32).mean(2))


class AlignedHiCMAE(Aligned, AudioVisualEncoder):
    """The encoders and their fusion with heads for texts."""


MODELS = {
    "pretrain": HiCMAE,
    "finetune": HiCMAEClassifier,
    "several": HiCMAEClassifier,
    "align_text": AlignedHiCMAE,
}
