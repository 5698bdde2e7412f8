"""A checkpoint and some clips → a map on which clips with like features lie near each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction, features
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.extraction import Network

FEWEST = 8  # clips; with fewer there is nothing to see
_PERPLEXITY = 30


class Embedded(NamedTuple):
    """Of a checkpoint's step and the feature that its clips are placed by: position → place on the map (see `place`) of
    the clips that can be read; none of too few."""

    step: int
    feature: str
    places: dict[int, list[float]]


def embed(checkpoint: str, data: str, positions: Sequence[int]) -> Embedded:
    """Places by the method's first default feature, a vector of the whole clip.

    Raises:
      UserError: no usable checkpoint, or features that are not finite.
    """
    config, params, step, _ = load_result(checkpoint)
    (feature, *_) = features.default(config.model)
    if len(positions) < FEWEST:
        return Embedded(step, feature, {})
    networks = [Network("checkpoint", config.seed, params)]
    read, matrices = extraction.extract_folder(config, data, positions, networks, (feature,))
    (matrix,) = (values for source, values in matrices.items() if source.feature == feature)
    if not np.isfinite(matrix).all():
        raise UserError(f"{checkpoint}: features are not finite; its run may have diverged")
    places = {} if len(matrix) < FEWEST else dict(zip(read.tolist(), place(matrix).tolist(), strict=True))
    return Embedded(step, feature, places)


def placed_by() -> str:
    """How `place` does it here: t-SNE, or without scikit-learn PCA."""
    return "t-SNE" if importlib.util.find_spec("sklearn") else "PCA"


def place(matrix: np.ndarray) -> np.ndarray:
    """Features [N, D] → places [N, 2], each axis from −1 to 1; the same features give the same map.

    With scikit-learn it is t-SNE (van der Maaten & Hinton 2008) of the standardised features, started from their first
    two principal components (Kobak & Berens 2019), with a fixed seed: only neighbourhood means something. Without, it
    is these components alone: what differs in other directions lies together.
    """
    spread = matrix.std(0)
    standardised = (matrix - matrix.mean(0)) / np.where(spread > 0, spread, 1)
    if placed_by() == "PCA":
        places = _components(standardised, 2)
    else:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        # Beyond some dozens of components there is mostly noise; it also makes t-SNE quick.
        reduced = _components(standardised, 50)
        perplexity = min(_PERPLEXITY, (len(matrix) - 1) / 3)
        # So few clips are not worth sharing out: threads would only wait for each other.
        with threadpool_limits(1):
            places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    low, high = places.min(0), places.max(0)
    return np.round(2 * (places - low) / np.where(high > low, high - low, 1) - 1, 4)


def _components(centred: np.ndarray, count: int) -> np.ndarray:
    """The first principal components of [N, D], [N, up to count]; of either sign the one that is largest upwards."""
    left, sizes, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    scores = (left * sizes)[:, :count]
    furthest = np.take_along_axis(scores, np.abs(scores).argmax(0)[None], axis=0)
    return scores * np.where(furthest < 0, -1, 1)
