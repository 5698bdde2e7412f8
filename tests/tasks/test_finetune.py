"""The fine-tuning task: what a step sees, losses of each kind of target, and configs that do not go together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.tasks import clips, make_task
from tests.tasks.small import fresh

# Run once: compiling is what takes time.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SIZES = (
    "model.dim=24", "model.depth=2", "model.fusion_depth=1", "model.image_size=32", "model.frames=4",
    "model.audio_frames=32", "model.mel_bins=32", "model.drop_path=0.0", "batch_size=4",
)  # fmt: skip
PLAIN = (
    "mix.probability=0.0",
    "augment.crop_area=(1.0,1.0)",
    "augment.flip=0.0",
    "augment.erase=0.0",
    "data.audio_gain=false",
)
THREE = ("data.label=emotion", "data.classes=a,b,c", "model.classes=3")


def config_of(*overrides):
    return load_config("finetune/recipe:demo", [*SIZES, *THREE, *overrides])


def batch_of(task, seed=0):
    rng, count = np.random.default_rng(seed), task.config.batch_size
    shapes = task.batch_shapes()
    made = {
        "video": rng.integers(0, 256, shapes["video"].shape, np.uint8),
        "waveform": rng.integers(-9000, 9000, shapes["waveform"].shape).astype(np.int16),
        "waveform_length": np.full(count, shapes["waveform"].shape[1], np.int32),
        "waveform_mean": np.zeros(count, np.float32),
        "position": rng.permutation(100)[:count].astype(np.int32),
        "label": np.arange(count, dtype=np.int32) % 3
        if shapes["label"].dtype == jnp.int32
        else rng.dirichlet(np.ones(3), count).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, made)


def seen(task, batch, key):
    return jax.jit(task.view)(batch, clips.clip_keys(key, batch), key)


def test_what_a_step_sees_of_a_clip_belongs_to_the_clip_and_the_step_and_not_to_its_row():
    task = make_task(config_of("mix.probability=0.0", "drop_modality.audio=0.5"))
    batch, key = batch_of(task), jax.random.key(1)
    rows = np.array([3, 1, 0, 2])
    straight, moved = (
        seen(task, of, key)[0] for of in (batch, jax.tree.map(lambda field: field[rows], batch))
    )
    for part, other in zip(straight, moved, strict=True):
        np.testing.assert_allclose(part[rows], other, atol=1e-5)
    again = seen(task, batch, jax.random.key(2))[0]
    assert not np.allclose(again.video, straight.video)


def test_a_mixed_batch_has_mixed_pictures_sound_and_targets_of_one_share():
    task = make_task(config_of("mix.cutmix=0.0", *PLAIN[1:], "loss.label_smoothing=0.0"))
    batch, key = batch_of(task), jax.random.key(0)
    mixed, target = seen(task, batch, key)
    plain, own = seen(make_task(config_of(*PLAIN, "loss.label_smoothing=0.0")), batch, key)
    share = float(target[1, 1])  # b, whose partner is c
    assert 0 < share < 1 and float(target[1, 2]) == pytest.approx(1 - share, abs=1e-6)
    for part, whole in zip(mixed, plain, strict=True):
        np.testing.assert_allclose(part, share * whole + (1 - share) * whole[::-1], atol=1e-4)
    np.testing.assert_allclose(own, np.eye(3)[[0, 1, 2, 0]])


LOSSES = [
    ("cross_entropy", ()),
    ("cross_entropy", ("loss.class_weights=balanced", "loss.class_counts=(1,1,1)")),
    ("cross_entropy", ("loss.logit_adjustment=1.0", "loss.class_counts=(5,5,5)")),
    ("kl", ("data.target=distribution",)),
    ("binary_cross_entropy", ("data.target=multi_label",)),
    ("ccc", ("data.target=values", "data.label=v,a,d", "data.classes=")),
    ("smooth_l1", ("data.target=values", "data.label=v,a,d", "data.classes=")),
]


@pytest.mark.parametrize(("kind", "overrides"), LOSSES)
def test_each_kind_of_target_has_its_losses(kind, overrides):
    """With an encoder that gives nothing, the outputs are the head's bias and the loss is known by hand."""
    task = make_task(config_of(f"loss.kind={kind}", "loss.label_smoothing=0.0", *PLAIN, *overrides))
    batch = batch_of(task)

    class Constant:
        def __call__(self, clip, keys=None):
            return jnp.broadcast_to(jnp.array([2.0, 1.0, 0.0]), (4, 3)) + 0 * clip.audio.sum(), None

    loss, metrics = jax.jit(lambda batch, key: task.loss(Constant(), batch, key))(batch, jax.random.key(0))
    logs = np.log(np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum())
    target = np.asarray(batch["label"])
    shares = np.eye(3)[target] if target.ndim == 1 else target
    # Equal counts weigh nothing and adjust nothing.
    outputs = np.array([[2.0, 1.0, 0.0]])
    error = np.abs(outputs - shares)
    expected = {
        "cross_entropy": -(shares * logs).sum(-1).mean(),
        "kl": (shares * (np.log(np.maximum(shares, 1e-12)) - logs)).sum(-1).mean(),
        "binary_cross_entropy": (np.logaddexp(0, outputs) - shares * outputs).mean(),
        "ccc": 1.0,  # a constant does not agree with anything
        "smooth_l1": np.where(error < 1, error**2 / 2, error - 0.5).mean(),
    }[kind]
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    (name,) = metrics
    assert np.isfinite(float(metrics[name]))


