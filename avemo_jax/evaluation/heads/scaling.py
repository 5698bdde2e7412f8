"""Standardised features, and axes along which they are uncorrelated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avemo_jax.evaluation.logistic import Gram

_COLUMNS = 256  # at a time in float64
_AXES, _ITERATIONS = 256, 2


def standardise(features: np.ndarray, train: np.ndarray, *, together: bool = False) -> np.ndarray:
    """Subtract the training rows' mean and divide by their standard deviation, per column: float32 [R, D].

    `train` are row numbers or a mask. A column that is constant over the training rows is set to 0: it cannot
    be learnt from. `together`: all others are divided by the same number, their root mean variance.
    """
    mean, deviation = np.empty(features.shape[1]), np.empty(features.shape[1])
    for columns in _blocks(features.shape[1]):
        part = features[train, columns].astype(np.float64)
        mean[columns], deviation[columns] = part.mean(0), part.std(0)
    factor = _inverse(deviation, deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), together)
    scaled = np.empty(features.shape, np.float32)
    for columns in _blocks(features.shape[1]):
        scaled[:, columns] = (features[:, columns].astype(np.float64) - mean[columns]) * factor[columns]
    return scaled


def scales(inputs: np.ndarray, row_sets: Sequence[np.ndarray], *, together: bool = False) -> np.ndarray:
    """1 / standard deviation of each column over each set of rows, float32 [S, D]; 0 where it is constant.

    inputs: float32 [R, D], standardised over more rows than these, so that a mean is no large number. together: see
    `standardise`.
    """
    weight = np.stack([rows / rows.sum() for rows in row_sets])
    mean, square = np.empty((2, len(row_sets), inputs.shape[1]))
    for columns in _blocks(inputs.shape[1]):
        part = inputs[:, columns].astype(np.float64)
        mean[:, columns], square[:, columns] = weight @ part, weight @ np.square(part)
    variance = square - np.square(mean)
    varies = variance > 1e-11 * np.maximum(np.square(mean), 1e-11)
    return _inverse(np.sqrt(np.maximum(variance, 0)), varies, together).astype(np.float32)


def gram(inputs: np.ndarray, train: np.ndarray) -> Gram:
    """The largest eigenvalues and vectors of inputs' inputs / n over the training rows, by subspace iteration
    (Halko et al. 2011)."""
    rows = inputs[train]
    count, width = rows.shape
    kept = min(_AXES, width, count)
    basis = np.random.default_rng(0).standard_normal((width, kept), np.float32)
    for _ in range(_ITERATIONS):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    inside = rows @ basis
    squares, turn = np.linalg.eigh((inside.T @ inside / count).astype(np.float64))
    total = np.square(rows, dtype=np.float32).sum(dtype=np.float64) / count
    rest = max(0.0, total - squares.sum()) / max(1, width - kept)
    vectors = np.ascontiguousarray((basis @ turn.astype(np.float32)).T)
    return Gram(np.maximum(squares, 0).astype(np.float32), vectors, float(rest))


def principal_axes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal axes [D, A], A <= min(n, D), of the rows [n, D], in whose span every row lies, and the mean square
    of the rows along each [A]; float64.

    An L2-penalised linear model does not change under rotation and spends no weight on directions that no
    training row has, so fitting on `features @ axes` is exact, fast for wide features (D >> n), and well
    conditioned for the solver. Directions with less than a millionth of the largest spread are dropped.
    """
    rows = rows.astype(np.float64)
    wide = rows.shape[1] > rows.shape[0]
    squares, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    spread = np.sqrt(np.maximum(squares, 0))
    kept = spread > 1e-6 * max(spread.max(), 1e-30)
    axes = rows.T @ (vectors[:, kept] / spread[kept]) if wide else vectors[:, kept]
    return axes, squares[kept] / len(rows)


def _blocks(width: int) -> list[slice]:
    return [slice(first, first + _COLUMNS) for first in range(0, width, _COLUMNS)]


def _inverse(deviation: np.ndarray, varies: np.ndarray, together: bool) -> np.ndarray:
    """1 / standard deviation [..., D], or of all columns that vary, and 0 for those that don't."""
    if together:
        square = np.square(deviation).sum(-1, where=varies, keepdims=True)
        deviation = np.sqrt(square / np.maximum(varies.sum(-1, keepdims=True), 1))
    return np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
