"""Two probes of the same clips and splits, compared clip by clip: is one checkpoint better than the other?

Three answers to each pair of rows: the difference with a bootstrap interval over speakers, a permutation test that
swaps the two for whole speakers, and McNemar's exact test, which takes clips as independent and so is too sure of
itself where there are few speakers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from avemo_jax import paths
from avemo_jax.errors import UserError
from avemo_jax.evaluation import metrics, predicted
from avemo_jax.evaluation.intervals import counts_of_groups
from avemo_jax.evaluation.judging import Judged
from avemo_jax.evaluation.predicted import Predicted
from avemo_jax.evaluation.protocols import LabelledClips, Splits
from avemo_jax.evaluation.questions import QUESTION, Row, manner
from avemo_jax.evaluation.runs import PROBE_ROWS

_DRAWS = 2000
# What makes two rows a pair, beside that both are of a checkpoint.
_PAIR = {"feature": "", **QUESTION}

Pair = tuple[str, ...]


@dataclass(frozen=True)
class Earlier:
    """A probe's folder: its rows, and what its checkpoint's heads predicted."""

    folder: str
    rows: list[Row]
    models: dict[Pair, Predicted]

    def check(self, label: str, clips: LabelledClips, splits: Splits, rows: Sequence[Row]) -> None:
        """Raise a UserError when it is of another label, has other classes or was split otherwise, or when none of
        these rows, which are to be, will have a pair."""
        found = self.rows[0]
        if found.get("label") != label:
            raise UserError(
                f"--against {self.folder} is a probe of label '{found.get('label')}', not '{label}'"
            )
        if (found["split_hash"], found["split"]) != (splits.split_hash, splits.protocol):
            raise UserError(
                f"--against {self.folder} was split otherwise ({found['split']}, hash {found['split_hash'][:12]}; "
                f"here {splits.protocol}, {splits.split_hash[:12]}): only the same clips and folds can be compared"
            )
        paired = [self.models[_pair(row)] for row in rows if _pair(row) in self.models]
        if not paired:
            raise UserError(f"--against {self.folder} has no row of the same feature, head and loudness")
        tested = {
            (split.name, clip) for split in splits.splits for clip in clips.clip_id[split.test].tolist()
        }
        for there in paired:
            told = set(zip(there.part.tolist(), there.clip_id.tolist(), strict=True))
            if there.classes != clips.classes or not tested <= told:
                raise UserError(
                    f"--against {self.folder}: its {predicted.NAME} lacks clips or has other classes"
                )


def read(folder: str | os.PathLike) -> Earlier:
    """What `avemo probe` wrote there.

    Raises:
      UserError: it is not a probe's folder, or cannot be read.
    """
    path = paths.to_path(folder)
    try:
        with paths.plain_errors(path):
            rows = json.loads((path / PROBE_ROWS).read_text(encoding="utf-8"))
        _ = rows[0]["split"], rows[0]["split_hash"]
        models = predicted.read(path / predicted.NAME)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"--against {folder}: not the folder of a probe ({PROBE_ROWS}: {error})") from error
    of_checkpoint = [model for model in models if model.model.get("weights") == "checkpoint"]
    return Earlier(os.fspath(folder), rows, {_pair(model.model): model for model in of_checkpoint})


def compare(judged: Sequence[Judged], earlier: Earlier, clips: LabelledClips) -> list[Row]:
    """One row a pair: what makes it a pair, `uar` and `war` here and there, `uar_difference` (here minus there) with
    `uar_difference_ci95` and the like for WAR, `p_permutation` of the UAR, `p_mcnemar`, `only_here` and `only_there`
    (clips that one alone gets right). `earlier` has been checked, see `Earlier.check`."""
    compared = []
    for one in judged:
        there = earlier.models.get(_pair(one.row))
        if one.row["weights"] != "checkpoint" or there is None:
            continue
        place = {key: row for row, key in enumerate(zip(there.part, there.clip_id, strict=True))}
        other = there.guess[[place[key] for key in zip(one.split, clips.clip_id[one.tested], strict=True)]]
        fixed = dict(zip(_PAIR, _pair(one.row), strict=True))
        mine = one.predicted.argmax(-1)
        label, speaker = clips.label[one.tested], clips.speaker[one.tested]
        compared.append(fixed | paired_tests(label, mine, other, speaker, len(clips.classes)))
    return compared


def paired_tests(
    label: np.ndarray, here: np.ndarray, there: np.ndarray, speaker: np.ndarray, classes: int, seed: int = 0
) -> Row:
    """The numbers of `compare`; all int [N] but the speakers, which are any names. With one speaker, clips are drawn
    and swapped."""
    names, group = np.unique(speaker, return_inverse=True)
    if len(names) < 2:
        group = np.arange(len(label))
    groups = int(group.max()) + 1
    sides = [counts_of_groups(label, guess, group, classes)[:2] for guess in (here, there)]

    def scores(weights):  # of each side [..., groups] → UAR and WAR [...]
        hits, truth = (
            weights[0].astype(np.float64) @ one + weights[1].astype(np.float64) @ other
            for one, other in zip(*sides, strict=True)
        )
        return np.stack([metrics.uar_of(hits, truth), metrics.war_of(hits, truth)])

    rng = np.random.default_rng(seed)
    one, none = np.ones((1, groups)), np.zeros((1, groups))
    both = [scores((one, none))[:, 0], scores((none, one))[:, 0]]
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=_DRAWS)
    resampled = scores((drawn, 0 * drawn)) - scores((0 * drawn, drawn))
    swap = rng.integers(0, 2, (_DRAWS, groups))
    swapped = scores((1 - swap, swap))[0] - scores((swap, 1 - swap))[0]
    difference = both[0] - both[1]
    right, other = here == label, there == label
    only_here, only_there = int((right & ~other).sum()), int((other & ~right).sum())
    count = only_here + only_there
    result: Row = {"n": len(label), "groups": groups, "only_here": only_here, "only_there": only_there}
    for index, score in enumerate(("uar", "war")):
        low, high = np.nanquantile(resampled[index], [0.025, 0.975])
        result |= {score: float(both[0][index]), f"{score}_against": float(both[1][index])}
        result[f"{score}_difference"] = float(difference[index])
        result[f"{score}_difference_ci95"] = [float(low), float(high)]
    as_far = np.abs(swapped) >= abs(difference[0]) - 1e-12
    result["p_permutation"] = float((1 + as_far.sum()) / (1 + _DRAWS))
    result["p_mcnemar"] = float(binomtest(only_here, count).pvalue) if count else 1.0
    return result


def table(rows: Sequence[Row], folder: str) -> str:
    """Aligned text, points of UAR."""
    lines = [f"against {folder}: UAR here minus there, points, [95 % interval by speaker]"]
    for row in rows:
        low, high = row["uar_difference_ci95"]
        name = ", ".join([row["feature"], *manner(row)])
        lines.append(
            f"{name:<24} {100 * row['uar_difference']:+6.1f} [{100 * low:+.1f}, {100 * high:+.1f}]  "
            f"permutation p {row['p_permutation']:.3f}, McNemar p {row['p_mcnemar']:.3f}"
        )
    return "\n".join(lines)


def _pair(row: Row) -> Pair:
    return tuple(str(row.get(key, usual)) for key, usual in _PAIR.items())
