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

CLIPS = 3
SIZES = (
    "model.dim=24",
    "model.depth=2",
    "model.skip_layers=(0,0,1)",
    "model.decoder_dim=12",
    "model.fusion_depth=1",
    "model.image_size=32",
    "model.frames=4",
    "model.audio_frames=32",
    "model.mel_bins=32",
    f"batch_size={CLIPS}",
    "mask.video_ratio=0.5",
    "mask.audio_ratio=0.5",
)


def task(repeats, *more):
    return make_task(load_config("hicmae:demo", [*SIZES, f"mask.repeats={repeats}", *more]))


def batch():
    rng = np.random.default_rng(0)
    shapes = task(1).batch_shapes()
    made = {
        "video": rng.integers(0, 256, shapes["video"].shape, np.uint8),
        "waveform": rng.integers(-9000, 9000, shapes["waveform"].shape).astype(np.int16),
        "waveform_length": np.full(CLIPS, shapes["waveform"].shape[1], np.int32),
        "waveform_mean": np.zeros(CLIPS, np.float32),
        "position": np.array([5, 9, 7], np.int32),
    }
    return jax.tree.map(jnp.asarray, made)


def test_every_copy_of_a_clip_has_a_mask_and_a_volume_of_its_own():
    copies, keys = clips.repeated(batch(), clips.clip_keys(jax.random.key(0), batch()), 2)
    assert copies["position"].tolist() == [5, 5, 9, 9, 7, 7]
    clip, masks = task(2).view(copies, keys)
    audio = np.asarray(masks.audio.visible)
    assert not np.array_equal(audio[0::2], audio[1::2])
    assert np.array_equal(clip.video[0], clip.video[1])
    assert not np.allclose(clip.audio[0], clip.audio[1])  # another gain


def test_draws_belong_to_the_clip_and_not_to_its_row():
    rows = np.array([2, 0, 1])
    shuffled = jax.tree.map(lambda field: field[rows], batch())

    def views(of):
        return task(2).view(*clips.repeated(of, clips.clip_keys(jax.random.key(3), of), 2))[1]

    straight, moved = views(batch()), views(shuffled)
    for clip, row in enumerate(rows):
        assert np.array_equal(
            straight.video.masked[2 * row : 2 * row + 2], moved.video.masked[2 * clip : 2 * clip + 2]
        )


def test_copies_of_a_clip_are_not_each_others_negatives():
    rng = np.random.default_rng(1)
    video, audio = (jnp.asarray(rng.standard_normal((2, CLIPS * 2, 8)), jnp.float32) for _ in "va")
    nothing = jnp.zeros((CLIPS * 2, 1, 4))
    _, metrics = task(2).score(Outputs(nothing, nothing, video, audio), Targets(nothing, nothing))
    expected = [
        hierarchical_contrast(video[:, copy::2], audio[:, copy::2], temperature=0.07)[0] for copy in (0, 1)
    ]
    assert metrics["loss_contrast"] == pytest.approx(float(np.mean(expected)), rel=1e-6)


def test_the_loss_of_two_masks_is_the_mean_of_each():
    of = batch()
    one, two = task(1), task(2)
    model = one.init_model(jax.random.key(0))
    both, _ = jax.jit(two.loss)(model, of, jax.random.key(1))
    copies, keys = clips.repeated(of, clips.clip_keys(jax.random.key(1), of), 2)
    each = []
    for copy in (0, 1):
        clip, masks = one.view(jax.tree.map(lambda x, c=copy: x[c::2], copies), keys[copy::2])
        each.append(float(one.score(model(clip, masks), one.targets(clip, masks))[0]))
    assert float(both) == pytest.approx(np.mean(each), rel=1e-5)


def test_no_mask_at_all_is_refused():
    with pytest.raises(UserError, match="at least one mask"):
        task(0)
