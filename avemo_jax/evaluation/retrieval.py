"""Cross-modal retrieval: does the sound of a clip find its own picture among all clips, and the other way round?

Row i of both matrices is clip i. Exact: every query meets every candidate, in blocks, so that memory grows
with the number of clips and not with its square. Not here: where the vectors come from (extraction).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

RECALLS = (1, 5, 10)
_BLOCK = 1024  # queries at a time


def match_ranks(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Each query's rank of its own candidate by cosine similarity, 1 = first: float32 [N, D] twice → int [N].

    Candidates that are exactly as similar count as better, so vectors that are all the same rank last.
    """
    asked, among = _unit(queries), _unit(candidates)
    starts = range(0, len(asked), _BLOCK)
    return np.concatenate([np.asarray(_ranks(asked[at : at + _BLOCK], among, at)) for at in starts])


def summary(ranks: np.ndarray) -> dict[str, float]:
    """Recalls at `RECALLS`, as fractions, and the median of ranks int [N]."""
    recalls = {f"r{k}": float(np.mean(ranks <= k)) for k in RECALLS}
    return {**recalls, "median_rank": float(np.median(ranks))}


def _unit(vectors: np.ndarray) -> jax.Array:
    array = jnp.asarray(vectors, jnp.float32)
    return array / jnp.maximum(jnp.linalg.norm(array, axis=-1, keepdims=True), 1e-12)


@jax.jit
def _ranks(queries: jax.Array, candidates: jax.Array, first: jax.Array | int) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        similarity = queries @ candidates.T
    own = first + jnp.arange(len(queries))
    return jnp.sum(similarity >= jnp.take_along_axis(similarity, own[:, None], axis=1), axis=1)
