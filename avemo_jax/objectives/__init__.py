"""Objectives: pure functions of outputs and targets → loss and metrics. No parameters, no state.

A module in this folder with `term(outputs, targets)` is a further term of the loss, which a config takes by its name
(`objectives.terms`); so is a Python file elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jax import Array

from avemo_jax.batch import Outputs, Targets
from input_pipeline import own_files

Term = Callable[[Outputs, Targets], Array]
_FOLDER = Path(__file__).parent


def term_of(name: str) -> tuple[str, Term]:
    """What a term of `objectives.terms` is called in numbers and ramps, and its function.

    Raises:
      DataError: there is no such term, or its file cannot be used.
    """
    known = sorted(path.stem for path in _FOLDER.glob("*.py") if "\ndef term(" in path.read_text())
    module = own_files.find(name, "objectives.terms", __name__, known, "term(outputs, targets)")
    return Path(name).stem, module.term
