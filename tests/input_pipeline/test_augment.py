"""The multi-scale crop: its candidates, its bounds, and the pixels."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from input_pipeline import augment


def test_the_sides_are_those_of_the_reference_at_160_pixels():
    assert augment.multi_scale_sides(160, 160) == [160, 140, 120, 105]


def test_a_side_within_two_pixels_of_the_output_snaps_to_it():
    assert augment.multi_scale_sides(162, 160)[0] == 160
    assert augment.multi_scale_sides(163, 160)[0] == 163
    assert augment.multi_scale_sides(110, 96) == [110, 96, 82, 72]
    assert augment.multi_scale_sides(111, 96)[1] == 96


def test_there_are_ten_shapes_at_thirteen_places():
    boxes = augment.multi_scale_boxes(213, 160, 160)
    assert len(boxes) == 130
    assert len({(right - left, bottom - top) for left, top, right, bottom in boxes}) == 10
    smallest = [box for box in boxes if (box[2] - box[0], box[3] - box[1]) == (105, 105)]
    assert len(set(smallest)) == 13
    assert (27 * 2, 13 * 2, 27 * 2 + 105, 13 * 2 + 105) in smallest  # the centre, in whole quarter steps


@given(st.integers(8, 400), st.integers(8, 400), st.integers(8, 224), st.integers(0, 2**32))
def test_a_drawn_box_lies_inside_the_frame(width, height, size, seed):
    left, top, right, bottom = augment.draw_multi_scale_box(np.random.default_rng(seed), width, height, size)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_centre_box_is_the_largest_square_in_the_middle(width, height):
    left, top, right, bottom = augment.centre_box(width, height)
    assert right - left == bottom - top == min(width, height)
    assert 0 <= width - right - left <= 1 and 0 <= height - bottom - top <= 1


def test_pixels_are_those_of_pillows_crop_and_bilinear_resize_for_every_frame():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)) for _ in range(2)]
    pictures.append(pictures[0])
    out = augment.crop_and_resize(pictures, (10, 5, 90, 75), 32)
    assert out.dtype == np.uint8 and out.shape == (3, 32, 32, 3)
    for picture, frame in zip(pictures, out, strict=True):
        expected = picture.crop((10, 5, 90, 75)).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(frame, expected)
    np.testing.assert_array_equal(
        augment.crop_and_resize(pictures, (10, 5, 90, 75), 32, flip=True), out[:, :, ::-1]
    )


def test_a_crop_of_the_output_size_keeps_its_pixels():
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8))
    np.testing.assert_array_equal(
        augment.crop_and_resize([picture], (4, 4, 36, 36), 32)[0], np.array(picture)[4:36, 4:36]
    )
