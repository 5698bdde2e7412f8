"""Charts of what `avemo evaluate` and fine-tuning left; see `charts` for what they all are and `judged` for the rows.

Series are told apart by colour and by dashes or shapes. Bars and lines have no interval where their rows have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from avemo_jax.report import numbers
from avemo_jax.report.charts import Chart, Row, finished
from avemo_jax.report.styles import MARKS, run_styles

_FOLLOWED = {"face": "var(--accent)", "voice": "var(--second)", "other": "var(--quiet)"}
_STREAMS = {"video": "var(--accent)", "audio": "var(--second)"}
_SHAPES = tuple(MARKS)


def series_styles(series: Sequence[str]) -> list[tuple[str, str, list[int], str]]:
    """(series, colour, dashes, shape) of each."""
    return [(*style, _SHAPES[place % len(_SHAPES)]) for place, style in enumerate(run_styles(list(series)))]


def reliability(rows: Sequence[Row]) -> Chart:
    """How often a model is right by how sure it is: on the diagonal where it is as sure as it is right."""
    names = _names(rows)
    share = alt.Scale(domain=[0, 100], nice=False)
    base = alt.Chart(alt.NamedData("reliability")).transform_calculate(
        sure="100 * datum.confidence", right="100 * datum.accuracy"
    )
    x = alt.X("sure:Q", title="confidence, per cent", scale=share, axis=alt.Axis(tickCount=5))
    y = alt.Y("right:Q", title="right, per cent", scale=share, axis=alt.Axis(tickCount=5))
    tips = [*_tips(names), _tip("sure:Q", "confidence"), _tip("right:Q", "right"), alt.Tooltip("clips:Q")]
    line = base.mark_line(strokeWidth=1.6, aria=False).encode(x, y, _colour(names), _dash(names))
    dots = base.mark_point(filled=True, size=45, opacity=1, aria=False).encode(
        x, y, _colour(names), _shape(names), tooltip=tips
    )
    diagonal = (
        alt.Chart(alt.InlineData([{"x": 0, "y": 0}, {"x": 100, "y": 100}]))
        .mark_line(strokeDash=[3, 3], strokeWidth=1, color="var(--soft)", aria=False)
        .encode(alt.X("x:Q", scale=share), alt.Y("y:Q", scale=share))
    )
    told = []
    for name in names:
        parts = [
            f"{numbers.percent(r['accuracy'], 0)} right at {numbers.percent(r['confidence'], 0)} sure "
            f"({numbers.count(r['clips'])} clips)"
            for r in rows
            if r["series"] == name
        ]
        told.append(f"{name}: {', '.join(parts)}")
    words = f"Reliability in per cent. {'; '.join(told)}."
    return finished(alt.layer(diagonal, line, dots), "reliability", "reliability", rows, 260, 240, words)


def risk(rows: Sequence[Row]) -> Chart:
    """The share of errors when only the surest so many clips are answered."""
    names = _names(rows)
    base = alt.Chart(alt.NamedData("risk")).transform_calculate(
        answered="100 * datum.coverage", wrong="100 * datum.risk"
    )
    x = alt.X(
        "answered:Q",
        title="answered, the surest first, per cent",
        axis=alt.Axis(tickCount=5),
        scale=alt.Scale(domain=[0, 100], nice=False),
    )
    y = alt.Y("wrong:Q", title="wrong, per cent", axis=alt.Axis(tickCount=4), scale=alt.Scale(zero=True))
    line = base.mark_line(strokeWidth=1.6, aria=False).encode(x, y, _colour(names), _dash(names))
    tips = [*_tips(names), _tip("answered:Q", "answered"), _tip("wrong:Q", "wrong")]
    touch = base.mark_circle(size=60, opacity=0, color="var(--ink)", aria=False).encode(x, y, tooltip=tips)
    told = []
    for name in names:
        own = [r for r in rows if r["series"] == name]
        half = min(own, key=lambda r: abs(r["coverage"] - 0.5))
        told.append(
            f"{name}: {numbers.percent(own[-1]['risk'])} of all, {numbers.percent(half['risk'])} of the surest half"
        )
    words = f"Wrong answers in per cent. {'; '.join(told)}."
    return finished(alt.layer(line, touch), "risk", "risk", rows, 260, 240, words)


def group_scores(
    rows: Sequence[Row], table: str, trait: str, names: Sequence[str], score: str, in_percent: bool
) -> Chart:
    """A score of each group of speakers with its interval, side by side for each series; `names` are those of all
    charts that share a legend."""
    factor = 100 if in_percent else 1
    base = (
        alt.Chart(alt.NamedData(table))
        .transform_filter("isValid(datum.value) && isValid(datum.bounds[0])")
        .transform_calculate(
            percent=f"{factor} * datum.value",
            low=f"{factor} * datum.bounds[0]",
            high=f"{factor} * datum.bounds[1]",
        )
    )
    title = f"{score.upper()}{', per cent' if in_percent else ''}"
    shape = ".1f" if in_percent else ".3f"
    tips = [
        alt.Tooltip("group:N"),
        *_tips(names),
        _tip("percent:Q", title, shape),
        _tip("low:Q", "from", shape),
    ]
    tips += [_tip("high:Q", "to", shape), alt.Tooltip("n:Q", title="clips"), alt.Tooltip("speakers:Q")]
    drawn = _dots(base, "group:N", title, names, tips)
    told = [f"{row['group']}, {row['series']}: {_said(row, in_percent)}" for row in rows]
    groups = len(dict.fromkeys(row["group"] for row in rows))
    words = f"{title} by {trait}. {'; '.join(told)}."
    height = groups * max(26 if groups <= 12 else 13, 14 * len(names))
    drawn_rows = [row for row in rows if row["value"] is not None and row["bounds"][0] is not None]
    return finished(drawn, table, table, drawn_rows, 230, height, words)


def conflict(rows: Sequence[Row]) -> Chart:
    """Whose emotion is named where voice and face differ, one bar a model and one of the raters."""
    order = list(dict.fromkeys(row["series"] for row in rows))
    base = alt.Chart(alt.NamedData("conflict")).transform_calculate(percent="100 * datum.share")
    bar = base.mark_bar(aria=False, height=alt.RelativeBandSize(0.7)).encode(
        x=alt.X(
            "percent:Q",
            stack="zero",
            title="per cent of clips in conflict",
            axis=alt.Axis(tickCount=5),
            scale=alt.Scale(domain=[0, 100]),
        ),
        y=alt.Y("series:N", sort=order, title=None, axis=alt.Axis(labelColor="var(--ink)", labelLimit=160)),
        color=_coloured("followed:N", _FOLLOWED),
        order=alt.Order("place:Q"),
        tooltip=[
            alt.Tooltip("series:N"),
            alt.Tooltip("followed:N"),
            _tip("percent:Q", "per cent"),
            alt.Tooltip("clips:Q"),
        ],
    )
    told = []
    for name in order:
        parts = [
            f"{r['followed']} {numbers.percent(r['share'])} ({numbers.count(r['clips'])})"
            for r in rows
            if r["series"] == name
        ]
        told.append(f"{name}: {', '.join(parts)}")
    words = f"Whom each follows where voice and face differ, in per cent of clips. {'; '.join(told)}."
    return finished(bar, "conflict", "conflict", rows, 300, 34 * len(order), words)


def robustness(rows: Sequence[Row], table: str, score: str, in_percent: bool) -> Chart:
    """How far a score falls from that of the clips as they are, by what was done to them."""
    names = _names(rows)
    drawn_rows = [row for row in rows if row["corruption"] != "none"]
    factor = 100 if in_percent else 1
    base = (
        alt.Chart(alt.NamedData(table))
        .transform_filter("datum.corruption != 'none'")
        .transform_calculate(
            percent=f"{factor} * datum.change",
            low=f"{factor} * datum.change_bounds[0]",
            high=f"{factor} * datum.change_bounds[1]",
        )
    )
    title = f"change in {score.upper()}{', points' if in_percent else ''}"
    shape = ".1f" if in_percent else ".3f"
    tips = [alt.Tooltip("condition:N"), *_tips(names), _tip("percent:Q", title, shape)]
    tips += [_tip("low:Q", "from", shape), _tip("high:Q", "to", shape)]
    zero = (
        alt.Chart(alt.InlineData([{"zero": 0}]))
        .mark_rule(strokeDash=[3, 3], color="var(--soft)", aria=False)
        .encode(x=alt.X("zero:Q"))
    )
    conditions = list(dict.fromkeys(row["condition"] for row in drawn_rows))
    drawn = alt.layer(zero, _dots(base, "condition:N", title, names, tips, conditions))
    shown = numbers.percent if in_percent else numbers.value
    told = [
        f"{row['condition']}{', ' + row['series'] if len(names) > 1 else ''}: {shown(row['change'])}"
        for row in drawn_rows
    ]
    words = f"{title[0].upper()}{title[1:]}. {'; '.join(told)}."
    height = len(conditions) * max(16, 11 * len(names))
    return finished(drawn, table, table, drawn_rows, 260, height, words)


def layer_bars(rows: Sequence[Row], table: str, what: str) -> Chart:
    """The share of each layer in a learned mixture, one bar a layer and stream."""
    streams = list(dict.fromkeys(row["stream"] for row in rows))
    bars = (
        alt.Chart(alt.NamedData(table))
        .transform_calculate(percent="100 * datum.share")
        .mark_bar(aria=False)
        .encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("stream:N", scale=alt.Scale(domain=streams)),
            y=alt.Y("percent:Q", title="share, per cent", axis=alt.Axis(tickCount=4)),
            color=_coloured("stream:N", _STREAMS),
            tooltip=[alt.Tooltip("stream:N"), alt.Tooltip("layer:O"), _tip("percent:Q", "share")],
        )
    )
    told = []
    for stream in streams:
        shares = [numbers.percent(row["share"]) for row in rows if row["stream"] == stream]
        told.append(f"{stream}, from layer 0: {', '.join(shares)}")
    words = f"Shares of the layers of {what}, in per cent. {'; '.join(told)}."
    return finished(bars, table, table, rows, 260, 160, words)


def recalls(rows: Sequence[Row], table: str, classes: Sequence[str], of: str) -> Chart:
    """How often each of these classes is found, look after look."""
    drawn = alt.FieldOneOfPredicate(field="series", oneOf=list(classes))
    base = (
        alt.Chart(alt.NamedData(table))
        .transform_filter(drawn)
        .transform_calculate(shown="100 * datum.recall")
    )
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickCount=4, format=",d"))
    share = alt.Scale(domain=[0, 100], nice=False)
    y = alt.Y("shown:Q", title="recall, per cent", scale=share, axis=alt.Axis(tickCount=5))
    tips = [
        alt.Tooltip("series:N", title="class"),
        alt.Tooltip("step:Q", format=","),
        _tip("shown:Q", "recall"),
    ]
    line = base.mark_line(strokeWidth=1.6, aria=False).encode(x, y, _colour(classes), _dash(classes))
    dots = base.mark_point(filled=True, size=40, opacity=1, aria=False).encode(
        x, y, _colour(classes), _shape(classes), tooltip=tips
    )
    told = []
    for name in classes:
        own = [row["recall"] for row in rows if row["series"] == name]
        told.append(f"{name} {numbers.percent(own[0])} at first, {numbers.percent(own[-1])} at last")
    words = f"Recall by class of {of}, per cent, over the steps: {'; '.join(told)}."
    return finished(alt.layer(line, dots), table, table, rows, 380, 220, words)


def confusion(rows: Sequence[Row], table: str, what: str) -> Chart:
    """A confusion matrix: counts of clips, the darker the larger the share of their row."""
    classes = list(dict.fromkeys(row["truth"] for row in rows))
    base = alt.Chart(alt.NamedData(table)).encode(
        x=alt.X(
            "predicted:N",
            sort=classes,
            title="predicted",
            axis=alt.Axis(labelAngle=0, labelColor="var(--ink)", orient="top"),
        ),
        y=alt.Y("truth:N", sort=classes, title="true", axis=alt.Axis(labelColor="var(--ink)")),
    )
    cells = base.mark_rect(color="var(--accent)", aria=False).encode(
        opacity=alt.Opacity(
            "share:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0, 0.45], nice=False)
        )
    )
    counts = base.mark_text(aria=False).encode(text="clips:Q")
    told = [f"{row['truth']} as {row['predicted']} {row['clips']}" for row in rows if row["clips"]]
    words = f"Confusions of {what}, clips: {'; '.join(told)}."
    side = 46 * len(classes)
    return finished(alt.layer(cells, counts), table, table, rows, side, side, words)


def _dots(base, field: str, title: str, names: Sequence[str], tips, order: Sequence[str] | None = None):
    """A dot and its interval for each value of `field` and series; the table has `percent`, `low` and `high`."""
    y = alt.Y(
        field,
        sort=list(order) if order else None,
        title=None,
        axis=alt.Axis(labelColor="var(--ink)", labelLimit=180, grid=False),
    )
    offset = alt.YOffset("series:N", scale=alt.Scale(domain=list(names)))
    scale = alt.Scale(zero=False)
    axis = alt.Axis(grid=True, tickCount=5, domain=False)
    bars = base.mark_rule(strokeWidth=2, aria=False).encode(
        alt.X("low:Q", scale=scale, title=title, axis=axis), y, _colour(names), x2="high:Q", yOffset=offset
    )
    dots = base.mark_point(filled=True, size=50, opacity=1, aria=False).encode(
        alt.X("percent:Q", scale=scale), y, _colour(names), _shape(names), yOffset=offset, tooltip=tips
    )
    return alt.layer(bars, dots)


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["series"] for row in rows))


def _colour(names: Sequence[str]) -> alt.Color:
    return _coloured("series:N", {style[0]: style[1] for style in series_styles(names)})


def _coloured(field: str, colours: dict[str, str]) -> alt.Color:
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(field, legend=None, scale=scale)


def _dash(names: Sequence[str]) -> alt.StrokeDash:
    styles = series_styles(names)
    scale = alt.Scale(domain=[style[0] for style in styles], range=[style[2] for style in styles])
    return alt.StrokeDash("series:N", legend=None, scale=scale)


def _shape(names: Sequence[str]) -> alt.Shape:
    styles = series_styles(names)
    scale = alt.Scale(domain=[style[0] for style in styles], range=[style[3] for style in styles])
    return alt.Shape("series:N", legend=None, scale=scale)


def _tips(names: Sequence[str]) -> list[alt.Tooltip]:
    return [alt.Tooltip("series:N", title="model")] if len(names) > 1 else []


def _tip(field: str, title: str, shape: str = ".1f") -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format=shape)


def _said(row: Row, in_percent: bool) -> str:
    if in_percent:
        return f"{numbers.percent(row['value'])} {numbers.interval(row['bounds'])}"
    return numbers.value(row["value"])
