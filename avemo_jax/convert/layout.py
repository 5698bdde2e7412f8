"""How one tensor is laid out here and in PyTorch, as a reversible rule that is read in both directions.

A rule is two lists of axis names, `"c s h d"` here and `"(s h d) c"` there: axes are split, transposed and
merged, never summed or padded, so going there and back gives the same bits. Not here: which tensor has
which rule (that is `hicmae.py`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]


class Layout:
    """One rule. `sizes` gives the axes that cannot be read off our shape because they are merged in it.

    `1` stands for an axis of size one that only one side has.
    """

    def __init__(self, ours: str, theirs: str, **sizes: int):
        self._ours, self._theirs = _groups(ours), _groups(theirs)
        self._sizes = sizes
        axes = [axis for group in self._ours for axis in group]
        self._order = [axes.index(axis) for group in self._theirs for axis in group]

    def their_shape(self, our_shape: Sequence[int]) -> Shape:
        """The PyTorch shape of a tensor that has `our_shape` here."""
        sizes = self._axis_sizes(our_shape)
        return tuple(math.prod(sizes[axis] for axis in group) for group in self._theirs)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Our tensor in PyTorch's layout, contiguous."""
        split = array.reshape(self._split_shape(array.shape))
        return np.ascontiguousarray(split.transpose(self._order)).reshape(self.their_shape(array.shape))

    def to_ours(self, array: np.ndarray, our_shape: Sequence[int]) -> np.ndarray:
        """A PyTorch tensor in our layout; `our_shape` says how merged axes (heads) are split."""
        split_shape = self._split_shape(our_shape)
        split = array.reshape([split_shape[axis] for axis in self._order])
        return split.transpose(np.argsort(self._order)).reshape(tuple(our_shape))

    def _split_shape(self, our_shape: Sequence[int]) -> Shape:
        sizes = self._axis_sizes(our_shape)
        return tuple(sizes[axis] for group in self._ours for axis in group)

    def _axis_sizes(self, our_shape: Sequence[int]) -> Mapping[str, int]:
        sizes = dict(self._sizes)
        if len(our_shape) != len(self._ours):
            raise ValueError(f"a tensor of shape {tuple(our_shape)} does not have {len(self._ours)} axes")
        for group, size in zip(self._ours, our_shape, strict=True):
            if len(group) == 1:
                sizes[group[0]] = size
            elif math.prod(sizes[axis] for axis in group) != size:
                raise ValueError(f"an axis of {size} is not the product of {group} in {self._sizes}")
        return sizes


def _groups(text: str) -> list[list[str]]:
    """`"(s h d) c"` → [["s", "h", "d"], ["c"]]; `1` → a group without axes."""
    groups = [word.strip("()").split() for word in re.findall(r"\([^)]*\)|\S+", text)]
    return [[] if group == ["1"] else group for group in groups]


SAME = Layout("c", "c")
LINEAR = Layout("inputs outputs", "outputs inputs")
# The three (two) projections are contiguous thirds (halves) of the rows, and heads contiguous inside each.
QKV = Layout("c part h d", "(part h d) c")
QUERY = Layout("c h d", "(h d) c")
HEADS_BIAS = Layout("h d", "(h d)")
HEADS_OUT = Layout("h d c", "c (h d)")
TOKEN = Layout("d", "1 1 d")
# Our patch vectors are channel-last, as the pixels arrive; a convolution's kernel is channel-first.
TUBELET_PATCH = Layout(
    "(frame row column colour) c", "c colour frame row column", frame=2, row=16, column=16, colour=3
)
AUDIO_PATCH = Layout("(time mel) c", "c 1 time mel", time=16, mel=16)
