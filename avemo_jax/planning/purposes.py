"""What a collective is for, told from the names and shapes around it.

`other` means that it is neither parameters, gradients nor the contrast: activations are moved, which deserves a
look. A single array may be taken for what it is not when shapes coincide; a layout that moves activations shows
many of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from avemo_jax.planning.hlo import ArrayType, Instruction

SCALAR, GRADIENTS, PARAMETERS, CONTRAST, OTHER = "scalar", "gradients", "parameters", "contrast", "other"
_CONTRAST_SCOPE = "contrast"  # the name that `objectives.contrastive` gives its operations


class Stored(NamedTuple):
    """A parameter's shape, and the shape of what one device holds of it."""

    whole: tuple[int, ...]
    shard: tuple[int, ...]


class Around(NamedTuple):
    """What stands around one array of a collective."""

    name: str  # of the JAX operation; empty where it is not known, or one for several arrays
    loop: str  # the name of the loop that it runs in
    made_of: list[Instruction]  # the operand and what that was made of, nearest first
    uses: list[Instruction]  # what is made of the result, nearest first
    cut: bool  # the program speaks to other slices: what it sends is flattened, joined and cut before


def purpose_of(kind: str, array: ArrayType, around: Around, parameters: Sequence[Stored]) -> str:
    """One of the purposes above."""
    if array.size <= 1:
        return SCALAR
    names = [around.name, *(one.op_name for one in around.made_of if one.op_name)]
    if any(_CONTRAST_SCOPE in name for name in names[:2]):
        return CONTRAST
    gathers = kind in ("all-gather", "collective-broadcast")
    if gathers and any(p.whole != p.shard and _same(array.shape, p.whole) for p in parameters):
        return PARAMETERS
    if any(_same(array.shape, p.whole) or _same(array.shape, p.shard) for p in parameters):
        return GRADIENTS
    names += [around.loop, *(one.op_name for one in around.uses)]
    if any(_CONTRAST_SCOPE in name for name in names):
        return CONTRAST
    before = [array.shape, *(one.arrays[0].shape for one in around.made_of if one.arrays)]
    if kind in ("reduce-scatter", "collective-permute"):
        known = [p.whole for shape in before for p in parameters if _same(shape, p.whole)]
        if any(_cut_along_one_axis(array.shape, whole) for whole in known):
            return GRADIENTS
    if around.cut and any(_piece(shape, p.whole) for shape in before for p in parameters):
        return GRADIENTS
    return OTHER


def _same(shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether an array is a parameter or one layer of a stack of them, perhaps transposed; axes of 1 do not count."""
    sizes = sorted(_sizes(shape))
    return bool(sizes) and sizes in (sorted(_sizes(stored)), sorted(_sizes(stored[1:])))


def _cut_along_one_axis(shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether sizes differ in one axis only: a reduce-scatter pads parts to whole tiles and then moves the edges."""
    sizes = _sizes(shape)
    return any(
        len(sizes) == len(whole) > 1 and sum(a != b for a, b in zip(sizes, whole, strict=True)) == 1
        for whole in (_sizes(stored), _sizes(stored[1:]))
    )


def _piece(shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether an array may be an even piece of a parameter or of a layer of it, or all of it, flattened."""
    sizes = _sizes(shape)
    for whole in (_sizes(stored), _sizes(stored[1:])):
        if whole and math.prod(sizes) == math.prod(whole):
            return True
        if len(sizes) == len(whole) > 1 and all(b % a == 0 for a, b in zip(sizes, whole, strict=True)):
            return True
    return False


def _sizes(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size > 1]
