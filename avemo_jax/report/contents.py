"""What runs' folders told → the numbers of the page: what `--json` writes, and all that the page shows.

`tables` are flat rows that charts draw and tables print; everything else says what they are of.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from avemo_jax.evaluation.questions import manner, question
from avemo_jax.evaluation.report import main_scores, summarise
from avemo_jax.evaluation.runs import Probe, Run
from avemo_jax.report import judged
from avemo_jax.report.numbers import count, recall_of
from avemo_jax.training.goodput import KINDS

Row = dict[str, Any]
Numbers = dict[str, Any]

MOST_CLASSES = 8  # lines of a chart; those that are found least, a table has all
MOST_POINTS = 400  # of a curve; a screen shows no more
STRUCTURED = (
    "cat4",
    "audio_rows",
    "video_cells",
)  # whose confusions are shown; fixed, so not chosen by score
_BOOKKEEPING = ("step", "bad_steps", "skipped_steps", "rollbacks", "unreadable_clips", "step_s")
_ERRORS = {"mse": "mean squared", "l1": "mean absolute", "smooth_l1": "smooth L1"}
_FIRST = ("loss", "loss_video", "loss_audio", "loss_contrast")
_LAST = ("learning_rate", "grad_norm", "clips_per_s", "input_wait_share")


def assemble(runs: Sequence[Run]) -> Numbers:
    """The numbers of these runs; maps, and layers that fine-tuning learned to mix, are added by who reads weights."""
    numbers: Numbers = {
        "runs": [_run(run) for run in runs],
        "curves": [],
        "recalls": [],
        "probes": [],
        "layers": [],
        "maps": [],
        "tables": {"curves": [], "time": []},
    }
    tables = numbers["tables"]
    for run in runs:
        tables["curves"] += [{"run": run.name, **row} for row in thin(run.metrics)]
        tables["time"] += _time(run)
        for probe in run.probes:
            _add_probe(numbers, run, probe)
        _add_recalls(numbers, run)
    numbers["curves"] = curve_keys(tables["curves"])
    numbers["judged"], more = judged.assemble(runs)
    tables |= more
    return numbers


def thin(rows: Sequence[Row]) -> list[Row]:
    """Every so manieth row, the last one, and those with a number that few rows have, such as the scores of a look at
    other clips, so that about `MOST_POINTS` are left; none is changed."""
    every = -(-len(rows) // MOST_POINTS) or 1
    found = Counter(key for row in rows for key, value in row.items() if value is not None)
    rare = {key for key, times in found.items() if times <= MOST_POINTS // 4}
    return [
        row
        for place, row in enumerate(rows)
        if place % every == 0 or row is rows[-1] or any(row.get(key) is not None for key in rare)
    ]


def curve_keys(rows: Sequence[Row]) -> list[str]:
    """Which numbers have a curve: loss and its terms first, then the task's, then how it was trained."""
    found = {key for row in rows for key, value in row.items() if isinstance(value, (int, float))}
    found -= set(_BOOKKEEPING)
    found = {key for key in found if not recall_of(key)}  # one chart has all of them
    middle = sorted(found - set(_FIRST) - set(_LAST))
    return [key for key in (*_FIRST, *middle, *_LAST) if key in found]


def compared(numbers: Numbers) -> list[Row]:
    """Of what runs were probed for, a row each; numbers of different clips never stand in one.

    Keys: `score`, `label`, `feature`, the one that is compared, and `words` on how; `runs`: name → (line, what its
    feature is where the run lacks that one) of each of its probes.
    """
    kinds: dict[tuple, list[Row]] = {}
    for probe in numbers["probes"]:
        kind = tuple(probe[key] for key in ("label", "manner", "split", "split_hash"))
        kinds.setdefault(kind, []).append(probe)
    found = []
    for kind, probes in kinds.items():
        first, (label, words, *split) = numbers["tables"][probes[0]["table"]][0], kind
        others = [other[2:] for other in kinds if other[:2] == kind[:2]]
        if len({protocol for protocol, _ in others}) > 1:
            words += f", protocol {split[0]}"
        if len([one for one in others if one[0] == split[0]]) > 1:
            words += f", clips and folds {(split[1] or 'unknown')[:12]}"
        runs: dict[str, list[tuple[Row, str]]] = {}
        for probe in probes:
            lines = numbers["tables"][probe["table"]]
            same = [one for one in lines if all(one[key] == first[key] for key in ("feature", "weights"))]
            line = (same or lines)[0]
            runs.setdefault(probe["run"], []).append((line, "" if same else line["feature"]))
        score = probes[0]["scores"][0]
        found.append(
            {"score": score, "label": label, "feature": first["feature"], "words": words, "runs": runs}
        )
    return found


