"""A fine-tuned run on its test clips as they are, and with noise, in bad light, with another clip's sound, and so on.

The weights are those that the run chose, the clips those that it was not trained on. How much a score falls without a
modality, or with that of another clip, says how much the model relies on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.config import from_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation.choosing import LAST, load_result
from avemo_jax.evaluation.corruptions import CLEAN, CORRUPTIONS, SWAPPED, Corrupter
from avemo_jax.evaluation.outcome_files import ALL_FOLDS, folds_of, split_hash_of
from avemo_jax.evaluation.outcomes import judged, main_scores, scores_of
from avemo_jax.evaluation.paired import paired_scores
from avemo_jax.evaluation.partition import Partition
from avemo_jax.evaluation.reliance import following, reliance
from avemo_jax.evaluation.sums import summed
from avemo_jax.evaluation.views import Viewer
from avemo_jax.models.params import Params
from avemo_jax.paths import to_path
from avemo_jax.tasks import finetuning
from avemo_jax.training.checkpoint_files import newest_config, run_folder
from input_pipeline.targets import Target

Row = dict[str, Any]


class _Part(NamedTuple):
    """What is judged of one fold under one condition: [M, …] of clips, or of the wholes that `views.pool` makes.
    donor: class of the clip whose sound or picture it has; −1 where there is none, or several."""

    speakers: np.ndarray
    truth: np.ndarray
    clean: np.ndarray
    predicted: np.ndarray
    donor: np.ndarray


def rows(
    workdir: Path,
    data: str,
    mesh: Mesh,
    names: Sequence[str] = tuple(CORRUPTIONS),
    say: Callable[[str], None] = print,
) -> list[Row]:
    """One row for the clips as they are, and one for each level of each corruption; of a run of all folds
    (`data.fold=all`) over the test clips of all of them together, each predicted by its own fold's weights.

    Keys: `corruption` ("none" first), `level`, `unit`, `stream`, `selection`, `step` (None of all folds), `split`,
    `fold`, `split_hash`, those of `outcomes.judged`; `score`, the name of the first main one; `change` of it against
    the clips as they are, with `change_ci95` from resampling speakers; of classes `kept`, the share of clips whose
    prediction stays; where sound or picture are another clip's (of the same fold) the keys of `reliance.reliance` and,
    of classes (but of wholes that `views.pool` makes), of `reliance.following`.

    Raises:
      UserError: the folder is not of a fine-tuned run with a protocol, `data` gives other clips or folds than the
        run was tested on, or the test clips cannot be read.
    """
    check(workdir)
    conditions: list[tuple[str, float | None]] = [(CLEAN, None)]
    conditions += [(name, level) for name in names for level in CORRUPTIONS[name].levels]
    parts: list[list[_Part]] = []
    viewer = None
    for folder in folders(workdir):
        config, params, partition, facts = _tested(folder, data)
        viewer = viewer or Viewer(config, partition.target, mesh)  # folds differ in their weights alone
        parts.append(_parts(config, params, partition, viewer, conditions, say))
    if len(parts) > 1:
        facts |= {"step": None, "fold": ALL_FOLDS}
    found = []
    for (name, level), same in zip(conditions, zip(*parts, strict=True), strict=True):
        corruption = CORRUPTIONS.get(name)
        row: Row = {
            "corruption": name,
            "level": level,
            "unit": corruption.unit if corruption else "",
            "stream": corruption.stream if corruption else "",
        }
        together = _Part._make(np.concatenate(arrays) for arrays in zip(*same, strict=True))
        found.append(row | facts | _judged(partition.target, together, name))
    return found


def folders(workdir: str | Path) -> list[Path]:
    """The runs' folders whose test clips together are asked: that of each fold, or the run's own."""
    workdir = to_path(workdir)
    return [finetuning.fold_folder(workdir, fold) for fold in folds_of(workdir)] or [workdir]


def check(workdir: str | Path) -> None:
    """Raises a UserError where a run has no test clips, or a fold of it no weights."""
    for folder in folders(workdir):
        config = from_json(json.dumps(newest_config(folder)))
        if config.task != "finetune" or not config.data.protocol:
            raise UserError(
                f"{workdir} is not a fine-tuned run with test clips: suite robustness needs one of avemo finetune, "
                "or a label to probe its features for (--label)"
            )


def _tested(folder: Path, data: str) -> tuple[ConfigDict, Params, Partition, Row]:
    """A run's config, with this data, its weights, its partition, and what rows say of them."""
    config, params, step, selection = load_result(folder)
    with config.unlocked():
        config.data.path, config.data.paths = data, ()
    partition = finetuning.partition_of(config)
    assert partition  # since there is a protocol
    told = split_hash_of(run_folder(folder))
    if told and told != partition.split_hash:
        raise UserError(
            f"{data} gives other clips or folds (hash {partition.split_hash[:12]}) than {folder} was tested on "
            f"({told[:12]}): its test clips may be some that it was trained on"
        )
    facts = {
        "selection": selection or LAST,
        "step": step,
        "split": partition.protocol,
        "fold": partition.fold,
        "split_hash": partition.split_hash,
    }
    return config, params, partition, facts


def _parts(
    config: ConfigDict,
    params: Params,
    partition: Partition,
    viewer: Viewer,
    conditions: Sequence[tuple[str, float | None]],
    say: Callable[[str], None],
) -> list[_Part]:
    """Of each condition, what the weights of one fold make of its test clips."""
    placed, target = viewer.placed(params), partition.target
    mixed = np.random.default_rng(config.seed).permutation(partition.test)  # folders are sorted by class
    positions = partition.positions(mixed)
    classes = partition.truth(mixed).tolist() if target.is_class else [0] * len(mixed)
    score = main_scores(target)[0]
    found: list[_Part] = []
    for name, level in conditions:
        change = None if level is None else Corrupter(name, level, config.seed, positions, classes)
        read, predicted = viewer.merged(placed, positions, change=change)
        if not len(read):
            raise UserError(f"{config.data.path}: none of the {len(positions)} test clips can be read")
        numbers = finetuning.rows_at(partition, read)
        _, speakers, truth, predicted = finetuning.as_judged(config, partition, numbers, predicted)
        donor = np.full(len(truth), -1)
        if change and name in SWAPPED and target.is_class and not config.views.get("pool", ""):
            donor = np.array([change.donor_class.get(position, -1) for position in read.tolist()])
        found.append(_Part(speakers, truth, found[0].clean if found else predicted, predicted, donor))
        unit = CORRUPTIONS[name].unit if name in CORRUPTIONS else ""
        strength = "" if level is None else f" {level:g} {unit}".rstrip()
        value = scores_of(target, predicted, truth)[score]
        say(f"robustness: fold {partition.fold}, {name}{strength}: {score} {value:.3f}")
    return found


def _judged(target: Target, part: _Part, name: str) -> Row:
    speakers, truth, clean, predicted, donor = part
    score = main_scores(target)[0]
    before, after = (summed(target.kind, outputs, truth) for outputs in (clean, predicted))
    compared = paired_scores(after, before, speakers)
    row = {"score": score, **judged(target, predicted, truth, speakers)}
    row |= {"change": compared[f"{score}_difference"], "change_ci95": compared[f"{score}_difference_ci95"]}
    if target.is_class:
        row["kept"] = float((predicted.argmax(1) == clean.argmax(1)).mean())
    if name in SWAPPED:
        row |= reliance(score, before, after, speakers)
    if target.is_class:
        row |= following(predicted.argmax(1), clean.argmax(1), truth, donor, speakers)
    return row
