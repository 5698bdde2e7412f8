"""Alignment with texts: what is seen or heard of a clip is told from other clips by its description, and the text by
the clip (VAEmo's second stage, Cheng et al. 2025). Which are compared is `contrast.pairs`.

Of a clip without a description only pairs that need none are learnt; of one that lacks picture or sound
(`data.allow_missing`) only those that do not need it.
"""

from __future__ import annotations

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import models
from avemo_jax.batch import Batch
from avemo_jax.config import pretrain_defaults
from avemo_jax.errors import UserError
from avemo_jax.models.aligned import NEW, TEXT, Aligned, views
from avemo_jax.models.contrast_scale import temperature_and_bias
from avemo_jax.models.params import split
from avemo_jax.objectives import contrastive
from avemo_jax.tasks import clips
from avemo_jax.tasks.texts import CLIPS
from avemo_jax.tasks.weighing import Weighing

# Vectors by name [B, D], and under
#   number  which text a clip has, [B], negative for none
#   group   which clips are compared (`contrast.within`), [B], where not all are
#   scale   what is learned about comparing, [B, 2], where anything is
#   video_there, audio_there    1.0 for clips that have this stream, else 0.0, [B], where some may lack one
# All are float32, since gradients go through all of it.
Embeddings = dict[str, Array]
NUMBER, GROUP, SCALE = "number", "group", "scale"
THERE = {"video": "video_there", "audio": "audio_there"}


class AlignText:
    """The task of `config.task = "align_text"`; see `avemo_jax.tasks.Task`."""

    def __init__(self, config: ConfigDict):
        self.config = config
        contrastive.options(config)  # which says what is wrong with them
        self.vectors = known = (*views(config.model), TEXT)
        self.pairs = tuple(tuple(pair.split("-")) for pair in config.contrast.pairs)
        for pair in self.pairs:
            if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(known):
                raise UserError(
                    f"contrast.pairs: '{'-'.join(pair)}' is no pair of {', '.join(known)}, such as {known[0]}-text"
                )
        if not any(TEXT in pair for pair in self.pairs):
            raise UserError(f"contrast.pairs has no pair with text: name one, such as {known[0]}-text")
        weights = tuple(config.contrast.weights)
        if weights and (
            len(weights) != len(self.pairs) or not all(isinstance(weight, (int, float)) for weight in weights)
        ):
            raise UserError(
                f"contrast.weights is {weights}: {len(self.pairs)} contrast.pairs need a number each, or none at all"
            )
        # Runs of an earlier version have no ramps.
        objectives = config.get("objectives", pretrain_defaults()["objectives"])
        self.weighing = Weighing(objectives, config.contrast.pairs)
        if config.text.clips not in CLIPS:
            raise UserError(f"text.clips is '{config.text.clips}', not one of {', '.join(CLIPS)}")
        if config.text.clips == "all" and all(TEXT in pair for pair in self.pairs):
            raise UserError(
                "text.clips=all: every one of contrast.pairs needs a text, so clips without one teach nothing; add a "
                "pair that needs none, or leave it at described"
            )

    @functools.cached_property
    def handed_on(self) -> tuple[str, ...]:
        """The parts that `init.checkpoint` gives: all but the heads and the temperature, which begin afresh."""
        parts = split(jax.eval_shape(self.init_model, jax.random.key(0)))[1]
        return tuple(name for name in parts if name not in NEW)

    @property
    def changes_with_step(self) -> bool:
        """Whether `loss`, `comparison` and `pulled_loss` are to be given the `step`."""
        return bool(self.weighing.ramps)

    def init_model(self, key: Array) -> nnx.Module:
        return models.build(self.config, key)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        count = self.config.batch_size
        return clips.batch_shapes(self.config) | {
            "text": jax.ShapeDtypeStruct((count, self.config.model.text_dim), jnp.float32),
            "text_number": jax.ShapeDtypeStruct((count,), jnp.int32),
        }

    def loss(
        self, model: nnx.Module, batch: Batch, key: Array, step: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        return self.comparison(self.embeddings(model, batch, key), step)

    @property
    def compares_whole_batch(self) -> bool:
        """Whether microbatches are to be contrasted as one batch; the three functions below are then asked."""
        return self.config.contrast.cached

    def embeddings(self, model: nnx.Module, batch: Batch, key: Array) -> Embeddings:
        """What clips and texts are compared by."""
        keys = clips.clip_keys(key, batch)
        clip = clips.seen(batch, self.config, clips.gain(self.config, keys))
        vectors = model(clip, batch["text"], clips.drop_keys(self.config, keys))
        found = vectors | {NUMBER: batch["text_number"].astype(jnp.float32)}
        if self.config.contrast.within:
            found[GROUP] = batch[clips.GROUP].astype(jnp.float32)
        # Runs of an earlier version do not say it.
        if self.config.data.get("allow_missing", False):
            streams = zip(THERE.values(), clips.streams(batch), strict=True)
            found |= {name: there.astype(jnp.float32) for name, there in streams}
        scale = cast(Aligned, model).contrast_scale
        return found if scale is None else found | {SCALE: scale(len(keys))}

    def comparison(self, embeddings: Embeddings, step: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """Σ weight · L_contrast over the pairs, of all clips of a batch, and its terms. Without a step there are no
        ramps."""
        contrast, factors = self.config.contrast, self.weighing.factors(step)
        weights = contrast.weights or (1.0,) * len(self.pairs)
        number = jax.lax.stop_gradient(embeddings[NUMBER]).astype(jnp.int32)
        vectors = {name: embeddings[name] for name in self.vectors}
        group = embeddings.get(GROUP)
        temperature, bias = temperature_and_bias(embeddings.get(SCALE), contrast)
        loss, terms = contrastive.pairwise_contrast(
            vectors,
            self.pairs,
            [weight * factors.get(pair, 1.0) for pair, weight in zip(contrast.pairs, weights, strict=True)],
            {TEXT: number, **_present(embeddings)},
            temperature=temperature,
            bias=bias,
            within=None if group is None else jax.lax.stop_gradient(group).astype(jnp.int32),
            **contrastive.options(self.config),
        )
        terms |= {"described_share": jnp.mean(number >= 0)}
        terms |= {f"factor_{pair.replace('-', '_')}": factor for pair, factor in factors.items()}
        if SCALE in embeddings:
            terms |= {"contrast_temperature": jnp.asarray(temperature)}
        return loss, terms

    def pulled_loss(
        self, model: nnx.Module, batch: Batch, key: Array, pull: Embeddings, step: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """0, whose gradient comes in by ⟨embeddings, pull⟩: nothing is learnt but by comparing."""
        along = optax.tree.vdot(self.embeddings(model, batch, key), pull)
        return along - jax.lax.stop_gradient(along), {}

    def figures(self, model: nnx.Module, batch: Batch, key: Array) -> dict[str, np.ndarray]:
        """None: nothing of it is a picture."""
        return {}


def _present(embeddings: Embeddings) -> dict[str, Array]:
    """By what is compared, int32 [B]: a clip's own number, or −1 where it lacks the stream; empty where none does."""
    there = {of: embeddings[name] > 0 for of, name in THERE.items() if name in embeddings}
    if not there:
        return {}
    there["joint"] = there["video"] & there["audio"]
    return {of: jnp.where(which, jnp.arange(len(which)), -1) for of, which in there.items()}
