"""The real task under the real loop: how it is divided, what it draws, and real clips end to end."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import pytest

from avemo_jax.provenance import read_calls
from avemo_jax.tasks import make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import state as state_lib
from avemo_jax.training.optimizer import make_optimizer
from avemo_jax.training.schedules import schedules_of
from tests.processes import environment
from tests.training.random_clips import SMALL, run_here, small_config
from tests.training.tiny import ROOT, losses_of


@pytest.mark.nightly
def test_pictures_of_a_divided_run_are_drawn(tmp_path):
    config = small_config("mesh.fsdp=2", "mesh.tensor=2")
    run_here(config, tmp_path / "run", 8)
    drawn = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert drawn == ["00000002_reconstruction.png"]


def test_hicmae_and_its_optimiser_are_divided_as_the_table_says():
    config = small_config("mesh.fsdp=2", "mesh.tensor=2")
    mesh, task = mesh_lib.make_mesh(config.mesh), make_task(config)
    params = state_lib.abstract_params(task, jax.random.key(0))[1]
    state = state_lib.create_state(
        task, make_optimizer(config, params, schedules_of(config, 10)), jax.random.key(0), mesh
    )
    rows = mesh_lib.named_leaves(state)
    fc1 = [leaf for path, leaf in rows if path.endswith("video/blocks/mlp/fc1/kernel")]
    assert len(fc1) == 3  # the parameter and its two moments
    for leaf in fc1:
        assert leaf.shape == (2, 32, 128) and leaf.addressable_shards[0].data.shape == (2, 16, 64)
    kernels = [(path, leaf) for path, leaf in rows if leaf.ndim >= 2 and not path.endswith(("bias", "scale"))]
    whole = {path for path, leaf in kernels if leaf.sharding.is_fully_replicated}
    assert not whole, f"matrices without a rule: {whole}"


@pytest.mark.nightly
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
