"""The face of a clip: found in every picture, followed, smoothed over time, cut out upright at one size.

The cut is that of OpenFace's aligned faces (Baltrusaitis et al. 2018), which the reference is fine-tuned on: a
square, from the brows to the chin, the eyes level and at the same place in every frame. Not here: finding faces
in one picture (blazeface), and what else is done to a frame (storing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from input_pipeline.blazeface import Faces, overlap
from input_pipeline.errors import MediaError

VERSION = "1"  # of what is cut out: noted in prepared folders, which are not gone on with by another one

# Where OpenFace's mean face has its eyes (centres) and the middle of its mouth, in sides of the square from its
# top left corner: scale 0.7 at 112 pixels, its default, centred at the origin of its head model.
TEMPLATE = np.array([(0.294, 0.261), (0.706, 0.261), (0.5, 0.68)])
_OF_FACES = (0, 1, 3)  # the same among the points of `Faces`

_SAME = 0.3  # overlap (intersection over union) of a face's boxes from one sighting to the next
_LONGEST_GAP_S = 1.0  # a face that was away for longer is a new one
_SMOOTHING_S = 0.04  # deviation of the Gaussian: half of the detector's trembling goes, a nod of 2 Hz stays
_SMALLEST = 32  # pixels: side of a cut with nothing in it for patches of 16
_LASTING = 0.25  # other faces count as such when they are seen in this share of the kept one's pictures


@dataclass
class Track:
    """One face over time. frames: numbers of the pictures in which it was found, increasing, [K].

    boxes: [K, 4] and points: [K, 6, 2] as in `Faces`.
    """

    frames: list[int]
    boxes: list[np.ndarray]
    points: list[np.ndarray]

    @property
    def weight(self) -> float:
        """Sum of the box's side over the pictures: of two faces the larger counts more, and the lasting one."""
        boxes = np.array(self.boxes)
        return float(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).sum())


class Counts(NamedTuple):
    """frames: pictures of the clip; found: those in which the kept face was found; others: further faces that
    were there for at least a quarter of that time."""

    frames: int
    found: int
    others: int


class Cutting(NamedTuple):
    """How a clip's face is cut out. squares: float64 [T, 2, 3], see `place`; size: pixels of a cut's side."""

    squares: np.ndarray
    size: int
    counts: Counts


def follow(found: Sequence[Faces], fps: float, *, least_share: float, largest: int) -> Cutting:
    """The one face to keep of a clip's pictures, and how to cut it out of each.

    Kept is the face whose box's side, added up over the pictures, is the largest. Where it was not found, it is
    where it was before and after (interpolated; at both ends of the clip as at the first and last sighting).

    Args:
      found: the faces in each picture.
      fps: pictures a second.
      least_share: of the pictures, in which the face must have been found.
      largest: pixels, of the side of a cut; smaller faces keep their size.

    Raises:
      MediaError: there is no face, it is there too rarely, or it is too small.
    """
    tracks = track(found, fps)
    if not tracks:
        raise MediaError("no face found")
    kept = max(tracks, key=lambda one: one.weight)
    if len(kept.frames) < least_share * len(found):
        raise MediaError(f"its face is found in fewer than {100 * least_share:g} % of the frames")
    squares = place(smooth(kept, len(found), fps))
    size = int(np.median(np.hypot(squares[:, 0, 0], squares[:, 1, 0])))
    if size < _SMALLEST:
        raise MediaError(f"its face is smaller than {_SMALLEST} pixels")
    others = sum(one is not kept and len(one.frames) >= _LASTING * len(kept.frames) for one in tracks)
    return Cutting(squares, min(size, largest), Counts(len(found), len(kept.frames), others))


