"""A graph's file, run in a process of its own, against our model: batches of one and of several random clips."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.convert.graphs import onnx_file, outside, stablehlo_file
from avemo_jax.convert.graphs.about import output_names
from avemo_jax.convert.verify import Difference, as_torch, difference, model_in_float32, named_outputs
from avemo_jax.errors import UserError
from avemo_jax.models.params import Params
from input_pipeline.audio import samples_for

LIMIT = 5e-5  # times max(1, largest output): other kernels add up in another order
_BATCHES = (1, 3)


def verify(path: Path, form: str, config: ConfigDict, params: Params) -> list[Difference]:
    """Of each output over all batches the difference that is the largest for its limit.

    Args:
      path: of the file.
      form: onnx or stablehlo.
      config: the run's.
      params: ours.

    Raises:
      UserError: the file cannot be run.
    """
    rng, rebuild = np.random.default_rng(0), model_in_float32(config)
    run = jax.jit(lambda params, clip: named_outputs(rebuild(params), clip, config))
    found: dict[str, Difference] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work, expected = Path(temporary), []
        for number, count in enumerate(_BATCHES):
            batch = _random_batch(config.model, count, rng)
            clip = frontend.to_clip(jax.tree.map(jnp.asarray, batch), mels=config.model.mel_bins)
            inputs = batch
            if form == "onnx":
                inputs = dict(zip(onnx_file.INPUTS, as_torch(clip), strict=True))
            np.savez(work / f"inputs_{number}.npz", **inputs)  # type: ignore[arg-type]  # they are arrays
            with jax.default_matmul_precision("highest"):
                expected.append(jax.tree.map(np.asarray, run(params, clip)))
        _run_outside(form, path, work)
        for number, ours in enumerate(expected):
            with np.load(work / f"outputs_{number}.npz") as theirs:
                for name in output_names(config.task):
                    row = difference(name, ours[name], theirs[name], LIMIT)
                    found[name] = max(found.get(name, row), row, key=_share_of_limit)
    return list(found.values())


def _share_of_limit(row: Difference) -> float:
    """How much of its limit a difference is; what is not a number is above all."""
    share = row.max_abs / row.limit
    return math.inf if math.isnan(share) else share


def _random_batch(model: ConfigDict, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the host sends of clips of noise, the last of which has less sound than the others."""
    samples = samples_for(model.audio_frames)
    length = np.full(count, samples, np.int32)
    length[-1] -= samples // 3
    waveform = rng.integers(-9000, 9000, (count, samples)).astype(np.int16)
    waveform[np.arange(samples) >= length[:, None]] = 0
    shape = (count, model.frames, model.image_size, model.image_size, 3)
    values = (
        rng.integers(0, 256, shape, np.uint8),
        waveform,
        length,
        rng.normal(0, 0.01, count).astype(np.float32),
    )
    return dict(zip(stablehlo_file.INPUTS, values, strict=True))


def _run_outside(form: str, path: Path, work: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    command = [sys.executable, "-P", outside.__file__, form, str(path), str(work)]
    done = subprocess.run(command, env=kept | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"the exported graph cannot be run, nothing was written: {lines[-1]}", exit_code=1)
