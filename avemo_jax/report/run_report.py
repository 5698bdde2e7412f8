"""Folders of runs → the report page, and the numbers on it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from scipy import special

from avemo_jax.config import from_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation import rollout
from avemo_jax.evaluation.outcome_files import IN_OWN_UNIT
from avemo_jax.evaluation.runs import Run, gather_run
from avemo_jax.paths import absolute, is_remote, to_path
from avemo_jax.report import charts, contents, embedding, judged, looking, page, suite_charts
from avemo_jax.report.clips import Card, Grouping, groupings, read_cards
from avemo_jax.report.images import Picture
from avemo_jax.report.numbers import count, title, whose
from avemo_jax.report.samples import GRID, Sampled, sampled
from avemo_jax.report.styles import group_style
from avemo_jax.tasks.finetuning import choices
from avemo_jax.training.checkpoint_files import load_params, newest_config
from input_pipeline.errors import DataError

Row = dict[str, Any]

MOST_BYTES = 8_000_000  # of a page that can be mailed
_QUALITY = 85
_PARTS = ("frames", "sound")  # of a clip, each a picture
_PICTURED_CLIPS = 4  # a step, of a run alone; fewer when runs share the page


class Report(NamedTuple):
    """html: the page; numbers: what `--json` writes; charts and pictures: by name, what is written as files."""

    html: str
    numbers: contents.Numbers
    charts: dict[str, charts.Chart]
    pictures: dict[str, Picture]


def make(
    folders: Sequence[str | os.PathLike],
    data: str = "",
    label: str = "",
    clips: int = 400,
    say: Callable[[str], None] = print,
    beside: str | os.PathLike = "",
    rollouts: int = 2,
    files: bool = False,
) -> Report:
    """The report of these runs.

    Args:
      folders: of one run, or of several to stand side by side; that of a step for its weights and pictures.
      data: the prepared folder whose clips are mapped and looked at; that of each run unless given.
      label: the first to colour maps by.
      clips: at most so many on a map; 0 for no map.
      say: told what was made.
      beside: the folder that the page will lie in, from which it links to other pages; without it there are no links.
      rollouts: of so many clips what each run looks at; 0 for none.
      files: with charts of what the page has as tables.

    Raises:
      UserError, DataError: no run, no such label, or a page too large to mail.
    """
    runs = [gather_run(folder) for folder in folders]
    _tell_apart(runs)
    numbers = page.made() | contents.assemble(runs)
    _add_learned_layers(numbers, runs)
    strips, unmapped = _add_maps(numbers, runs, data, label, clips, say)
    quality = _QUALITY if len(runs) == 1 else _QUALITY - 10
    looked, unlooked = _add_rollouts(numbers, runs, data, rollouts, quality, say)
    few = max(1, _PICTURED_CLIPS // len(runs))
    pictures = {run.name: sampled(run, few, quality) for run in runs}
    drawn = _charts(numbers)
    html = page.render(
        "report.html.j2",
        drawn,
        numbers,
        strips=strips,
        pictures=pictures,
        unmapped=unmapped,
        rollouts=looked,
        unlooked=unlooked,
        looked_at=looking.ROWS,
        link=lambda path: _link(path, beside),
        differing=contents.differing(numbers["runs"]) if len(runs) > 1 else [],
    )
    size = len(html.encode())
    if size > MOST_BYTES:
        raise UserError(
            f"the page would have {count(size)} bytes, {count(MOST_BYTES)} can be mailed: "
            "give fewer runs, or fewer --clips or --rollouts"
        )
    drawn |= {chart.name: chart for chart in _probe_confusions(numbers)} if files else {}
    return Report(html, numbers, drawn, _files(numbers, pictures, looked))


def _link(path: str, beside: str | os.PathLike) -> str:
    """The way from one folder's page to another page; empty where there is none that a browser could follow."""
    if not os.fspath(beside) or is_remote(path) or is_remote(beside):
        return ""
    return quote(Path(os.path.relpath(path, beside)).as_posix())


