"""The weights of the recorded fixtures: they follow from a formula, so only names and shapes are stored.

`python -m tests.golden_weights DIR` writes the fixtures with their weights, as `avemo parity` takes them.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"


def golden_weights(shapes: Mapping[str, Sequence[int]], salt: str) -> dict[str, np.ndarray]:
    """Draws every float32 tensor from its own name: `rng(crc32(salt + name))`, scaled by kind.

    Norm scales are 1 + 0.2 x, layer weights and mask tokens 0.5 x, other vectors 0.1 x, matrices x / √fan_in.
    """
    return {name: _tensor(name, tuple(shape), salt) for name, shape in shapes.items()}


def write_fixture(name: str, folder: Path) -> Path:
    """Puts the recorded fixture and its weights into `folder`; returns the PREFIX that `avemo parity` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in GOLDEN.glob(f"{name}_*"):
        shutil.copy(file, folder)
    shapes = {key: grad.shape for key, grad in load_file(GOLDEN / f"{name}_grads.safetensors").items()}
    salt = json.loads((GOLDEN / f"{name}_info.json").read_text())["config"]["salt"]
    save_file(golden_weights(shapes, salt), folder / f"{name}_weights.safetensors")
    return folder / name


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


if __name__ == "__main__":
    for fixture in ("pretrain_tiny", "finetune_tiny"):
        print(write_fixture(fixture, Path(sys.argv[1])))
