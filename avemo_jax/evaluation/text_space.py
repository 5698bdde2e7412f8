"""Clips and texts in one space, in which they can be compared.

A run that was aligned with texts has heads for both. Any other network has none; what its frozen features know of texts
is then asked by a linear map: ridge regression from a clip's features to its description's vector, fitted on other
speakers' clips (of one speaker, or of none that is named, on other clips). That is no zero-shot answer, since it is
learnt from descriptions of the very corpus; but it is the same question for every network, aligned or not, with random
weights too. Not here: what is asked (text_suites).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction
from avemo_jax.models.aligned import HEAD, TEXT, views
from avemo_jax.models.params import Params
from avemo_jax.models.streams import layer_count
from input_pipeline.texts import TextTable

HEADS, FITTED = "heads", "fitted"
_PARTS = 5  # that speakers are dealt to, each answered by a map of the others
_STRENGTHS = 10.0 ** np.arange(-2, 5)  # of the ridge, relative to the number of clips


class Judged(NamedTuple):
    """The clips of a folder that could be read, arrays of length N; labels are those of the records."""

    clip_id: list[str]
    speaker: np.ndarray
    labels: list[dict]


class Space(NamedTuple):
    """Clips as unit vectors [N, D] and how texts come to them.

    weights, seed: of the network, as `extraction.Source` has them. map: `heads` or `fitted`. by: which view of a clip,
    of `models.aligned.views`, or `both`, the mean of picture and sound; `all` features of a fitted map. there: bool
    [N], which clips have the streams that this needs; the others' vectors say nothing.
    """

    weights: str
    seed: int
    map: str
    by: str
    clips: np.ndarray
    there: np.ndarray
    centre: np.ndarray  # taken from a text's vector first [E]
    kernel: np.ndarray | None  # of the text's head [E, D]; None leaves it as it is
    bias: np.ndarray | float = 0.0  # [D]
    apart: str = ""  # of a fitted map: it never saw others of the same "speaker", or the same "clip" alone

    def similarity(self, texts: np.ndarray) -> np.ndarray:
        """Cosine of each clip and each text's vector [M, E]: float32 [N, M]."""
        vectors = texts - self.centre
        moved = vectors if self.kernel is None else vectors @ self.kernel + self.bias
        return self.clips @ _unit(moved).T

    @property
    def name(self) -> dict:
        apart = {"apart": self.apart} if self.apart else {}
        return {"weights": self.weights, "seed": self.seed, "map": self.map, "by": self.by, **apart}


class Model(NamedTuple):
    """A run's network; `weights` is what its rows are called."""

    weights: str
    config: ConfigDict
    params: Params


def spaces(
    model: Model,
    data: str,
    table: TextTable | None,
    *,
    split: str = "",
    seeds: int = 0,
    batch_size: int = 32,
    workers: int = 0,
) -> tuple[Judged, list[Space]]:
    """The clips of a folder (of one split) in every space of a run, and of networks with random weights; spaces of
    streams that no clip has are left out.

    Args:
      table: descriptions of some of the clips, which maps are fitted to; without one there are only heads.
      seeds: so many random networks, each with a fitted map.

    Raises:
      UserError: neither heads nor texts; no clip for any space; fewer than two speakers' texts to fit a map to.
    """
    config = model.config
    if config.task != "align_text" and table is None:
        raise UserError(
            f"the run is of task {config.task} and has no heads for texts: give --texts the folder of avemo describe, "
            "to fit a map to, or --checkpoint a run of an align_text config"
        )
    last = layer_count(config.model) - 1
    wanted = {  # by the names of the views
        name: "fused" if name == "joint" else f"{name}_layer_{last}" for name in views(config.model)
    }
    networks = [extraction.Network(model.weights, config.seed, model.params)]
    networks += extraction.random_networks(config, range(seeds)) if table is not None else []
    records, places, matrices = extraction.extract_all(
        config, data, networks, tuple(wanted.values()), split, batch_size=batch_size, workers=workers
    )
    known = list(records.known())
    judged = Judged(
        [records.clip_ids[place] for place in places],
        np.array([known[place][0] for place in places]),
        [known[place][1] for place in places],
    )
    there = {
        "video": np.array(records.frame_counts)[places] > 0,
        "audio": np.array(records.sample_counts)[places] > 0,
    }
    there["joint"] = there["both"] = there["video"] & there["audio"]
    wanted = {name: feature for name, feature in wanted.items() if there[name].any()}
    found: list[Space] = []
    for network in networks:
        features = {
            name: matrices[extraction.Source(feature, network.weights, network.seed, "as_recorded")]
            for name, feature in wanted.items()
        }
        if network.weights == model.weights and config.task == "align_text":
            found += _by_heads(network, features, config, there)
        if table is not None and wanted:
            together = np.concatenate(list(features.values()), axis=1)
            whole = np.all([there[name] for name in features], axis=0)
            found.append(_by_map(network, together, judged, table, whole))
    if not found:
        raise UserError(f"{data}: no clip has the picture or sound by which this run is compared with texts")
    return judged, found


