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
from avemo_jax.evaluation.outcome_files import IN_OWN_UNIT, SPLIT_SEED, cells, columns, plain, shown
from avemo_jax.evaluation.outcomes import MAIN_SCORES
from avemo_jax.evaluation.probing import ProbeResult
from avemo_jax.evaluation.protocols import LabelledClips
from avemo_jax.evaluation.questions import QUESTION, Row, manner, question
from avemo_jax.files import write_file
from avemo_jax.paths import to_path

PAIRED = "paired.json"


def summary(checkpoint: str, result: ProbeResult) -> str:
    """All that is printed: what was probed, the table, one confusion matrix, and what to be careful about."""
    rows, clips = result.rows, result.clips
    first = rows[0]
    repeats = len(first.get("repeats", [1]))
    heads = dict.fromkeys(row["head"] for row in rows)
    what = f"classes: {len(clips.classes)}, chance {100 * first['chance']:.1f} %"
    of_classes = not clips.numbers
    by = "".join(f", by '{first[key]}'" for key in ("fold_by", "test_split") if key in first)
    steps = next((f" of {row['head_steps']} steps" for row in rows if row.get("head_steps")), "")
    parts = f"{len(result.splits.splits) // repeats} test parts" + f", dealt {repeats} times" * (repeats > 1)
    lines = [
        f"label {first['label']}: {first['n']} clips tested, speakers: {first['speakers'] or 'not named'}, "
        + (what if of_classes else "a number"),
        f"protocol {first['split']}{by}, {parts}, hash {first['split_hash'][:12]}",
        *(
            [f"trained on {first['trained_on']}, tested on {first['tested_on']}"]
            if first["tested_on"] != first["trained_on"]
            else []
        ),
        f"regularisation chosen inside the training part, by {first['inner_unit']}",
        f"checkpoint {checkpoint}, step {result.step}; {', '.join(heads)} probe{steps}, {first['views']} views, "
        + ("per cent" if of_classes else "CCC and PCC in per cent, errors in the label's unit"),
        "",
        table(rows),
        "",
    ]
    if of_classes:
        summed = ", summed over all" if repeats > 1 else ""
        lines += [f"confusion, {first['feature']} of the {first['weights']}{summed}:", confusion_table(first)]
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
        **({PAIRED: rows_json(compared)} if compared else {}),
        "rows.json": rows_json([one.row for one in judged]),
    }
    if not compared and (folder / PAIRED).exists():
        (folder / PAIRED).unlink()  # of the rows that are replaced
    for name, text in files.items():
        write_file(folder / name, text)
    return [folder / name for name in files]


def rows_json(rows: Sequence[Row]) -> str:
    """A JSON list, one row an object."""
    return json.dumps(plain(list(rows)), indent=1) + "\n"


