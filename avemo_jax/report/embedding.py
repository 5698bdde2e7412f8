"""A checkpoint and some clips → a map on which clips with like features lie near each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction
from avemo_jax.evaluation.extraction import Network
from avemo_jax.training.checkpoint_files import load_params

FEATURE = "cat4"  # the clip vector that fine-tuning starts from
FEWEST = 8  # clips; with fewer there is nothing to see
_PERPLEXITY = 30


def embed(checkpoint: str, data: str, positions: Sequence[int]) -> tuple[int, dict[int, list[float]]]:
    """The checkpoint's step, and position → place on the map of the clips that can be read; none of too few.

    t-SNE (van der Maaten & Hinton 2008) of the standardised features, started from their first two principal
    components (Kobak & Berens 2019), with a fixed seed: the same checkpoint and clips give the same map.

    Raises:
      UserError: no usable checkpoint, or features that are not finite.
    """
    config, params, step = load_params(checkpoint)
    if len(positions) < FEWEST:
        return step, {}
    networks = [Network("checkpoint", config.seed, params)]
    read, matrices = extraction.extract_folder(config, data, positions, networks, (FEATURE,))
    (matrix,) = (values for source, values in matrices.items() if source.feature == FEATURE)
    if not np.isfinite(matrix).all():
        raise UserError(f"{checkpoint}: features are not finite; its run may have diverged")
    if len(matrix) < FEWEST:
        return step, {}
    return step, dict(zip(read.tolist(), place(matrix).tolist(), strict=True))


def place(matrix: np.ndarray) -> np.ndarray:
    """Features [N, D] → places [N, 2], each axis from −1 to 1: on such a map only neighbourhood means something."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    spread = matrix.std(0)
    standardised = (matrix - matrix.mean(0)) / np.where(spread > 0, spread, 1)
    # Beyond some dozens of components there is mostly noise; it also makes t-SNE quick.
    reduced = PCA(min(50, *standardised.shape), random_state=0).fit_transform(standardised)
    perplexity = min(_PERPLEXITY, (len(matrix) - 1) / 3)
    with threadpool_limits(
        1
    ):  # so few clips are not worth sharing out: threads would only wait for each other
        places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    low, high = places.min(0), places.max(0)
    return np.round(2 * (places - low) / (high - low) - 1, 4)
