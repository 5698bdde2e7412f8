"""Probes on frozen features of corrupted clips: trained on clips as they are, tested in noise, in bad light, and so on.

The heads are those of a probe on clean clips, split by split; only what they are asked changes. Plain statistics stand
beside the checkpoint: what they lose too is lost with the signal, and what they keep needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction, features, metrics, probing
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.corruptions import CLEAN, CORRUPTIONS, SWAPPED, Corrupter
from avemo_jax.evaluation.extraction import Network, Source
from avemo_jax.evaluation.heads.examples import centre_views
from avemo_jax.evaluation.intervals import bootstrap, count_speakers
from avemo_jax.evaluation.paired import paired_tests
from avemo_jax.evaluation.probes import probe
from avemo_jax.evaluation.protocols import Split
from avemo_jax.evaluation.reliance import following, reliance
from avemo_jax.evaluation.sums import of_classes

Row = dict[str, Any]
HEAD = "linear"
_MEMORY = 1 << 30  # bytes of features that are predicted at a time


def rows(
    checkpoint: str,
    data: str,
    label: str,
    *,
    protocol: str = "leave_one_speaker_out",
    feature: str = "cat4",
    names: Sequence[str] = tuple(CORRUPTIONS),
    batch_size: int = 32,
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """One row a feature (those of the checkpoint, and plain statistics) and condition, first the clips as they are.

    Keys: `feature`, `weights`; `corruption` ("none" first), `level`, `unit`, `stream`; `score` ("uar"), `uar` with
    `ci95`, `war`; `change` of the UAR against the clips as they are with `change_ci95`, from resampling speakers, and
    `p_permutation`; `kept`, the share of predictions that stay; `n`, `speakers`, `chance`, `label`, `split`,
    `split_hash`, `selection`, `step`; `weights_selection`, how the checkpoint's weights were chosen; where sound or
    picture are another clip's, those of `reliance.reliance` and `reliance.following`.

    Raises:
      UserError: see `probing.run`; or a corrupted clip cannot be read.
    """
    config, params, step, selection = load_result(checkpoint, say=say)
    wanted = features.select(feature, config.model)
    options = probing.ProbeOptions(label=label, protocol=protocol)
    clips, _, splits, _ = probing.divided(data, options)
    probing.need_classes(clips, "robustness of a probe")
    tested = np.unique(np.concatenate([split.test for split in splits.splits]))
    extract = partial(
        extraction.extract_folder,
        config,
        data,
        networks=[Network("checkpoint", config.seed, params)],
        wanted=wanted,
        batch_size=batch_size,
        workers=workers,
    )
    clean = _of(clips.position, *extract(clips.position.tolist()), data)
    conditions: list[tuple[str, float | None]] = [(CLEAN, None)]
    changed: dict[Source, dict[tuple[str, float], np.ndarray]] = {source: {} for source in clean}
    donors: dict[str, dict[int, int]] = {}
    positions = clips.position[tested]
    mixed = np.random.default_rng(config.seed).permutation(positions)  # folders are sorted by class
    for name in names:
        for level in CORRUPTIONS[name].levels:
            change = Corrupter(name, level, config.seed, clips.position.tolist(), clips.label.tolist())
            found = _of(positions, *extract(mixed.tolist(), change=change), data)
            if name in SWAPPED:
                donors[name] = change.donor_class
            for source, matrix in found.items():
                changed[source][name, level] = matrix
            conditions.append((name, level))
            say(f"robustness: features with {name} {level:g} {CORRUPTIONS[name].unit}".rstrip())
    found_rows: list[Row] = []
    for source, matrix in clean.items():
        guesses = dict(predictions(matrix, changed[source], tested, clips.label, splits.splits))
        order = np.concatenate([split.test for split in splits.splits])
        truth, speaker, before = clips.label[order], clips.speaker[order], guesses[CLEAN, None]
        for condition in conditions:
            name, strength = condition
            corruption = CORRUPTIONS.get(name)
            found_rows.append(
                {
                    "feature": source.feature,
                    "weights": source.weights,
                    "corruption": name,
                    "level": strength,
                    "unit": corruption.unit if corruption else "",
                    "stream": corruption.stream if corruption else "",
                    "score": "uar",
                    **_scored(truth, guesses[condition], before, speaker, len(clips.classes)),
                    "chance": 1 / len(clips.classes),
                    "label": label,
                    "split": splits.protocol,
                    "split_hash": splits.split_hash,
                    "selection": f"{HEAD} probe",
                    "step": step,
                    "weights_selection": selection,
                }
            )
            if name in donors:
                donor = np.array(
                    [donors[name].get(position, -1) for position in clips.position[order].tolist()]
                )
                found_rows[-1] |= _swapped(
                    truth, guesses[condition], before, donor, speaker, len(clips.classes)
                )
    return found_rows


def predictions(
    clean: np.ndarray,
    changed: Mapping[tuple[str, float], np.ndarray],
    tested: np.ndarray,
    label: np.ndarray,
    splits: Sequence[Split],
) -> Iterator[tuple[tuple[str, float | None], np.ndarray]]:
    """(condition, guesses int [M]) of the clean test clips first, `(CLEAN, None)`, then of each condition; guesses
    stand split by split, as the splits' test clips do.

    Args:
      clean: float32 [N, D].
      changed: condition → float32 [T, D], of the clips `tested`, row numbers ascending.
      label: int [N].
    """
    names = list(changed)
    at_once = max(1, _MEMORY // max(1, 4 * tested.size * clean.shape[1]))
    for first in range(0, max(1, len(names)), at_once):
        some = names[first : first + at_once]
        matrix = np.concatenate([clean, *(changed[name] for name in some)])
        own = np.concatenate([label, *([label[tested]] * len(some))])
        longer = [_asked_of_all(split, len(label), tested, len(some)) for split in splits]
        results = probe(matrix, centre_views(own, int(label.max()) + 1), longer, HEAD)
        guesses = [result.predicted.argmax(-1).reshape(1 + len(some), -1) for result in results]
        of_condition = np.concatenate(guesses, axis=1)
        if first == 0:
            yield (CLEAN, None), of_condition[0]
        yield from zip(some, of_condition[1:], strict=True)


def _asked_of_all(split: Split, count: int, tested: np.ndarray, conditions: int) -> Split:
    """The split with the changed copies of its test clips to be predicted too; nothing else of it changes."""
    place = np.searchsorted(tested, split.test)
    copies = [count + number * len(tested) + place for number in range(conditions)]
    inner = np.concatenate([split.inner, np.full(conditions * len(tested), -1)])
    return replace(split, test=np.concatenate([split.test, *copies]), inner=inner)


def _scored(truth, guess, before, speaker, classes) -> Row:
    confusion = metrics.confusion_matrix(truth, guess, classes)
    compared = paired_tests(truth, guess, before, speaker, classes)
    return {
        "uar": float(metrics.uar(confusion)),
        "ci95": list(bootstrap(truth, guess, speaker, classes).bounds["uar"]),
        "war": float(metrics.war(confusion)),
        "change": compared["uar_difference"],
        "change_ci95": compared["uar_difference_ci95"],
        "p_permutation": compared["p_permutation"],
        "kept": float((guess == before).mean()),
        "n": len(truth),
        "speakers": count_speakers(speaker),
    }


def _swapped(truth, guess, before, donor, speaker, classes) -> Row:
    clean, swapped = (of_classes(truth, found, classes) for found in (before, guess))
    return reliance("uar", clean, swapped, speaker) | following(guess, before, truth, donor, speaker)


def _of(positions, read, matrices, data) -> dict[Source, np.ndarray]:
    """The matrices in the order of these positions."""
    place = {position: row for row, position in enumerate(read.tolist())}
    lost = [position for position in positions.tolist() if position not in place]
    if lost:
        raise UserError(
            f"{data}: {len(lost)} labelled clips cannot be read, the first is at place {lost[0]}; prepare again"
        )
    rows = [place[position] for position in positions.tolist()]
    return {source: matrix[rows] for source, matrix in matrices.items()}
