"""What is known of a run, from the files that it left. What is not recorded is None or empty, never guessed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.convert.huggingface.judged import Suite
from avemo_jax.errors import UserError
from avemo_jax.evaluation.outcome_files import ROWS
from avemo_jax.evaluation.runs import Run, gather_run, trained_in
from avemo_jax.paths import absolute, is_remote, plain_errors, to_path
from avemo_jax.provenance import read_calls
from avemo_jax.training.checkpoint_files import ARRAYS, FOLDER, read_record, run_folder, step_name
from input_pipeline import stores
from input_pipeline.errors import DataError
from input_pipeline.mixtures import folders_of
from input_pipeline.records import open_records, read_lists

_OF_ANY_CORPUS = ("folder", "traces")
Row = dict[str, Any]
ProbeRows = list[Row]


@dataclass(frozen=True)
class Data:
    """What a run was trained on. splits: clips of each."""

    clips: int
    sound_s: float | None
    splits: dict[str, int]


@dataclass(frozen=True)
class BeganFrom:
    """A run that another began with, as its folder is now: its newest step, clips a step, and what made its clips.

    before: the run that it began with itself; lost: that is noted, and is not there.
    """

    task: str
    step: int
    batch_size: int
    made_by: tuple[str, ...]
    before: BeganFrom | None = None
    lost: bool = False


@dataclass(frozen=True)
class Facts:
    """A checkpoint's history.

    losses: name → value on the last logged batch, at `losses_step`; stepping_s: seconds in training steps;
      devices: what they ran on.
    probes: rows of each `rows.json` in the work directory that were computed from this step.
    suites: of each `suites.json` there, (suite, its rows that are of these weights) as `evaluation.runs` finds them.
    outcomes: rows of a fine-tuning run's test with the weights of this step, those with both modalities first; `folds`:
      the row of all folds together, where this run is one of them.
    began_from: the run whose encoders it began with, as far as it is there.
    made_by: what made the clips of the data, by whom it is said in their records: nobody was filmed.
    folders: (name, corpus) of each prepared folder that it was trained on; a corpus that is not recorded is "".
    others: of one head of several the heads that were trained with it: steps, losses, compute and folders are of all.
    flops: of all its steps' matrix products, where it was counted.
    """

    step: int
    versions: dict[str, str]
    data: Data | None = None
    losses: dict[str, float] = field(default_factory=dict)
    losses_step: int = 0
    stepping_s: float | None = None
    devices: str = ""
    probes: list[ProbeRows] = field(default_factory=list)
    suites: list[Suite] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    folds: Row | None = None
    began_from: BeganFrom | None = None
    made_by: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()
    flops: int | None = None
    others: tuple[str, ...] = ()

    @property
    def decision(self) -> Row | None:
        """What was fitted on development clips for these weights (see `evaluation.decisions`)."""
        return _decision(self.outcomes)


def decision_of(checkpoint: str | Path, step: int) -> Row | None:
    """The `decision` of the facts of that step, without the rest of them."""
    return _decision(_tested(run_folder(checkpoint), step))


def gather(checkpoint: str | Path, config: ConfigDict, step: int) -> Facts:
    """The facts of step `step` of what `load_params(checkpoint)` took."""
    workdir, at = run_folder(checkpoint), to_path(checkpoint)
    record = read_record(at if (at / ARRAYS).is_dir() else workdir / FOLDER / step_name(step))
    run = gather_run(workdir)
    whole, others = trained_in(run)
    data = ConfigDict(whole.config["data"]) if others else config.data
    outcomes = _tested(workdir, step)
    rows = [row for row in whole.metrics if row["step"] <= step]
    last = rows[-1] if rows else {}
    return Facts(
        step=step,
        versions=record.versions,
        data=_data(config, record.dataset_size),
        losses={name: value for name, value in last.items() if _is_loss(name) and _is_number(value)},
        losses_step=last.get("step", 0),
        stepping_s=_stepping_s(rows),
        devices=(whole.time or {}).get("devices", ""),
        probes=[probe.rows for probe in run.probes if _steps_of(probe.rows) == {step}],
        suites=_suites(run, step),
        outcomes=outcomes,
        folds=next((row for row in _outcomes(workdir.parent) if outcomes and _is_of(outcomes[0], row)), None),
        began_from=_began_from(config),
        made_by=_made_by(data),
        folders=tuple((absolute(path).name, _corpus(path)) for path in _paths(data)),
        others=others,
    )


def _suites(run: Run, step: int) -> list[Suite]:
    """Without rows of another step, of random weights and of plain statistics; a row of no recorded step is taken."""
    found = []
    for one in run.suites:
        for suite, rows in one.results.items():
            own = [row for row in rows if row.get("step") in (step, None) and _weights(row) == "checkpoint"]
            found += [(suite, own)] if own else []
    return found


def _weights(row: Row) -> str:
    return row.get("weights") or row.get("model", {}).get("weights", "checkpoint")


def _corpus(path: str) -> str:
    """As the command that prepared the folder calls it; what says only how files lie is no corpus's name."""
    for call in reversed(read_calls(to_path(path))):
        if named := re.match(r"avemo prepare .*--corpus[ =](\S+)", call["command"]):
            name = to_path(named[1].strip("'")).stem
            return "" if name in _OF_ANY_CORPUS else name
    return ""


