"""Checkpoints: whole or passed over, restored onto any mesh, and clear words when they cannot be written or read."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from avemo_jax.errors import UserError
from avemo_jax.models.params import flatten, split
from avemo_jax.training import checkpoint_files, manifest
from avemo_jax.training import checkpoints as checkpoints_lib
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import state as state_lib
from avemo_jax.training.checkpoints import Checkpoints, Record, load_params, save_params
from avemo_jax.training.optimizer import make_optimizer
from avemo_jax.training.schedules import schedules_of
from tests.training.tiny import TinyTask, losses_of, run_here, tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run with checkpoints of steps 4, 8 and 12; not to be written to."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run_here(tiny_config(), workdir, devices=1)
    return workdir


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def biggest_file(step_folder: Path) -> Path:
    return max(
        (path for path in step_folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": lambda folder: flip_a_bit(biggest_file(folder)),
    "a cut file": lambda folder: biggest_file(folder).write_bytes(biggest_file(folder).read_bytes()[:-7]),
    "a lost file": lambda folder: biggest_file(folder).unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a manifest that is no JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "a record with a flipped bit": lambda folder: flip_a_bit(folder / "checkpoint.json"),
    "nothing in it": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(damage, run, uninterrupted, capsys):
    DAMAGES[damage](run / "checkpoints" / "00000012")
    assert run_here(tiny_config(), run, devices=1).step == 12
    said = capsys.readouterr().out
    assert "00000012" in said and "going back to step 8" in said and "resuming at step 8" in said
    assert losses_of(run) == pytest.approx(uninterrupted, rel=1e-5)
    assert manifest.find_damage(run / "checkpoints" / "00000012") is None


def test_every_single_bit_of_a_checkpoint_counts(finished, tmp_path):
    folder = Path(shutil.copytree(finished / "checkpoints" / "00000008", tmp_path / "00000008"))
    rng = np.random.default_rng(0)
    files = [
        path
        for path in folder.rglob("*")
        if path.stat().st_size and path.is_file() and path.name != manifest.NAME
    ]
    for path in files:
        whole = path.read_bytes()
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        assert path.name in manifest.find_damage(folder)
        path.write_bytes(whole)
    assert manifest.find_damage(folder) is None


def test_when_all_checkpoints_are_damaged_the_run_does_not_silently_start_over(run):
    for folder in (run / "checkpoints").iterdir():
        flip_a_bit(biggest_file(folder))
    with pytest.raises(UserError, match="no checkpoint can be used.*delete the folder to start over"):
        run_here(tiny_config(), run, devices=1)
    assert len(checkpoint_files.step_folders(run / "checkpoints")) == 3


def test_only_the_newest_whole_checkpoints_are_kept(tmp_path):
    run_here(tiny_config("checkpoint.every_steps=2", "checkpoint.keep=2"), tmp_path, devices=1)
    assert [folder.name for folder in checkpoint_files.step_folders(tmp_path / "checkpoints")] == [
        "00000010",
        "00000012",
    ]


def tiny_target(*overrides, devices=1):
    """Everything that saving and restoring the tiny state takes."""
    config = tiny_config(*overrides)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:devices])
    task, (key, _) = TinyTask(config), state_lib.run_keys(0)
    params = state_lib.abstract_params(task, key)[1]
    optimizer = make_optimizer(config, params, schedules_of(config, 12))
    target = state_lib.with_shardings(state_lib.abstract_state(params, optimizer), mesh)
    return target, lambda: state_lib.create_state(task, optimizer, key, mesh)


@pytest.mark.parametrize(
    "saved_on, restored_on", [((), ("mesh.fsdp=4", "mesh.tensor=2")), (("mesh.fsdp=8",), ())]
)
def test_a_state_comes_back_bit_by_bit_on_another_mesh(saved_on, restored_on, tmp_path):
    target, make = tiny_target(*saved_on, devices=8 if saved_on else 1)
    before = jax.device_get(make())
    checkpoints = Checkpoints(tmp_path, keep=1, background=False)
    checkpoints.save(make(), Record(step=3, config={}, loader={"step": 3}, run_key=[1, 2]))
    target, _ = tiny_target(*restored_on, devices=8 if restored_on else 1)
    after, record = checkpoints.restore(target)
    assert (record.step, record.loader, record.run_key) == (3, {"step": 3}, [1, 2])
    assert jax.tree.structure(after) == jax.tree.structure(before)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)
    assert all(a.sharding == t.sharding for a, t in zip(*map(jax.tree.leaves, (after, target)), strict=True))


def test_a_state_may_be_given_away_while_it_is_being_written(tmp_path):
    target, make = tiny_target()
    state, before = make(), jax.device_get(make().params)
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep=1, background=True)
    checkpoints.save(state, Record(step=1, config={}))
    for _ in range(5):
        state = double(state)
    jax.block_until_ready(state)
    restored, _ = checkpoints.restore(target)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.params), before)


def test_arrays_of_another_shape_are_listed(run):
    record_path = run / "checkpoints" / "00000012" / "checkpoint.json"
    record = json.loads(record_path.read_text())
    record["arrays"]["params/head/kernel"] = [[9, 6], "float32"]
    record["arrays"]["params/old"] = [[2], "float32"]
    record_path.write_text(json.dumps(record))
    manifest.write_manifest(record_path.parent)
    with pytest.raises(
        UserError, match=r"params/head/kernel is float32\[9, 6\] there and float32\[8, 6\] here"
    ) as caught:
        run_here(tiny_config("total_steps=14"), run, devices=1)
    assert "params/old is float32[2] there and absent here" in str(caught.value)


@pytest.mark.parametrize("inside", ["", "checkpoints", "checkpoints/00000012"])
def test_parameters_are_loaded_from_a_run_its_folder_or_one_step(inside, finished):
    config, params, step = load_params(finished / inside)
    assert step == 12 and config.tiny.clips == 24 and config.tiny.poisoned == ()
    assert flatten(params)["blocks/mlp/fc1/kernel"].shape == (3, 8, 16)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))


def test_loading_parameters_passes_over_a_damaged_checkpoint_and_leaves_it_where_it_is(run, capsys):
    flip_a_bit(biggest_file(run / "checkpoints" / "00000012"))
    assert load_params(run)[2] == 8
    assert "00000012 has a file with a wrong checksum" in capsys.readouterr().out
    assert (run / "checkpoints" / "00000012").is_dir()
    with pytest.raises(UserError, match="wrong checksum"):
        load_params(run / "checkpoints" / "00000012")


@pytest.mark.parametrize("empty", ["nowhere", "."])
def test_a_folder_without_checkpoints_is_refused_with_its_path(empty, tmp_path):
    with pytest.raises(UserError, match="no usable checkpoint in .*a work directory"):
        load_params(tmp_path / empty)


def test_of_a_run_of_all_folds_the_folds_are_named(tmp_path):
    (tmp_path / "fold_a" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a run of all folds.*/fold_a$"):
        load_params(tmp_path)


def test_a_run_goes_on_from_parameters_alone(tmp_path, capsys):
    config = tiny_config("total_steps=2")
    params = split(TinyTask(config).init_model(jax.random.key(9)))[1]
    save_params(tmp_path, config, params)
    config_back, params_back, step = load_params(tmp_path)
    assert step == 0 and config_back.seed == config.seed
    jax.tree.map(np.testing.assert_array_equal, params_back, params)
    run_here(config, tmp_path, devices=2)
    assert "parameters only" in capsys.readouterr().out
    run_here(config, tmp_path / "other", devices=2)
    assert losses_of(tmp_path)[1] != losses_of(tmp_path / "other")[1]
    with pytest.raises(UserError, match="there is a checkpoint already"):
        save_params(tmp_path, config, params, step=2)


def test_a_disk_without_room_is_noticed_before_writing(run, monkeypatch):
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        UserError, match=r"checkpoints/00000014: no space left on device; it needs [\d,]+ bytes, step 12"
    ):
        run_here(tiny_config("total_steps=14"), run, devices=1)
    monkeypatch.undo()
    assert run_here(tiny_config("total_steps=14"), run, devices=1).step == 14


def test_a_disk_that_fills_up_while_writing_leaves_the_last_checkpoint_good(tmp_path):
    target, make = tiny_target()
    checkpoints = Checkpoints(tmp_path, keep=2, background=True)
    checkpoints.save(make(), Record(step=1, config={}))
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1000, limits[1])
    )  # "file too large" comes the way "disk full" does
    try:
        with pytest.raises(
            UserError, match=r"00000002: file too large; it needs [\d,]+ bytes, step 1 is the last good"
        ):
            checkpoints.save(make(), Record(step=2, config={}))
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints.restore(target)[1].step == 1
    checkpoints.save(make(), Record(step=2, config={}))
    assert checkpoints.restore(target)[1].step == 2


def test_the_newest_checkpoint_to_roll_back_to_is_kept_beside_the_newest(tmp_path):
    target, make = tiny_target()
    checkpoints = Checkpoints(tmp_path, keep=3, background=False)

    def kept_after(step, bad_steps):
        checkpoints.save(make(), Record(step=step, config={}, loader={"step": step}, bad_steps=bad_steps))
        return [int(folder.name) for folder in checkpoint_files.step_folders(checkpoints.folder)]

    saved = ((2, 0), (4, 0), (6, 2), (8, 4), (10, 6))
    assert [kept_after(*one) for one in saved][2:] == [[2, 4, 6], [4, 6, 8], [4, 6, 8, 10]]
    assert kept_after(12, 0) == [8, 10, 12]
    assert kept_after(14, 1) == [10, 12, 14]
    (checkpoints.folder / "00000014" / "checkpoint.json").unlink()  # as damaged by somebody
    assert [kept_after(16, 1), kept_after(18, 1)] == [[12, 14, 16], [12, 14, 16, 18]]
    assert checkpoints.restore(target, good_only=True)[1].step == 12


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(errno.EACCES, "Permission denied")

    _, make = tiny_target()
    monkeypatch.setattr(Path, "mkdir", refuse)  # tests may run as root, whom no permission stops
    with pytest.raises(UserError, match="checkpoints/00000001: permission denied.*there is no earlier one"):
        Checkpoints(tmp_path, keep=1, background=True).save(make(), Record(step=1, config={}))


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/runs/1"), "no space left on device"),
        (ValueError("FAILED_PRECONDITION: [OS error 27: EFBIG File too large] writing"), "file too large"),
        (FileNotFoundError(errno.ENOENT, "no such bucket", "gs://nowhere/1"), "no such bucket"),
        (FileNotFoundError(errno.ENOENT, "taken away by process 0", "/runs/1"), ""),
        (OSError(errno.EIO, "Timeout waiting at barrier", "gs://bucket/1"), ""),
        (TimeoutError("Timeout waiting at barrier"), ""),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), ""),
    ],
)
def test_what_the_place_refuses_is_told_from_what_others_did(error, reason):
    assert checkpoint_files.of_the_place(error) == reason


def test_a_checkpoint_stays_when_older_ones_cannot_be_deleted(tmp_path, monkeypatch, capsys):
    target, make = tiny_target()
    checkpoints = Checkpoints(tmp_path, keep=1, background=False)
    checkpoints.save(make(), Record(step=1, config={}))

    def refuse(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(checkpoints_lib, "_delete", refuse)
    checkpoints.save(make(), Record(step=2, config={}))
    assert "older checkpoints" in capsys.readouterr().out
    assert checkpoints.restore(target)[1].step == 2


def test_a_work_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be used"):
        run_here(tiny_config(), tmp_path / "file", devices=1)
