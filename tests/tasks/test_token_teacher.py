"""A teacher of hidden tokens, another run's encoder or the run's own average: what it says, who can learn from it, and
that it stays."""

from __future__ import annotations

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

from avemo_jax import models
from avemo_jax.comparing.counting import count
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.models.encoders import Encodes
from avemo_jax.models.params import flatten, merge, split
from avemo_jax.tasks import clips, make_task
from avemo_jax.tasks.token_teacher import remember
from avemo_jax.training.checkpoint_files import load_params, save_params
from avemo_jax.training.gradients import loss_and_grads
from avemo_jax.training.mesh import make_mesh
from tests.evaluation.synthetic import write_checkpoint
from tests.tasks.small import fresh
from tests.training.random_clips import SMALL, RandomClips, run_here
from tests.training.tiny import losses_of

TAUGHT = ("target.kind=latents", "batch_size=4", "log.samples_every_steps=0")
NARROW = tuple(word for word in SMALL if "skip_layers" not in word and "fusion_depth" not in word)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A small HiCMAE, of another width and depth than its students."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    write_checkpoint(run, (*SMALL, "model.dim=48", "model.depth=3"))
    return run


def student(method, teacher, *more):
    words = SMALL if method == "hicmae" else NARROW
    config = load_config(f"{method}:demo", (*words, *TAUGHT, f"target.teacher={teacher}", *more))
    remember(config)
    return config


@pytest.mark.parametrize("method", ["hicmae", "cav_mae", "mjepa"])
def test_hidden_tokens_are_learnt_as_the_teacher_sees_them_in_whole_clips(method, teacher):
    layers = 1 if method != "mjepa" else 2
    more = (f"model.teacher_layers={layers}",) if method == "mjepa" else ()
    task = make_task(student(method, teacher, *more))
    assert task.config.model.target_dim == 48 and not task.learns_from_average
    made_with, params, _ = load_params(teacher)
    net: Encodes = merge(split(nnx.eval_shape(lambda: models.build(made_with, jax.random.key(0))))[0], params)
    batch = next(iter(RandomClips(task.config)))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def look(net, batch):
        clip, masks = task.view(batch, clips.clip_keys(jax.random.key(1), batch))
        return net.encode(clip), masks, task.targets(clip, masks, net)

    seen, masks, targets = look(net, batch)
    for name, target in zip(("video", "audio"), targets[:2], strict=True):
        np.testing.assert_allclose(target, told(seen, masks, name, layers), rtol=0, atol=2e-5)
        assert target.shape[-1] == 48


def told(seen, masks, name, layers=1):
    """What a teacher that has `seen` says of the hidden tokens."""
    whole = np.asarray(getattr(seen, f"{name}_layers"), np.float64)[-layers:]
    plain = (whole - whole.mean(-1, keepdims=True)) / np.sqrt(whole.var(-1, keepdims=True) + 1e-6)
    return np.take_along_axis(plain.mean(0), np.asarray(getattr(masks, name).masked)[..., None], axis=1)


@pytest.mark.parametrize("method", ["hicmae", pytest.param("vaemo", marks=pytest.mark.slow)])
def test_a_run_s_average_can_teach_it_beside_patches(method):
    both = ("target.kind=both", "ema.decay=0.9", "target.latent_weight=0.5", "contrast.weight=0.0")
    task = make_task(student(method, "", *both))
    assert task.learns_from_average and task.config.model.target_patches
    model, batch = fresh(task), next(iter(RandomClips(task.config)))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def look(model, batch):
        clip, masks = task.view(batch, clips.clip_keys(jax.random.key(1), batch))
        targets, outputs = task.targets(clip, masks, model), model(clip, masks)
        return model.encode(clip), masks, targets, outputs, task.score(outputs, targets)

    seen, masks, targets, outputs, (loss, terms) = jax.tree.map(np.asarray, look(model, batch))
    errors = {}
    for name in ("video", "audio"):
        latents = told(seen, masks, name)
        np.testing.assert_allclose(getattr(targets, f"{name}_latents"), latents, rtol=0, atol=2e-5)
        wanted = np.concatenate([getattr(targets, name), latents], axis=-1)
        error = np.square(getattr(outputs, f"{name}_prediction") - wanted)
        errors |= {
            name: error[..., : -latents.shape[-1]],
            f"{name}_latents": error[..., -latents.shape[-1] :],
        }
    for name, error in errors.items():
        assert terms[f"loss_{name}"] == pytest.approx(error.mean(), rel=1e-4), name
    weights = np.array([1, 0.5, 1, 0.5])
    assert loss == pytest.approx(weights @ [error.mean() for error in errors.values()], rel=1e-4)