def _tell_apart(runs: Sequence[Run]) -> None:
    """Runs whose folders have the same name get their parents' too, and a number if that is not enough."""
    for name_of in (
        lambda run: f"{absolute(run.folder).parent.name}/{run.name}",
        lambda run: str(run.folder),
    ):
        twice = {name for name, times in Counter(run.name for run in runs).items() if times > 1}
        for run in runs:
            if run.name in twice:
                run.name = name_of(run)
    if len({run.name for run in runs}) < len(runs):
        raise UserError("a run is given twice")


def _add_maps(
    numbers: contents.Numbers, runs: Sequence[Run], data: str, label: str, clips: int, say: Callable
) -> tuple[list[list[str]], dict[str, str]]:
    """Adds maps to the numbers; returns the clips' strips for each data folder, and run → why it has no map."""
    numbers["data"] = []
    strips: list[list[str]] = []
    places: dict[str, int] = {}
    missing: dict[str, str] = {}
    for run in runs:
        path = data or run.data
        if reason := _why_no_clips(run, path, clips, "--clips"):
            missing[run.name] = reason
            continue
        try:
            if path not in places:
                cards = read_cards(path, clips)
                probed = [probe["label"] for probe in numbers["probes"]]
                numbers["data"].append(_describe(path, cards, groupings(cards), label, probed))
                strips.append([card.strip for card in cards])
                places[path] = len(strips) - 1
            which = places[path]
            described = numbers["data"][which]
            step, feature, found = embedding.embed(
                str(run.weights), path, [card["position"] for card in described["clips"]]
            )
        except (UserError, DataError) as error:
            if label or data:
                raise
            missing[run.name] = str(error)
            continue
        if not found:
            missing[run.name] = f"{path} has too few clips: a map needs {embedding.FEWEST}"
            continue
        table = f"map-{len(numbers['maps'])}"
        rows = [
            {"clip": index, "x": found[card["position"]][0], "y": found[card["position"]][1]}
            for index, card in enumerate(described["clips"])
            if card["position"] in found
        ]
        numbers["tables"][table] = rows
        entry = {"run": run.name, "step": step, "data": which, "feature": feature}
        numbers["maps"].append(
            {
                **entry,
                "clips": len(rows),
                "placed_by": embedding.placed_by(),
                "trained_on": path == run.data,
                "task": run.config.get("task"),
                "table": table,
            }
        )
        say(f"map of {run.name}: {len(rows)} clips of {path}")
    return strips, missing


def _add_rollouts(
    numbers: contents.Numbers, runs: Sequence[Run], data: str, clips: int, quality: int, say: Callable
) -> tuple[dict[tuple[str, int], tuple[Picture, Picture]], dict[str, tuple[str, str]]]:
    """Adds what each run looks at to the numbers; returns (run, position) → frames and sound, and run → why there are
    none and the command that makes them, empty where no command does."""
    numbers["rollouts"] = []
    pictures: dict[tuple[str, int], tuple[Picture, Picture]] = {}
    missing: dict[str, tuple[str, str]] = {}
    for run in runs:
        path = data or run.data
        if reason := _why_no_clips(run, path, clips, "--rollouts"):
            command = (
                f"avemo report {shlex.quote(str((run.folds or [run.weights])[0]))} --rollouts {clips or 2}"
            )
            missing[run.name] = reason, "" if "--data" in reason else command
            continue
        try:
            rollout.check_model(from_json(json.dumps(newest_config(run.weights))))
        except UserError as error:
            missing[run.name] = str(error), ""
            continue
        try:
            step, selection, rows, pairs = looking.look(str(run.weights), path, clips, quality=quality)
        except (UserError, DataError) as error:
            if len(runs) == 1 and data:
                raise
            missing[run.name] = str(error), ""
            continue
        numbers["rollouts"].append(
            {"run": run.name, "data": path, "step": step, "selection": selection, "clips": rows}
        )
        pictures |= {(run.name, row["position"]): pair for row, pair in zip(rows, pairs, strict=True)}
        say(f"rollout of {run.name}: {len(rows)} clips of {path}")
    return pictures, missing


