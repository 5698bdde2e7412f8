"""`predictions.csv`, as `avemo probe` and `avemo finetune` write it → the predictions of each model in it.

A line is a clip and a model. What comes before `test_of` names the model. Of classes `label` is the truth, `predicted`
the class that is given and the columns `p_CLASS` its probabilities. Of all else the truth is in `true_NAME`, what is
predicted in `p_NAME`, and `rows.json` beside the file says by which rule (`target`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from avemo_jax import paths
from avemo_jax.errors import UserError
from avemo_jax.evaluation.outcome_files import ROWS, fact_of, row_of, rows_in
from avemo_jax.evaluation.sums import Summed, of_classes, summed
from input_pipeline.targets import CLASS, DISTRIBUTION, MULTI_LABEL, VALUES, kind_of

NAME = "predictions.csv"
_PART = "test_of"
_NEEDED = (_PART, "clip_id", "speaker")
_ARRAYS = ("clip_id", "speaker", "part", "truth", "outputs", "guess")  # of `Predicted`, a row a clip


@dataclass(frozen=True)
class Predicted:
    """One model's predictions of N test clips.

    model: what the file says of it, as {"feature": "cat4", "weights": "checkpoint", …}. names: of the K classes or
    values. part: the test part that each clip is of. truth: int [N] of classes, else float [N, K]. outputs: float
    [N, K]: of classes and distributions rows sum to 1, of several classes a clip each is a probability by itself.
    guess: int [N], the class that the file says is predicted, of distributions and several classes the likeliest one;
    of probabilities with few digits several can be the highest. Of values it says nothing. kind: `Target.kind`.
    head_steps: how long its head was trained, where `rows.json` beside the file says that it was not the usual time.
    """

    model: dict[str, str]
    names: tuple[str, ...]
    clip_id: np.ndarray
    speaker: np.ndarray
    part: np.ndarray
    truth: np.ndarray
    outputs: np.ndarray
    guess: np.ndarray
    kind: str = CLASS
    head_steps: int | None = None

    @property
    def label(self) -> np.ndarray:
        """int [N], the class that is right: of distributions the one with the largest share, of equal ones the first,
        as `outcomes.scores_of` has it."""
        return self.truth if self.kind == CLASS else self.truth.argmax(-1)

    @property
    def summed(self) -> Summed:
        """Its scores, as sums over clips."""
        if self.kind == CLASS:
            return of_classes(self.truth, self.guess, len(self.names))
        return summed(self.kind, self.outputs, self.truth)

    def at(self, clips: np.ndarray) -> Predicted:
        """Of these clips alone, by their numbers or as bool [N]."""
        return replace(self, **{name: getattr(self, name)[clips] for name in _ARRAYS})

    def named(self, names: tuple[str, ...]) -> Predicted:
        """The same with its classes or values in the order of `names`, which are the same ones."""
        places = [self.names.index(name) for name in names]
        number = np.argsort(places)  # here → there
        truth = number[self.truth] if self.kind == CLASS else self.truth[:, places]
        return replace(
            self, names=names, truth=truth, outputs=self.outputs[:, places], guess=number[self.guess]
        )


def read(path: Path) -> list[Predicted]:
    """Every model of the file, in its order.

    Raises:
      UserError: no such file, or one that is not of predictions, or whose truth nothing is known of.
    """
    try:
        with paths.plain_errors(path):
            lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; `avemo finetune` writes it into its work directory, `avemo probe` into --out"
        ) from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    columns = list(lines[0]) if lines else []
    names = tuple(name.removeprefix("p_") for name in columns if name.startswith("p_"))
    is_class = not names or f"true_{names[0]}" not in columns
    needed = (*_NEEDED, *(("label", "predicted") if is_class else (f"true_{name}" for name in names)))
    missing = [name for name in needed if name not in columns]
    if missing or len(names) < 1 + is_class:
        what = f"has no column {missing[0]}" if missing else "has no probabilities of classes"
        raise UserError(f"{path} {what}: give the {NAME} of a probe or of a fine-tuned run")
    kind = CLASS if is_class else kind_of(fact_of(path.parent, "target"))
    if kind not in (DISTRIBUTION, MULTI_LABEL, VALUES) and not is_class:
        raise UserError(
            f"{path} does not say what true_{names[0]} is: give it with its run's {ROWS} beside it"
        )
    model_columns = columns[: columns.index(_PART)]
    models: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in lines:
        models.setdefault(tuple(line[name] for name in model_columns), []).append(line)
    try:
        found = [
            _model(dict(zip(model_columns, key, strict=True)), kind, names, own)
            for key, own in models.items()
        ]
    except (TypeError, ValueError) as error:  # a short line has None
        raise UserError(f"{path} is damaged: {error}") from error
    rows = rows_in(path.parent)
    return [replace(one, head_steps=row_of(rows, one.model).get("head_steps")) for one in found]


def joined(models: Sequence[Predicted]) -> Predicted:
    """One model's predictions by the folds of each seed, as one, which has each clip as often."""
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in models]) for name in _ARRAYS
    }
    return replace(models[0], **arrays)


