"""The real task under the real loop: every layout gives the losses of one device, and real clips train end to end."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from avemo_jax.config import load_config
from avemo_jax.provenance import read_calls
from avemo_jax.tasks import make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import state as state_lib
from avemo_jax.training.loop import train
from avemo_jax.training.optimizer import make_optimizer
from tests.training.tiny import ROOT, environment, losses_of

SMALL = (
    "model.dim=32", "model.heads=4", "model.depth=2", "model.fusion_depth=1", "model.skip_layers=(0,1)",
    "model.decoder_dim=16", "model.decoder_heads=2", "model.decoder_depth=3", "model.frames=4", "model.image_size=32",
    "model.audio_frames=64", "batch_size=8", "total_steps=3", "log.every_steps=1", "log.samples_every_steps=2",
    "optimizer.warmup_share=0.0", "optimizer.learning_rate=0.05",
)  # fmt: skip


def small_config(*overrides):
    return load_config("hicmae:demo", (*SMALL, *overrides))


class RandomClips:
    """Noise for clips, in memory, in an order that follows from the step."""

    dataset_size, unreadable = 40, {}

    def __init__(self, shapes):
        self._shapes, self._state = shapes, {"seed": 0, "step": 0, "data_offset": 0}

    def state(self):
        return dict(self._state)

    def restore(self, state):
        self._state = dict(state)

    def clip_ids(self, positions):
        return [str(position) for position in positions]

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
            self._state["step"] += 1
            yield batch


def losses_on(config, workdir, devices):
    task = make_task(config)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:devices])
    train(task, RandomClips(task.batch_shapes()), config, workdir, mesh)
    return losses_of(workdir)


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    return losses_on(small_config(), tmp_path_factory.mktemp("one") / "run", 1)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(), ("mesh.fsdp=4",), ("mesh.fsdp=2", "mesh.tensor=2")])
def test_hicmae_has_the_same_losses_on_eight_devices_in_any_layout(mesh, tmp_path, on_one_device):
    losses = losses_on(small_config(*mesh), tmp_path / "run", 8)
    assert losses == pytest.approx(on_one_device, rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        "00000002_reconstruction.png"
    ]


def test_hicmae_and_its_optimiser_are_divided_as_the_table_says():
    config = small_config("mesh.fsdp=2", "mesh.tensor=2")
    mesh, task = mesh_lib.make_mesh(config.mesh), make_task(config)
    params = state_lib.abstract_params(task, jax.random.key(0))[1]
    state = state_lib.create_state(task, make_optimizer(config, params, 10), jax.random.key(0), mesh)
    rows = mesh_lib.named_leaves(state)
    fc1 = [leaf for path, leaf in rows if path.endswith("video/blocks/mlp/fc1/kernel")]
    assert len(fc1) == 3  # the parameter and its two moments
    for leaf in fc1:
        assert leaf.shape == (2, 32, 128) and leaf.addressable_shards[0].data.shape == (2, 16, 64)
    kernels = [(path, leaf) for path, leaf in rows if leaf.ndim >= 2 and not path.endswith(("bias", "scale"))]
    whole = {path for path, leaf in kernels if leaf.sharding.is_fully_replicated}
    assert not whole, f"matrices without a rule: {whole}"


@pytest.mark.slow
def test_real_clips_train_by_the_command_line_on_two_processes_as_on_one(prepared_folder, tmp_path):
    words = [
        f"--config.{word}"
        for word in (*SMALL, f"data.path={prepared_folder}", "batch_size=4", "data.workers=1")
    ]
    command = ["train", "--config", "hicmae:demo", *words]
    one = [sys.executable, "-m", "avemo_jax", *command, "--workdir", str(tmp_path / "one")]
    subprocess.run(one, cwd=ROOT, env=environment(1), check=True)
    flags = ["--processes", "2", "--devices_per_process", "2"]
    two = [sys.executable, "-m", "avemo_jax", "launch", "local", *flags, "--", *command]
    subprocess.run([*two, "--workdir", str(tmp_path / "two")], cwd=ROOT, env=environment(2), check=True)
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["batch_size"] == 4
    (call,) = read_calls(tmp_path / "two")  # one of the two processes notes it
    assert call["command"].startswith("avemo train ") and call["exit_code"] == 0
