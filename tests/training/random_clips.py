"""HiCMAE, as it is but small, on noise for clips: a real run that takes seconds, in this process or in several.

`python -m tests.training.random_clips WORKDIR key.path=value …` runs it as one process of a group, or alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from avemo_jax.cli import main as avemo_main
from avemo_jax.config import load_config
from avemo_jax.tasks import make_task
from input_pipeline.loader import Share
from tests.processes import run_together
from tests.training.tiny import train_on

SMALL = (
    "model.dim=32", "model.heads=4", "model.depth=2", "model.fusion_depth=1", "model.skip_layers=(0,1)",
    "model.decoder_dim=16", "model.decoder_heads=2", "model.decoder_depth=3", "model.frames=4", "model.image_size=32",
    "model.audio_frames=64", "batch_size=8", "total_steps=3", "log.every_steps=1", "log.samples_every_steps=2",
    "optimizer.warmup_share=0.0", "optimizer.learning_rate=0.05",
)  # fmt: skip


def small_config(*overrides: str) -> ConfigDict:
    """The config of the small HiCMAE: every width and head count divides by two, every width by eight."""
    return load_config("hicmae:demo", (*SMALL, *overrides))


class RandomClips:
    """Noise for clips, in memory, in an order that follows from the step; the real loader's interface."""

    dataset_size, unreadable = 40, {}

    def __init__(self, config: ConfigDict, parts: tuple[int, ...] = (0,), count: int = 1):
        self._shapes = make_task(config).batch_shapes()
        share, size = Share(parts, count), config.batch_size
        self._rows = [share.row(row, size) for row in range(share.size(size))]
        self._state = {"seed": 0, "step": 0, "data_offset": 0}

    def state(self):
        return dict(self._state)

    def restore(self, state):
        self._state = dict(state)

    def clip_ids(self, positions):
        return [str(position) for position in positions]

    def close(self):
        pass

    def __iter__(self):
        while True:
            rng = np.random.default_rng(self._state["step"])
            (size,) = self._shapes["position"].shape
            batch = {
                "video": rng.integers(0, 256, self._shapes["video"].shape, np.uint8),
                "waveform": rng.integers(-9000, 9000, self._shapes["waveform"].shape, np.int16),
                "waveform_length": np.full(size, self._shapes["waveform"].shape[1], np.int32),
                "waveform_mean": np.zeros(size, np.float32),
                "position": rng.permutation(self.dataset_size)[:size].astype(np.int32),
            }
            if "group" in self._shapes:
                batch["group"] = batch["position"] % 2
            self._state["step"] += 1
            yield {name: field[self._rows] for name, field in batch.items()}


def run_here(config: ConfigDict, workdir: Path, devices: int) -> None:
    """The run in this process, on its first devices."""
    from avemo_jax.training import mesh as mesh_lib
    from avemo_jax.training.loop import train

    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:devices])
    train(make_task(config), RandomClips(config), config, workdir, mesh)


def run_in_processes(workdir: Path, *overrides: str, processes: int, devices: int) -> None:
    """The run in a group of processes with so many fake devices each."""
    command = [sys.executable, "-m", "tests.training.random_clips", str(workdir), *overrides]
    run_together(command, processes=processes, devices=devices)


def main(argv: list[str]) -> int:
    """What `avemo train` does, with noise in place of a prepared folder."""
    workdir, *overrides = argv
    train_on(RandomClips)
    words = [f"--config.{override}" for override in (*SMALL, *overrides)]
    return avemo_main(["train", "--config", "hicmae:demo", "--workdir", workdir, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
