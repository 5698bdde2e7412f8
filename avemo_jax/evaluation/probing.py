"""A checkpoint and a prepared folder → probe results of its features and of their baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction, features
from avemo_jax.evaluation.extraction import LOUDNESS, Network
from avemo_jax.evaluation.judging import Judged, judge
from avemo_jax.evaluation.labelled import read_labelled
from avemo_jax.evaluation.protocols import LabelledClips, Splits, make_splits
from avemo_jax.training.checkpoints import load_params
from input_pipeline.progress import Progress


@dataclass(frozen=True)
class ProbeOptions:
    """What to probe and how.

    features: names and groups, comma-separated (`features.select`). classes: all of the label's when empty.
    random_seeds: how many randomly initialised networks stand beside the checkpoint.
    """

    label: str
    protocol: str = "leave_one_speaker_out"
    features: str = "default"
    classes: tuple[str, ...] = ()
    loudness: tuple[str, ...] = ("as_recorded",)
    random_seeds: int = 3
    folds: int = 5
    inner_folds: int = 5
    batch_size: int = 32
    workers: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """All results, with what they were computed on. `left_out` counts records by reason."""

    step: int
    clips: LabelledClips
    splits: Splits
    left_out: Counter
    judged: list[Judged] = field(repr=False)

    @property
    def rows(self) -> list[dict]:
        return [one.row for one in self.judged]


def run(checkpoint: str, data: str, options: ProbeOptions, say: Callable[[str], None] = print) -> ProbeResult:
    """Probe the checkpoint, randomly initialised networks of its config and plain statistics.

    The splits are made before any feature is computed, so what cannot be split is refused at once.
    Raises UserError or DataError for bad input.
    """
    _check(options)
    config, params, step = load_params(checkpoint, say=say)
    wanted = features.select(options.features, config.model)
    clips, left_out = read_labelled(data, options.label, options.classes)
    splits = make_splits(options.protocol, clips, folds=options.folds, inner_folds=options.inner_folds)
    if splits.left_out:
        left_out["in no fold"] = splits.left_out
        clips = clips.at(splits.rows)
        splits = make_splits(options.protocol, clips, folds=options.folds, inner_folds=options.inner_folds)

    networks = [Network("checkpoint", config.seed, params)]
    networks += extraction.random_networks(config, range(options.random_seeds))
    matrices = _features(config, data, clips, networks, wanted, options)
    judged = []
    with Progress(len(matrices), "features", "probe") as progress:
        for source, matrix in sorted(matrices.items(), key=lambda item: _order(item[0], wanted)):
            judged.append(judge(source, matrix, clips, splits))
            judged[-1].row.update(label=options.label, step=step if source.weights == "checkpoint" else None)
            progress.advance(source.feature)
    return ProbeResult(step, clips, splits, left_out, judged)


def _features(
    config: ConfigDict,
    data: str,
    clips: LabelledClips,
    networks: Sequence[Network],
    wanted: Sequence[str],
    options: ProbeOptions,
) -> dict[extraction.Source, np.ndarray]:
    """Feature matrices in the order of `clips`."""
    positions, matrices = extraction.extract_folder(
        config,
        data,
        clips.position.tolist(),
        networks,
        wanted,
        options.loudness,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    place = {position: row for row, position in enumerate(positions.tolist())}
    missing = [
        clip
        for clip, position in zip(clips.clip_id, clips.position.tolist(), strict=True)
        if position not in place
    ]
    if missing:
        raise UserError(
            f"{data}: {len(missing)} labelled clips cannot be read, the first is {missing[0]}; prepare again"
        )
    rows = np.array([place[position] for position in clips.position.tolist()])
    for source, matrix in matrices.items():
        if not np.isfinite(matrix).all():
            raise UserError(
                f"feature {source.feature} of the {source.weights} network has values that are not finite; "
                "the checkpoint may come from a run that diverged"
            )
    return {source: matrix[rows] for source, matrix in matrices.items()}


def _order(source: extraction.Source, wanted: Sequence[str]) -> tuple:
    """Networks' features in the wanted order, each with its random counterparts, then plain statistics."""
    if source.weights == "none":
        return 1, 0, LOUDNESS.index(source.loudness), 0, 0
    return (
        0,
        wanted.index(source.feature),
        LOUDNESS.index(source.loudness),
        source.weights == "random",
        source.seed,
    )


def _check(options: ProbeOptions) -> None:
    for name in ("random_seeds", "folds", "inner_folds", "batch_size", "workers"):
        least = 0 if name in ("random_seeds", "workers") else 1 if name == "batch_size" else 2
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}, it must be at least {least}")
