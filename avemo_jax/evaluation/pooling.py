"""Several clips of one thing, as the segments of a recorded task, that is judged once: by the mean of their outputs.

What belongs together is said by a regular expression with one group: clips in whose names it finds the same are one.
Not here: windows that become a sequence (stitching).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from avemo_jax.errors import UserError


def wholes(pattern: str, clip_ids: Sequence[str], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(names [M], number of its whole int [N]) of N clips, in the order in which the wholes come.

    Args:
      truth: targets, int [N] or float [N, K].

    Raises:
      UserError: no such expression, a clip that it finds nothing in, or clips of one whole with different targets.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"views.pool is '{pattern}', which is no regular expression ({error})") from error
    if expression.groups != 1:
        raise UserError(f"views.pool is '{pattern}': it needs one group, of what clips of one whole share")
    names: dict[str, int] = {}
    numbers: list[int] = []
    for clip in clip_ids:
        found = expression.search(str(clip))
        if not found or not found[1]:
            raise UserError(f"views.pool={pattern} finds nothing in the name of clip {clip}")
        numbers.append(names.setdefault(found[1], len(names)))
    first = np.unique(numbers, return_index=True)[1]
    same = (truth == truth[first[numbers]]).reshape(len(truth), -1).all(1)
    if not same.all():
        clip = clip_ids[int(np.flatnonzero(~same)[0])]
        raise UserError(f"views.pool={pattern}: clip {clip} has another target than others of its whole")
    return np.array(list(names)), np.array(numbers, np.int64)


def means(numbers: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Mean outputs [M, K] of each whole, of clips' [N, K]."""
    sums = np.zeros((numbers.max() + 1, outputs.shape[1]))
    np.add.at(sums, numbers, outputs)
    return sums / np.bincount(numbers)[:, None]
