"""A fine-tuned run on its test clips as they are, and with noise, in bad light, with another clip's sound, and so on.

The weights are those that the run chose, the clips those that it was not trained on. How much a score falls without a
modality, or with that of another clip, says how much the model relies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation.choosing import LAST, load_result
from avemo_jax.evaluation.corruptions import CLEAN, CORRUPTIONS, SWAPPED, Corrupter
from avemo_jax.evaluation.intervals import bootstrap_scores
from avemo_jax.evaluation.outcome_files import split_hash_of
from avemo_jax.evaluation.outcomes import judged, main_scores, scores_of
from avemo_jax.evaluation.partition import Partition
from avemo_jax.evaluation.reliance import following, reliance
from avemo_jax.evaluation.views import Viewer
from avemo_jax.tasks import finetuning
from avemo_jax.training.checkpoint_files import run_folder

Row = dict[str, Any]


def rows(
    workdir: Path,
    data: str,
    mesh: Mesh,
    names: Sequence[str] = tuple(CORRUPTIONS),
    say: Callable[[str], None] = print,
) -> list[Row]:
    """One row for the clips as they are, and one for each level of each corruption.

    Keys: `corruption` ("none" first), `level`, `unit`, `stream`, `selection`, `step`, `split`, `split_hash`, those
    of `outcomes.judged`; `score`, the name of the first main one; `change` of it against the clips as they are,
    with `change_ci95` from resampling speakers; of classes `kept`, the share of clips whose prediction stays;
    where sound or picture are another clip's the keys of `reliance.reliance` and, of classes (but of wholes that
    `views.pool` makes), of `reliance.following`.

    Raises:
      UserError: the folder is not of a fine-tuned run with a protocol, `data` gives other clips or folds than the
        run was tested on, or the test clips cannot be read.
    """
    config, params, step, selection = load_result(workdir)
    check(config, workdir)
    with config.unlocked():
        config.data.path, config.data.paths = data, ()
    partition = finetuning.partition_of(config)
    assert partition  # since there is a protocol
    told = split_hash_of(run_folder(workdir))
    if told and told != partition.split_hash:
        raise UserError(
            f"{data} gives other clips or folds (hash {partition.split_hash[:12]}) than {workdir} was tested on "
            f"({told[:12]}): its test clips may be some that it was trained on"
        )
    viewer = Viewer(config, partition.target, mesh)
    placed = viewer.placed(params)
    mixed = np.random.default_rng(config.seed).permutation(partition.test)  # folders are sorted by class
    positions = partition.positions(mixed)
    classes = partition.truth(mixed).tolist() if partition.target.is_class else [0] * len(mixed)
    conditions: list[tuple[str, float | None]] = [(CLEAN, None)]
    conditions += [(name, level) for name in names for level in CORRUPTIONS[name].levels]
    found: list[Row] = []
    clean = None
    for name, level in conditions:
        change = None if level is None else Corrupter(name, level, config.seed, positions, classes)
        read, predicted = viewer.merged(placed, positions, change=change)
        if not len(read):
            raise UserError(f"{data}: none of the {len(positions)} test clips can be read")
        clean = predicted if clean is None else clean
        corruption = CORRUPTIONS.get(name)
        row: Row = {
            "corruption": name,
            "level": level,
            "unit": corruption.unit if corruption else "",
            "stream": corruption.stream if corruption else "",
            "selection": selection or LAST,
            "step": step,
            "split": partition.protocol,
            "split_hash": partition.split_hash,
            **_judged(config, partition, read, predicted, clean, name, change),
        }
        found.append(row)
        strength = "" if level is None else f" {level:g} {row['unit']}".rstrip()
        say(f"robustness: {name}{strength}: {row['score']} {row[row['score']]:.3f}")
    return found


def check(config: ConfigDict, workdir: str | Path) -> None:
    """Raises a UserError where a run of this config has no test clips."""
    if config.task != "finetune" or not config.data.protocol:
        raise UserError(
            f"{workdir} is not a fine-tuned run with test clips: suite robustness needs one of avemo finetune, "
            "or a label to probe its features for (--label)"
        )


def _judged(
    config: ConfigDict,
    partition: Partition,
    read: np.ndarray,
    predicted: np.ndarray,
    clean: np.ndarray,
    name: str,
    corrupter: Corrupter | None,
) -> Row:
    target, numbers = partition.target, finetuning.rows_at(partition, read)
    *_, clean = finetuning.as_judged(config, partition, numbers, clean)
    _, speakers, truth, predicted = finetuning.as_judged(config, partition, numbers, predicted)
    score = main_scores(target)[0]

    def both(chosen: np.ndarray) -> tuple[float, float]:
        before, after = (
            scores_of(target, outputs[chosen], truth[chosen])[score] for outputs in (clean, predicted)
        )
        return before, after

    def change(chosen: np.ndarray) -> dict[str, float]:
        before, after = both(chosen)
        return {"change": after - before}

    row = {"score": score, **judged(target, predicted, truth, speakers), **change(np.arange(len(truth)))}
    row["change_ci95"] = list(bootstrap_scores(change, speakers, draws=500).bounds["change"])
    if target.is_class:
        row["kept"] = float((predicted.argmax(1) == clean.argmax(1)).mean())
    if name in SWAPPED and corrupter:
        row |= reliance(score, both, speakers)
        if target.is_class and not config.views.get("pool", ""):  # a whole has several donors
            donor = np.array([corrupter.donor_class.get(position, -1) for position in read.tolist()])
            row |= following(predicted.argmax(1), clean.argmax(1), truth, donor, speakers)
    return row