def _by_heads(
    network: extraction.Network,
    features: dict[str, np.ndarray],
    config: ConfigDict,
    there: dict[str, np.ndarray],
) -> list[Space]:
    """A space for each view that was compared with texts, and for picture and sound together."""
    heads = {
        name: (np.asarray(of["kernel"]), np.asarray(of["bias"])) for name, of in network.params[HEAD].items()
    }
    compared = {name for pair in config.contrast.pairs if TEXT in pair.split("-") for name in pair.split("-")}
    vectors = {
        name: _unit(features[name] @ heads[name][0] + heads[name][1]) for name in features if name in compared
    }
    if {"video", "audio"} <= set(vectors) and there["both"].any():
        vectors["both"] = _unit(vectors["video"] + vectors["audio"])
    kernel, bias = heads[TEXT]
    nothing = np.zeros(len(kernel), np.float32)
    return [
        Space(network.weights, network.seed, HEADS, name, clips, there[name], nothing, kernel, bias)
        for name, clips in vectors.items()
    ]


def _by_map(
    network: extraction.Network, features: np.ndarray, judged: Judged, table: TextTable, there: np.ndarray
) -> Space:
    rows = table.rows_of(judged.clip_id)
    described = np.flatnonzero((rows >= 0) & there)
    speakers, part = np.unique(judged.speaker, return_inverse=True)
    apart = "speaker" if len(speakers) > 1 else "clip"
    part = part % _PARTS if apart == "speaker" else np.arange(len(rows)) % _PARTS
    if len(described) < 4 or len(set(part[described].tolist())) < 2:
        raise UserError(
            f"--texts describes {len(described)} of the clips that have what the network looks at: a map takes "
            f"{'some of at least two speakers' if apart == 'speaker' else 'at least four'} to be fitted"
        )
    centre = table.embedding[rows[described]].mean(0)
    wanted = _unit(table.embedding[np.maximum(rows, 0)] - centre)
    predicted = np.zeros((len(rows), table.dim), np.float32)
    for number in set(part.tolist()):
        own = part == number
        others = described[part[described] != number]
        predicted[own] = _ridge(features[others], wanted[others], features[own])
    return Space(
        network.weights, network.seed, FITTED, "all", _unit(predicted), there, centre, None, apart=apart
    )


def _ridge(known: np.ndarray, wanted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Predictions for `asked` [M, F] of ridge regression `known` [N, F] → `wanted` [N, E], features standardised; its
    strength by generalised cross-validation (Golub et al. 1979)."""
    mean, deviation = known.mean(0), np.maximum(known.std(0), 1e-6)
    x, offset = ((known - mean) / deviation).astype(np.float64), wanted.mean(0)
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    projected, squares = left.T @ (wanted - offset), np.square(sizes)

    def error(strength: float) -> float:
        shrunk = squares / (squares + strength)
        freedom = max(1e-3, 1 - (shrunk.sum() + 1) / len(x))
        return float(np.square(wanted - offset - left @ (shrunk[:, None] * projected)).sum() / freedom**2)

    strength = min(_STRENGTHS * len(x), key=error)
    weights = right.T @ ((sizes / (squares + strength))[:, None] * projected)
    return (((asked - mean) / deviation) @ weights + offset).astype(np.float32)


def mean_vector(vectors: np.ndarray) -> np.ndarray:
    """The direction [E] that several texts' vectors [M, E] have in common, as long as these are on average: heads and
    maps have seen vectors as they come from the tower."""
    return _unit(_unit(vectors).mean(0)) * np.linalg.norm(vectors, axis=-1).mean()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