def pairs(here: Sequence[Predicted], there: Sequence[Predicted]) -> list[tuple[Predicted, Predicted]]:
    """Models of two files that the files call the same, with the same test clips in the order of the first; where no
    two are, the first of each.

    Raises:
      UserError: other things are predicted there, or of other clips, or they are judged by another truth.
    """
    same = [(one, other) for one in here for other in there if one.model == other.model]
    return [(one, as_ordered(one, other)) for one, other in same or [(here[0], there[0])]]


def as_ordered(one: Predicted, other: Predicted, called: str = "--against") -> Predicted:
    """The other model of the same test clips and classes, in the order of this one; `called` is how errors call it.

    Raises:
      UserError: see `pairs`.
    """
    if (one.kind, sorted(one.names)) != (other.kind, sorted(other.names)):
        raise UserError(
            f"{called}: it predicts {', '.join(other.names)} ({other.kind}), not {', '.join(one.names)} ({one.kind})"
        )
    places = [
        {key: row for row, key in enumerate(zip(each.part, each.clip_id, strict=True))}
        for each in (one, other)
    ]
    if places[0].keys() != places[1].keys():
        missing, more = (len(places[0].keys() - places[1].keys()), len(places[1].keys() - places[0].keys()))
        raise UserError(
            f"{called}: it was tested on other clips or folds ({missing} of these are not there, {more} are there "
            "alone): only the same ones can be compared"
        )
    ordered = other.at(np.array([places[1][key] for key in places[0]])).named(one.names)
    if not np.allclose(one.truth, ordered.truth, rtol=1e-4, atol=1e-6):
        raise UserError(
            f"{called}: the same clips have other labels there: only one truth can be compared by"
        )
    return ordered


def _model(
    model: dict[str, str], kind: str, names: tuple[str, ...], lines: list[dict[str, str]]
) -> Predicted:
    def numbers(prefix: str) -> np.ndarray:
        return np.array([[float(line[prefix + name]) for name in names] for line in lines])

    outputs = numbers("p_")
    text = {name: np.array([line[name] for line in lines]) for name in ("clip_id", "speaker", _PART)}
    if kind == CLASS:
        truth, guess = (
            np.array([names.index(line[name]) for line in lines]) for name in ("label", "predicted")
        )
    else:
        truth, guess = numbers("true_"), outputs.argmax(-1)
    if not (np.isfinite(outputs).all() and np.isfinite(truth).all()):
        raise ValueError("a line has something that is no number")
    if kind in (CLASS, DISTRIBUTION):
        if not ((outputs >= 0).all() and (outputs.sum(1) > 0).all()):
            raise ValueError("a line's probabilities are no distribution")
        outputs = outputs / outputs.sum(1, keepdims=True)
    return Predicted(model, names, text["clip_id"], text["speaker"], text[_PART], truth, outputs, guess, kind)