@pytest.mark.slow
def test_a_run_that_learns_patches_and_its_own_average_goes_on_and_shows_pictures(tmp_path):
    words = ("target.kind=both", "ema.decay=0.9", "log.samples_every_steps=2", "total_steps=2")
    ramp = "objectives.ramps=(('latents',0,1,0,2),)"
    run_here(student("hicmae", "", *words, ramp), tmp_path, 1)
    run_here(student("hicmae", "", *words, ramp, "total_steps=4"), tmp_path, 1)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_video", "loss_audio_latents", "factor_latents"} <= set(rows[-1]) and rows[-1]["step"] == 4
    assert list((tmp_path / "samples").glob("*.png"))


@pytest.mark.slow
def test_it_learns_on_eight_devices_as_on_one_and_goes_on_after_a_stop(teacher, tmp_path):
    before = load_params(teacher)[1]
    constant = ("optimizer.learning_rate=0.01", "optimizer.min_learning_rate=0.01")

    def run(name, devices, *more):
        run_here(student("cav_mae", teacher, "batch_size=8", *constant, *more), tmp_path / name, devices)
        return losses_of(tmp_path / name)

    one = run("one", 1)
    assert one[3] != pytest.approx(one[1], rel=1e-3)
    assert run("eight", 8, "mesh.fsdp=2", "mesh.tensor=2") == pytest.approx(one, rel=1e-5)
    run("stopped", 1, "total_steps=2")
    assert run("stopped", 1)[3] == pytest.approx(one[3], rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, load_params(teacher)[1], before)
    saved = json.loads((tmp_path / "one" / "config.json").read_text())
    assert saved["model"]["target_dim"] == 48  # so that probes build the same model


@pytest.mark.slow
def test_microbatches_that_are_contrasted_as_one_batch_have_the_teacher_too(teacher):
    def computed(*words):
        within = ("contrast.weight=0.5", "contrast.within=speaker")
        task = make_task(student("cav_mae", teacher, *within, *words))
        graphdef, params = split(fresh(task))
        mesh = make_mesh(task.config.mesh, jax.devices()[:1])
        run = jax.jit(
            lambda params, of, taught: loss_and_grads(
                task, graphdef, params, of, jax.random.key(1), mesh, teacher=taught
            ),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        (loss, _), grads = run(params, next(iter(RandomClips(task.config))), task.frozen_teacher.load())
        return float(loss), flatten(grads)

    loss, grads = computed()
    cached_loss, cached = computed("accumulate=2", "contrast.cached=True")
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    for path, grad in grads.items():
        np.testing.assert_allclose(cached[path], grad, rtol=0, atol=1e-4 * np.abs(grad).max(), err_msg=path)


@pytest.mark.slow
def test_a_step_with_a_teacher_can_be_counted(teacher):
    config = load_config("cav_mae:demo", (*NARROW, *TAUGHT, f"target.teacher={teacher}"))
    plain = load_config("cav_mae:demo", (*NARROW, "batch_size=4"))
    assert count(config).flops > count(plain).flops


def test_a_run_keeps_the_checkpoint_that_it_learns_from(teacher, tmp_path):
    run = tmp_path / "run"
    write_checkpoint(run, (*SMALL, "model.dim=48"))
    config = student("cav_mae", run)
    begun = config.target.teacher
    assert begun == str(run / "checkpoints" / "00000007")
    again, params, _ = load_params(run)
    save_params(run, again, params, step=9)
    remember(config)
    assert config.target.teacher == begun  # of a run that goes on
    assert student("cav_mae", run).target.teacher == str(run / "checkpoints" / "00000009")


@pytest.mark.parametrize(
    ("method", "words", "said"),
    [
        (
            "cav_mae",
            ("model.image_size=48",),
            r"cuts video into \(2, 2, 2\) tokens, and this run into \(2, 3, 3\)",
        ),
        ("cav_mae", ("target.kind=patches",), "target.teacher is learnt from with target.kind=latents"),
        ("cav_mae", ("target.teacher=",), "ema.decay must be above 0, or target.teacher a run"),
        ("mjepa", ("target.teacher=", "ema.decay=0.0"), "ema.decay must be above 0"),
        ("mjepa", ("model.depth=4", "model.teacher_layers=4"), "model.teacher_layers is 4, and .* has 3"),
    ],
)
def test_what_cannot_be_learnt_is_refused(method, words, said, teacher):
    with pytest.raises(UserError, match=said):
        make_task(student(method, teacher, *words))


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no usable checkpoint in {tmp_path}"):
        student("cav_mae", tmp_path)
