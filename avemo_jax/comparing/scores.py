"""What the stages of a comparison left behind → rows, and a table of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avemo_jax.comparing.methods import RETRIEVAL, Asked, Method, probe_folder
from avemo_jax.evaluation import predicted
from avemo_jax.evaluation.aligning import aligned
from avemo_jax.evaluation.paired import paired_tests
from avemo_jax.evaluation.questions import QUESTION, manner, question
from avemo_jax.evaluation.report import summarise

Row = dict[str, Any]

# A method's clip vector, by the first of these names that it has; with audio_rows and video_cells, which keep
# structure, one of each kind is compared between methods.
_WHOLE = ("cat4", "cat2", "audio", "video")
_STRUCTURED = ("audio_rows", "video_cells")


def gather(methods: Sequence[Method], asked: Asked, out: Path) -> Row:
    """All numbers of a comparison.

    Keys:
      methods: one row each: `name`, `config`, `overrides`, `steps`, `clips`, `flops`, `parameters`.
      probes: one row a label, method and kind of feature: what `evaluation.report.summarise` says of the checkpoint
        (`uar`, `uar_bounds`, …), `method` ("" for plain statistics), `label`, `kind`, `chance`; `random_uar` and
        `random_uar_bounds` of the same network with random weights, `random_seeds` times; against the first method
        `uar_difference`, `uar_difference_ci95` and `p_permutation` (None for itself).
      retrieval: one row a method that has both modalities: all layers together, `random` weights beside them.
    """
    described = [
        {
            "name": method.name,
            "config": method.config_name,
            "overrides": list(method.given),
            "steps": method.steps,
            "clips": method.clips,
            "flops": method.flops,
            "parameters": method.counted.parameters,
        }
        for method in methods
    ]
    probes = [row for label in asked.labels for row in _of_label(methods, label, out)]
    retrieval = [row for method in methods if (row := _retrieval(method, out))]
    return {"methods": described, "probes": probes, "retrieval": retrieval}


def table(found: Row) -> str:
    """Aligned text, per cent: a part for each label, and one for retrieval."""
    parts = []
    for label in dict.fromkeys(row["label"] for row in found["probes"]):
        rows = [row for row in found["probes"] if row["label"] == label]
        lines: list[tuple[str, ...]] = [
            ("method", "feature", "UAR", "", "random weights", "", "against the first", "", "p")
        ]
        lines += [_words(row) for row in rows]
        title = f"{label}: {rows[0]['n']} clips tested, chance {100 * rows[0]['chance']:.1f} %"
        parts.append(f"{title}\n{aligned(lines, left=(0, 1, 3, 5, 7))}")
    if found["retrieval"]:
        lines = [
            ("retrieval", "picture → sound R@1", "R@5", "R@10", "median rank", "random R@5", "chance R@5")
        ]
        for row in found["retrieval"]:
            way = row["video_to_audio"]
            recalls = [_with_interval(way, name) for name in ("r1", "r5", "r10")]
            beside = (100 * row["random"]["video_to_audio"]["r5"], 100 * row["chance"]["r5"])
            lines.append(
                (row["method"], *recalls, f"{way['median_rank']:g}", *(f"{one:.1f}" for one in beside))
            )
        parts.append(aligned(lines))
    return "\n\n".join(parts)


def kind_of(feature: str) -> str:
    """Which features of different methods are compared: `whole`, or the name of one that all have alike."""
    return "whole" if feature in _WHOLE else feature


def _of_label(methods: Sequence[Method], label: str, out: Path) -> list[Row]:
    rows: list[Row] = []
    first: dict[tuple[str, ...], predicted.Predicted] = {}
    statistics: list[Row] = []
    for method in methods:
        folder = probe_folder(out / method.name, label)
        written = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        chance, lines = written[0]["chance"], summarise(written)
        statistics = statistics or [
            {"label": label, "method": "", "kind": line["feature"], "chance": chance, **line}
            for line in lines
            if line["weights"] == "none"
        ]
        predictions = {
            (one.model["feature"], *question(one.model).values()): one
            for one in predicted.read(folder / predicted.NAME)
            if one.model.get("weights") == "checkpoint"
        }
        whole = next((name for name in _WHOLE if any(line["feature"] == name for line in lines)), "")
        for line in lines:
            plain = line["feature"] == whole or line["feature"] in _STRUCTURED
            if line["weights"] != "checkpoint" or not (
                plain or line["feature"].endswith(("layers", "tokens"))
            ):
                continue
            kind, asked = kind_of(line["feature"]), tuple(question(line).values())
            random = next(
                (
                    other
                    for other in lines
                    if (other["weights"], other["feature"]) == ("random", line["feature"])
                    and tuple(question(other).values()) == asked
                ),
                None,
            )
            one = predictions[(line["feature"], *asked)]
            row = {"label": label, "method": method.name, "kind": kind, "chance": chance, **line}
            row["random_uar"] = random["uar"] if random else None
            row["random_uar_bounds"] = random["uar_bounds"] if random else None
            row["random_seeds"] = random["seeds"] if random else None
            rows.append(row | _against(one, first.get((kind, *asked))))
            if method is methods[0]:
                first[(kind, *asked)] = one
    return rows + statistics


def _against(here: predicted.Predicted, there: predicted.Predicted | None) -> Row:
    """The paired test of two models on the same test clips; None where there is no other.

    Raises:
      UserError: see `predicted.as_ordered`.
    """
    keys = ("uar_difference", "uar_difference_ci95", "p_permutation")
    if there is None:
        return dict.fromkeys(keys)
    ordered = predicted.as_ordered(here, there, "the first method's probe")
    tested = paired_tests(here.label, here.guess, ordered.guess, here.speaker, len(here.names))
    return {key: tested[key] for key in keys}


def _retrieval(method: Method, out: Path) -> Row | None:
    path = out / method.name / RETRIEVAL / "suites.json"
    if not path.exists():
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))["retrieval"]
    together = [row for row in rows if row["layer"] == "all"]
    own = next(row for row in together if row["weights"] == "checkpoint")
    random = next(row for row in together if row["weights"] == "random")
    return {"method": method.name, **own, "random": random}


def _with_interval(way: Row, name: str) -> str:
    return "{:.1f} [{:.0f}, {:.0f}]".format(*(100 * value for value in (way[name], *way[f"{name}_ci95"])))


def _words(row: Row) -> tuple[str, ...]:
    low, high = (f"{100 * bound:.0f}" for bound in row["uar_bounds"])
    feature = ", ".join([row["feature"], *manner({key: row[key] for key in QUESTION}, name_head=False)])
    random, spread, difference, interval, p = "", "", "", "", ""
    if row.get("random_uar") is not None:
        random = f"{100 * row['random_uar']:.1f}"
        shape = "[{:.0f}, {:.0f}]" if row["random_seeds"] == 1 else "{:.0f} to {:.0f}"
        spread = shape.format(*(100 * bound for bound in row["random_uar_bounds"]))
    if row.get("uar_difference") is not None:
        difference = f"{100 * row['uar_difference']:+.1f}"
        interval = "[{:+.1f}, {:+.1f}]".format(*(100 * bound for bound in row["uar_difference_ci95"]))
        p = f"{row['p_permutation']:.3f}"
    name = row["method"] or "no network"
    return (
        name,
        feature,
        f"{100 * row['uar']:.1f}",
        f"[{low}, {high}]",
        random,
        spread,
        difference,
        interval,
        p,
    )
