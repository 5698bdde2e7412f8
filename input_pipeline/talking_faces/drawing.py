"""A face and what it does at one moment → a picture. Flat shapes, drawn large with Pillow and scaled down.

Lengths are in face units: 1 is from the middle of a face to its chin, x to the right and y down as in pictures.
Not here: who has which face, and what it does when (corpus).
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from itertools import chain

import numpy as np
from PIL import Image, ImageColor, ImageDraw

# Who it is: lengths in face units, then colours as Pillow's ImageColor reads them. jaw: 1.7 pointed to 3 square.
# hair_length: how far down it hangs; less than 0 is cropped. fringe: y of the hairline; parting: its x. glasses:
# 1 or 0.
Face = namedtuple(
    "Face",
    "width jaw eye_distance eye_size brow_thickness nose_length mouth_width lip_thickness "
    "hair_length fringe parting glasses skin hair iris clothes",
)

# What the features do: 0 at rest, some 1 in either direction for a strong emotion. brow_tilt: inner ends up
# (sorrow) or down (anger); eyes: wider or narrower; squint: lower lids up; corner: of the mouth, up or down; jaw:
# how far it drops; wide: the mouth.
Expression = namedtuple("Expression", "brow_raise brow_tilt eyes squint corner jaw wide")
EXPRESSIONS = {
    "neutral": Expression(0, 0, 0, 0, 0, 0, 0),
    "happy": Expression(0.25, 0.1, -0.1, 0.9, 1.0, 0.12, 0.6),
    "sad": Expression(0.1, 1.0, -0.5, 0.1, -0.8, 0.0, -0.2),
    "angry": Expression(-0.7, -1.0, -0.15, 0.5, -0.6, 0.05, -0.1),
    "fearful": Expression(0.7, 0.8, 0.7, 0.0, -0.4, 0.15, 0.7),
    "surprised": Expression(1.1, 0.0, 0.9, 0.0, 0.05, 0.5, -0.4),
}

# One frame: where the face is (pixels), its size (pixels a face unit), how the head is turned (radians), whether the
# eyes are open (1) or closed (0), what the lips say (speech.lips) and the Expression.
Moment = namedtuple("Moment", "x y size roll yaw nod blink lips_open lips_wide expression")

# Points [N, 2], colour, and how far towards the viewer it is: so much it moves when the head turns.
Shape = tuple[np.ndarray, str, float]

_SUPERSAMPLING = 3  # Pillow's polygons have hard edges


def draw(face: Face, moment: Moment, background: Image.Image) -> Image.Image:
    """The face before a background."""
    m, scale = moment, _SUPERSAMPLING
    picture = background.resize(
        (background.width * scale, background.height * scale), Image.Resampling.NEAREST
    )
    pen = ImageDraw.Draw(picture)
    roll = np.array([[np.cos(m.roll), np.sin(m.roll)], [-np.sin(m.roll), np.cos(m.roll)]])
    for points, colour, depth in chain.from_iterable(part(face, m) for part in _PARTS):
        placed = (points + depth * np.array([m.yaw, m.nod])) @ roll * m.size + (m.x, m.y)
        pen.polygon((placed * scale).ravel().tolist(), fill=colour)
    return picture.reduce(scale)


def mix(one: str, other: str, share: float) -> str:
    """A colour on the way from one to the other, as #rrggbb."""
    rgb = [ImageColor.getrgb(colour) for colour in (one, other)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*rgb, strict=True))


_EYE_Y = -0.06
_MOUTH_Y = 0.56
_SIDES = (-1, 1)
_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_ACROSS = -np.cos(np.linspace(0, np.pi, 25))  # -1 to 1, close together at the ends
_ARCH = 1 - _ACROSS**2


def _oval(x, y, rx, ry, power=2.0):
    """An ellipse; with a higher power it has corners."""
    cos, sin = np.cos(_TURN), np.sin(_TURN)
    radius = (np.abs(cos) ** power + np.abs(sin) ** power) ** (-1 / np.asarray(power))
    return np.stack([x + rx * radius * cos, y + ry * radius * sin], 1)


def _between(x, upper, lower):
    """The area between two curves over the same x."""
    return np.stack([np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[::-1]])], 1)


def _body(face: Face, m: Moment) -> Iterator[Shape]:
    yield _oval(0, 2.7, 1.5, 1.45, 2.8), face.clothes, 0.0
    yield _oval(0, 0.9, 0.5 * face.width + 0.06, 0.55, 4), mix(face.skin, "black", 0.18), 0.0
    for side in _SIDES:
        yield _oval(side * face.width, 0.06, 0.1, 0.17), mix(face.skin, "black", 0.07), -0.15
    low = face.hair_length
    if low > 0:  # over the ears
        hair = _oval(0, (low - 1.1) / 2, 1.08 * face.width, (low + 1.1) / 2, 3)
        yield hair, mix(face.hair, "black", 0.2), -0.2


