"""Which tokens are hidden: drawn on the device, one key a clip, the same count in every clip.

Sizes: B clips; a grid of tokens, (time, height, width) for video and (time, frequency) for audio. Counts are
⌊ratio · n⌋ in floating point, as the reference truncates (0.29 of 100 is 28). They are static, since arrays have
one shape in a compiled program: what hides whole strips or blocks hides whole numbers of them and fills up with
single tokens. A range of ratios is a choice of few (`mask.choices`), one drawn a step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avemo_jax.batch import Masks, TokenMask
from avemo_jax.errors import UserError


def tube_mask(keys: Array, grid: tuple[int, int, int], ratio: float) -> TokenMask:
    """Hides the same cells of every time step (VideoMAE's tube masking, Tong et al. 2022)."""
    times, height, width = grid
    return _over_time(random_mask(keys, height * width, ratio), times, height * width)


def random_mask(keys: Array, tokens: int, ratio: float) -> TokenMask:
    """Hides tokens without any structure (AudioMAE's random masking, Huang et al. 2022)."""
    masked = _count(tokens, ratio)
    order = jax.vmap(lambda key: jax.random.permutation(key, tokens))(keys).astype(jnp.int32)
    return TokenMask(jnp.sort(order[:, masked:], axis=1), jnp.sort(order[:, :masked], axis=1))


def from_boolean(mask: np.ndarray) -> TokenMask:
    """A recorded mask [B, N] (non-zero = hidden) as token indices.

    Raises:
      UserError: clips of one batch with different counts, or a mask that hides nothing or everything.
    """
    hidden = np.asarray(mask).reshape(len(mask), -1) != 0
    counts = hidden.sum(1)
    if len(set(counts.tolist())) != 1:
        raise UserError(
            f"mask hides {counts.tolist()} tokens of its clips: the counts must be equal in a batch"
        )
    if not 0 < counts[0] < hidden.shape[1]:
        raise UserError(
            f"mask hides {counts[0]} of {hidden.shape[1]} tokens: hide at least one and leave one"
        )

    def indices(chosen):
        return jnp.asarray(np.nonzero(chosen)[1].reshape(len(chosen), -1), jnp.int32)

    return TokenMask(indices(~hidden), indices(hidden))


def strip_mask(keys: Array, grid: tuple[int, ...], ratio: float, axis: int) -> TokenMask:
    """Hides whole strips along one axis of the grid (0: time; 1 of audio: frequency), as many as ⌊ratio · n⌋ tokens
    hold, and single tokens elsewhere for the rest (SpecAugment's bars, as CAV-MAE's structured masking fills up)."""
    size, total = grid[axis], int(np.prod(grid))
    masked = _count(total, ratio)
    whole = masked // (total // size)
    place = jnp.asarray(np.indices(grid)[axis].reshape(-1))

    def scores(key: Array) -> Array:
        first, second = jax.random.split(key)
        rank = jnp.argsort(jax.random.permutation(first, size))
        return jnp.where(rank[place] < whole, 1.0, 0.0) + jax.random.uniform(second, (total,), maxval=0.5)

    return _highest(jax.vmap(scores)(keys), masked)


def time_frequency_mask(keys: Array, grid: tuple[int, int], ratio: float, share: float = 0.7) -> TokenMask:
    """Hides ⌊share · ratio⌋ of the time steps and of the frequency bands, then single tokens up to the ratio
    (CAV-MAE's "tf", Gong et al. 2023, with its share; where the strips hold more than the ratio, some of them)."""
    times, bands = grid
    total = times * bands
    masked = _count(total, ratio)
    counts = tuple(int(size * ratio * share) for size in grid)

    def scores(key: Array) -> Array:
        first, second, third = jax.random.split(key, 3)
        steps = jnp.argsort(jax.random.permutation(first, times)) < counts[0]
        rows = jnp.argsort(jax.random.permutation(second, bands)) < counts[1]
        hidden = (steps[:, None] | rows[None, :]).reshape(-1)
        return hidden + jax.random.uniform(third, (total,), maxval=0.5)

    return _highest(jax.vmap(scores)(keys), masked)


def block_mask(keys: Array, grid: tuple[int, ...], ratio: float, blocks: int = 4) -> TokenMask:
    """Hides the union of `blocks` boxes in the last two axes, over all time steps of a video, up to the ratio.

    Each box has 1/blocks of the hidden area and an aspect between 3/4 and 4/3 (I-JEPA's and V-JEPA's, Assran et al.
    2023, Bardes et al. 2024). A union's size varies, and counts are static: boxes are trimmed by, or filled up with,
    the cells next to their edge (ours).
    """
    cells = grid[-2:]
    total = int(np.prod(cells))
    masked = _count(total, ratio)
    rows, columns = (jnp.asarray(index) for index in np.indices(cells).reshape(2, -1))

    def scores(key: Array) -> Array:
        shape, place, noise = jax.random.split(key, 3)
        aspect = jnp.exp(jax.random.uniform(shape, (blocks, 1), minval=np.log(0.75), maxval=np.log(4 / 3)))
        half = jnp.concatenate([jnp.sqrt(aspect), 1 / jnp.sqrt(aspect)], 1) * np.sqrt(masked / blocks) / 2
        where = jax.random.uniform(place, (blocks, 2))
        sizes = jnp.asarray(cells, jnp.float32)
        centre = half + where * jnp.maximum(sizes - 2 * half, 0) - 0.5
        apart = jnp.maximum(
            jnp.abs(rows - centre[:, :1]) - half[:, :1], jnp.abs(columns - centre[:, 1:]) - half[:, 1:]
        )
        return -apart.min(0) + jax.random.uniform(noise, (total,), maxval=1e-3)  # ties are broken at random

    mask = _highest(jax.vmap(scores)(keys), masked)
    return mask if len(grid) == 2 else _over_time(mask, grid[0], total)


def complementary_masks(keys: Array, video_grid, audio_grid, ratio: float) -> Masks:
    """Hides moments: ⌊ratio · g⌋ of the g common time steps in the picture, the others in the sound, so that at each
    moment exactly one modality is seen. g is the greatest common divisor of both grids' time steps."""
    common = int(np.gcd(video_grid[0], audio_grid[0]))
    masked = _count(common, ratio)

    def rank(key: Array) -> Array:
        return jnp.argsort(jax.random.permutation(key, common)).astype(jnp.float32)

    ranks = jax.vmap(rank)(keys)

    def strips(scores: Array, grid: tuple[int, ...], count: int) -> TokenMask:
        tokens = int(np.prod(grid)) // common  # of one common step; time is the first axis of both grids
        by_token = jnp.repeat(scores, tokens, axis=1)
        return _highest(by_token, count * tokens)

    return Masks(strips(ranks, video_grid, masked), strips(-ranks, audio_grid, common - masked))


def decoded_part(keys: Array, mask: TokenMask, share: float) -> TokenMask:
    """The same visible tokens, and of the hidden ones n − ⌊(1 − share) · n⌋ at random: those that are to be decoded
    (dual masking, Wang et al. 2023, whose running cells are random tokens here)."""
    hidden = mask.masked.shape[1]
    if int((1 - share) * hidden) < 1:  # so few tokens that none is left out
        return mask
    kept = random_mask(keys, hidden, 1 - share).visible
    return TokenMask(mask.visible, jnp.take_along_axis(mask.masked, kept, axis=1))


KINDS = {
    "tube": ("video",),
    "random": ("video", "audio"),
    "time": ("video", "audio"),
    "frequency": ("audio",),
    "time_frequency": ("audio",),
    "blocks": ("video", "audio"),
}


def draw(
    kind: str, keys: Array, grid: tuple[int, ...], ratio: float, blocks: int = 4, strip_share: float = 0.7
) -> TokenMask:
    """One modality's mask of a kind in `KINDS`; a video's grid has three axes and an audio's two. `blocks` and
    `strip_share` are of those kinds alone that have them.

    Raises:
      UserError: no such kind for this modality, or a ratio that hides nothing or everything.
    """
    modality = "video" if len(grid) == 3 else "audio"
    if modality not in KINDS.get(kind, ()):
        known = ", ".join(name for name, of in KINDS.items() if modality in of)
        raise UserError(f"mask.{modality} is '{kind}', not one of {known}")
    if kind == "tube":
        return tube_mask(keys, (grid[0], grid[1], grid[2]), ratio)
    if kind == "random":
        return random_mask(keys, int(np.prod(grid)), ratio)
    if kind == "time_frequency":
        return time_frequency_mask(keys, (grid[0], grid[1]), ratio, strip_share)
    if kind == "blocks":
        return block_mask(keys, grid, ratio, blocks)
    return strip_mask(keys, grid, ratio, axis=("time", "frequency").index(kind))


def independent_masks(
    keys: Array, wanted: dict[str, tuple[str, tuple[int, ...], float]], **shapes: Any
) -> Masks:
    """A mask for each modality of `wanted` (kind, grid, ratio), drawn independently; None for one that is not in it.
    `shapes` are those of `draw`."""
    which = {"video": 0, "audio": 1}
    drawn: dict[str, TokenMask] = {
        name: draw(kind, jax.vmap(jax.random.fold_in, (0, None))(keys, which[name]), grid, ratio, **shapes)
        for name, (kind, grid, ratio) in wanted.items()
    }
    return Masks(drawn.get("video"), drawn.get("audio"))


def _count(tokens: int, ratio: float) -> int:
    masked = int(ratio * tokens)
    if not 0 < masked < tokens:
        raise UserError(
            f"mask ratio {ratio} hides {masked} of {tokens} tokens: at least one must be hidden and one visible"
        )
    return masked


def _highest(scores: Array, masked: int) -> TokenMask:
    """Hides each clip's `masked` tokens of the highest scores: [B, N] → indices in raster order."""
    order = jnp.argsort(-scores, axis=1).astype(jnp.int32)
    return TokenMask(jnp.sort(order[:, masked:], axis=1), jnp.sort(order[:, :masked], axis=1))


def _over_time(cells: TokenMask, times: int, count: int) -> TokenMask:
    """The same of `count` cells in each of `times` time steps."""
    starts = jnp.arange(times)[:, None] * count

    def repeat(index: Array) -> Array:
        return (starts + index[:, None, :]).reshape(index.shape[0], -1)

    return TokenMask(repeat(cells.visible), repeat(cells.masked))
