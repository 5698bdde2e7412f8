"""A linear probe: what a linear classifier reads from frozen features, split by split.

Within each split the features are standardised by the training rows, the strength of the L2 penalty is chosen
by the inner folds of the training rows, and the test rows are predicted by the fit on all training rows. The
choice goes by cross-entropy (the UAR of a few hundred clips jumps too much to choose by), and test rows never
take part in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from avemo_jax.evaluation import logistic, metrics
from avemo_jax.evaluation.protocols import Split, Splits

# scikit-learn's C, strongest penalty first. With standardised features and hundreds of clips the best values
# lie inside; the result rows carry the chosen ones, so an edge shows.
INVERSE_PENALTIES = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)

_LEAST_CHANCE = 1e-6  # a class that an inner training part lacks must not decide alone


@dataclass(frozen=True)
class SplitPrediction:
    """The test rows' class probabilities float32 [len(test), K], the chosen C and the UAR and cross-entropy
    (nats) it had on the inner folds. `converged`: every fit of the grid reached the solver's tolerance."""

    probabilities: np.ndarray
    inverse_penalty: float
    inner_uar: float
    inner_cross_entropy: float
    converged: bool


def probe(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    splits: Splits,
    inverse_penalties: tuple[float, ...] = INVERSE_PENALTIES,
) -> list[SplitPrediction]:
    """One linear probe per split. features float32 [N, D] (finite), labels int [N] in [0, classes)."""
    folds = 1 + max(int(split.inner.max()) for split in splits.splits)  # one shape, so one compilation
    grid = tuple(sorted(inverse_penalties))
    return [_probe_split(features, labels, classes, split, folds, grid) for split in splits.splits]


def standardise(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Subtract the training rows' mean and divide by their standard deviation, per column [N, D].

    A column that is constant over the training rows is set to 0: it cannot be learnt from.
    """
    rows = features[train].astype(np.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scaled = (features - mean) / np.where(varies, deviation, 1.0)
    return np.where(varies, scaled, 0.0).astype(np.float32)


def principal_axes(rows: np.ndarray) -> np.ndarray:
    """Orthonormal axes [D, R] of the rows [n, D], R <= min(n, D): every row lies in their span.

    An L2-penalised linear model does not change under rotation and spends no weight on directions that no
    training row has, so fitting on `features @ axes` is exact, fast for wide features (D >> n), and well
    conditioned for the solver. Directions with less than a millionth of the largest spread are dropped.
    """
    rows = rows.astype(np.float64)
    wide = rows.shape[1] > rows.shape[0]
    squares, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    spread = np.sqrt(np.maximum(squares, 0))
    kept = spread > 1e-6 * max(spread.max(), 1e-30)
    if not wide:
        return vectors[:, kept]
    return rows.T @ (vectors[:, kept] / spread[kept])


def _probe_split(
    features: np.ndarray, labels: np.ndarray, classes: int, split: Split, folds: int, grid: tuple[float, ...]
) -> SplitPrediction:
    inputs = standardise(features, split.train)
    inputs = _padded(inputs @ principal_axes(inputs[split.train]), min(features.shape))
    in_train = split.inner >= 0
    # Set j leaves inner fold j out; the last set is the whole training part.
    row_sets = np.stack([in_train & (split.inner != fold) for fold in range(folds)] + [in_train])
    logits, residuals = logistic.fit_grid(
        jnp.asarray(inputs, jnp.float32),
        jnp.asarray(labels),
        jnp.asarray(row_sets),
        jnp.asarray(grid, jnp.float32),
        classes=classes,
    )
    logits = np.asarray(logits)
    rows = split.train
    held_out = _softmax(logits[:, split.inner[rows], rows])  # [C, rows, K]: by the fit without the row's fold
    surprise = -np.log(np.maximum(held_out[:, np.arange(len(rows)), labels[rows]], _LEAST_CHANCE)).mean(-1)
    chosen = int(np.argmin(surprise))
    confusion = metrics.confusion_matrix(labels[rows], held_out[chosen].argmax(-1), classes)
    return SplitPrediction(
        _softmax(logits[chosen, -1, split.test]),
        grid[chosen],
        float(metrics.uar(confusion)),
        float(surprise[chosen]),
        bool((np.asarray(residuals) <= logistic.TOLERANCE).all()),
    )


def _padded(inputs: np.ndarray, width: int) -> np.ndarray:
    """Zero columns up to `width`, so that splits of different rank share one compiled program."""
    return np.pad(inputs, ((0, 0), (0, width - inputs.shape[1])))


def _softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
