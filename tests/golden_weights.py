"""The weights of the recorded fixtures: they follow from a formula, so only names and shapes are stored."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"


def golden_weights(shapes: Mapping[str, Sequence[int]], salt: str) -> dict[str, np.ndarray]:
    """Draws every float32 tensor from its own name: `rng(crc32(salt + name))`, scaled by kind.

    Norm scales are 1 + 0.2 x, layer weights and mask tokens 0.5 x, other vectors 0.1 x, matrices x / √fan_in.
    """
    return {name: _tensor(name, tuple(shape), salt) for name, shape in shapes.items()}


def registered_shapes(table: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a registered reference model, in registration order: `pretrain_dim512`, …"""
    keys = json.loads((GOLDEN / f"keys_{table}.json").read_text())["keys"]
    return {name: tuple(shape) for name, shape in keys.items()}


def _tensor(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    x = np.random.default_rng(zlib.crc32((salt + name).encode())).standard_normal(shape)
    if name.endswith("_layer_weights"):
        x = 0.5 * x
    elif len(shape) == 1:
        x = 1 + 0.2 * x if name.endswith(".weight") else 0.1 * x
    elif name.startswith("mask_token"):
        x = 0.5 * x
    else:
        x = x / np.sqrt(math.prod(shape[1:]))
    return x.astype(np.float32)