def predictions(judged: Sequence[Judged], clips: LabelledClips) -> str:
    """CSV text, one line a source and test clip, with the probability of each class, or the predicted numbers; of
    folds that were dealt several times, one for each, told apart by `split_seed`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    source = ("feature", "weights", "seed", "loudness", "head", "split", "missing", "views", "selection")
    target, truth = clips.target, clips.truth
    seeds = [SPLIT_SEED] if any("repeats" in one.row for one in judged) else []
    writer.writerow([*source, *seeds, "test_of", "clip_id", "speaker", *columns(target)])
    for one in judged:
        fixed = [one.row[key] for key in source]
        for row, split, seed, output in zip(one.tested, one.split, one.seed, one.predicted, strict=True):
            line = [split, clips.clip_id[row], clips.speaker[row], *cells(target, truth[row], output)]
            writer.writerow([*fixed, *([seed] if seeds else []), *line])
    return buffer.getvalue()


def summarise(rows: Sequence[Row]) -> list[Row]:
    """One line a feature, kind of weights and `QUESTION`: the mean over its seeds of each score.

    Keys: `feature`, `weights`, those of `QUESTION`, `seeds`, `dim`, `n`; `uar`, `war`, `wf1` with `uar_bounds` and
    so on, which are the 95 % bootstrap interval of a single row and the lowest and highest of several seeds, and the
    same of `further`, where rows have further scores (None where they are not defined);
    `fold_uar_mean`, and `fold_uar_std` of a single row (None elsewhere). Fractions. Of numbers the scores are
    `main_scores` of such rows, and it is `fold_ccc_mean`. Where folds were dealt several times `repeat_uar_std` and so
    on too, the mean over seeds of networks.
    """
    main, *others = main_scores(rows)
    lines = []
    for (feature, weights, *asked), group in _grouped(rows).items():
        alone = group[0] if len(group) == 1 else None
        line = {"feature": feature, "weights": weights, "seeds": len(group)}
        line |= dict(zip(QUESTION, asked, strict=True))
        line |= {"dim": group[0]["dim"], "n": group[0]["n"]}
        further = group[0].get("further", [])
        line |= {"further": further} if further else {}
        for score, interval in (
            (main, "ci95"),
            *((name, f"{name}_ci95") for name in (*others, *further)),
        ):
            values = [row[score] for row in group if row[score] is not None]
            line[score] = float(np.mean(values)) if values else None
            spread = [min(values), max(values)] if values else None
            line[f"{score}_bounds"] = alone[interval] if alone else spread
            repeat = f"repeat_{score}_std"
            known = [row[repeat] for row in group if row.get(repeat) is not None]
            line |= {repeat: float(np.mean(known))} if known else {}
        of_folds = f"fold_{main}"
        means = [row[f"{of_folds}_mean"] for row in group if row[f"{of_folds}_mean"] is not None]
        line[f"{of_folds}_mean"] = float(np.mean(means)) if means else None
        line[f"{of_folds}_std"] = alone[f"{of_folds}_std"] if alone else None
        lines.append(line)
    return lines


def main_scores(rows: Sequence[Row]) -> tuple[str, ...]:
    """The scores that are shown of these rows of one probe, the first of them the one to name first."""
    return MAIN_SCORES[rows[0].get("target", "class")]


def table(rows: Sequence[Row]) -> str:
    """Aligned text, per cent, errors in their own unit: the lines of `summarise`.

    Brackets hold the 95 % bootstrap interval, of classes of the UAR alone. Random seeds share one line: mean scores,
    and the lowest and highest. Where folds were dealt several times, the first score's deviation over them is beside.
    """
    main, further = main_scores(rows), rows[0].get("further", [])
    bounded = main[:1] if "uar" in main else main
    heads: list[tuple[str, ...]] = [
        (name.upper(), "") if name in bounded else (name.upper(),) for name in main
    ]
    repeated = "repeats" in rows[0]
    heads[0] += ("± repeats",) if repeated else ()
    lines = [("feature", "weights", *sum(heads, ()), *further, f"folds' {main[0].upper()}", "size")]
    several_heads = len({question(row)["head"] for row in rows}) > 1
    for line in summarise(rows):
        weights = "-" if line["weights"] == "none" else line["weights"]
        if line["seeds"] > 1:
            weights = f"{weights}, {line['seeds']} seeds"
        cells = []
        for score in (*main, *further):
            cells.append("-" if line[score] is None else shown(score, line[score]))
            if score in bounded:
                cells.append(_between(score, line[f"{score}_bounds"], line["seeds"] > 1))
            if repeated and score == main[0]:
                spread = line.get(f"repeat_{score}_std")
                cells.append("-" if spread is None else shown(score, spread))
        folds, spread = line[f"fold_{main[0]}_mean"], line[f"fold_{main[0]}_std"]
        cells.append("-" if folds is None else shown(main[0], folds))
        if spread is not None:
            cells[-1] += f" ± {shown(main[0], spread)}"
        name = ", ".join([line["feature"], *manner(line, several_heads)])
        lines.append((name, weights, *cells, str(line["dim"])))
    return aligned(lines, left=(0, 1, *(place for place, head in enumerate(lines[0]) if not head)))


def _between(score: str, bounds: Sequence[float | None] | None, of_seeds: bool) -> str:
    """An interval, or the lowest and highest of several seeds."""
    known = [bound for bound in bounds or () if bound is not None]
    if not known:
        return "-"
    low, high = (f"{bound:.2f}" if score in IN_OWN_UNIT else f"{100 * bound:.0f}" for bound in known)
    return f"{low} to {high}" if of_seeds else f"[{low}, {high}]"


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
        who = "one speaker only" if any(result.clips.speaker) else "no speaker is named"
        notes.append(f"{who}: intervals are by clip, and nothing is said about other speakers")
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
