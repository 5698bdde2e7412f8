"""Masked autoencoders over shared parts: `video_mae`, `audio_mae`, `av_mae`, `cav_mae`, `vaemo` (docs/methods.md).

They differ in `config.model` alone: which modalities, which encoder (`streams`), and how they are decoded:
`decoder` "separate" (one for each modality), "shared" (one, for each modality by itself) or "joint" (one, both
modalities in one sequence); with `decoder_window` the sound's decoder attends within windows.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.batch import Clip, Masks, Outputs
from avemo_jax.frontend import target_widths
from avemo_jax.models.aligned import Aligned
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.contrast_scale import contrast_scale
from avemo_jax.models.decoders import Part, Stream, TokenDecoder, decoder_complaints
from avemo_jax.models.streams import StreamEncoder

DECODERS = ("separate", "shared", "joint")


class Autoencoder(StreamEncoder):
    """The pretraining model."""

    def __init__(
        self, model: ConfigDict, *, dtype, remat_policy: str, attention: Choice = PLAIN, rngs: nnx.Rngs
    ):
        super().__init__(model, dtype=dtype, remat_policy=remat_policy, attention=attention, rngs=rngs)
        widths = target_widths(model)
        streams = {name: Stream(grid, widths[name]) for name, grid in self.grids.items()}
        groups = [{name: stream} for name, stream in streams.items()]
        self.decoders = nnx.Dict(
            {
                "_".join(group): TokenDecoder(
                    group,
                    encoder_dim=model.dim,
                    dim=model.decoder_dim,
                    heads=model.decoder_heads,
                    depth=model.decoder_depth,
                    positions=model.positions,
                    modality_tokens=model.decoder_modality_tokens,
                    own_entry=model.decoder_own_entry,
                    embed_bias=model.decoder_embed_bias,
                    window=tuple(model.get("decoder_window", ())) if "video" not in group else (),
                    gelu=model.get("gelu", "erf"),
                    remat_policy=remat_policy,
                    attention=attention,
                    rngs=rngs,
                )
                for group in (groups if model.decoder == "separate" else [streams])
            }
        )
        # Which modalities make a sequence, and the decoder it goes through.
        sequences = [self.modalities] if model.decoder == "joint" else [(name,) for name in self.modalities]
        self.sequences = tuple(
            (names, "_".join(names) if model.decoder == "separate" else next(iter(self.decoders)))
            for names in sequences
        )
        self.contrast_scale = contrast_scale(model)

    @classmethod
    def complaints(cls, model: ConfigDict) -> list[str]:
        found = [*super().complaints(model), *decoder_complaints(model)]
        modalities = tuple(model.modalities)
        if model.decoder not in DECODERS:
            found.append(f"model.decoder is '{model.decoder}', not one of {', '.join(DECODERS)}")
        one_sequence = model.decoder == "joint" and len(modalities) == 2 and model.positions == "flat"
        if one_sequence and not (model.decoder_modality_tokens or model.decoder_own_entry):
            found.append(
                "model.decoder=joint cannot tell the hidden tokens of picture and sound apart: set "
                "model.decoder_modality_tokens or model.decoder_own_entry"
            )
        if window := tuple(model.get("decoder_window", ())):
            said = f"model.decoder_window is {window}"
            if "audio" not in modalities:
                found.append(f"{said}, and there is no sound to decode: windows are of time and frequency")
            elif len(modalities) > 1 and model.decoder != "separate":
                found.append(f"{said} and needs a decoder of the sound alone: model.decoder=separate")
        return found

    def __call__(self, clip: Clip, masks: Masks, keys: Array | None = None) -> Outputs:
        """Encodes the visible tokens and predicts the masked ones."""
        alone, encoded = self.encode_visible(clip, masks, keys)
        predicted: dict[str, Array] = {}
        for names, decoder in self.sequences:
            parts = {name: Part(encoded[name][:, self.registers :], getattr(masks, name)) for name in names}
            registers = None
            if self.registers:
                registers = jnp.concatenate([encoded[name][:, : self.registers] for name in names], axis=1)
            predicted |= self.decoders[decoder](parts, registers)
        levels = {name: self.levels(one, name) for name, one in alone.items()}
        return Outputs(
            video_prediction=predicted.get("video"),
            audio_prediction=predicted.get("audio"),
            video_levels=levels.get("video") if len(levels) == 2 else None,
            audio_levels=levels.get("audio") if len(levels) == 2 else None,
            scale=None if self.contrast_scale is None else self.contrast_scale(len(clip.video)),
        )


class AlignedStreams(Aligned, StreamEncoder):
    """The encoder with heads for texts."""


MODELS = {"pretrain": Autoencoder, "align_text": AlignedStreams}