def _paths(data: ConfigDict) -> list[str]:
    return [path for path in (*data.get("paths", ()), data.get("path", "")) if path]


def _outcomes(workdir: Path) -> list[Row]:
    """The rows of a fine-tuning run's test; none where there are none, or those of something else."""
    try:
        with plain_errors(workdir):
            rows = json.loads((workdir / ROWS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    needed = {"selection", "target", "step", "modalities", "split_hash", "outputs", "ci95"}
    return [row for row in rows if isinstance(row, dict) and row.keys() >= needed]


def _tested(workdir: Path, step: int) -> list[Row]:
    """Those of the weights of this step, as they were chosen first."""
    rows = [row for row in _outcomes(workdir) if row["step"] == step]
    return [row for row in rows if row["selection"] == rows[0]["selection"]]


def _decision(outcomes: list[Row]) -> Row | None:
    return next((row["decision"] for row in outcomes if row.get("decision")), None)


def _is_of(outcome: Row, row: Row) -> bool:
    """Whether the row of several folds has this one among them."""
    same = ("selection", "modalities", "split_hash")
    return any(
        fold["fold"] == outcome["fold"] and all(fold[name] == outcome[name] for name in same)
        for fold in row.get("folds", ())
    )


def _began_from(config: ConfigDict, passed: tuple[Path, ...] = ()) -> BeganFrom | None:
    """`passed`: the runs' folders that led here."""
    source = config.get("init", {}).get("checkpoint")
    if not source or run_folder(source) in passed:
        return None
    try:
        run = gather_run(run_folder(source))
    except (UserError, DataError, OSError):
        return None
    if run.checkpoint_step is None:
        return None
    own = ConfigDict(run.config)
    before = _began_from(own, (*passed, run_folder(source)))
    lost = before is None and bool(own.get("init", {}).get("checkpoint"))
    made_by = _made_by(own.get("data", ConfigDict()))
    return BeganFrom(
        own.get("task", ""), run.checkpoint_step, own.get("batch_size", 0), made_by, before, lost
    )


def _made_by(data: ConfigDict) -> tuple[str, ...]:
    """By the first record of each folder that can be read; empty unless all of them say so. A folder on object storage
    is not copied to be asked: only a copy that is on this host already is."""
    makers = []
    for path in _paths(data):
        try:
            place = stores.copied(path) if is_remote(path) else path
            makers.append(open_records(place)[0].metadata.get("made_by", "") if place else "")
        except (DataError, OSError):
            return ()
    return tuple(dict.fromkeys(makers)) if all(makers) else ()


def _data(config: ConfigDict, clips: int | None) -> Data | None:
    """None where the data is gone, or is no longer what the run was begun with."""
    try:
        parts = [read_lists(path, config.data.get("split", "")) for path in folders_of(config.data)]
    except DataError:
        return None
    splits: Counter[str] = sum((Counter(part.splits) for part in parts), Counter())
    if clips != splits.total():
        return None
    seconds = [part.sound_s for part in parts]
    sound_s = None if None in seconds else float(sum(filter(None, seconds)))
    return Data(splits.total(), sound_s, dict(splits))


def _stepping_s(rows: list[dict[str, Any]]) -> float | None:
    """Each row's mean step time holds for the steps since the row before it."""
    if not rows or not all(_is_number(row.get("step_s")) for row in rows):
        return None
    steps = [row["step"] for row in rows]
    return sum(
        row["step_s"] * (now - before) for row, now, before in zip(rows, steps, [0, *steps], strict=False)
    )


def _steps_of(rows: ProbeRows) -> set[int | None]:
    return {row.get("step") for row in rows if row["weights"] == "checkpoint"}


def _is_loss(name: str) -> bool:
    return name.startswith("loss") or name.endswith("_loss")  # of one of several heads


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
