"""Plain rows → charts. Each is a still SVG, for readers without scripts, and a specification to draw it again.

Colours are names of the page's style sheet (`var(--accent)`), so one picture serves light, dark and paper. Rows
are not in a specification: it names the table of the page's data that it draws.
"""

from __future__ import annotations

import copy
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import vl_convert

from avemo_jax.report import numbers
from avemo_jax.report.styles import run_styles
from avemo_jax.training.goodput import KINDS

Row = dict[str, Any]

_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "padding": {"left": 8, "top": 4, "right": 8, "bottom": 2},
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "gridColor": "var(--rule)",
        "labelColor": "var(--soft)",
        "labelFontSize": 11,
        "labelPadding": 6,
        "ticks": False,
        "titleColor": "var(--soft)",
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "axisX": {"grid": False, "domain": True, "domainColor": "var(--rule)"},
    "text": {"color": "var(--ink)", "fontSize": 11},
}

_FILE_CONFIG = _CONFIG | {
    "background": "var(--paper)",
    "legend": {"labelColor": "var(--ink)", "labelFontSize": 11, "labelLimit": 0},
    "title": {"anchor": "start", "color": "var(--ink)", "fontSize": 13, "offset": 10},
}
_LEGEND = {
    "columns": 2,
    "orient": "bottom",
    "title": None,
}
_LINES = {"symbolType": "stroke", "symbolSize": 400, "symbolStrokeWidth": 2}
_NO_NETWORK = {"labelExpr": "datum.label == 'none' ? 'no network' : datum.label"}


