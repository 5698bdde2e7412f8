"""Two models of the same clips and splits, compared clip by clip: is one checkpoint better than the other?

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
from avemo_jax.evaluation import predicted
from avemo_jax.evaluation.heads import pooled
from avemo_jax.evaluation.intervals import quantiles, scores_of_draws, units
from avemo_jax.evaluation.judging import Judged
from avemo_jax.evaluation.predicted import Predicted
from avemo_jax.evaluation.protocols import LabelledClips, Splits
from avemo_jax.evaluation.questions import QUESTION, Row, manner
from avemo_jax.evaluation.runs import PROBE_ROWS
from avemo_jax.evaluation.sums import Summed, of_classes
from input_pipeline.targets import CLASS

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
        """Raise a UserError when it is of another label, was split otherwise or has other classes or truths, or when
        none of these rows, which are to be, will have a pair, or one whose head was trained for other steps."""
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
        for row in rows:
            if there := self.models.get(_pair(row)):
                check_steps(row["head"], row.get("head_steps"), there.head_steps, f"--against {self.folder}")
        tested = np.concatenate([split.test for split in splits.splits])
        part = np.concatenate([np.full(len(split.test), split.name) for split in splits.splits])
        to_be = _predicted(clips, tested, part, np.zeros((len(tested), len(clips.target.names))))
        for there in paired:
            predicted.as_ordered(to_be, there)


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
    of_checkpoint: dict[Pair, list[Predicted]] = {}
    for model in models:
        if model.model.get("weights") == "checkpoint":
            of_checkpoint.setdefault(_pair(model.model), []).append(model)
    joined = {pair: predicted.joined(each) for pair, each in of_checkpoint.items()}
    return Earlier(os.fspath(folder), rows, joined)


def compare(judged: Sequence[Judged], earlier: Earlier, clips: LabelledClips) -> list[Row]:
    """One row a pair: what makes it a pair, and the numbers of `tests`, here minus there. `earlier` has been checked,
    see `Earlier.check`."""
    compared = []
    for one in judged:
        there = earlier.models.get(_pair(one.row))
        if one.row["weights"] != "checkpoint" or there is None:
            continue
        fixed = dict(zip(_PAIR, _pair(one.row), strict=True))
        here = _predicted(clips, one.tested, one.split, one.predicted)
        ordered = predicted.as_ordered(here, there)
        compared.append(fixed | tests(here, ordered, repeated="repeats" in one.row))
    return compared


def check_steps(head: str, here: int | None, there: int | None, called: str = "--against") -> None:
    """Raises a UserError where two such heads were trained for other steps, None being the usual ones; `called` is how
    errors call the other one."""
    steps, others = here or pooled.STEPS, there or pooled.STEPS
    if steps != others:
        raise UserError(
            f"{called} trained the {head} head for {others} steps, here it is {steps}: only heads of as many can be "
            f"compared; probe again with --head_steps {others}, or leave it out (by --head, of avemo evaluate by "
            "--models)"
        )


def tests(here: Predicted, there: Predicted, *, repeated: bool = False) -> Row:
    """Two models of the same clips in the same order. Keys: those of `paired_scores`, and of classes those of
    `paired_tests` too, but where folds were dealt several times (`repeated`): each clip is then tested as often, and
    what is drawn and swapped has all of it."""
    if repeated:
        clips = len(np.unique(here.clip_id))
        unit = "speaker" if len(np.unique(here.speaker)) > 1 else "clip"
        drawn = here.speaker if unit == "speaker" else here.clip_id
        return paired_scores(here.summed, there.summed, drawn) | {"n": clips, "ci_unit": unit}
    if here.kind == CLASS:
        return paired_tests(here.label, here.guess, there.guess, here.speaker, len(here.names))
    return paired_scores(here.summed, there.summed, here.speaker)


def paired_tests(
    label: np.ndarray, here: np.ndarray, there: np.ndarray, speaker: np.ndarray, classes: int, seed: int = 0
) -> Row:
    """`paired_scores` of classes, with `p_mcnemar`, `only_here` and `only_there` (clips that one alone gets right).

    All int [N] but the speakers, which are any names. With one speaker, clips are drawn and swapped.
    """
    sides = [of_classes(label, guess, classes) for guess in (here, there)]
    right, other = here == label, there == label
    only_here, only_there = int((right & ~other).sum()), int((other & ~right).sum())
    count = only_here + only_there
    return {
        "only_here": only_here,
        "only_there": only_there,
        "p_mcnemar": float(binomtest(only_here, count).pvalue) if count else 1.0,
        **paired_scores(sides[0], sides[1], speaker, seed),
    }


def paired_scores(here: Summed, there: Summed, speaker: np.ndarray, seed: int = 0) -> Row:
    """Two predictions of the same N clips.

    Keys: `n`; `groups` and `ci_unit`, how many speakers, or clips, are drawn and swapped (see `intervals.units`);
    `score`, the name of the first one; each score, as `uar`, with `uar_against`, `uar_difference` (here minus there)
    and `uar_difference_ci95`; `p_permutation` of the first.
    """
    unit, group = units(speaker)
    every = np.arange(len(speaker))
    sides = [one.of(every, group) for one in (here, there)]
    groups = len(sides[0])
    rng = np.random.default_rng(seed)
    times_drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=_DRAWS)
    resampled = [
        scores_of_draws(one, side, times_drawn, unit) for one, side in zip((here, there), sides, strict=True)
    ]
    swap = rng.integers(0, 2, (_DRAWS, groups)).astype(np.float64)
    swapped = [(1 - swap) @ sides[0] + swap @ sides[1], swap @ sides[0] + (1 - swap) @ sides[1]]
    first = next(iter(here.scores))
    result: Row = {"n": len(speaker), "groups": groups, "ci_unit": unit, "score": first}
    for name, score in here.scores.items():
        both = [float(score(side.sum(0))) for side in sides]
        result |= {name: both[0], f"{name}_against": both[1], f"{name}_difference": both[0] - both[1]}
        bounds = quantiles(resampled[0][name] - resampled[1][name], (0.025, 0.975))
        result[f"{name}_difference_ci95"] = list(bounds)
    as_far = np.abs(here.scores[first](swapped[0]) - here.scores[first](swapped[1]))
    apart = abs(result[f"{first}_difference"])
    count = (as_far >= apart - 1e-12).sum() if np.isfinite(apart) else np.nan
    return result | {"p_permutation": float((1 + count) / (1 + _DRAWS))}


def table(rows: Sequence[Row], folder: str) -> str:
    """Aligned text, points of the first score."""
    score = rows[0]["score"]
    lines = [
        f"against {folder}: {score.upper()} here minus there, points, [95 % interval by {rows[0]['ci_unit']}]"
    ]
    for row in rows:
        low, high = row[f"{score}_difference_ci95"]
        name = ", ".join([row["feature"], *manner(row)])
        mcnemar = f", McNemar p {row['p_mcnemar']:.3f}" if "p_mcnemar" in row else ""
        lines.append(
            f"{name:<24} {100 * row[f'{score}_difference']:+6.1f} [{100 * low:+.1f}, {100 * high:+.1f}]  "
            f"permutation p {row['p_permutation']:.3f}{mcnemar}"
        )
    return "\n".join(lines)


def _predicted(clips: LabelledClips, tested: np.ndarray, part: np.ndarray, outputs: np.ndarray) -> Predicted:
    """Of a probe's test clips, as their file will say it."""
    target = clips.target
    return Predicted(
        {},
        target.names,
        clips.clip_id[tested],
        clips.speaker[tested],
        part,
        clips.truth[tested],
        outputs,
        outputs.argmax(-1),
        target.kind,
    )


def _pair(row: Row) -> Pair:
    return tuple(str(row.get(key, usual)) for key, usual in _PAIR.items())
