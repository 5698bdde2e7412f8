"""Runs an exported graph as somebody without our code does. A program of its own.

    python -P outside.py onnx|stablehlo FILE WORK

Reads WORK/inputs_K.npz for K = 0, 1, … and writes WORK/outputs_K.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ABSENT = ("avemo_jax", "input_pipeline", "flax", "optax", "orbax", "grain", "ml_collections", "torch")


def main(form: str, path: Path, work: Path) -> None:
    import numpy as np

    run = (_onnx if form == "onnx" else _stablehlo)(path)
    for place in sorted(work.glob("inputs_*.npz")):
        with np.load(place) as inputs:
            outputs = run(dict(inputs))
        np.savez(place.with_name(place.name.replace("inputs", "outputs")), **outputs)


def _onnx(path: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _stablehlo(path: Path):
    import jax
    import jax.export

    exported: Any = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda inputs: exported.call(*inputs.values())


if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]  # None: cannot be imported
    if sys.argv[1] == "onnx":
        sys.modules["jax"] = None  # type: ignore[assignment]
    main(sys.argv[1], *map(Path, sys.argv[2:]))
