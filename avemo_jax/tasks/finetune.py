"""Fine-tuning: the classifier on labelled clips, with cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import models
from avemo_jax.batch import Batch
from avemo_jax.models.encoders import fold_keys
from avemo_jax.objectives.supervised import cross_entropy
from avemo_jax.tasks import clips


class Finetune:
    """The task of `config.task = "finetune"`; see `avemo_jax.tasks.Task`."""

    def __init__(self, config: ConfigDict):
        self.config = config

    def init_model(self, key: Array) -> nnx.Module:
        return models.build(self.config, key)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        label = jax.ShapeDtypeStruct((self.config.batch_size,), jnp.int32)
        return clips.batch_shapes(self.config) | {"label": label}

    def loss(self, model: nnx.Module, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        config = self.config
        keys = clips.clip_keys(key, batch)
        gain = clips.volume_gain(fold_keys(keys, 0)) if config.data.audio_gain else None
        clip = clips.seen(batch, config, gain)
        logits, _ = model(clip, fold_keys(keys, 2) if config.model.drop_path else None)
        loss = cross_entropy(logits, batch["label"], smoothing=config.label_smoothing)
        return loss, {"accuracy": jnp.mean(logits.argmax(-1) == batch["label"])}

    def figures(self, model: nnx.Module, batch: Batch, key: Array) -> dict[str, np.ndarray]:
        return {}
