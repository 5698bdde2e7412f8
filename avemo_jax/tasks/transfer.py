"""A fine-tuned classifier on another corpus: all of that is tested, under names that both have.

The weights are those that the run chose. It is asked for the classes that both have: the probabilities of others are
left out, and those of classes that have one name are added up.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation.cache import data_digest
from avemo_jax.evaluation.choosing import LAST, load_result
from avemo_jax.evaluation.cross_corpus import PROTOCOL, Other, check_map, common_classes, only, renamed
from avemo_jax.evaluation.labelled import read_labelled
from avemo_jax.evaluation.outcomes import judged
from avemo_jax.evaluation.protocols import LabelledClips, clips_hash
from avemo_jax.evaluation.runs import gather_run, trained_in
from avemo_jax.evaluation.views import BOTH, MODALITIES, Viewer
from avemo_jax.tasks.finetuning import Outcome
from avemo_jax.training.checkpoint_files import run_folder
from input_pipeline.errors import DataError
from input_pipeline.mixtures import folders_of
from input_pipeline.records import open_records
from input_pipeline.targets import CLASS, DISTRIBUTION, Target, target_of


def check(config: ConfigDict, workdir: str | Path) -> Target:
    """What a run of this config tells of clips; raises a UserError where that is no class, and no share of classes."""
    target = target_of(config.data) if config.task == "finetune" else None
    if target is None or target.kind not in (CLASS, DISTRIBUTION):
        raise UserError(
            f"{workdir} tells no clip's class: suite cross_corpus needs a run of avemo finetune that does"
        )
    return target


def test(workdir: Path, other: Other, mesh: Mesh) -> tuple[Target, list[Outcome]]:
    """What is told, the common classes, and the outcome with each choice of modalities that the run was tested with.
    Clips that lack picture or sound are tested without.

    Rows have the keys of `finetuning.test`, without those of a training part; `split` is cross_corpus, `split_hash`
    that of the list of tested clips; `trained_on`, the folders that taught the weights by their labels; `left_out`,
    clips by reason; `lacking`, how many of the tested clips have no picture and how many no sound.

    Raises:
      UserError: the run is of no classes, `other` holds clips or speakers that it was trained on, has labels without a
        counterpart, or cannot be read.
    """
    config, params, step, selection = load_result(workdir)
    told = check(config, workdir)
    label, trained_on = other.label or told.labels[0], _trained_on(workdir)
    clips, left_out = read_labelled(other.data, label)
    check_map(str(workdir), told.names, other, clips.classes)
    own = [other.names.get(name, name) for name in told.names]
    clips = renamed(clips, other.names)
    common = common_classes(str(workdir), tuple(dict.fromkeys(own)), other, clips.classes, ())
    clips = only(clips, common, left_out)
    shared = _shared(trained_on, clips, other)
    left_out["of a speaker who was trained on"] += int(shared.sum())
    clips = clips.at(~shared)
    target = Target(CLASS, (label,), common)
    onto = np.array([[name == each for each in common] for name in own], np.float64)
    with config.unlocked():
        config.data.path, config.data.paths, config.data.allow_missing = other.data, (), True
    records = open_records(other.data)
    counts = {"picture": np.array(records.frame_counts), "sound": np.array(records.sample_counts)}
    viewer, outcomes = Viewer(config, told, mesh), []
    placed = viewer.placed(params)
    for modalities in MODALITIES if config.views.alone else (BOTH,):
        read, outputs = viewer.merged(placed, clips.position.tolist(), modalities)
        if not len(read):
            raise UserError(f"{other.data}: none of the {len(clips)} clips to be tested can be read")
        tested = clips.at(np.searchsorted(clips.position, read))
        predicted = outputs @ onto
        predicted /= predicted.sum(1, keepdims=True)
        row = {
            "label": label,
            "target": target.rule,
            "split": PROTOCOL,
            "fold": Path(other.data).name,
            "split_hash": clips_hash(tested.clip_id.tolist()),
            "speaker_disjoint": "" not in tested.speaker,
            "trained_on": list(trained_on),
            "left_out": dict(+left_out),
            "unreadable": len(clips) - len(read),
            "lacking": {name: int((count[read] == 0).sum()) for name, count in counts.items()},
            "selection": selection or LAST,
            "step": step,
            "modalities": modalities,
            "views": config.views.segments * config.views.crops,
            "seed": config.seed,
            **judged(target, predicted, tested.label, tested.speaker),
        }
        fold = np.full(len(read), row["fold"])
        outcomes.append(Outcome(row, fold, tested.clip_id, tested.speaker, tested.label, predicted))
    return target, outcomes


def _trained_on(workdir: str | Path) -> tuple[str, ...]:
    """The folders of the run, of one head of several those of all, and of a fine-tuned run that it began with."""
    run, _ = trained_in(gather_run(run_folder(workdir)))
    config = ConfigDict(run.config)
    found = folders_of(config.data)
    if start := config.get("init", {}).get("checkpoint"):
        with contextlib.suppress(UserError):  # gone
            if gather_run(run_folder(start)).config.get("task") == "finetune":
                found += _trained_on(start)
    return tuple(dict.fromkeys(found))


def _shared(trained_on: tuple[str, ...], clips: LabelledClips, other: Other) -> np.ndarray:
    """Which clips are of a speaker that the run may have been trained on, bool; none where they are said to differ."""
    differ, names = other.shared == "differ", set[str]()
    for folder in trained_on:
        try:
            names |= {speaker for speaker, _ in open_records(folder).known()} - {""}
            same = data_digest(folder) == data_digest(other.data)
        except (DataError, OSError) as error:
            if differ:
                continue
            raise UserError(
                f"{folder}, which the run was trained on, cannot be read ({error}): if nobody in {other.data} was "
                "trained on, say --shared_speakers differ"
            ) from error
        if same:
            raise UserError(f"{other.data} holds the very clips of {folder}, which the run was trained on")
    if differ:
        return np.zeros(len(clips), bool)
    shared = np.isin(clips.speaker, sorted(names))
    if shared.any() and other.shared == "refuse":
        raise UserError(
            f"{other.data} has names of speakers who were trained on, the first is {clips.speaker[shared][0]}: "
            "--shared_speakers drop does not test them, differ takes them for different people"
        )
    if shared.all():
        raise UserError(f"{other.data} has no speaker who was not trained on: nothing is left to test")
    return shared
