"""Step → value: the one schedule of the reference, for learning rate and weight decay."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

Number = float | np.float32 | jax.Array


class WarmupCosine(NamedTuple):
    """Linear from 0 to `peak`, then half a cosine towards `end`.

    The warm-up starts at exactly 0 and its last step has the peak, as `linspace` with both ends, so the first
    update changes nothing and the peak comes twice; `end` is approached and not reached. After `total_steps`
    the value stays at `end`.
    """

    peak: Number
    end: Number
    total_steps: Number
    warmup_steps: Number = 0.0

    def __call__(self, step: jax.typing.ArrayLike) -> jax.Array:
        warm = self.peak * step / jnp.maximum(self.warmup_steps - 1, 1)
        length = jnp.maximum(self.total_steps - self.warmup_steps, 1)
        share = jnp.clip((step - self.warmup_steps) / length, 0.0, 1.0)
        cosine = self.end + 0.5 * (self.peak - self.end) * (1 + jnp.cos(jnp.pi * share))
        return jnp.where(jnp.less(step, self.warmup_steps), warm, cosine)


class Schedules(NamedTuple):
    """The schedules of a run. Their numbers are arguments of the compiled step: runs of other lengths and rates, or a
    run that is made longer, take the program that is compiled already."""

    learning_rate: WarmupCosine
    weight_decay: WarmupCosine


def schedules_of(config: ConfigDict, total_steps: int) -> Schedules:
    """The schedules of the config, which gives learning rates for 256 clips, scaled linearly with the batch."""
    options, scale = config.optimizer, config.batch_size / 256
    warmup = round(options.warmup_share * total_steps)
    rate = WarmupCosine(options.learning_rate * scale, options.min_learning_rate * scale, total_steps, warmup)
    decay = WarmupCosine(options.weight_decay, options.weight_decay_end, total_steps)
    return jax.tree.map(np.float32, Schedules(rate, decay))
