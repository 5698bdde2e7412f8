"""`predictions.csv`, as `avemo probe` and `avemo finetune` write it → the predictions of each model in it.

A line is a clip and a model. What comes before `test_of` names the model; `label` and `predicted` are classes, and the
columns `p_CLASS` their probabilities.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avemo_jax import paths
from avemo_jax.errors import UserError

NAME = "predictions.csv"
_PART = "test_of"
_NEEDED = (_PART, "clip_id", "speaker", "label", "predicted")


@dataclass(frozen=True)
class Predicted:
    """One model's predictions of N test clips.

    model: what the file says of it, as {"feature": "cat4", "weights": "checkpoint", …}. part: the test part that each
    clip is of. label: int [N]. probabilities: float [N, K], rows summing to 1. guess: int [N], the class that the file
    says is predicted; of probabilities with few digits several can be the highest.
    """

    model: dict[str, str]
    classes: tuple[str, ...]
    clip_id: np.ndarray
    speaker: np.ndarray
    part: np.ndarray
    label: np.ndarray
    probabilities: np.ndarray
    guess: np.ndarray


def read(path: Path) -> list[Predicted]:
    """Every model of the file, in its order.

    Raises:
      UserError: no such file, or one that is not of classes with probabilities.
    """
    try:
        with paths.plain_errors(path):
            lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; `avemo finetune` writes it into its work directory, `avemo probe` into --out"
        ) from error
    columns = list(lines[0]) if lines else []
    classes = tuple(name.removeprefix("p_") for name in columns if name.startswith("p_"))
    missing = [name for name in _NEEDED if name not in columns]
    if missing or len(classes) < 2:
        what = f"has no column {missing[0]}" if missing else "has no probabilities of classes"
        raise UserError(f"{path} {what}: give the {NAME} of a probe of classes or of a fine-tuned classifier")
    model_columns = columns[: columns.index(_PART)]
    models: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for line in lines:
        models.setdefault(tuple(line[name] for name in model_columns), []).append(line)
    try:
        return [
            _model(dict(zip(model_columns, key, strict=True)), classes, own) for key, own in models.items()
        ]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _model(model: dict[str, str], classes: tuple[str, ...], lines: list[dict[str, str]]) -> Predicted:
    chances = np.array([[float(line[f"p_{name}"]) for name in classes] for line in lines])
    if not (np.isfinite(chances).all() and (chances >= 0).all() and (chances.sum(1) > 0).all()):
        raise ValueError("a line's probabilities are no distribution")
    text = {name: np.array([line[name] for line in lines]) for name in ("clip_id", "speaker", _PART)}
    labels, guesses = (
        np.array([classes.index(line[name]) for line in lines]) for name in ("label", "predicted")
    )
    return Predicted(
        model,
        classes,
        text["clip_id"],
        text["speaker"],
        text[_PART],
        labels,
        chances / chances.sum(1, keepdims=True),
        guesses,
    )
