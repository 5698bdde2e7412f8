"""The pretraining task: several masks for each clip of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.batch import Outputs, Targets
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.objectives.contrastive import hierarchical_contrast
from avemo_jax.tasks import clips, make_task
from tests.tasks.small import batch, check_learned_temperature, fresh, task

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


@pytest.mark.slow
def test_a_learned_temperature_begins_as_the_fixed_one_and_is_learned():
    check_learned_temperature(lambda override: task("contrast.weight=1.0", override), batch())


@pytest.mark.slow
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


def test_what_the_device_cuts_out_of_whole_frames_is_learnt_from_as_if_the_host_had():
    rng = np.random.default_rng(2)
    here, there = task("mask.repeats=2"), task("mask.repeats=2", "data.device_crop=(40,48)")
    cut, left = batch(), np.array([0, 5, 16])
    whole = rng.integers(0, 256, there.batch_shapes()["video"].shape, np.uint8)
    for clip, first in enumerate(left):  # boxes of the model's size: nothing is resized
        whole[clip, :, 3:35, first : first + 32] = cut["video"][clip]
    box = np.stack([left, np.full(3, 3), left + 32, np.full(3, 35)], axis=1).astype(np.int32)
    uncut = {**cut, "video": jnp.asarray(whole), "box": jnp.asarray(box), "flip": jnp.zeros(3, bool)}
    assert uncut.keys() == there.batch_shapes().keys()
    key, shapes = jax.random.key(1), jax.eval_shape(there.init_model, jax.random.key(0))
    views = [one.view(of, clips.clip_keys(key, of)) for one, of in ((here, cut), (there, uncut))]
    assert all(map(np.array_equal, *map(jax.tree.leaves, views)))
    programs = [str(jax.make_jaxpr(one.loss)(shapes, of, key)) for one, of in ((here, cut), (there, uncut))]
    assert len(programs[0]) < len(programs[1]) < 1.1 * len(programs[0])  # cut once, before clips are copied


def test_no_mask_at_all_is_refused():
    with pytest.raises(UserError, match="at least one mask"):
        task("mask.repeats=0")


def test_a_run_of_an_earlier_version_has_the_values_that_it_could_not_say():
    config = load_config("cav_mae:demo", ["mask.video_ratio=0.5"])
    with config.unlocked():
        for section, key in [
            ("mask", "video"),
            ("mask", "choices"),
            ("target", "kind"),
            ("target", "standardize_video"),
            ("contrast", "kind"),
        ]:
            del config[section][key]
    filled = make_task(config).config
    assert (filled.mask.video, filled.target.kind, filled.contrast.kind) == ("tube", "patches", "infonce")
    assert filled.target.standardize_video is False
    assert filled.mask.video_ratio == 0.5 and filled.contrast.group_size == 16
    assert "kind" not in config.target  # what was read stays as it was