def differing(runs: Sequence[Row]) -> list[str]:
    """Config keys, dotted, that are not the same in all runs."""
    flat = [flatten(run["config"]) for run in runs]
    keys = sorted({key for one in flat for key in one})
    return [key for key in keys if any(one.get(key) != flat[0].get(key) for one in flat)]


def flatten(config: Row, prefix: str = "") -> Row:
    """{"a": {"b": 1}} → {"a.b": 1}."""
    flat: Row = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def errors_in_words(runs: Sequence[Row]) -> str:
    """What the errors of these runs, as `numbers` has them, are of; empty where none predicts what was hidden."""
    told: dict[str, list[str]] = {}
    for run in runs:
        if run["task"] != "pretrain":
            continue
        target = run["config"].get("target", {})
        patches = "patches that were hidden" + ", each standardised" * is_standardised(run)
        what = {
            "patches": patches,
            "latents": "a teacher's tokens of what was hidden",
            "both": f"{patches}, and of a teacher's tokens of them",
        }[target.get("kind", "patches")]
        words = f"are {_ERRORS[target.get('error', 'mse')]}, of {what}."
        told.setdefault(words, []).append(run["name"])
    if len(told) == 1 and len(runs) == sum(map(len, told.values())):
        return "".join(f"Errors {words}" for words in told)
    return " ".join(f"Errors of {', '.join(names)} {words}" for words, names in told.items())


def is_standardised(run: Row) -> bool:
    """Whether what a run predicts of patches is standardised, each by itself."""
    target = run["config"].get("target", {})
    return bool(target.get("normalize_video", True) and target.get("normalize_audio", True))


def by_chance(run: Row) -> str:
    """How often pairs of a batch are matched by chance, where each clip is compared with all others of it."""
    config, contrast = run["config"], run["config"].get("contrast", {})
    every = contrast.get("negatives") == "global" and not contrast.get("within")
    if not every or config.get("accumulate", 1) != 1 or config.get("data", {}).get("allow_missing"):
        return ""
    return f"By chance 1 of {count(config['batch_size'])}."


def is_pictured(run: Row) -> bool:
    """Whether training draws pictures of what the run does."""
    latents = run["config"].get("target", {}).get("kind") == "latents"
    return run["task"] != "align_text" and not (run["task"] == "pretrain" and latents)


def last_row(numbers: Numbers, run: str) -> Row:
    """What the run logged last; empty when it logged nothing."""
    rows = [row for row in numbers["tables"]["curves"] if row["run"] == run]
    return rows[-1] if rows else {}


def _run(run: Run) -> Row:
    last = run.metrics[-1] if run.metrics else {}
    step, batch = last.get("step", run.checkpoint_step), run.config.get("batch_size")
    speeds = [row["clips_per_s"] for row in run.metrics if row.get("clips_per_s")]
    seconds = (run.time or {}).get("seconds", {})
    wall_s = (run.time or {}).get("wall_s")
    return {
        "name": run.name,
        "folder": str(run.folder),
        "folds": [str(fold) for fold in run.folds],
        "task": run.config.get("task"),
        "method": run.config.get("method"),
        "size": run.config.get("size"),
        "data": run.data,
        "step": step,
        "total_steps": run.total_steps,
        "checkpoint_step": run.checkpoint_step,
        "parameters": run.parameters,
        "clips_seen": step * batch if step and batch else None,
        "clips_per_s": statistics.median(speeds) if speeds else None,
        "logged_rows": len(run.metrics),
        "wall_s": wall_s,
        "steps_share": seconds["steps"] / wall_s if wall_s else None,
        "restarts": (run.time or {}).get("restarts"),
        "devices": (run.time or {}).get("devices") or None,
        "sample_steps": sorted(run.samples),
        "suites": [one.name for one in run.suites],
        "versions": _versions(run),
        "commands": run.calls,
        "config": run.config,
        "notes": run.notes,
    }


def _versions(run: Run) -> dict[str, str]:
    """Of the command that trained it, where that is known; else what the checkpoint says."""
    trained = [call for call in run.calls if call["command"].startswith("avemo train")]
    return {**run.versions, **(trained[-1].get("versions", {}) if trained else {})}


