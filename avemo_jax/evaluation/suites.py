"""Evaluation beyond one number: suites of questions that are asked of models.

  calibration   can the probabilities be believed, and what does abstaining buy?         predictions
  fairness      are speakers of one group understood better than those of another?      predictions, data
  conflict      whom does it follow where voice and face say different things?          predictions, data
  paired        is it better than another model of the same clips?                      two of predictions
  retrieval     does a clip's sound find its own picture among all clips?               checkpoint, data
  robustness    what is left in noise, in bad light, without a modality?                checkpoint, data
  cross_corpus  what is left on another corpus?                                         checkpoint, data
  identity      how well do its features tell speakers apart?                           checkpoint, data
  neighbours    which clips are near each other, and do they share labels?              checkpoint, data
  rollout       where does it look?                                                     checkpoint, data
  zero_shot, text_retrieval, statements   what does it know of texts?                   checkpoint, data, texts

Robustness is in `tasks/robustness.py`, cross_corpus in `tasks/transfer.py`, robustness of probes in
`probe_robustness.py`, identity in `identity.py`, those of texts in `text_suites.py`; neighbours and rollout, which make
pages, are in `report`.
Each gives rows of JSON values, one a model (and trait, or layer); `text` is how people read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.errors import UserError
from avemo_jax.evaluation import calibration, extraction, groups, paired, retrieval, text_suites
from avemo_jax.evaluation.conflict import conflict
from avemo_jax.evaluation.intervals import bootstrap_scores
from avemo_jax.evaluation.metrics import confusion_matrix, uar
from avemo_jax.evaluation.predicted import Predicted, pairs
from avemo_jax.evaluation.protocols import clips_hash
from avemo_jax.models.params import Params
from avemo_jax.models.streams import contrast_layers
from input_pipeline.errors import DataError
from input_pipeline.records import open_records
from input_pipeline.targets import CLASS, DISTRIBUTION, MULTI_LABEL, VALUES

Row = dict[str, Any]
OF_PREDICTIONS = ("calibration", "fairness", "conflict", "paired")
SUITES = (
    *OF_PREDICTIONS,
    "retrieval",
    "robustness",
    "cross_corpus",
    "identity",
    "neighbours",
    "rollout",
    *text_suites.SUITES,
)
TRAITS = ("speaker", "gender", "age", "race", "ethnicity")  # that corpora give; `age` is put into bands


def check_kinds(models: Sequence[Predicted], chosen: Sequence[str]) -> None:
    """Raises a UserError where one of these suites cannot be asked of what is predicted."""
    of_values = [one for one in models if one.kind == VALUES]
    wanted = [name for name in chosen if name in ("calibration", "conflict")]
    if of_values and wanted:
        raise UserError(
            f"suite {wanted[0]} is asked of classes, and these are values ({', '.join(of_values[0].names)}): "
            "fairness and paired take them"
        )


def calibration_rows(models: Sequence[Predicted]) -> list[Row]:
    """Keys: `model`, `n`, `uar`; the scores of `calibration.scores`, of what the model says and as `tempered` with a
    temperature that is fitted on other speakers' clips (`by`: what clips are held apart by); `temperature`, fitted on
    all; `ece_ci95`, `brier_ci95`, `aurc_ci95`; `reliability` and `risk_coverage`, to be drawn.

    Shares of votes are judged by the class with most of them; clips where several have are left out (`tied`, so many).
    Of several classes a clip each has a row, as `class` of its `model`: whether clips have it or not.
    """
    rows = []
    for one in (each for model in models for each in _decisions_of(model)):
        apart = np.ones(len(one.guess), bool)
        if one.kind == DISTRIBUTION:
            apart = (one.truth == one.truth.max(1, keepdims=True)).sum(1) == 1
            one = one.at(apart)
        if not len(one.guess):
            raise UserError("suite calibration: no clip has a class with the most votes")
        chances, labels = one.outputs, one.label
        parts, by = (one.speaker, "speaker") if len(set(one.speaker)) > 1 else (one.part, "part")
        row: Row = {
            "model": one.model,
            "n": len(labels),
            "tied": int((~apart).sum()),
            "uar": float(uar(confusion_matrix(labels, one.guess, len(one.names)))),
            **calibration.scores(chances, labels),
            "temperature": calibration.fit_temperature(chances, labels),
        }
        if len(set(parts)) > 1:
            scaled = calibration.tempered(chances, calibration.cross_fitted(chances, labels, _dealt(parts)))
            row |= {"tempered": dict(calibration.scores(scaled, labels)), "by": by}
        else:
            row |= {"tempered": None, "by": None}
        intervals = bootstrap_scores(_trust(chances, labels), one.speaker)
        row |= {f"{name}_ci95": list(bounds) for name, bounds in intervals.bounds.items()}
        row["ci_unit"] = intervals.unit
        bins = calibration.reliability(chances, labels)
        row["reliability"] = {name: values.tolist() for name, values in bins._asdict().items()}
        coverage, risk = calibration.risk_coverage(chances, labels)
        few = np.unique(np.linspace(0, len(risk) - 1, 101).astype(int))
        row["risk_coverage"] = {"coverage": coverage[few].tolist(), "risk": risk[few].tolist()}
        rows.append(row)
    return rows


def fairness_rows(models: Sequence[Predicted], known: Mapping[str, Row], traits: Sequence[str]) -> list[Row]:
    """One row a model and trait that at least two groups are known of. Keys: `model`, `trait`, `groups` (see
    `groups.by_group`), `gap` (see `groups.gap`) of the first main score of what is predicted, `unknown`, clips whose
    group is not known.

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
            of = (one.summed, one.speaker, group)
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
    """One row a model: see `conflict.conflict`. Of shares and of several classes a clip the likeliest one counts.

    Raises:
      UserError: no clip has votes for voice and face that differ.
    """
    rows = []
    for one in models:
        names = [one.names[guess] for guess in one.guess.tolist()]
        found = conflict([known[clip] for clip in one.clip_id.tolist()], names, one.speaker)
        if found:
            rows.append({"model": one.model, **found})
    if not rows:
        raise UserError(
            "suite conflict: no clip has labels majority_voice and majority_face that differ, as CREMA-D's votes give "
            "them (avemo prepare --corpus crema_d, with summaryTable.csv in its folder)"
        )
    return rows


