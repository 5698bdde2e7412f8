"""What is known of a run, from the files that it left. What is not recorded is None or empty, never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.evaluation.runs import gather_run
from avemo_jax.paths import to_path
from avemo_jax.training.checkpoint_files import ARRAYS, FOLDER, read_record, run_folder, step_name
from input_pipeline.errors import DataError
from input_pipeline.mixtures import open_data

ProbeRows = list[dict[str, Any]]


@dataclass(frozen=True)
class Data:
    """What a run was trained on. splits: clips of each."""

    clips: int
    sound_s: float | None
    splits: dict[str, int]


@dataclass(frozen=True)
class Facts:
    """A checkpoint's history.

    losses: name → value on the last logged batch, at `losses_step`; stepping_s: seconds in training steps;
      devices: what they ran on.
    probes: rows of each `rows.json` in the work directory that were computed from this step.
    """

    step: int
    versions: dict[str, str]
    data: Data | None = None
    losses: dict[str, float] = field(default_factory=dict)
    losses_step: int = 0
    stepping_s: float | None = None
    devices: str = ""
    probes: list[ProbeRows] = field(default_factory=list)


def gather(checkpoint: str | Path, config: ConfigDict, step: int) -> Facts:
    """The facts of step `step` of what `load_params(checkpoint)` took."""
    workdir, at = run_folder(checkpoint), to_path(checkpoint)
    record = read_record(at if (at / ARRAYS).is_dir() else workdir / FOLDER / step_name(step))
    run = gather_run(workdir)
    rows = [row for row in run.metrics if row["step"] <= step]
    last = rows[-1] if rows else {}
    return Facts(
        step=step,
        versions=record.versions,
        data=_data(config, record.dataset_size),
        losses={name: value for name, value in last.items() if name.startswith("loss") and _is_number(value)},
        losses_step=last.get("step", 0),
        stepping_s=_stepping_s(rows),
        devices=(run.time or {}).get("devices", ""),
        probes=[probe.rows for probe in run.probes if _steps_of(probe.rows) == {step}],
    )


def _data(config: ConfigDict, clips: int | None) -> Data | None:
    """None where the data is gone, or is no longer what the run was begun with."""
    try:
        records = open_data(config.data)
    except (DataError, OSError):
        return None
    if clips != len(records):
        return None
    return Data(len(records), records.sound_s, records.splits)


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
