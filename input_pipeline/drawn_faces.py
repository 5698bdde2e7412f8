"""A face and what it does at one moment → a picture. Flat shapes, drawn large with Pillow and scaled down.

Lengths are in face units: 1 is from the middle of a face to its chin, x to the right and y down as in pictures.
Not here: who has which face, and what it does when (talking_faces).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

SUPERSAMPLING = 3  # Pillow's polygons have hard edges


@dataclass(frozen=True)
class Face:
    """Who it is: lengths in face units, colours in RGB. `resting_…`: what the features do without emotion.

    hair_length: how far down it hangs, -0.4 (cropped) to 1.4; fringe: y of the hairline; parting: its x.
    jaw: 1.7 pointed to 3 square.
    """

    width: float
    jaw: float
    eye_distance: float
    eye_size: float
    brow_thickness: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_thickness: float
    hair_length: float
    hair_volume: float
    fringe: float
    parting: float
    shoulders: float
    lashes: float
    beard: bool
    glasses: bool
    resting_corner: float
    resting_brow: float
    skin: Colour
    hair: Colour
    iris: Colour
    lip: Colour
    clothes: Colour


class Expression(NamedTuple):
    """What the features do: 0 at rest, some 1 in either direction for a strong emotion.

    brow_raise; brow_tilt: inner ends up (sorrow) or down (anger); eyes: wider or narrower; squint: lower lids
    up; corner: of the mouth, up or down; jaw: how far it drops; wide: the mouth.
    """

    brow_raise: float
    brow_tilt: float
    eyes: float
    squint: float
    corner: float
    jaw: float
    wide: float


EXPRESSIONS = {
    "neutral": Expression(0, 0, 0, 0, 0, 0, 0),
    "happy": Expression(0.25, 0.1, -0.1, 0.9, 1.0, 0.12, 0.6),
    "sad": Expression(0.1, 1.0, -0.5, 0.1, -0.8, 0.0, -0.2),
    "angry": Expression(-0.7, -1.0, -0.15, 0.5, -0.6, 0.05, -0.1),
    "fearful": Expression(0.7, 0.8, 0.7, 0.0, -0.4, 0.15, 0.7),
    "surprised": Expression(1.1, 0.0, 0.9, 0.0, 0.05, 0.5, -0.4),
}


class Moment(NamedTuple):
    """One frame: where the face is (pixels), its size (pixels a face unit), how the head is turned (radians),
    whether the eyes are open (1) or closed (0), and what the lips say (talking_speech.lips)."""

    x: float
    y: float
    size: float
    roll: float
    yaw: float
    nod: float
    expression: Expression
    blink: float
    lips_open: float
    lips_wide: float
    lips_round: float


def draw(face: Face, moment: Moment, background: Image.Image) -> Image.Image:
    """The face before the background, which is SUPERSAMPLING times as large as the result."""
    picture = background.copy()
    pen, e = _Pen(picture, moment), moment.expression
    drop = 0.13 * _mouth_gap(moment)
    _body(pen, face)
    if face.hair_length > 0:
        _back_hair(pen, face)
    else:
        for side in (-1, 1):
            pen.fill(_oval(side * face.width, 0.06, 0.1, 0.17), _shade(face.skin, 0.93), -0.15)
    pen.fill(_head(face, drop), face.skin, 0)
    for side in (-1, 1):
        cheek = _oval(side * 0.48 * face.width, 0.38, 0.16, 0.11)
        pen.fill(cheek, _blend(face.skin, (225, 90, 80), 0.13), 0.25)
    if face.beard:
        _beard(pen, face, drop)
    _nose(pen, face)
    _mouth(pen, face, moment)
    for side in (-1, 1):
        _eye(pen, face, e, moment.blink, side)
    _front_hair(pen, face)
    for side in (-1, 1):
        _brow(pen, face, e, side)
    if face.glasses:
        _glasses(pen, face)
    return picture.reduce(SUPERSAMPLING)


_EYE_Y = -0.06
_MOUTH_Y = 0.56
_TURN = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)
_ACROSS = np.linspace(-1, 1, 17)
_ARCH = 1 - _ACROSS**2


class _Pen:
    """Draws in face units on a picture. depth: towards the viewer, so that a part moves when the head turns;
    a body does not turn."""

    def __init__(self, picture, moment):
        self._draw = ImageDraw.Draw(picture)
        self._size = moment.size * SUPERSAMPLING
        self._at = np.array([moment.x, moment.y]) * SUPERSAMPLING
        cos, sin = np.cos(moment.roll), np.sin(moment.roll)
        self._roll = np.array([[cos, sin], [-sin, cos]])
        self._turned = np.cos([moment.yaw, moment.nod])
        self._shift = np.sin([moment.yaw, moment.nod])

    def fill(self, points, colour, depth=0.0, body=False):
        placed = points * self._size + self._at if body else self._place(points, depth)
        self._draw.polygon(placed.ravel().tolist(), fill=colour)

    def line(self, points, colour, depth, width):
        placed, wide = self._place(points, depth), max(1, round(width * self._size))
        self._draw.line(placed.ravel().tolist(), fill=colour, width=wide, joint="curve")

    def _place(self, points, depth):
        turned = points * self._turned + depth * self._shift
        return (turned @ self._roll) * self._size + self._at


def _oval(x, y, rx, ry):
    return _CIRCLE * (rx, ry) + (x, y)


def _curve(points):
    """A smooth closed line through points [N, 2]: [6 N, 2]."""
    return _spline(len(points)) @ np.asarray(points)


@functools.cache
def _spline(count):
    """What makes `count` points a closed Catmull-Rom spline: a matrix [6 count, count]."""
    p = np.eye(count)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, 6, endpoint=False)[:, None, None]
    line = p + t / 2 * (after - before) + t**2 / 2 * (2 * before - 5 * p + 4 * after - beyond)
    line = line + t**3 / 2 * (3 * p - before - 3 * after + beyond)
    return line.transpose(1, 0, 2).reshape(-1, count)


def _mirrored(half):
    """A right half, top to bottom, with its left half before it."""
    return [*((-x, y) for x, y in reversed(half)), *half]


def _between(x, upper, lower):
    """The area between two curves over the same x."""
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])], 1)


def _shade(colour, by):
    return tuple(int(min(255, max(0, part * by))) for part in colour)


def _blend(one, other, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _head(face, drop):
    cos, sin = _CIRCLE.T
    power = np.where(sin > 0, face.jaw, 2.2)
    radius = (np.abs(cos) ** power + np.abs(sin) ** power) ** (-1 / power)
    x, y = radius * cos * face.width, radius * sin
    x = x * np.where(y > 0, 1 - 0.16 * y, 1)
    return np.stack([x, y * np.where(y > 0, 1 + drop, 1)], 1)


def _body(pen, face):
    s, neck = face.shoulders, 0.5 * face.width + 0.06
    shoulders = [(0.3, 1.3), (0.7 * s, 1.45), (0.95 * s, 1.65), (1.1 * s, 2.3), (1.1 * s, 4), (0.5 * s, 5)]
    pen.fill(_curve(_mirrored(shoulders)), face.clothes, body=True)
    throat = [(neck, 0.6), (neck, 1.25), (0.8 * neck, 1.42), (0.2 * neck, 1.52)]
    pen.fill(_curve(_mirrored(throat)), _shade(face.skin, 0.82), body=True)


def _back_hair(pen, face):
    w, low = face.width + face.hair_volume, face.hair_length
    half = [(0.25 * w, _top(face)), (0.7 * w, -0.85), (0.98 * w, -0.4), (1.04 * w, 0.4 * low - 0.1)]
    pen.fill(_curve(_mirrored([*half, (w, 0.8 * low), (0.85 * w, low)])), _shade(face.hair, 0.8), -0.25)


def _front_hair(pen, face):
    w, top = face.width, _top(face)
    temple = 0.0 if face.hair_length > 0 else -0.2
    half = [(0.3 * w, top + 0.02), (0.62 * w, 0.86 * top), (0.93 * w, -0.68), (1.05 * w, -0.35)]
    hairline = [(0.95 * w, -0.3), (0.8 * w, 0.55 * face.fringe - 0.08), (face.parting + 0.3, face.fringe)]
    hairline += [(face.parting, face.fringe - 0.14), (face.parting - 0.3, face.fringe)]
    hairline += [(-0.8 * w, 0.55 * face.fringe - 0.08), (-0.95 * w, -0.3)]
    pen.fill(_curve([*_mirrored([*half, (1.04 * w, temple)]), *hairline]), face.hair, 0.12)


def _top(face):
    return -1.02 - 0.8 * face.hair_volume


def _beard(pen, face, drop):
    edge = _head(face, drop)
    lower = edge[edge[:, 1] > 0.15]
    x = np.linspace(lower[0, 0], lower[-1, 0], 15)
    upper = 0.22 + 0.2 * (1 - (x / face.width) ** 2)
    pen.fill(np.concatenate([lower, np.stack([x, upper], 1)[::-1]]), _blend(face.skin, face.hair, 0.7), 0.06)


def _nose(pen, face):
    end, w = face.nose_length, face.nose_width
    bridge = np.array([(0.05, 0.02), (0.07, end - 0.14), (0.09, end - 0.06)])
    pen.line(bridge, _shade(face.skin, 0.87), 0.55, 0.022)
    half = [(0.05 * w, end - 0.05), (0.6 * w, end - 0.07), (w, end - 0.01), (0.5 * w, end + 0.05)]
    pen.fill(_curve(_mirrored(half)), _shade(face.skin, 0.84), 0.62)


def _mouth_gap(moment):
    """How far the lips are apart, 0 to 1 and a little more: they speak, and a jaw drops by itself too."""
    jaw = max(0, moment.expression.jaw)
    return moment.lips_open * (0.75 + 0.25 * jaw) + 0.6 * jaw * min(1, 0.4 + moment.lips_open)


def _mouth(pen, face, moment):
    e, gap = moment.expression, _mouth_gap(moment)
    half = face.mouth_width * (1 + 0.16 * moment.lips_wide - 0.38 * moment.lips_round + 0.24 * e.wide)
    corner = 0.17 * (e.corner + face.resting_corner)
    x = half * _ACROSS
    middle = _MOUTH_Y + corner * (_ARCH - 0.45) + 0.05 * gap
    opening = 0.3 * gap * _ARCH ** (0.7 + 0.3 * moment.lips_round)
    upper, lower = middle - 0.38 * opening, middle + 0.62 * opening
    thick = face.lip_thickness * (1 + 0.35 * moment.lips_round - 0.1 * e.wide)
    bow = thick * (_ARCH**0.8) * (0.75 - 0.22 * np.exp(-((_ACROSS / 0.16) ** 2)))
    pout = thick * 1.15 * _ARCH**0.75
    pen.fill(_between(x, upper - bow - 0.008, lower + pout + 0.008), face.lip, 0.5)
    pen.fill(_between(x, upper - 0.006, lower + 0.006), (70, 22, 30), 0.48)
    if gap > 0.12:
        inside = slice(2, -2)
        tongue = np.maximum(upper, lower - 0.35 * opening * (1 - 0.5 * np.abs(_ACROSS)))[inside]
        pen.fill(_between(x[inside], tongue, lower[inside]), (176, 78, 84), 0.46)
        teeth = np.minimum(upper + 0.055 * _ARCH**0.5, lower)[inside]
        pen.fill(_between(x[inside] * 0.94, upper[inside], teeth), (240, 236, 228), 0.47)


def _eye(pen, face, e, blink, side):
    wide, high = face.eye_size, face.eye_size * 0.62
    openness = blink * float(np.clip(1 + 0.5 * e.eyes, 0.3, 1.7))
    x0 = side * face.eye_distance
    x = x0 + wide * _ACROSS
    lid = _EYE_Y - high * openness * _ARCH**0.8
    floor = _EYE_Y + 0.02 + high * 0.62 * min(1.0, openness) * (1 - 0.65 * min(1, e.squint)) * _ARCH**0.8
    lid = np.minimum(lid, floor)
    pen.fill(_between(x, lid, floor), (246, 244, 242), 0.42)
    for radius, colour in ((0.62, face.iris), (0.3, (20, 18, 22))):
        disc = _oval(x0, _EYE_Y - 0.01, radius * high * 1.45, radius * high * 1.45)
        disc[:, 1] = np.clip(disc[:, 1], np.interp(disc[:, 0], x, lid), np.interp(disc[:, 0], x, floor))
        pen.fill(disc, colour, 0.44)
    if openness > 0.5:
        pen.fill(_oval(x0 + 0.03, _EYE_Y - 0.045, 0.018, 0.018), (255, 255, 255), 0.46)
    lashes = lid - 0.022 - face.lashes * _ARCH
    pen.fill(_between(x + side * 0.01, lashes, lid + 0.006), (48, 34, 34), 0.45)
    if e.squint > 0.25:
        fold = np.stack([x0 + 0.8 * wide * _ACROSS, floor + 0.06 * _ARCH + 0.01], 1)
        pen.line(fold, _shade(face.skin, 0.88), 0.4, 0.016)


def _brow(pen, face, e, side):
    raised, along = e.brow_raise + face.resting_brow, np.linspace(0, 1, 9)
    x = side * (face.eye_distance - 0.19 + 0.4 * along)
    arch = 0.055 * (1 + 0.4 * max(0, raised)) * np.sin(np.pi * along**0.8)
    y = _EYE_Y - 0.62 * face.eye_size - 0.15 - 0.13 * raised - arch
    y = y - 0.16 * e.brow_tilt * (1 - along) ** 1.3 + 0.05 * max(0, e.brow_tilt) * along
    thick = face.brow_thickness * (1 - 0.55 * along)
    pen.fill(_between(x, y - thick, y + thick), _blend(face.hair, (40, 30, 28), 0.35), 0.4)
    if e.brow_tilt < -0.3:
        frown = np.array([(side * 0.05, -0.27), (side * 0.06, -0.2), (side * 0.05, -0.15)])
        pen.line(frown, _shade(face.skin, 1 + 0.3 * max(-1.0, e.brow_tilt)), 0.45, 0.02)


def _glasses(pen, face):
    frame = (45, 42, 48)
    for side in (-1, 1):
        ring = _oval(side * face.eye_distance, _EYE_Y + 0.03, 0.24, 0.22)
        pen.line(np.concatenate([ring, ring[:2]]), frame, 0.5, 0.03)
    nose = face.eye_distance - 0.24
    pen.line(np.array([(-nose, _EYE_Y), (nose, _EYE_Y)]), frame, 0.5, 0.03)
