"""`mjepa`: latent prediction within and across modalities with one encoder for both (docs/methods.md).

From the visible tokens of one modality a narrow predictor says what a teacher, the moving average of this same
model or a frozen one, makes of the hidden tokens of that modality and of the other one, from the whole clip.
"""

from __future__ import annotations

import jax
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.batch import Clip, Masks, Outputs, Targets, TokenMask
from avemo_jax.models import autoencoder
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.decoders import Part, Stream, TokenDecoder, decoder_complaints
from avemo_jax.models.encoders import take_tokens
from avemo_jax.models.layers import standardised
from avemo_jax.models.streams import StreamEncoder


class LatentPredictor(StreamEncoder):
    """The pretraining model, student and teacher alike."""

    def __init__(
        self, model: ConfigDict, *, dtype, remat_policy: str, attention: Choice = PLAIN, rngs: nnx.Rngs
    ):
        super().__init__(model, dtype=dtype, remat_policy=remat_policy, attention=attention, rngs=rngs)
        self.predictor = TokenDecoder(
            {name: Stream(grid, model.get("target_dim") or model.dim) for name, grid in self.grids.items()},
            encoder_dim=model.dim,
            dim=model.decoder_dim,
            heads=model.decoder_heads,
            depth=model.decoder_depth,
            positions=model.positions,
            modality_tokens=True,
            gelu=model.get("gelu", "erf"),
            remat_policy=remat_policy,
            attention=attention,
            rngs=rngs,
        )
        self.teacher_layers, self.crosses = model.teacher_layers, model.crosses

    @classmethod
    def complaints(cls, model: ConfigDict) -> list[str]:
        found = [*super().complaints(model), *decoder_complaints(model)]
        if not 1 <= model.teacher_layers <= model.depth:
            found.append(f"model.teacher_layers {model.teacher_layers} must lie in 1 … {model.depth}")
        if model.joint_depth:
            found.append(
                f"model.joint_depth is {model.joint_depth}, and what joins both would see what it is to predict"
            )
        return found

    def __call__(self, clip: Clip, masks: Masks, keys: Array | None = None) -> Outputs:
        """The hidden tokens as predicted from the visible ones, and from those of the other modality."""
        _, encoded = self.encode_visible(clip, masks, keys)
        predicted: dict[tuple[str, str], Array] = {}  # (what, from what)
        for seen, tokens in encoded.items():
            asked = self.modalities if self.crosses else (seen,)
            parts = {
                name: Part(tokens[:, self.registers :] if name == seen else None, getattr(masks, name))
                for name in asked
            }
            registers = tokens[:, : self.registers] if self.registers else None
            predicted |= {(name, seen): tokens for name, tokens in self.predictor(parts, registers).items()}
        return Outputs(
            video_prediction=predicted.get(("video", "video")),
            audio_prediction=predicted.get(("audio", "audio")),
            video_levels=None,
            audio_levels=None,
            video_from_audio=predicted.get(("video", "audio")),
            audio_from_video=predicted.get(("audio", "video")),
        )

    def latents(self, clip: Clip, masks: Masks) -> Targets:
        """What this model, as the teacher, makes of the hidden tokens: the mean of its last layers, each standardised
        over the channels (data2vec, Baevski et al. 2022); float32 [B, N masked, C], without a gradient."""

        def of(name: str) -> Array | None:
            mask = getattr(masks, name)
            if name not in self.modalities or mask is None:
                return None
            return hidden_latents(
                self.alone(clip, name).layers[-self.teacher_layers :, :, self.registers :], mask
            )

        return Targets(of("video"), of("audio"))


def hidden_latents(layers: Array, mask: TokenMask) -> Array:
    """A teacher's layers [L, B, N, C] → what is to be predicted of the hidden tokens, float32 [B, N masked, C]."""
    return jax.lax.stop_gradient(take_tokens(standardised(layers).mean(0), mask.masked))


MODELS = {"pretrain": LatentPredictor, "align_text": autoencoder.AlignedStreams}
