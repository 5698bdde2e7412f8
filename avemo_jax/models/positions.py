"""Position tables of encoders for clips of another size than those that the weights were trained on.

A table gives every token a vector by its number in raster order; the weights know the vectors of one grid. For another
grid, each modality has one of three rules:

  regenerated  the formula over the new numbers (what the reference would do). Longer clips go on where the known ones
               end; but where a frame has other rows or columns, all numbers, and so all vectors, move to other places.
  interpolated the known grid's table, stretched over the new grid linearly along each axis. Places keep their share of
               the whole; the tokens of a longer clip come closer in time than any that the weights saw.
  extended     of the two: stretched within a frame (or over frequency), gone on with in time.

With the grid that the weights were trained on, all three are the same table, to the bit. Not here: the formula.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.frontend import audio_grid, video_grid
from avemo_jax.models.layers import position_table

REGENERATED, INTERPOLATED, EXTENDED = RULES = ("regenerated", "interpolated", "extended")
SIZES = ("frames", "image_size", "audio_frames", "mel_bins")  # of clips, in `config.model`
KEY = "resize_positions"  # in `config.model`


@dataclass(frozen=True)
class Positions:
    """Makes a table: of `grid`, whose first axis is time, for weights that were trained on `known`."""

    rule: str
    grid: tuple[int, ...]
    known: tuple[int, ...]

    # Not a bound method in its place: two of those are never equal, and jax.jit would compile each model anew.
    def __call__(self, tokens: int, dim: int) -> np.ndarray:
        return self.table(tokens, dim)

    def table(self, tokens: int, dim: int) -> np.ndarray:
        """float32 [tokens, dim], tokens in raster order.

        Raises:
          UserError: a resized table for another number of tokens than those of the grid.
        """
        if self.rule == REGENERATED or self.grid == self.known:
            return position_table(tokens, dim)
        if tokens != int(np.prod(self.grid)):
            raise UserError(f"positions were made for {self.grid} tokens, and a clip has {tokens}")
        return _resized(self.rule, self.grid, self.known, dim)


def video_positions(model: ConfigDict) -> Positions:
    """Of `config.model`'s video encoder."""
    known = _known(model)
    return Positions(
        _rule(model, "video"),
        video_grid(model.frames, model.image_size),
        video_grid(known["frames"], known["image_size"]),
    )


def audio_positions(model: ConfigDict) -> Positions:
    """Of `config.model`'s audio encoder."""
    known = _known(model)
    return Positions(
        _rule(model, "audio"),
        audio_grid(model.audio_frames, model.mel_bins),
        audio_grid(known["audio_frames"], known["mel_bins"]),
    )


def in_words(model: ConfigDict) -> dict[str, dict[str, Any]]:
    """What an exported model has to know, as JSON values: for each modality the rule, its grid and the known one; empty
    where every table follows from the formula."""
    made = {"video": video_positions(model), "audio": audio_positions(model)}
    if all(one.rule == REGENERATED or one.grid == one.known for one in made.values()):
        return {}
    return {
        name: {"rule": one.rule, "grid": list(one.grid), "known": list(one.known)}
        for name, one in made.items()
    }


def resized(model: ConfigDict, sizes: dict[str, int], rule: str) -> None:
    """Changes a trained `config.model` to clips of other sizes, with this rule for both modalities.

    Raises:
      UserError: a rule or size that there is not, or a rule that the method does not know.
    """
    if rule not in RULES:
        raise UserError(f"positions '{rule}': there are {', '.join(RULES)}")
    if "positions" in model and rule != REGENERATED:  # of `models.streams`
        raise UserError(f"positions '{rule}' are of hicmae: of this method they can only be {REGENERATED}")
    known = _known(model)
    unknown = [name for name in sizes if name not in SIZES]
    if unknown:
        raise UserError(f"a clip has no size '{unknown[0]}': there are {', '.join(SIZES)}")
    with model.unlocked():
        model[KEY] = ConfigDict({"video": rule, "audio": rule, **known})
        model.update(sizes)


def _known(model: ConfigDict) -> dict[str, int]:
    """The sizes of the clips that the weights were trained on."""
    given = model.get(KEY) or {}
    return {name: given.get(name) or model[name] for name in SIZES}


def _rule(model: ConfigDict, modality: str) -> str:
    rule = (model.get(KEY) or {}).get(modality, REGENERATED)
    if rule not in RULES:
        raise UserError(f"model.{KEY}.{modality} is '{rule}', not one of {', '.join(RULES)}")
    return rule


@functools.cache
def _resized(rule: str, grid: tuple[int, ...], known: tuple[int, ...], dim: int) -> np.ndarray:
    if rule == EXTENDED:
        known = (grid[0], *known[1:])  # time is the slowest axis: later tokens only go on
    table = position_table(int(np.prod(known)), dim).astype(np.float64).reshape(*known, dim)
    for axis, size in enumerate(grid):
        table = np.moveaxis(np.tensordot(_linear(size, known[axis]), table, (1, axis)), 0, axis)
    return table.reshape(-1, dim).astype(np.float32)


def _linear(size: int, known: int) -> np.ndarray:
    """[size, known]: linear interpolation between the middles of cells, the ends held (as PyTorch's interpolate)."""
    place = np.clip((np.arange(size) + 0.5) * known / size - 0.5, 0, known - 1)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(known)))


def sizes_of(text: str) -> dict[str, int]:
    """`"image_size=224,frames=32"` → {"image_size": 224, "frames": 32}.

    Raises:
      UserError: anything else.
    """
    found = {}
    for word in filter(None, text.split(",")):
        name, _, value = word.partition("=")
        if name not in SIZES or not value.isdecimal() or not int(value):
            raise UserError(f"size '{word}': give {'=N, '.join(SIZES)}=N, separated by commas")
        found[name] = int(value)
    return found