def track(found: Sequence[Faces], fps: float) -> list[Track]:
    """Joins the faces of successive pictures: those whose boxes overlap most, never two of one picture.

    A face that appears elsewhere is another one, so that a track does not jump between people. After a cut to
    somebody who fills the same place the track goes on: pixels are not compared.
    """
    tracks: list[Track] = []
    for number, faces in enumerate(found):
        open_ = [one for one in tracks if number - one.frames[-1] <= max(1.0, _LONGEST_GAP_S * fps)]
        free = set(range(len(faces.scores)))
        if open_ and free:
            overlaps = overlap(np.array([one.boxes[-1] for one in open_]), faces.boxes)
            for i, j in sorted(np.ndindex(overlaps.shape), key=lambda pair: -overlaps[pair]):
                if overlaps[i, j] >= _SAME and j in free and open_[i].frames[-1] < number:
                    free.remove(j)
                    _extend(open_[i], number, faces, j)
        for j in sorted(free):
            tracks.append(Track([], [], []))
            _extend(tracks[-1], number, faces, j)
    return tracks


def _extend(one: Track, number: int, faces: Faces, j: int) -> None:
    one.frames.append(number)
    one.boxes.append(faces.boxes[j])
    one.points.append(faces.points[j])


def smooth(one: Track, count: int, fps: float) -> np.ndarray:
    """Eyes and mouth of a face in each of `count` pictures, float64 [count, 3, 2], in pixels.

    Gaps are interpolated, then everything is averaged with a Gaussian over time. The ends are continued by
    reflection through their point, so that a face that moves there is not held back.
    """
    points = np.array(one.points, np.float64)[:, _OF_FACES].reshape(len(one.frames), -1)
    values = np.stack([np.interp(np.arange(count), one.frames, column) for column in points.T], axis=1)
    deviation = _SMOOTHING_S * fps
    reach = min(int(3 * deviation), count - 1)
    if reach:
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
        before = 2 * values[0] - values[reach:0:-1]
        after = 2 * values[-1] - values[-2 : -2 - reach : -1]
        padded = np.concatenate([before, values, after])
        columns = [np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T]
        values = np.stack(columns, axis=1)
    return values.reshape(count, len(TEMPLATE), 2)


def place(points: np.ndarray) -> np.ndarray:
    """Eyes and mouth, [T, 3, 2] → the square around each face: float64 [T, 2, 3].

    Each 2 × 3 matrix takes (x, y, 1), x and y in sides of the square from its corner, to pixels of the picture. It
    is the similarity (turn, scale, shift; Umeyama 1991) that brings `TEMPLATE` closest to the points.
    """
    middle = points.mean(axis=1, keepdims=True)
    theirs = _complex(points - middle)
    ours = _complex(TEMPLATE - TEMPLATE.mean(axis=0))
    turned = (theirs * ours.conj()).sum(axis=1) / (np.abs(ours) ** 2).sum()  # scale and turn as one number
    corner = _complex(middle[:, 0]) - turned * _complex(TEMPLATE.mean(axis=0))
    rows = [[turned.real, -turned.imag, corner.real], [turned.imag, turned.real, corner.imag]]
    return np.array(rows).transpose(2, 0, 1)


def cut(frame: np.ndarray, square: np.ndarray, size: int) -> Image.Image:
    """The square of a picture, uint8 [H, W, 3], at size × size pixels; black where it reaches beyond it.

    square: float [2, 3], of `place`.
    """
    picture = Image.fromarray(frame)
    square = np.array(square, np.float64)
    side = float(np.hypot(square[0, 0], square[1, 0]))
    if side > size:
        # First to the scale of the result, with a filter as wide as that needs; turning samples single points.
        corners = square @ np.array([(0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)]).T
        low = np.floor(corners.min(axis=1)).clip(0, np.array(picture.size) - 1)
        high = np.ceil(corners.max(axis=1)).clip(low + 1, picture.size)
        shape = np.maximum(1, np.ceil((high - low) * size / side))
        picture = picture.resize(
            (int(shape[0]), int(shape[1])), Image.Resampling.BILINEAR, box=(*low, *high), reducing_gap=3.0
        )
        square[:, 2] -= low
        square *= (shape / (high - low))[:, None]
    square[:, :2] /= size
    return picture.transform(
        (size, size), Image.Transform.AFFINE, tuple(square.ravel()), Image.Resampling.BICUBIC
    )


def _complex(points: np.ndarray) -> np.ndarray:
    return points[..., 0] + 1j * points[..., 1]