def _add_recalls(numbers: Numbers, run: Run) -> None:
    """How often each class was found by the looks at a run: one entry for each kind of clips that was looked at."""
    keys = {key: found for row in run.metrics for key in row if (found := recall_of(key))}
    for looked_at in dict.fromkeys(which for which, _ in keys.values()):
        table = f"recalls-{len(numbers['recalls'])}"
        classes = {name: key for key, (which, name) in keys.items() if which == looked_at}
        rows = [
            {"series": name, "step": row["step"], "recall": row[key]}
            for name, key in classes.items()
            for row in run.metrics
            if row.get(key) is not None
        ]
        if not rows:
            continue
        lines = []
        for name in classes:
            own = [row["recall"] for row in rows if row["series"] == name]
            if own:
                lines.append({"name": name, "first": own[0], "highest": max(own), "last": own[-1]})
        drawn = sorted(lines, key=lambda line: line["last"])[:MOST_CLASSES]
        numbers["recalls"].append(
            {
                "run": run.name,
                "of": looked_at,
                "looks": len({row["step"] for row in rows}),
                "classes": lines,
                "drawn": [line["name"] for line in lines if line in drawn],
                "table": table,
            }
        )
        numbers["tables"][table] = rows


def _time(run: Run) -> list[Row]:
    if not run.time:
        return []
    seconds, wall_s = run.time["seconds"], run.time["wall_s"]
    return [
        {
            "run": run.name,
            "kind": kind,
            "place": place,
            "seconds": seconds.get(kind, 0.0),
            "share": seconds.get(kind, 0.0) / wall_s if wall_s else 0.0,
        }
        for place, kind in enumerate(KINDS)
    ]


def _add_probe(numbers: Numbers, run: Run, probe: Probe) -> None:
    """One entry a question: scores at another loudness or of another head are not to be mixed."""
    for asked in dict.fromkeys(tuple(question(row).items()) for row in probe.rows):
        rows = [row for row in probe.rows if question(row) == dict(asked)]
        table = f"scores-{len(numbers['probes'])}"
        numbers["tables"][table] = summarise(rows)
        first = rows[0]
        label, words = first.get("label", ""), "".join(f", {word}" for word in manner(dict(asked)))
        alike = [one for one in run.probes if _asks(one, label, dict(asked))]
        what = f"{label}{words}{f', {probe.name}' if len(alike) > 1 and probe.name != '.' else ''}"
        of_checkpoint = [row for row in rows if row["weights"] == "checkpoint"]
        shown = (
            [row for row in of_checkpoint if row["feature"] in STRUCTURED] or of_checkpoint[:1] or rows[:1]
        )
        kept = (
            "split",
            "split_hash",
            "n",
            "speakers",
            "classes",
            "chance",
            "ci_unit",
            "ci_groups",
            "speaker_disjoint",
        )
        numbers["probes"].append(
            {
                "run": run.name,
                "probe": probe.name,
                "label": label,
                **dict(asked),
                "manner": words,
                "what": what,  # with its folder, where the run has several of its label and manner
                "step": next((row["step"] for row in of_checkpoint if row.get("step") is not None), None),
                **{key: first.get(key) for key in kept},
                "repeats": len(first.get("repeats", [1])),
                "table": table,
                "scores": list(main_scores(rows)),
                "confusions": [
                    {key: row[key] for key in ("feature", "weights", "uar", "ci95", "confusion")}
                    for row in shown
                    if "confusion" in row
                ],
            }
        )
        for row in of_checkpoint:
            if row.get("layer_shares"):
                named = [name for name in ("video", "audio") if name in row["feature"]] or ["video", "audio"]
                add_layers(
                    numbers,
                    run.name,
                    f"{row['feature']}, probe of {what}",
                    named,
                    row["layer_shares"],
                )


def _asks(probe: Probe, label: str, asked: Row) -> bool:
    return any(row.get("label", "") == label and question(row) == asked for row in probe.rows)


def add_layers(
    numbers: Numbers, run: str, what: str, streams: Sequence[str], shares: Sequence[Sequence[float]]
) -> None:
    """Shares [stream][layer] of a learned mixture, for a chart."""
    table = f"layers-{len(numbers['layers'])}"
    numbers["layers"].append({"run": run, "what": what, "table": table})
    numbers["tables"][table] = [
        {"stream": stream, "layer": layer, "share": share}
        for stream, own in zip(streams, shares, strict=True)
        for layer, share in enumerate(own)
    ]
