"""The end of a probe: rows as a table for a person, and as files for programs.

The folder gets `table.txt`, `rows.json` (every row with its confusion matrix and folds), `predictions.csv`
(every test prediction) and, against another probe, `paired.json`. Files are written whole under a temporary name and
then renamed, `rows.json` last.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avemo_jax.evaluation.aligning import aligned
from avemo_jax.evaluation.judging import Judged
from avemo_jax.evaluation.probing import ProbeResult
from avemo_jax.evaluation.protocols import LabelledClips
from avemo_jax.evaluation.questions import QUESTION, Row, manner, question
from avemo_jax.files import write_file
from avemo_jax.paths import to_path


def summary(checkpoint: str, result: ProbeResult) -> str:
    """All that is printed: what was probed, the table, one confusion matrix, and what to be careful about."""
    rows, clips = result.rows, result.clips
    first = rows[0]
    heads = dict.fromkeys(row["head"] for row in rows)
    lines = [
        f"label {first['label']}: {first['n']} clips tested, speakers: {first['speakers']}, "
        f"classes: {len(clips.classes)}, chance {100 * first['chance']:.1f} %",
        f"protocol {first['split']}, {len(result.splits.splits)} test parts, hash {first['split_hash'][:12]}",
        *(
            [f"trained on {first['trained_on']}, tested on {first['tested_on']}"]
            if "tested_on" in first
            else []
        ),
        f"regularisation chosen inside the training part, by {first['inner_unit']}",
        f"checkpoint {checkpoint}, step {result.step}; {', '.join(heads)} probe, {first['views']} views, per cent",
        "",
        table(rows),
        "",
        f"confusion, {first['feature']} of the {first['weights']}:",
        confusion_table(first),
    ]
    return "\n".join([*lines, *("note: " + note for note in _notes(result))])


def write(
    folder: str | os.PathLike,
    table: str,
    judged: Sequence[Judged],
    clips: LabelledClips,
    compared: Sequence[Row] = (),
) -> list[Path]:
    """Write the files into `folder` (made if missing); returns their paths. `compared` are the rows of
    `paired.compare`; without them there is no `paired.json`."""
    folder = to_path(folder)
    files = {
        "table.txt": table + "\n",
        "predictions.csv": predictions(judged, clips),
        **({"paired.json": rows_json(compared)} if compared else {}),
        "rows.json": rows_json([one.row for one in judged]),
    }
    for name, text in files.items():
        write_file(folder / name, text)
    return [folder / name for name in files]


def rows_json(rows: Sequence[Row]) -> str:
    """A JSON list, one row an object."""
    return json.dumps(list(rows), indent=1) + "\n"


def predictions(judged: Sequence[Judged], clips: LabelledClips) -> str:
    """CSV text, one line a source and test clip, with the probability of each class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    source = ("feature", "weights", "seed", "loudness", "head", "split", "missing", "views", "selection")
    columns = ("test_of", "clip_id", "speaker", "label", "predicted")
    writer.writerow([*source, *columns, *(f"p_{name}" for name in clips.classes)])
    for one in judged:
        fixed = [one.row[key] for key in source]
        best = one.probabilities.argmax(-1)
        for row, split, guess, chances in zip(one.tested, one.split, best, one.probabilities, strict=True):
            truth = clips.classes[clips.label[row]]
            line = [split, clips.clip_id[row], clips.speaker[row], truth, clips.classes[guess]]
            writer.writerow([*fixed, *line, *(f"{chance:.6g}" for chance in chances)])
    return buffer.getvalue()


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One line a feature, kind of weights and `QUESTION`: the mean over its seeds of each score.

    Keys: `feature`, `weights`, those of `QUESTION`, `seeds`, `dim`, `n`; `uar`, `war`, `wf1` with `uar_bounds` and
    so on, which are the 95 % bootstrap interval of a single row and the lowest and highest of several seeds, and the
    same of `further`, where rows have further scores (None where they are not defined);
    `fold_uar_mean`, and `fold_uar_std` of a single row (None elsewhere). Fractions.
    """
    lines = []
    for (feature, weights, *asked), group in _grouped(rows).items():
        alone = group[0] if len(group) == 1 else None
        line = {"feature": feature, "weights": weights, "seeds": len(group)}
        line |= dict(zip(QUESTION, asked, strict=True))
        line |= {"dim": group[0]["dim"], "n": group[0]["n"]}
        further = group[0].get("further", [])
        line |= {"further": further} if further else {}
        for score, interval in (
            ("uar", "ci95"),
            *((name, f"{name}_ci95") for name in ("war", "wf1", *further)),
        ):
            values = [row[score] for row in group if row[score] is not None]
            line[score] = float(np.mean(values)) if values else None
            spread = [min(values), max(values)] if values else None
            line[f"{score}_bounds"] = alone[interval] if alone else spread
        line["fold_uar_mean"] = float(np.mean([row["fold_uar_mean"] for row in group]))
        line["fold_uar_std"] = alone["fold_uar_std"] if alone else None
        lines.append(line)
    return lines


def table(rows: Sequence[Row]) -> str:
    """Aligned text, per cent: the lines of `summarise`.

    Brackets hold the 95 % bootstrap interval of the UAR. Random seeds share one line: mean scores, and the
    lowest and highest UAR.
    """
    further = rows[0].get("further", [])
    lines = [("feature", "weights", "UAR", "", "WAR", "WF1", *further, "folds' UAR", "size")]
    several_heads = len({question(row)["head"] for row in rows}) > 1
    for line in summarise(rows):
        low, high = (f"{100 * bound:.0f}" for bound in line["uar_bounds"])
        weights = "-" if line["weights"] == "none" else line["weights"]
        spread = f"[{low}, {high}]"
        if line["seeds"] > 1:
            weights, spread = f"{weights}, {line['seeds']} seeds", f"{low} to {high}"
        folds = f"{100 * line['fold_uar_mean']:.1f}"
        if line["fold_uar_std"] is not None:
            folds += f" ± {100 * line['fold_uar_std']:.1f}"
        name = ", ".join([line["feature"], *manner(line, several_heads)])
        uar, *others = (
            "-" if line[score] is None else f"{100 * line[score]:.1f}"
            for score in ("uar", "war", "wf1", *further)
        )
        lines.append((name, weights, uar, spread, *others, folds, str(line["dim"])))
    return aligned(lines, left=(0, 1, 3))


def confusion_table(row: Row) -> str:
    """One row's confusion matrix as aligned text: a line a true class, a column a predicted one."""
    lines = [["true \\ predicted", *row["classes"]]]
    for name, counts in zip(row["classes"], row["confusion"], strict=True):
        lines.append([name, *map(str, counts)])
    return aligned(lines)


def _notes(result: ProbeResult) -> list[str]:
    notes = []
    if result.left_out:
        notes.append(
            "left out: " + ", ".join(f"{count} {reason}" for reason, count in result.left_out.items())
        )
    if any(row["ci_unit"] == "clip" for row in result.rows):
        notes.append("one speaker only: intervals are by clip, and nothing is said about other speakers")
    elif not result.splits.speaker_disjoint and result.rows[0]["label"] != "speaker":
        notes.append("speakers are on both sides of the split: nothing is said about new speakers")
    slow = sum(row["converged"] is False for row in result.rows)
    if any(row["selection"] != "inner_folds" for row in result.rows):
        notes.append("rows called legacy chose their setting on the test clips: they are too good to be true")
    if slow:
        notes.append(f"{slow} of {len(result.rows)} rows hold a fit that did not fully converge")
    return notes


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["feature"], row["weights"], *question(row).values()), []).append(row)
    return groups
