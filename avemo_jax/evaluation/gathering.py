"""Feature matrices of labelled clips, in the clips' order, from the cache where it has them.

Not here: how features are computed (extraction), and what the cache's names follow from (cache).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction, features
from avemo_jax.evaluation.cache import FeatureCache, params_digest
from avemo_jax.evaluation.extraction import Network, Source
from avemo_jax.evaluation.heads.examples import Examples, centre_views
from avemo_jax.evaluation.protocols import LabelledClips

Matrices = dict[Source, np.ndarray]


class Folder(NamedTuple):
    """A prepared folder, and the row numbers of the labelled clips that are in it, ascending."""

    path: str
    rows: np.ndarray


@dataclass(frozen=True)
class Wanted:
    """Features of these networks at these loudnesses, with these modalities missing."""

    networks: Sequence[Network]
    names: Sequence[str]
    loudness: Sequence[str]
    missing: Sequence[str]
    batch_size: int
    workers: int


def gather(
    config: ConfigDict,
    folders: Sequence[Folder],
    clips: LabelledClips,
    training: np.ndarray,
    wanted: Wanted,
    *,
    augmented: int = 0,
    cache: str = "",
) -> tuple[Matrices, Examples]:
    """The matrices [R, …], and whose view each row is: the centre view of every clip, then `augmented` random
    views of each clip in `training` (row numbers, ascending), which are then what is trained on. The clips of each
    folder stand behind those of the folders before it.

    Raises:
      UserError: a clip cannot be read, or a network's features are not finite.
    """
    centre = _all_folders(config, folders, clips, np.arange(len(clips)), wanted, None, cache)
    examples = centre_views(clips.truth, clips.target.outputs)
    if not augmented:
        return centre, examples
    views = [centre]
    for view in range(augmented):
        views.append(_all_folders(config, folders, clips, training, wanted, view, cache))
    rows = {source: np.concatenate([matrices[source] for matrices in views]) for source in centre}
    clip = np.concatenate([examples.clip, np.tile(training, augmented)])
    trains = np.arange(len(clip)) >= len(clips)
    return rows, Examples(clip, trains, examples.label, examples.classes)


def check_tokens(
    clips: int, rows: int, sources: Sequence[Source], config: ConfigDict, limit_gib: float
) -> None:
    """Raise a UserError where tokens of so many clips, in matrices of so many rows, take more than the limit; `sources`
    are those that are computed."""
    tokens = [source.feature for source in sources if features.kind(source.feature) == "tokens"]
    needed = rows * sum(features.bytes_of_tokens(name, config.model) for name in tokens) / 2**30
    if needed > limit_gib:
        names = ", ".join(dict.fromkeys(tokens))
        raise UserError(
            f"--head attentive: {names} of {clips} clips take {needed:.1f} GiB, --token_memory allows "
            f"{limit_gib:g}; raise it, or take fewer networks (--random_seeds), one --modality or fewer clips"
        )


def _all_folders(config, folders, clips, rows, wanted, view, cache) -> Matrices:
    """Of the clips with these row numbers, ascending."""
    found = []
    for folder in folders:
        own = rows[np.isin(rows, folder.rows)]
        if len(own):
            found.append(_one_view(config, folder.path, clips.at(own), wanted, view, cache))
    return {source: np.concatenate([matrices[source] for matrices in found]) for source in found[0]}


def _one_view(config, data, clips, wanted, view, cache) -> Matrices:
    positions = clips.position.tolist()
    arguments = (wanted.names, wanted.loudness, wanted.missing)
    if not cache:
        return _computed(config, data, clips, wanted, wanted.networks, view)
    store = FeatureCache(cache, config, data, positions, view)
    digests = {(net.weights, net.seed): params_digest(net.params) for net in wanted.networks} | {
        ("none", 0): "none"
    }
    name = {source: digests[source[1:3]] for source in extraction.sources(wanted.networks, *arguments)}
    found = {source: matrix for source in name if (matrix := store.get(source, name[source])) is not None}
    lacking = {source[1:3] for source in name if source not in found}
    if lacking:
        networks = [net for net in wanted.networks if (net.weights, net.seed) in lacking]
        computed = _computed(config, data, clips, wanted, networks, view)
        for source, matrix in computed.items():
            store.put(source, name[source], matrix)
        found |= computed
    return found


def _computed(config, data, clips, wanted, networks, view) -> Matrices:
    positions, matrices = extraction.extract_folder(
        config,
        data,
        clips.position.tolist(),
        networks,
        wanted.names,
        wanted.loudness,
        wanted.missing,
        batch_size=wanted.batch_size,
        workers=wanted.workers,
        view=view,
    )
    place = {position: row for row, position in enumerate(positions.tolist())}
    lost = [
        clip
        for clip, position in zip(clips.clip_id, clips.position.tolist(), strict=True)
        if position not in place
    ]
    if lost:
        raise UserError(
            f"{data}: {len(lost)} labelled clips cannot be read, the first is {lost[0]}; prepare again"
        )
    for source, matrix in matrices.items():
        if not np.isfinite(matrix).all():
            raise UserError(
                f"feature {source.feature} of the {source.weights} network has values that are not finite; "
                "the checkpoint may come from a run that diverged"
            )
    rows = np.array([place[position] for position in clips.position.tolist()])
    return {source: matrix[rows] for source, matrix in matrices.items()}
