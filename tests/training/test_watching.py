"""Looks at a run: scores in its rows, the best weights kept, an early end, and that a restart changes none of it."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.errors import UserError
from avemo_jax.models.params import flatten
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.checkpoint_files import step_folders
from avemo_jax.training.checkpoints import load_params
from avemo_jax.training.loop import train
from avemo_jax.training.watching import BEST, LOOKS, Watch, best_of, read_looks
from tests.training import tiny


def run(workdir, *overrides, peak=6, patience=0):
    """A run that is looked at every two steps: `height` rises to the step `peak` and falls after it, `weights` is a
    number of the weights themselves."""
    config = tiny.tiny_config("log.every_steps=5", *overrides)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])

    def measure(params):
        step = 2 * (len(watch._looks) + 1)
        weights = float(sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params)))
        return {"height": -abs(step - peak), "weights": weights}

    watch = Watch(workdir, measure, score="height", every_steps=2, patience=patience)
    return train(tiny.TinyTask(config), tiny.TinyLoader(config), config, workdir, mesh, watch)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_every_look_has_a_row_and_the_best_weights_are_kept(tmp_path):
    ending = run(tmp_path)
    assert ending.step == 12 and not ending.preempted
    looks = read_looks(tmp_path / LOOKS)
    assert [look["step"] for look in looks] == [2, 4, 6, 8, 10, 12]
    assert best_of(looks, "height") == 6
    by_step = {row["step"]: row for row in rows(tmp_path)}
    assert list(by_step) == [2, 4, 5, 6, 8, 10, 12]
    for look in looks:
        assert (
            by_step[look["step"]]["weights"] == look["weights"] and by_step[look["step"]]["clips_per_s"] > 0
        )
    assert "weights" not in by_step[5]
    _, best, step = load_params(tmp_path / BEST / "checkpoints" / f"{6:08d}")
    total = sum(np.abs(leaf).sum() for leaf in flatten(best).values())
    assert step == 6 and total == pytest.approx(looks[2]["weights"], rel=1e-5)
    assert not any("opt_state" in path for path in flatten(best))


def test_a_run_without_a_better_look_for_long_ends_and_is_over(tmp_path, capsys):
    ending = run(tmp_path, peak=4, patience=2)
    assert ending.step == 8 and not ending.preempted
    assert load_params(tmp_path)[2] == 8
    again = run(tmp_path, peak=4, patience=2)
    assert again.step == 8 and not again.preempted and "it was ended early" in capsys.readouterr().out
    assert len(read_looks(tmp_path / LOOKS)) == 4


def test_after_a_kill_looks_are_taken_again_and_come_out_the_same(tmp_path):
    run(tmp_path / "whole", "checkpoint.keep=10")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    # As after a kill at step 9, when the newest whole checkpoint was that of step 4.
    for step in (6, 8, 10, 12):
        shutil.rmtree(tmp_path / "killed" / "checkpoints" / f"{step:08d}")
    run(tmp_path / "killed", "checkpoint.keep=10")
    whole, killed = (read_looks(tmp_path / name / LOOKS) for name in ("whole", "killed"))
    assert [look["step"] for look in whole] == [look["step"] for look in killed]
    for one, other in zip(whole, killed, strict=True):
        assert one["weights"] == pytest.approx(other["weights"], rel=1e-5)
    steps = [row["step"] for row in rows(tmp_path / "killed")]
    assert steps == sorted(set(steps))


def test_the_best_weights_before_a_rollback_are_not_lost_to_those_that_it_forgets(tmp_path, monkeypatch):
    rewind, held = Watch.rewind, []

    def noting(watch, step):
        rewind(watch, step)
        there = [int(folder.name) for folder in step_folders(tmp_path / BEST / "checkpoints")]
        held.append((step, watch.best_step, there))

    monkeypatch.setattr(Watch, "rewind", noting)
    # Steps 5 to 10 are bad, and 9 is one too many; each look is the best so far.
    run(tmp_path, "tiny.poisoned_from=4", "tiny.poisoned_to=10", "guard.max_bad_steps=5", peak=12)
    assert held == [(0, None, []), (4, 4, [4, 8, 10])]
    assert load_params(tmp_path / BEST)[2] == 12


def test_a_rollback_at_the_look_that_would_end_a_run_does_not_end_it(tmp_path, capsys):
    # Steps 6 to 8 are bad; at step 8 there were two looks without a better one.
    ending = run(tmp_path, "tiny.poisoned_from=5", "tiny.poisoned_to=8", peak=4, patience=2)
    assert "rolling back to step 4" in capsys.readouterr().out
    assert ending.step == 8 and [look["step"] for look in read_looks(tmp_path / LOOKS)] == [2, 4, 6, 8]
    assert load_params(tmp_path)[2] == 8


def test_an_error_is_better_when_it_is_lower_and_no_number_is_never_the_best():
    looks = [{"step": 1, "mae": 3.0}, {"step": 2, "mae": float("nan")}, {"step": 3, "mae": 1.0}]
    assert best_of(looks, "mae", -1.0) == 3 and best_of(looks, "mae") == 1
    assert best_of([{"step": 1, "mae": None}], "mae") is None
    assert best_of([{"step": 1, "a": 2.0}, {"step": 5, "a": 2.0}], "a") == 1


def test_a_run_begins_with_the_weights_of_another_one(tmp_path, capsys):
    tiny.run_here(tiny.tiny_config("total_steps=4"), tmp_path / "first", devices=1)
    words = (f"init.checkpoint={tmp_path / 'first'}", "total_steps=1", "optimizer.learning_rate=0.0")
    tiny.run_here(tiny.tiny_config(*words), tmp_path / "second", devices=2)
    assert f"from {tmp_path / 'first'}, step 4" in capsys.readouterr().out
    first, second = (flatten(load_params(tmp_path / name)[1]) for name in ("first", "second"))
    for path in first:
        np.testing.assert_array_equal(first[path], second[path])
    assert load_params(tmp_path / "second")[2] == 1
    with pytest.raises(UserError, match="no usable checkpoint"):
        words = (f"init.checkpoint={tmp_path / 'nothing'}", "total_steps=1")
        tiny.run_here(tiny.tiny_config(*words), tmp_path / "third", devices=1)
