"""The end of a fine-tuning run: outcomes as a table for a person, and as files for programs.

A run's folder gets `rows.json`, `predictions.csv` (every test clip) and `table.txt`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avemo_jax import paths
from avemo_jax.evaluation.aligning import aligned
from avemo_jax.evaluation.outcomes import Row, main_scores
from avemo_jax.files import write_file
from input_pipeline.targets import Target

SPLIT_SEED = "split_seed"  # tells apart predictions by folds that were dealt several times
ROWS, PREDICTIONS, TABLE = "rows.json", "predictions.csv", "table.txt"
ALL_FOLDS = "all"  # `data.fold` of a fine-tuning of every fold, and `fold` of the rows of all together
IN_OWN_UNIT = frozenset(
    {"mae", "rmse", "mse", "kl", "js"}
)  # in their own unit; others are fractions, shown in per cent


def table(target: Target, rows: Sequence[Row], left_out: dict[str, int]) -> str:
    """What was tested, the main scores with 95 % intervals, and what to be careful about."""
    first, main = rows[0], (*main_scores(target), *rows[0].get("further", ()))
    lines = [
        f"label {first['label']} ({first['target']}): {tested_in_words(first)} tested, "
        f"speakers: {first['speakers'] or 'not named'}, outputs: {', '.join(first['outputs'])}",
        f"protocol {first['split']}, fold {first['fold']}, hash {first['split_hash'][:12]}",
        "",
    ]
    cells = [["weights", "of", *(name.upper() + ("" if name in IN_OWN_UNIT else " %") for name in main)]]
    for row in rows:
        step = "" if row["step"] is None else f", step {row['step']}"
        numbers = []
        for place, name in enumerate(main):
            low, high = row["ci95" if place == 0 else f"{name}_ci95"]
            numbers.append(f"{shown(name, row[name])} [{shown(name, low)}, {shown(name, high)}]")
            spread = row.get(f"fold_{name}_std")
            if spread is not None:
                numbers[-1] += f", folds {shown(name, row[f'fold_{name}_mean'])} ± {shown(name, spread)}"
        cells.append([f"{row['selection']}{step}", row["modalities"].replace("_", " + "), *numbers])
    lines.append(aligned(cells, left=range(len(cells[0]))))
    lines.append("")
    lines.append(f"brackets: 95 % intervals from resampling {first['ci_groups']} {first['ci_unit']}s")
    if not first["speaker_disjoint"] and first["label"] != "speaker":
        lines.append("note: speakers may be on both sides of the split: nothing is said about new speakers")
    if any(str(row["selection"]).startswith("legacy") for row in rows):
        lines.append(
            "note: a legacy row was chosen by the very clips that it is scored on, and says too much"
        )
    if first["unreadable"]:
        lines.append(f"note: {first['unreadable']} test clips could not be read and are not scored")
    if left_out:
        lines.append("left out: " + ", ".join(f"{count} {why}" for why, count in sorted(left_out.items())))
    return "\n".join(lines)


def predictions(target: Target, outcomes: Sequence[Any]) -> str:
    """CSV text, one line a choice of weights and test clip: truth, prediction, and every output."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["selection", "modalities", "test_of", "clip_id", "speaker", *columns(target)])
    for one in outcomes:
        fixed = [one.row["selection"], one.row["modalities"]]
        for fold, clip, speaker, truth, output in zip(
            one.fold, one.clip_id, one.speaker, one.truth, one.predicted, strict=True
        ):
            writer.writerow([*fixed, fold, clip, speaker, *cells(target, truth, output)])
    return buffer.getvalue()


def columns(target: Target) -> list[str]:
    """The names of `cells`."""
    truths = ["label", "predicted"] if target.is_class else [f"true_{name}" for name in target.names]
    return [*truths, *(f"p_{name}" for name in target.names)]


def cells(target: Target, truth: np.ndarray, output: np.ndarray) -> list[str]:
    """A clip's truth, of a class also what is predicted, and every output."""
    known = (
        [target.names[int(truth)], target.names[int(output.argmax())]]
        if target.is_class
        else [f"{value:.6g}" for value in truth]
    )
    return [*known, *(f"{value:.6g}" for value in output)]


def write(
    folder: Path, target: Target, outcomes: Sequence[Any], text: str, further: Path | None = None
) -> list[Path]:
    """Writes the three files into a run's folder, rows also to `further`; returns their paths, rows last."""
    rows = json.dumps([plain(one.row) for one in outcomes], indent=1, allow_nan=False) + "\n"
    files = {TABLE: text + "\n", PREDICTIONS: predictions(target, outcomes), ROWS: rows}
    for name, content in files.items():
        write_file(folder / name, content)
    if further:
        write_file(further, rows)
    return [*(folder / name for name in files), *([further] if further else [])]


def split_hash_of(folder: str | os.PathLike, model: Mapping[str, str] | None = None) -> str:
    """Of the clips and folds that a run, or a probe, was tested on, by the rows in its folder; empty where there are
    none. Of a `model` of its `predictions.csv` by folds that were dealt several times: of its own ones."""
    seed = (model or {}).get(SPLIT_SEED)
    repeats = [one for row in rows_in(folder) for one in row.get("repeats", ())] if seed else []
    own = (str(one["split_hash"]) for one in repeats if str(one[SPLIT_SEED]) == seed)
    return next(own, fact_of(folder, "split_hash"))


def fact_of(folder: str | os.PathLike, name: str) -> str:
    """What the first of the rows in a folder that has this says of it; empty where none has."""
    return next((str(row[name]) for row in rows_in(folder) if name in row), "")


def step_of(folder: str | os.PathLike, model: Mapping[str, str]) -> int | None:
    """Of the weights of a model of the folder's `predictions.csv`; None where its row does not say."""
    return row_of(rows_in(folder), model).get("step")


def row_of(rows: Sequence[Row], model: Mapping[str, str]) -> Row:
    """Which of the rows of a folder is that of a model of its `predictions.csv`; empty where none is."""
    told = {key: value for key, value in model.items() if value and key not in (SPLIT_SEED, "class")}
    for row in rows:
        if all(str(row.get(key)) == value for key, value in told.items()):
            return row
    return {}


def folds_of(folder: str | os.PathLike) -> list[str]:
    """The folds of a fine-tuning of all of them, by the rows in its folder; none of any other."""
    rows = [row for row in rows_in(folder) if row.get("fold") == ALL_FOLDS and "folds" in row]
    return [str(one["fold"]) for one in rows[0]["folds"]] if rows else []


def rows_in(folder: str | os.PathLike) -> list[Row]:
    """The rows of a folder's `rows.json`; none where it has no such file."""
    path = paths.to_path(folder) / ROWS
    with contextlib.suppress(OSError, ValueError, TypeError), paths.plain_errors(path):
        return [row for row in json.loads(path.read_text(encoding="utf-8")) if isinstance(row, dict)]
    return []


def plain(value: Any) -> Any:
    """As JSON can hold it: numbers that are none become null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def tested_in_words(row: Row) -> str:
    """What was judged: clips, or what several clips each make (`views.pool`)."""
    clips = row.get("clips", row["n"])
    return f"{row['n']:,} clips" if clips == row["n"] else f"{row['n']:,} wholes of {clips:,} clips"


def speakers_in_words(count: int) -> str:
    """As `intervals.count_speakers` counts them."""
    return f"{count} speaker{'s' * (count != 1)}" if count else "speakers without names"


def shown(name: str, value: float) -> str:
    """A score as it is shown: in per cent, or in its own unit."""
    return f"{value:.3f}" if name in IN_OWN_UNIT else f"{100 * value:.1f}"
