"""A comparison's numbers → one page."""

from __future__ import annotations

from avemo_jax.comparing.scores import Row
from avemo_jax.report import charts, page


def make(found: Row) -> str:
    """The HTML text: scores of each label as a chart and a table, retrieval, and what each method had of the budget."""
    numbers: Row = {**page.made(), **found, "tables": {}, "labels": []}
    drawn = []
    for label in dict.fromkeys(row["label"] for row in found["probes"]):
        rows = [row for row in found["probes"] if row["label"] == label]
        for kind in dict.fromkeys(row["kind"] for row in rows if row["method"]):
            table = f"{label}-{kind}"
            numbers["tables"][table] = [line for row in rows for line in _points(row, kind)]
            drawn.append(charts.scores(numbers["tables"][table], table, rows[0]["chance"]))
            numbers["labels"].append({"label": label, "kind": kind, "table": table, "chart": drawn[-1].name})
    return page.render("comparison.html.j2", {chart.name: chart for chart in drawn}, numbers)


def _points(row: Row, kind: str) -> list[Row]:
    """What a chart shows of a row: a method's checkpoint and its random weights, or plain statistics."""
    if not row["method"]:
        return [
            {"feature": row["feature"], "weights": "none", "uar": row["uar"], "uar_bounds": row["uar_bounds"]}
        ]
    if row["kind"] != kind:
        return []
    points = [
        ("checkpoint", row["uar"], row["uar_bounds"]),
        ("random", row["random_uar"], row["random_uar_bounds"]),
    ]
    return [
        {"feature": row["method"], "weights": weights, "uar": uar, "uar_bounds": bounds}
        for weights, uar, bounds in points
        if uar is not None
    ]
