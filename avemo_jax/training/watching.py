"""Looks at a run while it lasts: scores of its weights now and then, the best of them kept, and an early end.

Every look is at a step that is saved too, and forgotten when a run goes back to before it; so after a kill the same
looks give the same numbers. `looks.jsonl` has one object a look: `step` and the scores.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from avemo_jax import paths
from avemo_jax.models.params import Params
from avemo_jax.training.checkpoint_files import BEST as BEST
from avemo_jax.training.checkpoints import Checkpoints, Record
from avemo_jax.training.manifest import write_durably
from avemo_jax.training.state import TrainState

LOOKS = "looks.jsonl"
RECALL = "_recall_"  # between the clips that were looked at and a class, in the name of a score

Scores = Mapping[str, float]


class Watch:
    """What the loop asks while it trains; every process does, with the same answers.

    Args:
      workdir: the run's folder.
      measure: parameters on the mesh → scores, the same in all processes.
      score: of them, the one that tells better from worse.
      lower_is_better: whether it is an error.
      every_steps: between looks.
      patience: looks in a row without a better one after which the run ends; 0 never ends it.
      told: of the scores, those that `say` is told; all where none are named.
    """

    def __init__(
        self,
        workdir: Path,
        measure: Callable[[Params], Scores],
        *,
        score: str,
        lower_is_better: bool = False,
        every_steps: int,
        patience: int = 0,
        told: Collection[str] = (),
        say: Callable[[str], None] = print,
    ):
        self._path = workdir / LOOKS
        self._best = Checkpoints(workdir / BEST, keep=2, background=False, say=say)
        self._measure, self._score, self._sign = measure, score, -1.0 if lower_is_better else 1.0
        self._every, self._patience, self._say = max(1, every_steps), patience, say
        self._told = told
        self._looks: list[dict[str, Any]] = []

    def rewind(self, step: int) -> None:
        """Forgets the looks after this step."""
        # All processes read it: the next look, which writes it, is one that all take part in.
        self._looks = [look for look in read_looks(self._path) if look["step"] <= step]

    def is_due(self, step: int, last_step: int) -> bool:
        """Whether to look after this step; the last one is always looked at."""
        return step % self._every == 0 or step == last_step

    @property
    def best_step(self) -> int | None:
        """The step of the best look so far; of equal ones the first."""
        return best_of(self._looks, self._score, self._sign)

    @property
    def is_over(self) -> bool:
        """Whether there were `patience` looks without a better one."""
        return bool(self._patience) and self._since_best() >= self._patience

    def look(self, step: int, state: TrainState, record: Record) -> dict[str, float]:
        """Measures the weights that would be evaluated, keeps them when they are the best so far."""
        scores = {name: float(value) for name, value in self._measure(state.averaged or state.params).items()}
        self._looks.append({"step": step, **scores})
        if self.best_step == step:
            # Of the state only what is evaluated.
            of = dataclasses.replace(record, step=step, loader={}, bad_steps=int(state.bad_steps))
            self._best.save(dataclasses.replace(state, opt_state=None), of)
        if jax.process_index() == 0:
            write_looks(self._path, self._looks)
        shown = ", ".join(f"{name} {scores[name]:.4f}" for name in self._told or scores)
        self._say(f"step {step}: {shown}{' (the best so far)' if self.best_step == step else ''}")
        return scores

    def _since_best(self) -> int:
        best = self.best_step
        return 0 if best is None else sum(look["step"] > best for look in self._looks)


def read_looks(path: Path) -> list[dict[str, Any]]:
    """The looks of a run, oldest first; none where there is no such file."""
    try:
        with paths.plain_errors(path):
            text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def write_looks(path: Path, looks: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the file at once; numbers that are none become null."""
    lines = [json.dumps({k: _number(v) for k, v in look.items()}) for look in looks]
    write_durably(path, "".join(f"{line}\n" for line in lines))


def best_of(looks: list[dict[str, Any]], score: str, sign: float = 1.0) -> int | None:
    """The step of the look with the highest score (lowest, with sign −1), the first of equal ones."""
    known = [look for look in looks if look.get(score) is not None and math.isfinite(look[score])]
    return max(known, key=lambda look: (sign * look[score], -look["step"]))["step"] if known else None


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
