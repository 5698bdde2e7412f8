"""The pretraining task: several masks for each clip of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.batch import Outputs, Targets
from avemo_jax.errors import UserError
from avemo_jax.objectives.contrastive import hierarchical_contrast
from avemo_jax.tasks import clips
from tests.tasks.small import batch, fresh, task

CLIPS = 3


def test_every_copy_of_a_clip_has_a_mask_and_a_volume_of_its_own():
    copies, keys = clips.repeated(batch(), clips.clip_keys(jax.random.key(0), batch()), 2)
    assert copies["position"].tolist() == np.repeat(batch()["position"], 2).tolist()
    clip, masks = task("mask.repeats=2").view(copies, keys)
    audio = np.asarray(masks.audio.visible)
    assert not np.array_equal(audio[0::2], audio[1::2])
    assert np.array_equal(clip.video[0], clip.video[1])
    assert not np.allclose(clip.audio[0], clip.audio[1])  # another gain


def test_draws_belong_to_the_clip_and_not_to_its_row():
    rows = np.array([2, 0, 1])
    shuffled = jax.tree.map(lambda field: field[rows], batch())

    def views(of):
        return task("mask.repeats=2").view(*clips.repeated(of, clips.clip_keys(jax.random.key(3), of), 2))[1]

    straight, moved = views(batch()), views(shuffled)
    for clip, row in enumerate(rows):
        assert np.array_equal(
            straight.video.masked[2 * row : 2 * row + 2], moved.video.masked[2 * clip : 2 * clip + 2]
        )


def test_copies_of_a_clip_are_not_each_others_negatives():
    rng = np.random.default_rng(1)
    video, audio = (jnp.asarray(rng.standard_normal((2, CLIPS * 2, 8)), jnp.float32) for _ in "va")
    nothing = jnp.zeros((CLIPS * 2, 1, 4))
    _, metrics = task("mask.repeats=2").score(
        Outputs(nothing, nothing, video, audio), Targets(nothing, nothing)
    )
    expected = [
        hierarchical_contrast(video[:, copy::2], audio[:, copy::2], temperature=0.07)[0] for copy in (0, 1)
    ]
    assert metrics["loss_contrast"] == pytest.approx(float(np.mean(expected)), rel=1e-6)


def test_the_loss_of_two_masks_is_the_mean_of_each():
    of = batch()
    one, two = task(), task("mask.repeats=2")
    model = fresh(one)
    both, _ = jax.jit(two.loss)(model, of, jax.random.key(1))
    copies, keys = clips.repeated(of, clips.clip_keys(jax.random.key(1), of), 2)

    @jax.jit
    def loss_of(batch, keys):
        clip, masks = one.view(batch, keys)
        return one.score(model(clip, masks), one.targets(clip, masks))[0]

    each = [
        float(loss_of({name: x[copy::2] for name, x in copies.items()}, keys[copy::2])) for copy in (0, 1)
    ]
    assert float(both) == pytest.approx(np.mean(each), rel=1e-5)


def test_no_mask_at_all_is_refused():
    with pytest.raises(UserError, match="at least one mask"):
        task("mask.repeats=0")
