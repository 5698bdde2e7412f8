"""Standardised features, and axes along which they are uncorrelated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avemo_jax.evaluation.logistic import Gram

_COLUMNS = 256  # at a time in float64
_AXES, _ITERATIONS = 256, 2


def standardise(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Subtract the training rows' mean and divide by their standard deviation, per column: float32 [R, D].

    `train` are row numbers or a mask. A column that is constant over the training rows is set to 0: it cannot
    be learnt from.
    """
    scaled = np.empty(features.shape, np.float32)
    for columns in _blocks(features.shape[1]):
        part = features[:, columns].astype(np.float64)
        mean, deviation = part[train].mean(0), part[train].std(0)
        varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
        scaled[:, columns] = np.where(varies, (part - mean) / np.where(varies, deviation, 1.0), 0.0)
    return scaled


def scales(inputs: np.ndarray, row_sets: Sequence[np.ndarray]) -> np.ndarray:
    """1 / standard deviation of each column over each set of rows, float32 [S, D]; 0 where it is constant.

    inputs: float32 [R, D], standardised over more rows than these, so that a mean is no large number.
    """
    result = np.zeros((len(row_sets), inputs.shape[1]), np.float32)
    weight = np.stack([rows / rows.sum() for rows in row_sets])
    for columns in _blocks(inputs.shape[1]):
        part = inputs[:, columns].astype(np.float64)
        mean = weight @ part
        variance = weight @ np.square(part) - np.square(mean)
        varies = variance > 1e-11 * np.maximum(np.square(mean), 1e-11)
        result[:, columns] = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    return result


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
