"""An encoder whose clips are compared with texts: linear heads into one space, for texts of a frozen tower too.

`Aligned` goes before the class of an encoder (`class X(Aligned, Encoder)`), of which it needs `encode` alone. The
heads are `head/NAME`; everything else of the model has the encoder's own names, so that a pretrained run hands
it on, and every evaluation of frozen features takes the model as it takes the encoder.

Sizes: B clips, C the encoder's width, E the tower's, D of the shared space.
"""

from __future__ import annotations

from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.batch import Clip, Features
from avemo_jax.models.contrast_scale import ContrastScale, contrast_scale
from avemo_jax.models.encoders import Encodes
from avemo_jax.models.layers import Linear, glorot
from avemo_jax.models.streams import fuses

HEAD = "head"
NEW = (HEAD, "contrast_scale")  # the parts of the parameters that no pretrained run hands on
TEXT = "text"


def views(model: ConfigDict) -> dict[str, int]:
    """What a clip of `config.model` can be compared by: name → numbers. `joint` saw both modalities."""
    joint = {"joint": 2 * model.dim} if fuses(model) else {}
    return {"video": model.dim, "audio": model.dim, **joint}


def pooled(features: Features) -> dict[str, Array]:
    """What the heads are given, by the names of `views`: token means, float32 [B, C]; `joint` is of both streams after
    the fusion, one behind the other [B, 2C]."""
    assert features.video_layers is not None and features.audio_layers is not None  # aligned are both or none
    means = {"video": features.video_layers[-1], "audio": features.audio_layers[-1]}
    found = {name: tokens.astype(jnp.float32).mean(1) for name, tokens in means.items()}
    if features.fused_video is not None and features.fused_audio is not None:
        streams = (features.fused_video, features.fused_audio)
        found["joint"] = jnp.concatenate([of.astype(jnp.float32).mean(1) for of in streams], axis=-1)
    return found


class Aligned:
    """See above. `model` is `config.model`; reads `shared_dim` and `text_dim` beside what the encoder reads."""

    head: Any
    contrast_scale: ContrastScale | None

    def __init__(self, model: ConfigDict, *, rngs: nnx.Rngs, **options):
        super().__init__(model, rngs=rngs, **options)  # type: ignore[call-arg]  # of the encoder
        self.head = nnx.Dict(
            {
                # With a bias, which takes away what all clips, or all texts, have in common.
                name: Linear(dim, model.shared_dim, init=glorot(1), rngs=rngs)
                for name, dim in {**views(model), TEXT: model.text_dim}.items()
            }
        )
        self.contrast_scale = contrast_scale(model)

    def __call__(self, clip: Clip, texts: Array | None, keys: Array | None = None) -> dict[str, Array]:
        """Vectors of clips and of texts float32 [B, E], by name, float32 [B, D], not normalised."""
        found = pooled(cast(Encodes, self).encode(clip, keys))
        if texts is not None:
            found[TEXT] = texts
        return {name: self.head[name](vector) for name, vector in found.items()}