def paired_rows(models: Sequence[Predicted], others: Sequence[Predicted]) -> list[Row]:
    """One row a pair of models of two files (see `predicted.pairs`). Keys: `model`, `against`, the other one's; those
    of `paired.tests`.

    Raises:
      UserError: see `predicted.pairs`; or two are of one head that was trained for other steps.
    """
    rows = []
    for one, other in pairs(models, others):
        head = one.model.get("head", "")
        if head == other.model.get("head", ""):
            paired.check_steps(head, one.head_steps, other.head_steps)
        rows.append({"model": one.model, "against": other.model, **paired.tests(one, other)})
    return rows


def retrieval_rows(
    config: ConfigDict, params: Params, data: str, *, seeds: int = 1, batch_size: int = 32, workers: int = 0
) -> list[Row]:
    """Sound ↔ picture at each layer that the method contrasts (the last, if none is named), and all of them together,
    of whole clips' centre views; of the checkpoint and of networks with random weights. A clip that lacks picture or
    sound is neither asked nor found.

    Keys: `weights`, `seed`, `layer` (a number, or "all"), `n`, `split_hash` of the clips; `lacking`, how many others
    lack picture or sound; `video_to_audio` and `audio_to_video`, each `r1`, `r5`, `r10`, `median_rank` with `r1_ci95`
    and so on from resampling speakers; `chance`, what R@1, R@5, R@10 are by chance.

    Raises:
      UserError: the method looks at one of them only, or less than two clips have both.
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
    whole = (np.minimum(records.frame_counts, records.sample_counts) > 0)[places]
    if whole.sum() < 2:
        raise UserError(
            f"suite retrieval: {data} has {whole.sum()} clips with picture and sound, it needs two"
        )
    speakers = [speaker for speaker, _ in records.known()]
    speaker = np.array([speakers[place] for place in places])[whole]
    ids = np.array(records.clip_ids)[places][whole]
    judged = clips_hash(ids.tolist())
    rows = []
    for network in networks:

        def vectors(stream: str, layer: int, network=network) -> np.ndarray:
            source = extraction.Source(
                f"{stream}_layer_{layer}", network.weights, network.seed, "as_recorded"
            )
            matrix = matrices[source][whole]
            return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)

        for layer, chosen in [*((one, (one,)) for one in layers), ("all", layers)]:
            video, audio = (
                np.concatenate([vectors(stream, one) for one in chosen], axis=1)
                for stream in ("video", "audio")
            )
            count = len(video)
            row = {"weights": network.weights, "seed": network.seed, "layer": layer, "n": count}
            row |= {"lacking": int((~whole).sum()), "split_hash": judged}
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


def _decisions_of(one: Predicted) -> list[Predicted]:
    """Models that choose one class a clip: itself, or one for each of several classes, to be there or not."""
    if one.kind != MULTI_LABEL:
        return [one]
    return [
        replace(
            one,
            model={**one.model, "class": name},
            names=(f"not {name}", name),
            truth=(one.truth[:, k] > 0.5).astype(np.int64),
            outputs=np.stack([1 - one.outputs[:, k], one.outputs[:, k]], 1),
            guess=(one.outputs[:, k] >= 0.5).astype(np.int64),
            kind=CLASS,
        )
        for k, name in enumerate(one.names)
    ]


def _trust(chances: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], dict[str, float]]:
    """ECE, Brier score and the area under the risk-coverage curve of drawn clips."""
    sure, wrong = (
        chances.max(1)[:, None],
        (chances.argmax(1) != labels).astype(np.int64),
    )  # all that two of them need
    apart = calibration.squared_distances(chances, labels)

    def measure(rows: np.ndarray) -> dict[str, float]:
        return {
            "ece": calibration.calibration_error(sure[rows], wrong[rows]),
            "brier": float(apart[rows].mean()),
            "aurc": float(calibration.risk_coverage(sure[rows], wrong[rows])[1].mean()),
        }

    return measure


def _recalls(ranks: np.ndarray, speakers: np.ndarray) -> Row:
    measured = retrieval.summary(ranks)
    intervals = bootstrap_scores(lambda rows: retrieval.summary(ranks[rows]), speakers)
    return {**measured, **{f"{name}_ci95": list(bounds) for name, bounds in intervals.bounds.items()}}


def _dealt(parts: np.ndarray, most: int = 10) -> np.ndarray:
    """At most so many parts, whole ones dealt in turn: a fit for each of hundreds of speakers says no more."""
    _, number = np.unique(parts, return_inverse=True)
    return number % most