@dataclass(frozen=True)
class Chart:
    """A chart of the table `table`, which draws these `rows` of it; `alt` says what it shows, in numbers. `alone` is
    the specification of a file, `title` stands above it there."""

    name: str
    table: str
    spec: Row
    svg: str
    alt: str
    alone: Row
    rows: Sequence[Row]
    title: str = ""

    def file(self) -> str:
        """The SVG of a file on its own, with the legends that the page has beside its charts."""
        title = self.title or re.split(r"[:.] ", self.alt)[0].rstrip(".")
        lines = textwrap.wrap(title, max(16, (self.alone["width"] + 40) // 8))
        spec = copy.deepcopy(self.alone) | {"title": {"text": lines}}
        _add_legends(spec, self.rows)
        return _labelled(vl_convert.vegalite_to_svg(_with_rows(spec, self.table, self.rows)), self.alt)


def curve(rows: Sequence[Row], key: str, runs: Sequence[str]) -> Chart:
    """A number of `metrics.jsonl` over the steps, one line a run."""
    drawn = [row for row in rows if row.get(key) is not None]
    values = [row[key] for row in drawn]
    is_share = numbers.is_share(key)
    spiky = key == "grad_norm" or key.startswith("loss")
    wide = spiky and min(values) > 0 and max(values) / min(values) > 50
    styles = run_styles(runs)
    x = alt.X(
        "step:Q", title="step", axis=alt.Axis(tickCount=4, format="~s" if rows[-1]["step"] > 9999 else ",d")
    )
    scale = alt.Scale(
        type="log" if wide else "linear", zero=alt.Undefined if wide else is_share or key == "learning_rate"
    )
    y = alt.Y(
        "shown:Q",
        title=None,
        scale=scale,
        axis=alt.Axis(tickCount=4, labelExpr="datum.label + ' %'" if is_share else alt.Undefined),
    )
    colour = alt.Color(
        "run:N", legend=None, scale=alt.Scale(domain=[s[0] for s in styles], range=[s[1] for s in styles])
    )
    dash = alt.StrokeDash(
        "run:N", legend=None, scale=alt.Scale(domain=[s[0] for s in styles], range=[s[2] for s in styles])
    )
    base = alt.Chart(alt.NamedData("curves")).transform_filter(alt.expr.isValid(alt.datum[key]))
    base = base.transform_calculate(shown=alt.datum[key] * (100 if is_share else 1))
    near = alt.selection_point(
        name="near", nearest=True, on="pointerover", clear="pointerout", fields=["step"], empty=False
    )
    tips = [
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("shown:Q", title=numbers.title(key), format=".4~g"),
    ]
    tips = [alt.Tooltip("run:N"), *tips] if len(runs) > 1 else tips
    line = base.mark_line(strokeWidth=1.6, clip=True, interpolate="linear", aria=False).encode(
        x, y, colour, dash
    )
    point = (
        base.mark_circle(size=40, aria=False)
        .encode(x, y, colour, tooltip=tips, opacity=alt.condition(near, alt.value(1), alt.value(0)))
        .add_params(near)
    )
    return finished(
        alt.layer(line, point), f"curve-{key}", "curves", drawn, 300, 150, _curve_alt(drawn, key, runs)
    )


def scores(rows: Sequence[Row], table: str, chance: float, score: str = "uar") -> Chart:
    """UAR, or another score, of each feature with its interval: the checkpoint, random weights, plain statistics."""
    rows = [row for row in rows if row[score] is not None]
    title, least = f"{score.upper()}, per cent", 0 if score == "uar" else -100
    kinds = ["checkpoint", "none", "random"]  # from top to bottom beside a feature's name
    order = list(dict.fromkeys(row["feature"] for row in rows))
    base = alt.Chart(alt.NamedData(table)).transform_calculate(
        percent=f"100 * datum.{score}",
        low=f"100 * datum.{score}_bounds[0]",
        high=f"100 * datum.{score}_bounds[1]",
    )
    offset = alt.YOffset("weights:N", scale=alt.Scale(domain=kinds))
    y = alt.Y(
        "feature:N",
        sort=order,
        title=None,
        axis=alt.Axis(labelColor="var(--ink)", labelLimit=140, grid=False),
    )
    low = min([row[f"{score}_bounds"][0] for row in rows] + [chance])
    high = max([row[f"{score}_bounds"][1] for row in rows] + [chance])
    span = alt.Scale(domain=[max(least, 100 * low - 4), min(100, 100 * high + 4)], nice=False)
    x_axis = alt.Axis(grid=True, tickCount=5, domain=False)
    x = alt.X("percent:Q", title=title, axis=x_axis, scale=span)
    colours = ["var(--accent)", "var(--second)", "var(--quiet)"]
    colour = alt.Color("weights:N", legend=None, scale=alt.Scale(domain=kinds, range=colours))
    shape = alt.Shape(
        "weights:N", legend=None, scale=alt.Scale(domain=kinds, range=["circle", "diamond", "triangle-up"])
    )
    tips = [
        alt.Tooltip("feature:N"),
        alt.Tooltip("weights:N"),
        alt.Tooltip("percent:Q", title=title, format=".1f"),
        alt.Tooltip("low:Q", title="from", format=".1f"),
        alt.Tooltip("high:Q", title="to", format=".1f"),
    ]
    bars = base.mark_rule(strokeWidth=2, aria=False).encode(
        alt.X("low:Q", scale=span), y, colour, x2="high:Q", yOffset=offset
    )
    dots = base.mark_point(filled=True, size=60, opacity=1, aria=False).encode(
        x, y, colour, shape, yOffset=offset, tooltip=tips
    )
    line = (
        alt.Chart(alt.InlineData([{"chance": 100 * chance}]))
        .mark_rule(strokeDash=[3, 3], color="var(--soft)", aria=False)
        .encode(x=alt.X("chance:Q", scale=span))
    )
    told = [
        f"{row['feature']}{_KIND[row['weights']]} {numbers.percent(row[score])} "
        f"{numbers.interval(row[f'{score}_bounds'])}"
        for row in rows
    ]
    alt_text = f"{score.upper()} in per cent, chance {numbers.percent(chance)}: {'; '.join(told)}."
    height = 30 * len(order)
    return finished(alt.layer(line, bars, dots), f"scores-{table}", table, rows, 190, height, alt_text)


def time_bars(rows: Sequence[Row], runs: Sequence[str]) -> Chart:
    """Shares of the wall time by kind, one bar a run."""
    names = [numbers.title(kind) for kind in KINDS]
    base = alt.Chart(alt.NamedData("time")).transform_calculate(percent="100 * datum.share")
    colours = ["var(--accent)", *(f"var(--group-{index})" for index in range(2, 8)), "var(--quiet)"]
    y = alt.Y("run:N", sort=list(runs), title=None, axis=alt.Axis(labelColor="var(--ink)", labelLimit=120))
    bar = base.mark_bar(aria=False, height=alt.RelativeBandSize(0.7)).encode(
        x=alt.X(
            "percent:Q",
            stack="zero",
            title="per cent of wall time",
            axis=alt.Axis(tickCount=5),
            scale=alt.Scale(domain=[0, 100]),
        ),
        y=y if len(runs) > 1 else alt.Undefined,
        color=alt.Color("kind:N", legend=None, scale=alt.Scale(domain=list(KINDS), range=colours)),
        order=alt.Order("place:Q"),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("kind:N"),
            alt.Tooltip("percent:Q", title="per cent", format=".1f"),
            alt.Tooltip("seconds:Q", format=".1f"),
        ],
    )
    shares = {
        run: [
            f"{name.lower()} {numbers.percent(row['share'])}"
            for name, row in zip(names, [r for r in rows if r["run"] == run], strict=True)
        ]
        for run in runs
    }
    alt_text = "Shares of wall time in per cent. " + " ".join(
        f"{run}: {', '.join(parts)}." for run, parts in shares.items()
    )
    return finished(bar, "time", "time", rows, 320, 34 * len(runs), alt_text)


def embedding(
    rows: Sequence[Row], name: str, table: str, alt_text: str, groups: Sequence[tuple[str, str, str]] = ()
) -> Chart:
    """Clips on their map. Each row says its colour, shape, opacity and size, since the reader changes them; and of
    `groups`, (name, colour, shape) each, its `group`."""
    span = alt.Scale(domain=[-1.08, 1.08], nice=False)
    as_is: Row = {"scale": None, "legend": None}
    points = (
        alt.Chart(alt.NamedData(table))
        .mark_point(filled=True, aria=False)
        .encode(
            x=alt.X("x:Q", axis=None, scale=span),
            y=alt.Y("y:Q", axis=None, scale=span),
            color=alt.Color("colour:N", **as_is),
            shape=alt.Shape("shape:N", **as_is),
            opacity=alt.Opacity("opacity:Q", **as_is),
            size=alt.Size("size:Q", **as_is),
        )
    )
    named = None
    if groups:
        names, colours, shapes = ([*column] for column in zip(*groups, strict=True))
        named = points.encode(
            color=alt.Color("group:N", legend=None, scale=alt.Scale(domain=names, range=colours)),
            shape=alt.Shape("group:N", legend=None, scale=alt.Scale(domain=names, range=shapes)),
        )
    return finished(points, name, table, rows, 380, 380, alt_text, named)


def bins(values: Sequence[float], most: int = 24) -> list[Row]:
    """How many values lie in each of up to `most` parts of their range, of equal width."""
    counts, edges = np.histogram(values, bins=most if max(values) > min(values) else 1)
    return [
        {"from": round(float(low), 4), "to": round(float(high), 4), "clips": int(number)}
        for low, high, number in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def histogram(rows: Sequence[Row], table: str, values: Sequence[float], unit: str) -> Chart:
    """Clips by length, or by a label that is a number."""
    bars = (
        alt.Chart(alt.NamedData(table))
        .mark_bar(color="var(--accent)", aria=False, binSpacing=1)
        .encode(
            x=alt.X("from:Q", title=unit, bin="binned", axis=alt.Axis(tickCount=5, domain=True)),
            x2="to:Q",
            y=alt.Y("clips:Q", title="clips", axis=alt.Axis(tickCount=4)),
            tooltip=["from:Q", "to:Q", "clips:Q"],
        )
    )
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    told = f"{len(values)} clips from {low:.2f} to {high:.2f} {unit}, half of them up to {middle:.2f}."
    return finished(bars, table, table, rows, 300, 150, told)


_KIND = {"checkpoint": "", "random": " with random weights", "none": " without a network"}


def finished(
    chart: alt.TopLevelMixin,
    name: str,
    table: str,
    rows: Sequence[Row],
    width: int,
    height: int,
    alt_text: str,
    alone: alt.TopLevelMixin | None = None,
) -> Chart:
    """An Altair chart of these rows of the table `table` with its still picture, this wide and high in pixels; `alone`,
    where another chart is the file."""
    spec = chart.properties(height=height, description=alt_text).to_dict()
    spec.pop("$schema", None)
    spec["config"] = _CONFIG
    as_file = alone.properties(height=height).to_dict() if alone else spec
    as_file = as_file | {"width": width, "config": _FILE_CONFIG}
    svg = vl_convert.vegalite_to_svg(_with_rows(spec | {"width": width}, table, rows))
    # Ids are the page's, not the picture's: each chart needs its own.
    svg = re.sub(r'(id="|url\(#)(?=[a-z]+\d)', rf"\1{name}-", svg)
    svg = _labelled(svg, alt_text)
    return Chart(name, table, spec | {"width": "container"}, svg, alt_text, as_file, rows)


def _with_rows(spec: Row, table: str, rows: Sequence[Row]) -> Row:
    return spec | {"datasets": {**spec.get("datasets", {}), table: list(rows)}}


def _labelled(svg: str, alt_text: str) -> str:
    return svg.replace("<svg ", f'<svg role="img" aria-label="{_attribute(alt_text)}" ', 1)


def _add_legends(spec: Row, rows: Sequence[Row]) -> None:
    """Of what these rows have, to every encoding that tells several things apart and leaves its legend to the page."""
    found = list(_told_apart(spec))
    channels = {channel for channel, _ in found}
    marks = _LINES if "strokeDash" in channels and "shape" not in channels else {}
    for _, encoding in found:
        field = encoding["field"]
        drawn = {row[field] for row in rows}
        values = [name for name in encoding["scale"]["domain"] if name in drawn]
        names = _NO_NETWORK if field == "weights" else {}
        encoding["legend"] = _LEGEND | marks | names | {"values": values}


def _told_apart(part: Any) -> Iterator[tuple[str, Row]]:
    """(channel, encoding) of all within a specification that tell several things apart."""
    if isinstance(part, dict):
        for channel in ("color", "shape", "strokeDash"):
            encoding = part.get("encoding", {}).get(channel, {})
            if len((encoding.get("scale") or {}).get("domain", ())) > 1:
                yield channel, encoding
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _told_apart(one)


def _curve_alt(rows: Sequence[Row], key: str, runs: Sequence[str]) -> str:
    told = []
    for run in runs:
        mine = [row for row in rows if row["run"] == run]
        if mine:
            first, last = mine[0], mine[-1]
            low = min(row[key] for row in mine)
            who = f"{run}: " if len(runs) > 1 else ""
            told.append(
                f"{who}{numbers.metric(first[key], key)} at step {numbers.count(first['step'])}, lowest "
                f"{numbers.metric(low, key)}, {numbers.metric(last[key], key)} at step {numbers.count(last['step'])}"
            )
    return f"{numbers.title(key)}: {'; '.join(told)}."


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
