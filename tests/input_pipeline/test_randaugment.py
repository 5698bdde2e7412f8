"""RandAugment: what each operation does to pixels, by another way to compute it, and how it is drawn."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from input_pipeline.randaugment import OPERATIONS, RandAugment

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (24, 32, 3)).astype(np.uint8)
RECIPE = RandAugment(operations=4, magnitude=7.0, deviation=0.5)


def done(name, level, sign=1, frame=FRAME):
    return np.asarray(OPERATIONS[name](level, sign, Image.fromarray(frame)))


def test_there_are_the_fifteen_operations_that_grow_with_the_level():
    assert len(OPERATIONS) == 15


def test_operations_on_single_pixels_are_those_of_the_recipe():
    wide = FRAME.astype(int)
    np.testing.assert_array_equal(done("invert", 7), 255 - FRAME)
    np.testing.assert_array_equal(done("posterize", 7), FRAME & 0b11000000)  # 4 − ⌊2.8⌋ bits
    np.testing.assert_array_equal(done("posterize", 10), np.zeros_like(FRAME))
    np.testing.assert_array_equal(done("solarize", 7), np.where(FRAME >= 256 - 179, 255 - FRAME, FRAME))
    added = np.where(wide < 128, np.minimum(wide + 77, 255), wide)
    np.testing.assert_array_equal(done("solarize_add", 7), added)
    bright = np.clip(wide * (1 + 0.09 * 7), 0, 255)
    np.testing.assert_allclose(done("brightness", 7, 1), bright, atol=1)
    np.testing.assert_allclose(done("brightness", 7, -1), wide * (1 - 0.09 * 7), atol=1)


def _blended(other, factor):
    """What enhancing is: away from `other`, or towards it."""
    return np.clip(other + factor * (FRAME.astype(float) - other), 0, 255)


@pytest.mark.parametrize("level, sign", [(7, 1), (7, -1), (10, 1), (10, -1), (3.3, 1)])
def test_enhancing_goes_away_from_grey_from_the_mean_and_from_the_smoothed(level, sign):
    factor = 1 + sign * 0.09 * level
    grey = np.round(FRAME @ np.array([0.299, 0.587, 0.114]))  # ITU-R 601
    np.testing.assert_allclose(done("color", level, sign), _blended(grey[..., None], factor), atol=1.01)
    mean = np.round(grey.mean())
    np.testing.assert_allclose(done("contrast", level, sign), _blended(mean, factor), atol=1.01)
    kernel = np.ones((3, 3))
    kernel[1, 1] = 5
    smooth = np.stack([ndimage.convolve(FRAME[..., c].astype(float), kernel / 13) for c in range(3)], -1)
    inside = np.s_[1:-1, 1:-1]
    expected = _blended(np.round(smooth), factor)[inside]
    np.testing.assert_allclose(done("sharpness", level, sign)[inside], expected, atol=1.01)
    np.testing.assert_allclose(done("sharpness", level, sign)[0], FRAME[0], atol=1)  # the border stays


def test_automatic_contrast_stretches_each_channel_and_equalising_makes_its_values_even():
    faint = (40 + FRAME // np.array([2, 3, 4])).astype(np.uint8)
    wide = faint.astype(float)
    low, high = wide.min((0, 1)), wide.max((0, 1))
    np.testing.assert_allclose(
        done("auto_contrast", 7, frame=faint), 255 * (wide - low) / (high - low), atol=1.01
    )
    even = done("equalize", 7, frame=faint)
    for channel in range(3):
        values, equal = faint[..., channel].ravel().astype(int), even[..., channel].ravel()
        counts = np.bincount(values, minlength=256)
        # Every value becomes the share of pixels below it, of all but those of the highest.
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.concatenate([[0], np.cumsum(counts)])[values]
        np.testing.assert_array_equal(equal, np.minimum((step // 2 + below) // step, 255))
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(done("equalize", 7, frame=flat), flat)
    np.testing.assert_array_equal(done("auto_contrast", 7, frame=flat), flat)


def _resampled(source):
    """FRAME at the places `source(x, y)` of every pixel's middle, by cubic convolution (Keys 1981, a = −1); outside
    grey."""

    def weights(offset):
        far = np.abs(offset)
        outer = -(far**3) + 5 * far**2 - 8 * far + 4
        return np.where(far <= 1, far**3 - 2 * far**2 + 1, np.where(far < 2, outer, 0))

    height, width = FRAME.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    x, y = source(columns, rows)
    outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
    x, y = x - 0.5, y - 0.5
    total = np.zeros(FRAME.shape)
    for down in range(-1, 3):
        for across in range(-1, 3):
            row, column = np.floor(y).astype(int) + down, np.floor(x).astype(int) + across
            pixel = FRAME[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
            total += (weights(y - row) * weights(x - column))[..., None] * pixel
    return np.where(outside[..., None], 128, np.clip(total, 0, 255))


@pytest.mark.parametrize("level, sign", [(7, 1), (7, -1), (10, 1), (2.5, -1)])
def test_rotating_and_shearing_move_pixels_by_the_recipe_s_angles_and_slopes(level, sign):
    slope, angle = sign * 0.03 * level, np.deg2rad(sign * 3 * level)

    def turned(x, y):  # counter-clockwise, about the middle
        x, y = x - 16, y - 12
        return x * np.cos(angle) - y * np.sin(angle) + 16, x * np.sin(angle) + y * np.cos(angle) + 12

    for name, source in (
        ("rotate", turned),
        ("shear_x", lambda x, y: (x + slope * y, y)),
        ("shear_y", lambda x, y: (x, y + slope * x)),
    ):
        found, expected = done(name, level, sign).astype(float), _resampled(source)
        assert np.abs(found - FRAME).mean() > 10
        # A pixel whose place is on the very edge may fall on either side of it.
        assert (np.abs(found - expected).max(-1) > 1.01).mean() < 0.005, name


def test_strength_zero_changes_nothing_where_there_is_a_strength():
    kept = ("rotate", "solarize", "solarize_add", "color", "contrast", "brightness", "sharpness")
    for name in (*kept, "shear_x", "shear_y", "translate_x", "translate_y"):
        np.testing.assert_allclose(done(name, 0.0).astype(int), FRAME, atol=1, err_msg=name)


def test_moves_go_by_a_share_of_the_side_and_leave_grey():
    moved = done("translate_x", 10, 1)  # 0.45 · 32 = 14.4 pixels to the left
    assert (moved[:, -13:] == 128).all()
    smooth = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], 32, 1).repeat(3, 2)  # by rows
    down = done("translate_y", 10, 1, smooth)  # 0.45 · 24 = 10.8 rows up
    np.testing.assert_allclose(down[2:11, 5, 0].astype(int), smooth[2:11, 5, 0].astype(int) + 108, atol=2)
    assert (done("translate_y", 10, -1, smooth)[:10] == 128).all()


def test_a_clip_s_frames_are_changed_alike_and_a_draw_can_be_repeated():
    frames = np.stack([FRAME, FRAME, FRAME[::-1]])
    changed = 0
    for seed in range(20):
        out = RECIPE(frames, np.random.default_rng(seed))
        assert out.shape == frames.shape and out.dtype == np.uint8
        np.testing.assert_array_equal(out[0], out[1])
        np.testing.assert_array_equal(out, RECIPE(frames, np.random.default_rng(seed)))
        changed += not np.array_equal(out, frames)
    assert changed >= 15  # all four drawn operations are left out in one clip of sixteen


def test_strengths_and_signs_and_operations_are_drawn_as_the_recipe_says():
    rng = np.random.default_rng(1)
    steps = [step for _ in range(1000) for step in RECIPE.draw(rng)]
    assert len(steps) == pytest.approx(2000, abs=120)  # half of four
    levels, signs = np.array([step.args[0] for step in steps]), np.array([step.args[1] for step in steps])
    assert levels.mean() == pytest.approx(7, abs=0.05) and levels.std() == pytest.approx(0.5, abs=0.05)
    assert abs(signs.mean()) < 0.08 and set(signs) == {-1, 1}