def _files(
    numbers: contents.Numbers,
    pictures: dict[str, list[Sampled]],
    rollouts: dict[tuple[str, int], tuple[Picture, Picture]],
) -> dict[str, Picture]:
    """The page's pictures by what they are called as files."""
    found: dict[str, Picture] = {}

    def add(words: Sequence[object], picture: Picture) -> None:
        plain = re.sub(r"[^\w.-]+", "_", "-".join(map(str, filter(None, words)))).strip("_.")
        names = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
        found[next(name for name in names if name not in found)] = picture

    def who(run: str) -> str:
        return run if len(numbers["runs"]) > 1 else ""

    for run, steps in pictures.items():
        for one in steps:
            at = f"step_{one.step}"
            for number, pair in enumerate(one.clips, 1):
                for part, picture in zip(_PARTS, pair, strict=True):
                    add((GRID, who(run), at, f"clip_{number}", part), picture)
            for name, picture in one.others.items():
                add((name, who(run), at), picture)
    for entry in numbers["rollouts"]:
        for row in entry["clips"]:
            for part, picture in zip(_PARTS, rollouts[entry["run"], row["position"]], strict=True):
                add(("rollout", who(entry["run"]), row["clip_id"], part), picture)
    return found


def _why_no_clips(run: Run, path: str, clips: int, flag: str) -> str:
    if clips == 0:
        return f"none was asked for ({flag} 0)"
    if run.folds:
        return "each fold has weights of its own"
    if run.checkpoint_step is None:
        return "it has no checkpoint yet"
    if not path:
        several = run.config.get("data", {}).get("paths")
        named = f"several data folders ({', '.join(several)})" if several else "no data folder"
        return f"its config names {named}: give --data DIR"
    if not to_path(path).is_dir():
        return f"its data folder {path} is not here: give --data DIR"
    return ""


def _describe(
    path: str, cards: Sequence[Card], found: Sequence[Grouping], label: str, probed: Sequence[str]
) -> Row:
    """A data folder's clips, without their strips, and the ways to tell them apart: first by the label that is
    asked for, else one that was probed."""
    keys = [grouping.key for grouping in found]
    if label and label not in keys:
        raise UserError(f"{path}: no label '{label}' with classes; there are {', '.join(keys) or 'none'}")
    shown = [{key: value for key, value in asdict(card).items() if key != "strip"} for card in cards]
    chosen = label or next((key for key in (*probed, *keys) if key in keys), "")
    return {"path": path, "clips": shown, "first": chosen, "groupings": [asdict(one) for one in found]}


def _charts(numbers: contents.Numbers) -> dict[str, charts.Chart]:
    """Every chart of the page, by name."""
    tables, names = numbers["tables"], [run["name"] for run in numbers["runs"]]
    titled = _titles(numbers)
    drawn = [titled(title(key), charts.curve(tables["curves"], key, names)) for key in numbers["curves"]]
    for one in numbers["recalls"]:
        chart = suite_charts.recalls(tables[one["table"]], one["table"], one["drawn"], whose(one["of"]))
        drawn.append(titled(f"Recall by class of {whose(one['of'])}", chart, one))
    timed = list(dict.fromkeys(row["run"] for row in tables["time"]))
    drawn += [titled("Where the time went", charts.time_bars(tables["time"], timed))] if timed else []
    for one in numbers["probes"]:
        chart = charts.scores(tables[one["table"]], one["table"], one["chance"], one["scores"][0])
        drawn.append(titled(f"Probe of {one['what']}", chart, one))
    for one in numbers["maps"]:
        title_of_map = f"Map of clips by {one['feature']} features at step {count(one['step'])}"
        drawn.append(titled(title_of_map, _map_chart(numbers, one), one))
    for one in numbers["layers"]:
        chart = suite_charts.layer_bars(tables[one["table"]], one["table"], one["what"])
        drawn.append(titled(f"Layers of {one['what']}", chart, one))
    drawn += _judged_charts(numbers["judged"], tables, titled)
    return {chart.name: chart for chart in drawn}


def _titles(numbers: contents.Numbers) -> Callable[..., charts.Chart]:
    """(title, chart, what it is of) → the chart with this title, which names the run where there are several."""

    def titled(words: str, chart: charts.Chart, of: Row | None = None) -> charts.Chart:
        return replace(chart, title=f"{words}, {of['run']}" if of and len(numbers["runs"]) > 1 else words)

    return titled