@pytest.mark.slow
def test_the_real_model_has_a_gradient_in_every_part_for_mixed_clips():
    task = make_task(config_of())
    model, batch = fresh(task), batch_of(task)
    grads = quickly(nnx.grad(lambda model: task.loss(model, batch, jax.random.key(0))[0]))(model)
    for path, grad in nnx.to_flat_state(grads):
        assert np.isfinite(np.asarray(grad[...])).all(), path
        if path[-1] not in ("q_bias",):  # two tokens may see each other alike
            assert np.any(np.asarray(grad[...])), path


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (("data.label=",), "set data.label"),
        (("model.classes=4",), "model.classes is 4, and data.target=class has 3 outputs"),
        (("loss.kind=mse",), "loss.kind=mse is none for data.target=class: cross_entropy"),
        (("loss.class_weights=inverse",), "balanced or empty"),
        (("loss.class_weights=balanced",), "class_counts has 0 numbers for 3 classes"),
        (("mix.modalities=audio",), "video or both"),
        (("drop_modality.video=0.6", "drop_modality.audio=0.6"), "no probabilities"),
        (("augment.crop_area=0.5",), r"augment.crop_area is \(0.5,\), not two numbers"),
        (("augment.crop_aspect=",), r"augment.crop_aspect is \(\), not two numbers"),
        (
            (
                "data.target=values",
                "data.classes=",
                "data.label=a,b,c",
                "loss.kind=mse",
                "loss.class_weights=balanced",
            ),
            "there are none",
        ),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(overrides, hint):
    with pytest.raises(UserError, match=hint) as error:
        make_task(config_of(*overrides))
    assert "\n" not in str(error.value)


def test_pictures_show_the_clips_as_the_step_saw_them():
    task = make_task(config_of())
    picture = task.figures(None, batch_of(task), jax.random.key(0))["input"]
    assert picture.shape == (4 * 32, 2 * 32 + 32, 3) and picture.dtype == np.uint8 and picture.std() > 20


@pytest.mark.slow
def test_raters_affect_and_the_penalty_are_reached_from_a_config():
    raters = config_of("data.target=raters", "data.raters=r,s", "model.classes=6", "loss.kind=raters", *PLAIN)
    task = make_task(raters)
    assert task.batch_shapes()["label"].shape == (4, 2, 3)
    batch = batch_of(task) | {"label": jnp.eye(3)[jnp.arange(8).reshape(4, 2) % 3]}
    loss, terms = quickly(task.loss)(fresh(task), batch, jax.random.key(0))
    assert np.isfinite(loss) and 0 <= terms["accuracy"] <= 1

    words = ("data.target=distribution", "loss.kind=kl", "loss.together=(9,1,0,1,8,0,0,0,5)", *PLAIN)
    with_penalty, without = (
        make_task(config_of(*words, "loss.co_occurrence=0.5")),
        make_task(config_of(*words)),
    )
    batch, model = batch_of(with_penalty), fresh(with_penalty)
    loss, terms = quickly(with_penalty.loss)(model, batch, jax.random.key(0))
    plain, _ = quickly(without.loss)(model, batch, jax.random.key(0))
    assert (
        float(loss) == pytest.approx(float(plain + 0.5 * terms["penalty"]), rel=1e-5) and terms["penalty"] > 0
    )

    centres = "data.centres=a:0:0:1,b:1:0:1,c:0:1:1"
    affect = make_task(config_of("data.target=affect", "data.label=valence,arousal", centres, "loss.kind=kl"))
    assert affect.target.names == ("a", "b", "c") and affect.batch_shapes()["label"].shape == (4, 3)


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (
            ("data.target=raters", "data.raters=r,s", "loss.kind=raters"),
            "has 6 outputs .*for each of 2 raters",
        ),
        (("loss.co_occurrence=1.0",), "co_occurrence is for several classes a clip"),
        (
            ("data.target=multi_label", "loss.kind=binary_cross_entropy", "loss.co_occurrence=1.0"),
            "loss.together has 0",
        ),
    ],
)
def test_what_does_not_go_together_with_raters_or_the_penalty_is_said(overrides, hint):
    with pytest.raises(UserError, match=hint):
        make_task(config_of(*overrides))
