"""Metrics beside those that every table has, one file each, taken by name; or a Python file elsewhere.

Each is a module with `score(predicted, truth) -> float`: of M clips that were not trained on, the probabilities or
values float [M, K], and the classes int [M] or targets float [M, K]. The higher, the better; a fraction. NaN where it
is not defined. What every table has is in `metrics` and `outcomes`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from avemo_jax.errors import UserError
from input_pipeline import own_files

Score = Callable[[np.ndarray, np.ndarray], float]
SCORES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def select(names: Iterable[str], asked: str) -> dict[str, Score]:
    """What each score is called in tables, and its function.

    Args:
      names: of `SCORES`, or Python files.
      asked: where they were named, for messages: `--scores`.

    Raises:
      UserError: two have one name.
      DataError: there is no such score, or its file cannot be used.
    """
    found: dict[str, Score] = {}
    for name in names:
        module = own_files.find(name, asked, __name__, SCORES, "score(predicted, truth)")
        called = Path(name).stem
        check_names([called], found)
        found[called] = _checked(called, module.score)
    return found


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Raises a UserError where a score is called as something else that a row of results has."""
    if clash := sorted(set(names) & set(known)):
        raise UserError(
            f"score '{clash[0]}': results have a '{clash[0]}' already; give its file another name"
        )


def _checked(name: str, score: Score) -> Score:
    """The same, whose failures are told in one line."""

    def checked(predicted: np.ndarray, truth: np.ndarray) -> float:
        try:
            return float(score(predicted, truth))
        except Exception as error:
            first = (str(error) or "no reason given").splitlines()[0]
            raise UserError(f"score {name} fails: {type(error).__name__}: {first}") from error

    return checked
