"""A plan as one self-contained page, with the roofline drawn."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence

from avemo_jax.errors import UserError
from avemo_jax.planning import report
from avemo_jax.planning.chips import Generation
from avemo_jax.planning.plan import Plan, Sized
from avemo_jax.planning.roofline import ASSUMPTIONS

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 0 0 1.5rem } td, th { padding: .15rem .9rem .15rem 0; text-align: right }
td:first-child, th:first-child { text-align: left; white-space: pre } tr + tr { border-top: 1px solid #eee }
pre { overflow-x: auto; font-size: 12px } svg { max-width: 100%; height: auto } .warning { color: #a33 }
"""


def check_drawing() -> None:
    """Raises a UserError where the page could not be drawn: better before compiling than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("--out draws with matplotlib: pip install 'avemo_jax[plan]'") from error


def to_html(plan: Plan) -> str:
    """The page's text."""
    facts, generation = plan.asked.facts, plan.topology.generation
    sections = [
        f"<h1>{html.escape(plan.name)} on {html.escape(plan.topology.title)}</h1>",
        f"<p>{facts.chips} chips, {facts.hosts} hosts, {facts.dtype}, remat {facts.remat}</p>",
        *(f"<p>chosen: {html.escape(note)}</p>" for note in plan.notes),
        _table(report.summary(plan)),
        *(f"<p class=warning>{html.escape(line)}</p>" for line in report.verdict(plan)),
    ]
    if generation:
        sections += ["<h2>Roofline</h2>", roofline_svg(plan, generation)]
    for title, rows in (
        ("What chips say to each other in a step", report.collective_rows(plan)),
        ("State", report.state_rows(facts)),
        ("Scaling at the same clips a chip", report.scaling_rows(plan)),
    ):
        if rows:
            sections += [f"<h2>{title}</h2>", _table(rows)]
    if generation:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in ASSUMPTIONS)
        sections += [f"<h2>Times are a model</h2><ul>{items}</ul>"]
    sections += [f"<h2>Where parameters lie</h2><pre>{html.escape(facts.placements)}</pre>"]
    title = html.escape(f"{plan.name} on {plan.topology.title}")
    head = f"<meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(sections)}</body></html>\n"


def roofline_svg(plan: Plan, generation: Generation) -> str:
    """Attainable FLOP/s of one chip over arithmetic intensity, and where the compiled steps lie."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    ridge = generation.flops / generation.hbm_bytes
    span = [ridge / 300, ridge, ridge * 30]
    axes.loglog(
        span, [min(generation.flops, x * generation.hbm_bytes) / 1e12 for x in span], color="#444", lw=2
    )
    for label, one in _points(plan):
        assert one.prediction
        reached = one.facts.flops * one.facts.devices_per_chip / one.prediction.step_s
        (line,) = axes.plot([one.prediction.intensity], [reached / 1e12], "o", ms=8, label=label)
        roof = min(generation.flops, one.prediction.intensity * generation.hbm_bytes) / 1e12
        axes.vlines(one.prediction.intensity, reached / 1e12, roof, colors=line.get_color(), ls=":")
    axes.set_xlabel("arithmetic intensity, FLOP per byte of HBM traffic")
    axes.set_ylabel("TFLOP/s of one chip")
    axes.set_title(
        f"{generation.name}: {generation.flops / 1e12:.0f} TFLOP/s, {generation.hbm_bytes / 1e9:.0f} GB/s"
    )
    axes.grid(True, which="major", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _points(plan: Plan) -> list[tuple[str, Sized]]:
    named = [("as asked", plan.asked), *((" ".join(one.changes), one) for one in plan.instead)]
    if plan.largest and plan.largest.facts is not plan.asked.facts:
        named.insert(1, ("largest batch", plan.largest))
    return [
        (f"{name}, {one.facts.batch_per_chip:g} clips a chip", one) for name, one in named if one.prediction
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"
