"""Where a frame is cut and how it is resized: the same box for all frames of an example.

Not here: which frames (sampling); the sound's gain, which is drawn on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

# HiCMAE's multi-scale crop.
_SCALES = (1.0, 0.875, 0.75, 0.66)  # of the short side
_SNAP = 2  # pixels: a side this close to the output size becomes the output size
# Pairs (width, height) of scales whose places in the list differ by at most one.
_SHAPES = [(i, j) for i, j in itertools.product(range(len(_SCALES)), repeat=2) if abs(i - j) <= 1]
# Offsets (x, y) in quarters of the free space: corners, centre, edge centres, half-way to the corners.
_OFFSETS = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)


def multi_scale_sides(short_side: int, output_size: int) -> list[int]:
    """The four candidate lengths of a side; one snaps to the output size only where the frame has room."""
    sides = [int(short_side * scale) for scale in _SCALES]
    return [output_size if abs(s - output_size) <= _SNAP and output_size <= short_side else s for s in sides]


def multi_scale_boxes(width: int, height: int, output_size: int) -> list[Box]:
    """Every box of the multi-scale crop, 10 shapes × 13 places, each equally likely."""
    sides = multi_scale_sides(min(width, height), output_size)
    boxes = []
    for i, j in _SHAPES:
        w, h = sides[i], sides[j]
        step_x, step_y = (width - w) // 4, (height - h) // 4
        for x, y in _OFFSETS:
            boxes.append((x * step_x, y * step_y, x * step_x + w, y * step_y + h))
    return boxes


def draw_multi_scale_box(rng: np.random.Generator, width: int, height: int, output_size: int) -> Box:
    """One of `multi_scale_boxes`."""
    boxes = multi_scale_boxes(width, height, output_size)
    return boxes[rng.integers(len(boxes))]


def centre_box(width: int, height: int) -> Box:
    """The largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def crop_and_resize(
    pictures: Sequence[Image.Image], box: Box | None, size: int, flip: bool = False
) -> np.ndarray:
    """uint8 [T, size, size, 3]; PIL's bilinear filter with antialiasing, as the reference.

    box: None takes the whole frame, whatever its aspect ratio (fine-tuning in the reference).
    """
    out = np.empty((len(pictures), size, size, 3), np.uint8)
    done: dict[int, int] = {}  # a frame that is repeated is the same picture object
    for i, picture in enumerate(pictures):
        if id(picture) in done:
            out[i] = out[done[id(picture)]]
            continue
        cut = picture.crop(box) if box is not None else picture
        out[i] = np.asarray(
            cut if cut.size == (size, size) else cut.resize((size, size), Image.Resampling.BILINEAR)
        )
        done[id(picture)] = i
    return out[:, :, ::-1] if flip else out
