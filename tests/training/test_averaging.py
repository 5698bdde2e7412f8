"""The moving average of parameters: its weights, that it is saved and restored, and that it is what is evaluated."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.models.params import flatten
from avemo_jax.training.checkpoints import load_params
from avemo_jax.training.state import averaged
from tests.training.tiny import losses_of, run_here, tiny_config


def test_early_steps_count_for_more_and_late_ones_for_the_decay():
    average = {"w": jnp.zeros(())}
    expected = 0.0
    for step in range(200):
        average = averaged(average, {"w": jnp.asarray(float(step))}, jnp.asarray(step), 0.9)
        kept = min(0.9, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * step
    assert float(average["w"]) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(190, abs=1e-3)  # 9 steps behind, as 0.9 gives in the long run
    assert averaged(None, {"w": jnp.ones(())}, jnp.asarray(0), 0.9) is None


def test_a_run_with_an_average_trains_the_same_and_hands_on_the_average(tmp_path):
    run_here(tiny_config("total_steps=6"), tmp_path / "plain", devices=2)
    run_here(tiny_config("total_steps=6", "ema.decay=0.9"), tmp_path / "averaged", devices=2)
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "averaged")
    last, average = (flatten(load_params(tmp_path / name)[1]) for name in ("plain", "averaged"))
    assert last.keys() == average.keys()
    assert any(not np.allclose(last[path], average[path]) for path in last)


def test_a_skipped_step_leaves_the_average_where_it_was(tmp_path):
    config = ("ema.decay=0.9", "checkpoint.every_steps=1", "tiny.poisoned_from=2", "tiny.poisoned_to=3")
    run_here(tiny_config("total_steps=4", "checkpoint.keep=4", *config), tmp_path, devices=2)
    two, three, four = (
        flatten(load_params(tmp_path / "checkpoints" / f"{step:08d}")[1]) for step in (2, 3, 4)
    )
    for path in two:  # step 3 is skipped
        np.testing.assert_array_equal(three[path], two[path])
    assert any(not np.allclose(four[path], three[path]) for path in two)


def test_an_average_goes_on_over_a_restart_on_other_devices(tmp_path):
    config = tiny_config("total_steps=6", "ema.decay=0.9", "checkpoint.every_steps=3")
    run_here(config, tmp_path / "whole", devices=2)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "00000006")
    run_here(config, tmp_path / "parts", devices=4)
    whole, parts = (flatten(load_params(tmp_path / name)[1]) for name in ("whole", "parts"))
    for path in whole:
        np.testing.assert_allclose(parts[path], whole[path], rtol=1e-5, atol=1e-6)
