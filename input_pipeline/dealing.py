"""Units dealt into folds: who is tested on when nobody has said so."""

from __future__ import annotations

import numpy as np


def deal(units: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """Deal the rows [N] of named units into at most `folds` folds, none empty; a unit stays whole.

    Each goes to the smallest fold so far, the largest unit first, ties by name, so it is repeatable and folds are about
    as large as each other. With another seed than 0 units go in an order that it draws: folds then differ by at most
    the largest unit.
    """
    names, row_unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    filled = np.zeros(min(folds, len(names)), np.int64)
    fold_of = np.zeros(len(names), np.int64)
    in_turn = sorted(range(len(names)), key=lambda u: (-sizes[u], names[u]))
    for unit in np.random.default_rng(seed).permutation(len(names)) if seed else in_turn:
        fold_of[unit] = np.argmin(filled)
        filled[fold_of[unit]] += sizes[unit]
    return fold_of[row_unit]
