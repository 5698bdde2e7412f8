"""Which clips are nearest to a clip in a network's features, and how often they share its label.

Exact by default: every query meets every candidate, in blocks on the device. For millions of clips FAISS's graph index
(HNSW, Malkov & Yashunin 2018) finds almost the same ones much sooner; it is only used where it is asked for and
installed. Clips of a query's own speaker are never among its neighbours: they would show who speaks.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation.intervals import bootstrap_scores
from avemo_jax.files import write_bytes
from avemo_jax.paths import plain_errors

Row = dict[str, Any]
INDEXES = ("exact", "faiss")
NEIGHBOURS = 5
_BLOCK = 1024  # queries at a time
_LINKS, _EFFORT = 32, 128  # of the graph: edges a clip, candidates that a search keeps


def search(
    vectors: np.ndarray,
    queries: np.ndarray,
    groups: np.ndarray,
    count: int = NEIGHBOURS,
    index: str = "exact",
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` clips most similar by cosine to each query, the nearest first.

    Args:
      vectors: float32 [N, D].
      queries: row numbers int [M].
      groups: [N], any names; clips of a query's own group are passed over, and where its name is empty itself alone.
      index: one of `INDEXES`.
      keep: a folder; FAISS's graph is written there, and read from there when it is of the same vectors.
      say: told of it.

    Returns:
      row numbers int [M, count], −1 where there are no more, and similarities float32 [M, count].

    Raises:
      UserError: no such index, or its package is not installed.
    """
    check_index(index)
    number = np.unique(groups, return_inverse=True)[1]
    alone = groups == ""
    number = np.where(alone, len(groups) + np.arange(len(groups)), number).astype(np.int32)
    unit = np.asarray(vectors, np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    count = min(count, len(unit))
    find = partial(_by_graph, keep=keep, say=say) if index == "faiss" else _exactly
    rows, similar = find(unit, np.asarray(queries), number, count)
    return np.where(np.isfinite(similar), rows, -1), similar


def check_index(index: str) -> None:
    """Raises a UserError where there is no such index, or its package is not installed."""
    if index not in INDEXES:
        raise UserError(f"--index: no '{index}'; there are {', '.join(INDEXES)}")
    if index == "faiss" and importlib.util.find_spec("faiss") is None:
        raise UserError("--index faiss needs a package: pip install 'avemo_jax[index]'")


def agreement(neighbours: np.ndarray, queries: np.ndarray, values: np.ndarray, speakers: np.ndarray) -> Row:
    """How often a query's neighbours have its label: `precision` with `precision_ci95` from resampling speakers, and
    `chance`, how often clips of other speakers do. neighbours: [M, k] as of `search`; values, speakers: [N] names, an
    empty value is none. None when no query has a value, or no neighbour."""
    asked = values[queries] != ""
    found, queries = neighbours[asked], queries[asked]
    known = (found >= 0) & (values[found] != "")
    same = known & (values[found] == values[queries][:, None])
    hits, of = same.sum(1), known.sum(1)
    if not of.any():
        return {"n": len(queries), "precision": None, "precision_ci95": None, "chance": None}

    def measure(rows: np.ndarray) -> dict[str, float]:
        total = of[rows].sum()
        return {"precision": hits[rows].sum() / total if total else np.nan}

    own = speakers[queries]
    bounds = bootstrap_scores(measure, own).bounds["precision"]
    return {
        "n": len(queries),
        "precision": float(measure(np.arange(len(queries)))["precision"]),
        "precision_ci95": list(bounds),
        "chance": _chance(queries, values, speakers),
    }


def _chance(queries: np.ndarray, values: np.ndarray, speakers: np.ndarray) -> float:
    """The mean over queries of how many of the others' clips with a label have the query's."""
    named = values != ""
    value, speaker = (np.unique(names, return_inverse=True)[1] for names in (values, speakers))
    counts = np.zeros((speaker.max() + 1, value.max() + 1), np.int64)
    np.add.at(counts, (speaker[named], value[named]), 1)
    nobody = speakers[queries] == ""  # only the clip itself is passed over
    own = np.where(
        nobody[:, None], np.eye(counts.shape[1], dtype=np.int64)[value[queries]], counts[speaker[queries]]
    )
    others = counts.sum(0) - own
    share = others[np.arange(len(queries)), value[queries]] / np.maximum(others.sum(1), 1)
    return float(share.mean())


def _exactly(unit: np.ndarray, queries: np.ndarray, number: np.ndarray, count: int):
    among, groups = jnp.asarray(unit), jnp.asarray(number)
    parts = [
        _nearest(among[some], groups[some], among, groups, count=count)
        for some in (queries[at : at + _BLOCK] for at in range(0, len(queries), _BLOCK))
    ]
    rows, similar = (np.concatenate([np.asarray(part[place]) for part in parts]) for place in (0, 1))
    return rows, similar


@partial(jax.jit, static_argnames="count")
def _nearest(asked, own, among, groups, *, count):
    with jax.default_matmul_precision("highest"):
        similar = asked @ among.T
    similar = jnp.where(own[:, None] == groups, -jnp.inf, similar)
    best, rows = jax.lax.top_k(similar, count)
    return rows, best


def _by_graph(
    unit: np.ndarray,
    queries: np.ndarray,
    number: np.ndarray,
    count: int,
    keep: Path | None,
    say: Callable[[str], None],
):
    # So many that enough are left when all of the largest group are passed over.
    most = min(len(unit), count + int(np.bincount(np.unique(number, return_inverse=True)[1]).max()))
    graph = _graph(unit, max(_EFFORT, most), keep, say)
    graph.hnsw.efSearch = max(_EFFORT, most)
    similar, rows = graph.search(unit[queries], most)
    similar = np.where((rows < 0) | (number[rows] == number[queries][:, None]), -np.inf, similar)
    order = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(similar, order, 1)


def _graph(unit: np.ndarray, effort: int, keep: Path | None, say: Callable[[str], None]):
    """The index of these vectors, from `keep` where it has it: its file is named by the hash of all that it follows
    from, and is as FAISS writes it."""
    import faiss

    path = None
    if keep is not None:
        digest = hashlib.sha256(f"{unit.shape} {_LINKS} {effort} ".encode())
        digest.update(unit.tobytes())
        path = keep / f"neighbours-{digest.hexdigest()[:16]}.faiss"
        with (
            contextlib.suppress(OSError, RuntimeError),
            plain_errors(path),
        ):  # FAISS's word for a damaged file
            graph = faiss.deserialize_index(np.frombuffer(path.read_bytes(), np.uint8))
            say(f"neighbours: the index is that of {path}")
            return graph
    graph = faiss.IndexHNSWFlat(unit.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = effort
    graph.add(unit)
    if path is not None:
        write_bytes(path, faiss.serialize_index(graph).tobytes())
        say(f"neighbours: the index is kept in {path}")
    return graph
