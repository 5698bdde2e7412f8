"""Evaluation beyond one number: suites of questions that are asked of models.

  calibration   can the probabilities be believed, and what does abstaining buy?         predictions
  fairness      are speakers of one group understood better than those of another?      predictions, data
  conflict      whom does it follow where voice and face say different things?          predictions, data
  retrieval     does a clip's sound find its own picture among all clips?               checkpoint, data
  robustness    what is left in noise, in bad light, without a modality?                checkpoint, data
  identity      how well do its features tell speakers apart?                           checkpoint, data
  neighbours    which clips are near each other, and do they share labels?              checkpoint, data
  rollout       where does it look?                                                     checkpoint, data
  zero_shot, text_retrieval, statements   what does it know of texts?                   checkpoint, data, texts

Robustness is in `tasks/robustness.py`, that of probes in `probe_robustness.py`, identity in `identity.py`, those of
texts in `text_suites.py`; neighbours and rollout, which make pages, are in `report`.
Each gives rows of JSON values, one a model (and trait, or layer); `text` is how people read them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.errors import UserError
from avemo_jax.evaluation import calibration, extraction, groups, retrieval, text_suites
from avemo_jax.evaluation.conflict import conflict
from avemo_jax.evaluation.intervals import bootstrap_scores
from avemo_jax.evaluation.metrics import confusion_matrix, uar
from avemo_jax.evaluation.predicted import Predicted
from avemo_jax.models.params import Params
from avemo_jax.models.streams import contrast_layers
from input_pipeline.errors import DataError
from input_pipeline.records import open_records

Row = dict[str, Any]
OF_PREDICTIONS = ("calibration", "fairness", "conflict")
SUITES = (
    *OF_PREDICTIONS,
    "retrieval",
    "robustness",
    "identity",
    "neighbours",
    "rollout",
    *text_suites.SUITES,
)
TRAITS = ("gender", "age", "race", "ethnicity")  # that corpora give; `age` is put into bands


def calibration_rows(models: Sequence[Predicted]) -> list[Row]:
    """Keys: `model`, `n`, `uar`; the scores of `calibration.scores`, of what the model says and as `tempered` with a
    temperature that is fitted on other speakers' clips (`by`: what clips are held apart by); `temperature`, fitted on
    all; `ece_ci95`; `reliability` and `risk_coverage`, to be drawn."""
    rows = []
    for one in models:
        chances, labels = one.probabilities, one.label
        parts, by = (one.speaker, "speaker") if len(set(one.speaker)) > 1 else (one.part, "part")
        row: Row = {
            "model": one.model,
            "n": len(labels),
            "uar": float(uar(confusion_matrix(labels, one.guess, len(one.classes)))),
            **calibration.scores(chances, labels),
            "temperature": calibration.fit_temperature(chances, labels),
        }
        if len(set(parts)) > 1:
            scaled = calibration.tempered(chances, calibration.cross_fitted(chances, labels, _dealt(parts)))
            row |= {"tempered": dict(calibration.scores(scaled, labels)), "by": by}
        else:
            row |= {"tempered": None, "by": None}
        intervals = bootstrap_scores(partial(_ece, one), one.speaker)
        row |= {"ece_ci95": list(intervals.bounds["ece"]), "ci_unit": intervals.unit}
        bins = calibration.reliability(chances, labels)
        row["reliability"] = {name: values.tolist() for name, values in bins._asdict().items()}
        coverage, risk = calibration.risk_coverage(chances, labels)
        few = np.unique(np.linspace(0, len(risk) - 1, 101).astype(int))
        row["risk_coverage"] = {"coverage": coverage[few].tolist(), "risk": risk[few].tolist()}
        rows.append(row)
    return rows


def fairness_rows(models: Sequence[Predicted], known: Mapping[str, Row], traits: Sequence[str]) -> list[Row]:
    """One row a model and trait that at least two groups are known of. Keys: `model`, `trait`, `groups` (see
    `groups.by_group`), `gap` (see `groups.gap`), `unknown`, clips whose group is not known.

    Raises:
      UserError: nothing is known of any trait.
    """
    rows = []
    for one in models:
        for trait in traits:
            values = [str(known[clip].get(trait, "")) for clip in one.clip_id.tolist()]
            group = np.array(groups.bands(values) if trait == "age" else values)
            if len(set(group.tolist()) - {""}) < 2:
                continue
            of = (one.label, one.guess, one.speaker, group, len(one.classes))
            rows.append(
                {
                    "model": one.model,
                    "trait": trait,
                    "unknown": int((group == "").sum()),
                    "groups": groups.by_group(*of),
                    "gap": groups.gap(*of),
                }
            )
    if not rows:
        raise UserError(
            f"suite fairness: the data has less than two groups of each of {', '.join(traits)}; give the manifest such "
            "a column and prepare again, or name others with --traits"
        )
    return rows


def conflict_rows(models: Sequence[Predicted], known: Mapping[str, Row]) -> list[Row]:
    """One row a model: see `conflict.conflict`.

    Raises:
      UserError: no clip has votes for voice and face that differ.
    """
    rows = []
    for one in models:
        names = [one.classes[guess] for guess in one.guess.tolist()]
        found = conflict([known[clip] for clip in one.clip_id.tolist()], names, one.speaker)
        if found:
            rows.append({"model": one.model, **found})
    if not rows:
        raise UserError(
            "suite conflict: no clip has labels majority_voice and majority_face that differ, as CREMA-D's votes give "
            "them (avemo prepare --corpus crema_d, with summaryTable.csv in its folder)"
        )
    return rows


def retrieval_rows(
    config: ConfigDict, params: Params, data: str, *, seeds: int = 1, batch_size: int = 32, workers: int = 0
) -> list[Row]:
    """Sound ↔ picture at each layer that the method contrasts (the last, if none is named), and all of them together,
    of whole clips' centre views; of the checkpoint and of networks with random weights.

    Keys: `weights`, `seed`, `layer` (a number, or "all"), `n`; `video_to_audio` and `audio_to_video`, each `r1`, `r5`,
    `r10`, `median_rank` with `r1_ci95` and so on from resampling speakers; `chance`, what R@1, R@5, R@10 are by chance.
    """
    if len(frontend.token_grids(config.model)) < 2:
        raise UserError(
            f"suite retrieval finds a clip's sound by its picture, and {config.method} looks at one of them only"
        )
    layers = tuple(dict.fromkeys(contrast_layers(config.model)))
    wanted = [f"{stream}_layer_{layer}" for layer in layers for stream in ("video", "audio")]
    networks = [extraction.Network("checkpoint", config.seed, params)]
    networks += extraction.random_networks(config, range(seeds))
    records, places, matrices = extraction.extract_all(
        config, data, networks, wanted, batch_size=batch_size, workers=workers
    )
    speakers = [speaker for speaker, _ in records.known()]
    speaker = np.array([speakers[place] for place in places])
    rows = []
    for network in networks:

        def vectors(stream: str, layer: int, network=network) -> np.ndarray:
            source = extraction.Source(
                f"{stream}_layer_{layer}", network.weights, network.seed, "as_recorded"
            )
            matrix = matrices[source]
            return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)

        for layer, chosen in [*((one, (one,)) for one in layers), ("all", layers)]:
            video, audio = (
                np.concatenate([vectors(stream, one) for one in chosen], axis=1)
                for stream in ("video", "audio")
            )
            count = len(video)
            row = {"weights": network.weights, "seed": network.seed, "layer": layer, "n": count}
            row["chance"] = {f"r{k}": min(1.0, k / count) for k in retrieval.RECALLS}
            for way, asked, among in (("video_to_audio", video, audio), ("audio_to_video", audio, video)):
                row[way] = _recalls(retrieval.match_ranks(asked, among), speaker)
            rows.append(row)
    return rows


def facts_of(data: str, clip_ids: set[str]) -> dict[str, Row]:
    """clip_id → speaker, gender, metadata and labels of the clips of a prepared folder.

    Raises:
      UserError: clips that the folder does not have.
    """
    found: dict[str, Row] = {}
    records = open_records(data)
    for index, clip in enumerate(records.clip_ids):
        if clip in clip_ids:
            try:
                record = records[index]
            except DataError:
                found[clip] = {}
                continue
            own = {"speaker": record.speaker, "gender": record.gender}
            found[clip] = {**record.metadata, **record.labels, **own}
    missing = sorted(clip_ids - found.keys())
    if missing:
        raise UserError(
            f"{data} lacks {len(missing)} of the predicted clips, the first is {missing[0]}: give --data the folder "
            "that they were predicted on (what several clips make, by views.pool, is no clip: test with it empty)"
        )
    return found


def _ece(one: Predicted, rows: np.ndarray) -> dict[str, float]:
    return {"ece": calibration.calibration_error(one.probabilities[rows], one.label[rows])}


def _recalls(ranks: np.ndarray, speakers: np.ndarray) -> Row:
    measured = retrieval.summary(ranks)
    intervals = bootstrap_scores(lambda rows: retrieval.summary(ranks[rows]), speakers)
    return {**measured, **{f"{name}_ci95": list(bounds) for name, bounds in intervals.bounds.items()}}


def _dealt(parts: np.ndarray, most: int = 10) -> np.ndarray:
    """At most so many parts, whole ones dealt in turn: a fit for each of hundreds of speakers says no more."""
    _, number = np.unique(parts, return_inverse=True)
    return number % most
