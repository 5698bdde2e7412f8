"""Numbers, charts and pictures → one HTML file on its own: nothing in it is fetched, all of it can be mailed.

The numbers are in the file once, as JSON; tables are written from them here and charts draw them there.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import vl_convert

import avemo_jax
from avemo_jax.evaluation.outcome_files import IN_OWN_UNIT
from avemo_jax.report import contents, judged, styles, suite_charts
from avemo_jax.report import numbers as writing
from avemo_jax.report.charts import Chart

TEMPLATES = Path(__file__).with_name("templates")


def render(
    template: str, charts: Mapping[str, Chart], numbers: Mapping[str, Any], *, strips: Any = (), **more: Any
) -> str:
    """The text of a page.

    Args:
      template: its file among the templates.
      charts: by name; the template shows them by that name.
      numbers: all that is shown; `numbers["tables"]` holds what charts draw.
      strips: data URIs of clips, which only scripts show.
      more: whatever else the template takes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= writing.FILTERS
    environment.filters |= {"shell": shlex.quote, "svg": _svg}
    environment.globals |= {
        "group_style": styles.group_style,
        "run_styles": styles.run_styles,
        "series_styles": suite_charts.series_styles,
        "most_series": judged.MOST_SERIES,
        "text_scores": judged.TEXT_SCORES,
        "own_unit": IN_OWN_UNIT,
        "marks": styles.MARKS,
        "by_chance": contents.by_chance,
        "compared": contents.compared,
        "errors_in_words": contents.errors_in_words,
        "is_pictured": contents.is_pictured,
        "is_standardised": contents.is_standardised,
        "flatten": contents.flatten,
        "last_row": contents.last_row,
        "own": lambda name: markupsafe.Markup((TEMPLATES / name).read_text(encoding="utf-8")),
    }
    drawn = {name: {"spec": chart.spec, "table": chart.table} for name, chart in charts.items()}
    return environment.get_template(template).render(
        charts=charts,
        numbers=numbers,
        data={
            "numbers": _json(numbers),
            "charts": _json(drawn),
            "strips": _json(strips),
            "styles": _json(styles.FOR_SCRIPTS),
            # Its names stay its own.
            "library": markupsafe.Markup(
                f"(() => {{{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}}})();"
            )
            if charts
            else "",
        },
        **more,
    )


def standalone(chart: Chart) -> str:
    """Its picture as a file on its own, with title and legend, in the light colours of the page."""
    sheet = (TEMPLATES / "page.css").read_text(encoding="utf-8").partition("@media")[0]
    colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6});", sheet))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], chart.file())


def made() -> dict[str, Any]:
    """By which version and when, in UTC."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"avemo_jax": avemo_jax.__version__, "made": now}


def _svg(chart: Chart) -> markupsafe.Markup:
    """Its still picture."""
    return markupsafe.Markup(chart.svg)


def _json(value: Any) -> markupsafe.Markup:
    """JSON that can stand inside a script element: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return markupsafe.Markup(
        text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )
