"""Objectives: pure functions of outputs and targets → loss and metrics. No parameters, no state.

A module in this folder with `term(outputs, targets)` is a further term of the loss, which a config takes by its name
(`objectives.terms`); so is a Python file elsewhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from jax import Array

from avemo_jax.batch import Outputs, Targets
from avemo_jax.errors import UserError
from input_pipeline import own_files

Term = Callable[[Outputs, Targets], Array]
_FOLDER = Path(__file__).parent


def term_of(name: str) -> tuple[str, Term]:
    """What a term of `objectives.terms` is called in numbers and ramps, and its function.

    Raises:
      UserError: there is no such term.
      DataError: its file cannot be used.
    """
    if name.endswith(own_files.ENDING):
        return Path(name).stem, own_files.load(name, f"objective {name}", "term(outputs, targets)").term
    known = sorted(path.stem for path in _FOLDER.glob("*.py") if "\ndef term(" in path.read_text())
    if name not in known:
        raise UserError(f"objectives.terms: no '{name}'; there are {', '.join(known)}, or a file, NAME.py")
    return name, importlib.import_module(f"avemo_jax.objectives.{name}").term
