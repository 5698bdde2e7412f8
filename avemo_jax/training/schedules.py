"""Step → value: the one schedule of the reference, for learning rate and weight decay."""

from __future__ import annotations

import jax.numpy as jnp
import optax


def warmup_cosine(peak: float, end: float, total_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Linear from 0 to `peak`, then half a cosine towards `end`.

    The warm-up starts at exactly 0 and its last step has the peak, as `linspace` with both ends, so the first
    update changes nothing and the peak comes twice; `end` is approached and not reached. After `total_steps`
    the value stays at `end`.
    """

    def value(step):
        warm = peak * step / max(warmup_steps - 1, 1)
        share = jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)
        cosine = end + 0.5 * (peak - end) * (1 + jnp.cos(jnp.pi * share))
        return jnp.where(step < warmup_steps, warm, cosine)

    return value
