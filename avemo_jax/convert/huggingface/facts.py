"""What is known of a run, from the files that it left. What is not recorded is None or empty, never guessed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.training.checkpoint_files import ARRAYS, FOLDER, read_record, run_folder, step_name
from avemo_jax.training.writers import METRICS
from input_pipeline.errors import DataError
from input_pipeline.records import open_records

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

    losses: name → value on the last logged batch, at `losses_step`; stepping_s: seconds in training steps.
    probes: rows of each `rows.json` in the work directory that were computed from this step.
    """

    step: int
    versions: dict[str, str]
    data: Data | None = None
    losses: dict[str, float] = field(default_factory=dict)
    losses_step: int = 0
    stepping_s: float | None = None
    probes: list[ProbeRows] = field(default_factory=list)


def gather(checkpoint: str | Path, config: ConfigDict, step: int) -> Facts:
    """The facts of step `step` of what `load_params(checkpoint)` took."""
    workdir = run_folder(checkpoint)
    at = Path(checkpoint)
    record = read_record(at if (at / ARRAYS).is_dir() else workdir / FOLDER / step_name(step))
    rows = [row for row in _rows(workdir / METRICS) if row["step"] <= step]
    last = rows[-1] if rows else {}
    return Facts(
        step=step,
        versions=record.versions,
        data=_data(config, record.dataset_size),
        losses={name: value for name, value in last.items() if name.startswith("loss") and _is_number(value)},
        losses_step=last.get("step", 0),
        stepping_s=_stepping_s(rows),
        probes=_probes(workdir, step),
    )


def _data(config: ConfigDict, clips: int | None) -> Data | None:
    """None where the data is gone, or is no longer what the run was begun with."""
    try:
        records = open_records(config.data.path, config.data.split)
    except (DataError, OSError):
        return None
    if clips != len(records):
        return None
    return Data(len(records), records.sound_s, records.splits)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that are whole."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _stepping_s(rows: list[dict[str, Any]]) -> float | None:
    """Each row's mean step time holds for the steps since the row before it."""
    if not rows or not all(_is_number(row.get("step_s")) for row in rows):
        return None
    steps = [row["step"] for row in rows]
    return sum(
        row["step_s"] * (now - before) for row, now, before in zip(rows, steps, [0, *steps], strict=False)
    )


def _probes(workdir: Path, step: int) -> list[ProbeRows]:
    found = []
    for path in sorted(workdir.rglob("rows.json")):
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            steps = {row["step"] for row in rows if row["weights"] == "checkpoint"}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # somebody else's file
        if steps == {step}:
            found.append(rows)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
