"""Units dealt into folds of about equal size: who is tested on when nobody has said so."""

from __future__ import annotations

import numpy as np


def deal(units: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Deal the rows [N] of named units into at most `folds` folds of about equal size; a unit stays whole.

    The largest unit goes first, each to the smallest fold so far; ties go by name, so it is repeatable. With another
    seed than 0 they go in an order that it draws.
    """
    names, row_unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    filled = np.zeros(min(folds, len(names)), np.int64)
    fold_of = np.zeros(len(names), np.int64)
    in_turn = sorted(range(len(names)), key=lambda u: (-sizes[u], names[u]))
    for unit in np.random.default_rng(seed).permutation(len(names)) if seed else in_turn:
        fold_of[unit] = np.argmin(filled)
        filled[fold_of[unit]] += sizes[unit]
    return fold_of[row_unit]
