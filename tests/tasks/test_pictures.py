"""Pictures of clips: hidden patches are blank, a perfect prediction gives the input back, a grid comes apart again."""

import jax
import numpy as np
import pytest

from avemo_jax.batch import Clip, Outputs
from avemo_jax.config import load_config
from avemo_jax.tasks.pictures import ROWS, clip_strips, cut_grid, reconstruction_grid
from avemo_jax.tasks.pretrain import Pretrain
from tests.evaluation.synthetic import TINY


@pytest.fixture(scope="module")
def drawn():
    return made()


def made(*overrides):
    """A task, three clips of noise with masks, and outputs that predict exactly what is asked for."""
    task = Pretrain(load_config("hicmae:demo", [*TINY, "batch_size=3", *overrides]))
    rng = np.random.default_rng(0)
    batch = {name: np.zeros(shape.shape, shape.dtype) for name, shape in task.batch_shapes().items()}
    batch["video"] = rng.integers(0, 256, batch["video"].shape, np.uint8)
    batch["waveform"] = rng.integers(-9000, 9000, batch["waveform"].shape, np.int16)
    batch["waveform_length"][:] = batch["waveform"].shape[1]
    clip, masks = task.view(jax.tree.map(jax.numpy.asarray, batch), jax.random.split(jax.random.key(0), 3))
    targets = task.targets(clip, masks)
    outputs = Outputs(targets.video, targets.audio, np.zeros((1, 3, 4)), np.zeros((1, 3, 4)))
    return task, batch, clip, masks, outputs


def strips_of(drawn, **options):
    task, _, clip, masks, outputs = drawn
    return clip_strips(clip, masks, task.video_grid, task.audio_grid, outputs, task.config.target, **options)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("target.standardize_video=True", "target.per_colour=False"),
        ("target.standardize_video=True", "target.normalize_video=False"),
    ],
)
def test_the_input_is_the_frames_side_by_side_and_a_perfect_prediction_gives_it_back(overrides):
    drawn = made(*overrides)
    batch = drawn[1]
    for clip, (seen, _, rebuilt) in zip(batch["video"], strips_of(drawn), strict=True):
        frames = np.concatenate(list(clip[::2]), axis=1).astype(int)
        assert np.abs(seen.film - frames).max() <= 1
        assert np.abs(rebuilt.film.astype(int) - frames).max() <= 1
        assert np.abs(rebuilt.sound.astype(int) - seen.sound).max() <= 1


def test_hidden_patches_are_grey_and_no_others(drawn):
    task = drawn[0]
    (seen, visible, _), *_ = strips_of(drawn)
    times, rows, columns = task.video_grid
    changed = (seen.film != visible.film).any(-1).reshape(rows, 16, times, columns, 16).any((1, 4))
    hidden = int(task.config.mask.video_ratio * rows * columns)
    assert (changed.sum((0, 2)) == hidden).all()  # of every frame, the same cells
    assert (visible.film[(seen.film != visible.film).any(-1)] == 128).all()


def test_low_frequencies_are_at_the_bottom(drawn):
    task, _, clip, masks, _ = drawn
    rising = np.broadcast_to(np.linspace(-1, 1, clip.audio.shape[2]), clip.audio.shape).astype(np.float32)
    strips = clip_strips(Clip(clip.video, rising), masks, task.video_grid, task.audio_grid, mel_height=40)
    sound = strips[0][0].sound
    assert sound.shape == (40, task.config.model.audio_frames, 3)
    assert (sound[0] == 255).all() and (sound[-1] == 0).all()
    assert len(strips[0]) == 2  # without a model there is nothing to reconstruct


def test_a_grid_comes_apart_into_the_strips_it_was_made_of(drawn):
    task, _, clip, masks, outputs = drawn
    grid = reconstruction_grid(clip, masks, outputs, task.video_grid, task.audio_grid, task.config.target)
    assert grid.dtype == np.uint8
    cut = cut_grid(grid, task.config.model)
    expected = strips_of(drawn)
    assert len(cut) == 3 and all(len(rows) == len(ROWS) for rows in cut)
    for clip_cut, clip_made in zip(cut, expected, strict=True):
        for one, other in zip(clip_cut, clip_made, strict=True):
            np.testing.assert_array_equal(one.film, other.film)
            np.testing.assert_array_equal(one.sound, other.sound)
    assert cut_grid(grid[:-1], task.config.model) == []
