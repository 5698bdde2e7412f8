"""The learned temperature and bias that a contrast divides and shifts similarities by (CLIP's, Radford et al. 2021;
SigLIP's with its bias, Zhai et al. 2023), as a part of a model.

Not here: the contrast (objectives.contrastive).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from ml_collections import ConfigDict


class ContrastScale(nnx.Module):
    """ln(1 / temperature), so that it stays above 0, and a bias."""

    def __init__(self, temperature: float, bias: float):
        self.scale = nnx.Param(jnp.log(1 / jnp.float32(temperature)))
        self.bias = nnx.Param(jnp.float32(bias))

    def __call__(self, clips: int) -> Array:
        """1/temperature and bias, float32 [clips, 2], the same for each clip, so that it passes as clips do."""
        return jnp.broadcast_to(jnp.stack([jnp.exp(self.scale[...]), self.bias[...]]), (clips, 2))


def contrast_scale(model: ConfigDict) -> ContrastScale | None:
    """Of `config.model`; None where the temperature is not learned (`learned_temperature` 0)."""
    if not (temperature := model.get("learned_temperature", 0.0)):
        return None
    return ContrastScale(temperature, model.learned_bias)


def scale_complaints(model: ConfigDict) -> list[str]:
    """What is wrong with the values that `contrast_scale` reads."""
    temperature, found = model.get("learned_temperature", 0.0), []
    if temperature < 0:
        found.append(f"model.learned_temperature {temperature} must be above 0, or 0 for none")
    if model.get("learned_bias", 0.0) and not temperature:
        found.append("model.learned_bias needs model.learned_temperature: without it there is no bias")
    return found


def temperature_and_bias(scale: Array | None, contrast: ConfigDict) -> tuple[Array | float, Array | float]:
    """What clips [..., 2] of a `ContrastScale` say, or without one the fixed values of `config.contrast`."""
    if scale is None:
        return contrast.temperature, contrast.get("bias", 0.0)  # runs from before there was one have none
    learned, bias = scale.reshape(-1, 2).mean(0)
    return 1 / learned, bias
