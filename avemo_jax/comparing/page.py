"""A comparison's numbers → one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from avemo_jax.comparing.scores import Row
from avemo_jax.evaluation.questions import manner, question
from avemo_jax.report import charts, page


def make(found: Row) -> str:
    """The HTML text: scores of each label and question as a chart and a table, retrieval, and what each method had of
    the budget."""
    numbers: Row = {**page.made(), **found, "tables": {}, "labels": []}
    drawn: list[charts.Chart] = []
    for label, kind, asked, places in _groups(found["probes"]):
        rows = [found["probes"][place] for place in places]
        table = f"{label}-{kind}-{len(drawn)}"
        numbers["tables"][table] = [line for row in rows for line in _points(row)]
        drawn.append(charts.scores(numbers["tables"][table], table, rows[0]["chance"]))
        words = "".join(f", {word}" for word in manner(asked))
        entry = {"label": label, "kind": kind, "manner": words, "rows": places}
        numbers["labels"].append({**entry, "table": table, "chart": drawn[-1].name})
    return page.render("comparison.html.j2", {chart.name: chart for chart in drawn}, numbers)


def _groups(probes: Sequence[Row]) -> Iterator[tuple[str, str, Row, list[int]]]:
    """(label, kind, question, rows) of what can be compared: of each method, and plain statistics beside them."""
    asked = [(row["label"], tuple(question(row).items())) for row in probes]
    for one in dict.fromkeys(asked):
        places = [place for place, other in enumerate(asked) if other == one]
        for kind in dict.fromkeys(probes[place]["kind"] for place in places if probes[place]["method"]):
            alike = [p for p in places if probes[p]["kind"] == kind or not probes[p]["method"]]
            yield one[0], kind, dict(one[1]), alike


def _points(row: Row) -> list[Row]:
    """What a chart shows of a row: a method's checkpoint and its random weights, or plain statistics."""
    if not row["method"]:
        return [
            {"feature": row["feature"], "weights": "none", "uar": row["uar"], "uar_bounds": row["uar_bounds"]}
        ]
    points = [
        ("checkpoint", row["uar"], row["uar_bounds"]),
        ("random", row["random_uar"], row["random_uar_bounds"]),
    ]
    return [
        {"feature": row["method"], "weights": weights, "uar": uar, "uar_bounds": bounds}
        for weights, uar, bounds in points
        if uar is not None
    ]
