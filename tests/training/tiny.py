"""A run that can be killed, resumed and compared many times in seconds: a real task, of a tiny network.

`python -m tests.training.tiny WORKDIR key.path=value …` runs it as a process of its own.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from avemo_jax.cli import main as avemo_main
from avemo_jax.config import load_config
from input_pipeline.loader import Share
from tests.processes import environment

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("tiny_config.py")
WIDTH, HIDDEN, LAYERS, INPUTS = 8, 16, 3, 6


def tiny_config(*overrides: str) -> ConfigDict:
    """The config of the tiny task, with `key.path=value` overrides."""
    return load_config(str(CONFIG), overrides)


class TinyModel(nnx.Module):
    """Residual MLP blocks, stacked and scanned as the real ones, with their names."""

    def __init__(self, key):
        numbers = jax.random.uniform(key, (2048,), minval=-0.5, maxval=0.5)  # one draw: quick to compile
        starts = iter((0, 100, 600, 1100))

        def draw(*shape):
            return nnx.Param(
                jax.lax.dynamic_slice(numbers, (next(starts),), (math.prod(shape),)).reshape(shape)
            )

        self.patch_embed = nnx.Dict(kernel=draw(INPUTS, WIDTH))
        self.blocks = nnx.Dict(
            mlp=nnx.Dict(
                fc1=nnx.Dict(kernel=draw(LAYERS, WIDTH, HIDDEN), bias=nnx.Param(jnp.zeros((LAYERS, HIDDEN)))),
                fc2=nnx.Dict(kernel=draw(LAYERS, HIDDEN, WIDTH)),
            )
        )
        self.head = nnx.Dict(kernel=draw(WIDTH, INPUTS))

    def __call__(self, x):
        def block(h, layer):
            fc1, fc2 = layer
            hidden = jax.nn.gelu(h @ fc1["kernel"] + fc1["bias"])
            return h + hidden @ fc2["kernel"], None

        mlp = self.blocks.mlp
        layers = tuple({name: part[name][...] for name in part} for part in (mlp.fc1, mlp.fc2))
        h, _ = jax.lax.scan(block, x @ self.patch_embed.kernel[...], layers)
        return h @ self.head.kernel[...]


class TinyTask:
    """Denoising: the noise belongs to the clip and the step, as everything random in a real task."""

    def __init__(self, config: ConfigDict):
        self.config = config

    def init_model(self, key):
        return TinyModel(key)

    def batch_shapes(self):
        count = self.config.batch_size
        return {
            "x": jax.ShapeDtypeStruct((count, INPUTS), jnp.float32),
            "position": jax.ShapeDtypeStruct((count,), jnp.int32),
        }

    def loss(self, model, batch, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["position"])
        noise = jax.vmap(lambda k: jax.random.uniform(k, (INPUTS,)))(keys)
        error = jnp.mean((model(batch["x"] + 0.1 * noise) - batch["x"]) ** 2)
        return error, {"loss_copy": error, "largest": jnp.max(jnp.abs(batch["x"]))}

    def figures(self, model, batch, key):
        values = np.asarray(model(batch["x"]))
        return {"outputs": np.repeat(np.uint8(np.clip(values * 50 + 128, 0, 255))[..., None], 3, axis=2)}


class TinyLoader:
    """In-memory clips in an order that follows from seed and step; the real loader's interface."""

    def __init__(self, config: ConfigDict, parts: tuple[int, ...] = (0,), count: int = 1):
        self._options, self._batch_size = config.tiny, config.batch_size
        share, size = Share(parts, count), config.batch_size
        self._rows = [share.row(row, size) for row in range(share.size(size))]
        self._state = {"seed": config.seed, "step": 0, "data_offset": 0}
        self.dataset_size, self.unreadable = config.tiny.clips, {}
        self._clips = np.random.default_rng(0).standard_normal((self.dataset_size, INPUTS)).astype(np.float32)
        self._clips[list(config.tiny.poisoned)] = np.nan

    def state(self):
        return dict(self._state)

    def restore(self, state):
        self._state = dict(state)

    def clip_ids(self, positions):
        return [f"clip{position}" for position in positions]

    def close(self):
        pass

    def __iter__(self):
        while True:
            time.sleep(self._options.sleep_s)
            batch = self._state["step"] + self._state["data_offset"]
            rng = np.random.default_rng((self._state["seed"], batch))
            positions = rng.choice(self.dataset_size, self._batch_size, replace=False)[self._rows]
            x = self._clips[positions]
            if self._options.poisoned_from <= batch < self._options.poisoned_to:
                x = np.full_like(x, np.nan)
            self._state["step"] += 1
            yield {"x": x, "position": positions.astype(np.int32)}


def rows_of(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses_of(workdir: Path) -> dict[int, float]:
    """step → loss; fails when a step is there twice."""
    rows = rows_of(workdir)
    losses = {row["step"]: row["loss"] for row in rows}
    assert len(losses) == len(rows), "a step is there twice"
    return losses


def run_here(config: ConfigDict, workdir: Path, devices: int | None = None):
    """The run in this process, on its first devices."""
    from avemo_jax.training import mesh as mesh_lib
    from avemo_jax.training.loop import train

    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:devices])
    return train(TinyTask(config), TinyLoader(config, *mesh_lib.data_share(mesh)), config, workdir, mesh)


def start(workdir: Path, *overrides: str, devices: int = 2) -> subprocess.Popen:
    """The run as a process of its own; its output goes to `output.txt` beside the folder."""
    with (workdir.parent / "output.txt").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.training.tiny", str(workdir), *overrides],
            cwd=ROOT,
            env=environment(devices),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def train_on(loader: type, task: type | None = None) -> None:
    """`avemo train` in this process has these clips, of which none lacks anything, and this task where one is given."""
    from avemo_jax.commands import train

    train.make_loader, train.missing_in_words = loader, lambda config, partition: ""
    train.make_task = task or train.make_task


def main(argv: list[str]) -> int:
    """What `avemo train` does, with the tiny task in place of the real ones and the same error handling."""
    workdir, *overrides = argv
    train_on(TinyLoader, TinyTask)
    words = [f"--config.{override}" for override in overrides]
    return avemo_main(["train", "--config", str(CONFIG), "--workdir", workdir, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