def _probe_confusions(numbers: contents.Numbers) -> Iterator[charts.Chart]:
    """Those that the page has as tables, as files."""
    titled = _titles(numbers)
    for one in numbers["probes"]:
        for matrix in one["confusions"]:
            name = f"confusion-{one['table']}-{matrix['feature']}"
            chart = suite_charts.confusion(
                judged.confusion_cells(one["classes"], matrix["confusion"]), name, one["label"]
            )
            yield titled(f"Confusions of {one['what']}, {matrix['feature']}", chart, one)


def _judged_charts(found: Row, tables: dict[str, list[Row]], titled: Callable) -> list[charts.Chart]:
    drawn = []
    if "calibration" in found:
        drawn += [suite_charts.reliability(tables["reliability"]), suite_charts.risk(tables["risk"])]
    for one in found.get("fairness", {}).get("traits", ()):
        named = (one["table"], one["trait"], found["fairness"]["series"], one["score"])
        drawn.append(suite_charts.group_scores(tables[one["table"]], *named, one["score"] not in IN_OWN_UNIT))
    if "conflict" in found:
        drawn.append(suite_charts.conflict(tables["conflict"]))
    for one in found.get("robustness", {}).get("scores", ()):
        table, score = one["table"], one["score"]
        drawn.append(suite_charts.robustness(tables[table], table, score, score not in IN_OWN_UNIT))
    for one in found.get("identity", {}).get("runs", ()):
        words = ", ".join(filter(None, ("Probe of the speaker", one["series"])))
        drawn.append(titled(words, charts.scores(tables[one["table"]], one["table"], one["chance"])))
    for one in found["outcomes"]:
        for matrix in one["confusions"]:
            chart = suite_charts.confusion(tables[matrix["table"]], matrix["table"], one["label"])
            place = "" if one["place"] == "." else f", {one['place']}"
            drawn.append(titled(f"Confusions of {one['label']}{place}, {matrix['selection']}", chart, one))
    return drawn


def _add_learned_layers(numbers: contents.Numbers, runs: Sequence[Run]) -> None:
    """How much of each layer fine-tuned classifiers learned to take, of the weights that were chosen, or one step's."""
    for run in runs:
        if run.config.get("task") != "finetune" or run.checkpoint_step is None:
            continue
        try:
            config, params, _ = load_params(run.weights, say=lambda _: None)
            selection = f"step {run.checkpoint_step}"
            if run.weights == run.folder:
                selection, folder = choices(config, run.folder)[0]
                _, params, _ = load_params(folder, say=lambda _: None)
        except UserError as error:
            run.notes.append(str(error))
            continue
        mixed = [params.get(f"{stream}_layer_weights") for stream in ("video", "audio")]
        if all(weights is not None for weights in mixed):
            shares = [special.softmax(np.asarray(weights, np.float64)).tolist() for weights in mixed]
            contents.add_layers(numbers, run.name, f"the classifier, {selection}", ("video", "audio"), shares)


def _map_chart(numbers: contents.Numbers, entry: Row) -> charts.Chart:
    data = numbers["data"][entry["data"]]
    grouping = next((g for g in data["groupings"] if g["key"] == data["first"]), None)
    names = grouping["names"] if grouping else ()
    styles = [group_style(names, place) for place in range(len(names))]
    rows = []
    for row in numbers["tables"][entry["table"]]:
        place = grouping["of"][row["clip"]] if grouping else -1
        rows.append({**row, **group_style(names, place), "group": names[place] if grouping else ""})
    groups = [(name, style["colour"], style["shape"]) for name, style in zip(names, styles, strict=True)]
    told = (
        f"Map of {entry['clips']} clips by their {entry['feature']} features at step {count(entry['step'])}"
    )
    if grouping:
        sizes = Counter(grouping["of"][row["clip"]] for row in rows)
        parts = [f"{name} {sizes[index]}" for index, name in enumerate(grouping["names"])]
        told += f", told apart by {grouping['key']}: {', '.join(parts)}"
    return charts.embedding(rows, entry["table"], entry["table"], told + ".", groups)
