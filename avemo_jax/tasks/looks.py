"""Looks at a fine-tuning run while it lasts: scores of clips that are held out, of its only head or of each of several.

Not here: when to look, keeping the best weights and ending early (training.watching), and the test (finetuning).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation.choosing import DEVELOPMENT, LAST, MEAN, TEST, score_of
from avemo_jax.evaluation.outcomes import lower_is_better, main_scores, merit, recalls, score_names, scores_of
from avemo_jax.evaluation.partition import Partition
from avemo_jax.evaluation.views import Viewer
from avemo_jax.models.params import Params
from avemo_jax.tasks.finetuning import as_judged, further_scores, rows_at
from avemo_jax.training.watching import RECALL, Watch


class Watched(NamedTuple):
    """A head and the clips of its folder.

    config: that of a run of it alone, resolved.
    name: what its scores are called by, after whose clips they are of; empty for a run's only head.
    params: the run's parameters → those of its model.
    """

    config: ConfigDict
    partition: Partition
    name: str = ""
    params: Callable[[Params], Params] = lambda params: params


def make_watch(
    config: ConfigDict,
    heads: Sequence[Watched],
    workdir: Path,
    mesh: Mesh,
    say: Callable[[str], None] = print,
) -> Watch | None:
    """Looks at the development clips of all heads that have any, or, for `select.by=test`, at the test clips: their
    main scores, the recall of each class, and of several heads the mean of their merits (see `outcomes.merit`); None
    where there are no such clips.

    Raises:
      UserError: `select.by` is nothing to choose by, or nothing is held out for it; `select.score`, where something
        is chosen or ended by it, is none of the scores that its target has on those clips.
    """
    select, score = config.select, score_of(config)
    if select.by not in (DEVELOPMENT, LAST, TEST):
        raise UserError(f"select.by is '{select.by}', not {DEVELOPMENT}, {LAST} or {TEST}")
    whose = TEST if select.by == TEST else DEVELOPMENT
    seen = [head for head in heads if len(_rows(head, whose))]
    if select.by == DEVELOPMENT and not seen:
        keys = [f"heads.{head.name}.development" if head.name else "data.development" for head in heads]
        raise UserError(
            f"select.by=development and {' = '.join(keys)} = 0: nothing is held out to choose by; set one of them"
        )
    if not seen:
        return None
    needed = select.by != LAST or select.patience > 0
    looks = [_Look(head, whose, () if score == MEAN else (score,), mesh, needed) for head in seen]
    told = [name for look in looks for name in look.told]

    def measure(params: Params) -> dict[str, float]:
        found: dict[str, float] = {}
        merits = []
        for look in looks:
            scores, its_merit = look(params)
            found |= scores
            merits.append(its_merit)
        return found | ({f"{whose}_{MEAN}": float(np.mean(merits))} if score == MEAN else {})

    steps = sum(len(head.partition.train) for head in heads) / config.batch_size
    return Watch(
        workdir,
        measure,
        score=f"{whose}_{score}",
        lower_is_better=lower_is_better(score),
        every_steps=round(select.every_epochs * steps),
        patience=select.patience,
        told=[*told, *([f"{whose}_{MEAN}"] if score == MEAN else [])],
        say=say,
    )


class _Look:
    """Parameters of the run → (scores of one head by their names in `metrics.jsonl`, its merit).

    told: the names that are shown while it trains.

    Raises:
      UserError: one of `wanted` is none of the scores that the target has on these clips, and they are `needed`.
    """

    def __init__(self, head: Watched, whose: str, wanted: Sequence[str], mesh: Mesh, needed: bool):
        target = head.partition.target
        self._head, self._further = head, further_scores(head.config)
        self._viewer = Viewer(head.config, target, mesh)
        rows = _rows(head, whose)
        self._positions, self._needed = head.partition.positions(rows), needed
        nothing = np.zeros((len(rows), len(target.names)))
        truth = as_judged(head.config, head.partition, rows, nothing)[2]
        known = score_names(target, truth, self._further)
        for name in wanted:
            if needed and name not in known:
                raise UserError(
                    f"select.score is '{name}': data.target={target.rule} has {', '.join(known)} on the {whose} clips"
                )
        self._prefix = f"{whose}_{head.name}" if head.name else whose
        wanted = [name for name in wanted if name in known]
        self._shown = tuple(dict.fromkeys((*main_scores(target), *self._further, *wanted)))
        self.told = [f"{self._prefix}_{name}" for name in self._shown]

    def __call__(self, params: Params) -> tuple[dict[str, float], float]:
        partition = self._head.partition
        read, predicted = self._viewer.merged(self._head.params(params), self._positions)
        if self._needed and not len(read):
            raise UserError(
                f"none of the {len(self._positions)} {self._prefix.replace('_', ' of head ')} clips can be read, and "
                "the weights are to be chosen by them"
            )
        rows = rows_at(partition, read)
        _, _, truth, predicted = as_judged(self._head.config, partition, rows, predicted)
        found = scores_of(partition.target, predicted, truth, self._further)
        # What the clips that can be read do not define is no number.
        named = {f"{self._prefix}_{name}": found.get(name, float("nan")) for name in self._shown}
        by_class = recalls(partition.target, predicted, truth)
        named |= {f"{self._prefix}{RECALL}{name}": value for name, value in by_class.items()}
        return named, merit(partition.target, found)


def _rows(head: Watched, whose: str) -> np.ndarray:
    return head.partition.test if whose == TEST else head.partition.development
