"""RandAugment: what each operation does to pixels, by another way to compute it, and how it is drawn."""

import numpy as np
import pytest
from PIL import Image

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