def _head(face: Face, m: Moment) -> Iterator[Shape]:
    head = _oval(0, 0, face.width, 1, np.where(np.sin(_TURN) > 0, face.jaw, 2.2))
    below = head[:, 1].clip(0)
    head += np.stack([-0.16 * below * head[:, 0], 0.13 * _gap(m) * below], 1)
    yield head, face.skin, 0.0
    for side in _SIDES:
        yield _oval(side * 0.48 * face.width, 0.38, 0.16, 0.11), mix(face.skin, "#e15a50", 0.13), 0.25
    end = face.nose_length
    yield np.array([(0.05, 0), (0.1, end), (0.03, end)]), mix(face.skin, "black", 0.13), 0.55
    yield _oval(0, end, 0.42 * end, 0.055, 2.4), mix(face.skin, "black", 0.16), 0.62


def _gap(m):
    """How far the lips are apart, 0 to 1 and a little more: they speak, and a jaw drops by itself too."""
    return m.lips_open + max(0, m.expression.jaw) * (0.25 + 0.3 * m.lips_open)


def _mouth(face: Face, m: Moment) -> Iterator[Shape]:
    e, gap, rounded = m.expression, _gap(m), max(0, -m.lips_wide)
    x = _ACROSS * face.mouth_width * (1 + 0.16 * m.lips_wide - 0.25 * rounded + 0.24 * e.wide)
    middle = _MOUTH_Y + 0.17 * e.corner * (_ARCH - 0.45) + 0.05 * gap
    opening = 0.3 * gap * _ARCH ** (0.7 + 0.3 * rounded)
    upper, lower = middle - 0.38 * opening, middle + 0.62 * opening
    thick = face.lip_thickness * (1 + 0.35 * rounded) * _ARCH**0.8
    bow = thick * (0.75 - 0.22 * np.exp(-((_ACROSS / 0.16) ** 2)))
    yield _between(x, upper - bow - 0.008, lower + 1.15 * thick + 0.008), mix(face.skin, "#be2846", 0.28), 0.5
    yield _between(x, upper - 0.006, lower + 0.006), "#46161e", 0.48
    if gap > 0.12:
        tongue = np.maximum(upper, lower - 0.25 * opening)
        yield _between(0.85 * x, tongue, lower), "#b04e54", 0.46
        yield _between(0.9 * x, upper, np.minimum(upper + 0.055 * _ARCH**0.5, lower)), "#f0ece4", 0.47


def _eyes(face: Face, m: Moment) -> Iterator[Shape]:
    e, high = m.expression, 0.62 * face.eye_size
    openness = m.blink * np.clip(1 + 0.5 * e.eyes, 0.3, 1.7)
    floor = _EYE_Y + 0.02 + high * 0.62 * min(1, openness) * (1 - 0.65 * min(1, e.squint)) * _ARCH**0.8
    lid = np.minimum(_EYE_Y - high * openness * _ARCH**0.8, floor)
    for side in _SIDES:
        middle = side * face.eye_distance
        x = middle + face.eye_size * _ACROSS
        yield _between(x, lid, floor), "#f6f4f2", 0.42
        for radius, colour in ((0.9, face.iris), (0.43, "#141216")):
            disc = _oval(middle, _EYE_Y - 0.01, radius * high, radius * high)
            disc[:, 1] = disc[:, 1].clip(np.interp(disc[:, 0], x, lid), np.interp(disc[:, 0], x, floor))
            yield disc, colour, 0.44
        if openness > 0.5:
            yield _oval(middle + 0.03, _EYE_Y - 0.045, 0.018, 0.018), "white", 0.46
        yield _between(x + side * 0.01, lid - 0.022 - 0.012 * _ARCH, lid + 0.006), "#302222", 0.45


def _hair(face: Face, m: Moment) -> Iterator[Shape]:
    temple = 0.0 if face.hair_length > 0 else -0.2
    top = temple - (1.12 + temple) * (1 - np.abs(_ACROSS) ** 2.4) ** 0.4
    parted = 0.14 * np.exp(-(((_ACROSS - face.parting) / 0.15) ** 2))
    line = temple + (face.fringe - temple) * (1 - _ACROSS**4) - parted
    yield _between(1.06 * face.width * _ACROSS, top, line), face.hair, 0.12


def _brows(face: Face, m: Moment) -> Iterator[Shape]:
    e, along = m.expression, np.linspace(0, 1, 9)
    arch = 0.055 * (1 + 0.4 * max(0, e.brow_raise)) * np.sin(np.pi * along**0.8)
    y = _EYE_Y - 0.62 * face.eye_size - 0.15 - 0.13 * e.brow_raise - arch
    y += e.brow_tilt * (0.03 * along - 0.16 * (1 - along) ** 1.3)
    thick = face.brow_thickness * (1 - 0.55 * along)
    for side in _SIDES:
        x = side * (face.eye_distance - 0.19 + 0.4 * along)
        yield _between(x, y - thick, y + thick), mix(face.hair, "#281e1c", 0.35), 0.4


def _glasses(face: Face, m: Moment) -> Iterator[Shape]:
    if face.glasses:
        for side in _SIDES:
            outer, inner = (_oval(side * face.eye_distance, _EYE_Y + 0.03, r, r) for r in (0.24, 0.215))
            yield np.concatenate([outer, outer[:1], inner[:1], inner[::-1]]), "#2d2a30", 0.5
        yield _oval(0, _EYE_Y, face.eye_distance - 0.22, 0.015, 4), "#2d2a30", 0.5


_PARTS = (_body, _head, _mouth, _eyes, _hair, _brows, _glasses)
