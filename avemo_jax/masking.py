"""Which tokens are hidden: drawn on the device, one key a clip, the same count in every clip.

Sizes: B clips; a grid of tokens, (time, height, width) for video and (time, frequency) for audio. Counts are
⌊ratio · n⌋ in floating point, as the reference truncates (0.29 of 100 is 28).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avemo_jax.batch import Masks, TokenMask
from avemo_jax.errors import UserError


def tube_mask(keys: Array, grid: tuple[int, int, int], ratio: float) -> TokenMask:
    """Hides the same cells of every time step (VideoMAE's tube masking, Tong et al. 2022)."""
    times, height, width = grid
    cells = random_mask(keys, height * width, ratio)
    starts = jnp.arange(times)[:, None] * (height * width)

    def over_time(index):
        return (starts + index[:, None, :]).reshape(index.shape[0], -1)

    return TokenMask(over_time(cells.visible), over_time(cells.masked))


def random_mask(keys: Array, tokens: int, ratio: float) -> TokenMask:
    """Hides tokens without any structure (AudioMAE's random masking, Huang et al. 2022)."""
    masked = int(ratio * tokens)
    if not 0 < masked < tokens:
        raise UserError(
            f"mask ratio {ratio} hides {masked} of {tokens} tokens: at least one must be hidden and one visible"
        )
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


def hicmae_masks(keys: Array, video_grid, audio_grid, *, video_ratio: float, audio_ratio: float) -> Masks:
    """HiCMAE's: tubes for video, random for audio, drawn independently for each clip."""
    video_keys, audio_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, which) for which in (0, 1))
    return Masks(
        tube_mask(video_keys, video_grid, video_ratio),
        random_mask(audio_keys, int(np.prod(audio_grid)), audio_ratio),
    )
