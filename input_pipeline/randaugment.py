"""RandAugment (Cubuk et al. 2020) of whole clips, with the operations and strengths that HiCMAE fine-tunes with.

What is drawn is drawn once a clip and done to all of its frames. On the host, because a few operations of Pillow a
frame cost less than the decoding of it, where a device would compute all fifteen operations for every clip. Not
here: crops, flips and erasing, which are the device's (`avemo_jax.augmentation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

HIGHEST = 10.0  # the top of the scale of magnitudes
_CHANCE = 0.5  # with which a drawn operation is done
_FILL = (128, 128, 128)
_SOLARIZE_BELOW = 128

Picture = Image.Image
Step = Callable[[Picture], Picture]


@dataclass(frozen=True)
class RandAugment:
    """`operations` draws, with replacement, of strength N(magnitude, deviation) in 0 … 10 each; 0 is none."""

    operations: int
    magnitude: float
    deviation: float

    def draw(self, rng: np.random.Generator) -> list[Step]:
        """The operations for one clip, with their arguments, in order."""
        steps: list[Step] = []
        for name in rng.choice(list(OPERATIONS), self.operations):
            level = float(np.clip(rng.normal(self.magnitude, self.deviation), 0, HIGHEST))
            sign, done = (-1, 1)[rng.integers(2)], rng.random() < _CHANCE
            if done:
                steps.append(partial(OPERATIONS[str(name)], level, sign))
        return steps

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] of a clip → the same, changed alike."""
        steps = self.draw(rng)
        return np.stack([_changed(frame, steps) for frame in frames]) if steps else frames


def _changed(frame: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    picture = Image.fromarray(frame)
    for step in steps:
        picture = step(picture)
    return np.asarray(picture)


def _affine(picture: Picture, matrix: tuple[float, ...]) -> Picture:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC, fillcolor=_FILL
    )


def _rotate(level: float, sign: int, picture: Picture) -> Picture:
    return picture.rotate(sign * 3 * level, resample=Image.Resampling.BICUBIC, fillcolor=_FILL)


def _shear(level: float, sign: int, picture: Picture, *, along_x: bool) -> Picture:
    shear = sign * 0.03 * level
    return _affine(picture, (1, shear, 0, 0, 1, 0) if along_x else (1, 0, 0, shear, 1, 0))


def _translate(level: float, sign: int, picture: Picture, *, along_x: bool) -> Picture:
    pixels = sign * 0.045 * level * picture.size[0 if along_x else 1]
    return _affine(picture, (1, 0, pixels, 0, 1, 0) if along_x else (1, 0, 0, 0, 1, pixels))


def _posterize(level: float, sign: int, picture: Picture) -> Picture:
    kept = 0xFF & ~(2 ** (4 + int(level / HIGHEST * 4)) - 1)  # of no bits too, which Pillow's own refuses
    return picture.point([value & kept for value in range(256)] * 3)


def _solarize(level: float, sign: int, picture: Picture) -> Picture:
    return ImageOps.solarize(picture, 256 - int(level / HIGHEST * 256))


def _solarize_add(level: float, sign: int, picture: Picture) -> Picture:
    added = int(level / HIGHEST * 110)
    table = [min(255, value + added) if value < _SOLARIZE_BELOW else value for value in range(256)]
    return picture.point(table * 3)


def _enhance(level: float, sign: int, picture: Picture, *, what) -> Picture:
    return what(picture).enhance(1 + sign * 0.09 * level)


# name → (level 0 … 10, sign ±1, picture) → picture: the fifteen that grow stronger with the level.
OPERATIONS: dict[str, Callable[[float, int, Picture], Picture]] = {
    "auto_contrast": lambda level, sign, picture: ImageOps.autocontrast(picture),
    "equalize": lambda level, sign, picture: ImageOps.equalize(picture),
    "invert": lambda level, sign, picture: ImageOps.invert(picture),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": partial(_enhance, what=ImageEnhance.Color),
    "contrast": partial(_enhance, what=ImageEnhance.Contrast),
    "brightness": partial(_enhance, what=ImageEnhance.Brightness),
    "sharpness": partial(_enhance, what=ImageEnhance.Sharpness),
    "shear_x": partial(_shear, along_x=True),
    "shear_y": partial(_shear, along_x=False),
    "translate_x": partial(_translate, along_x=True),
    "translate_y": partial(_translate, along_x=False),
}


def rand_augment_of(data) -> RandAugment | None:
    """That of a config's `data.rand_augment` (operations, magnitude, deviation); None without one."""
    options = getattr(data, "rand_augment", None)
    if not options or not options.operations:
        return None
    return RandAugment(options.operations, options.magnitude, options.deviation)
