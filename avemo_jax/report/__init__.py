"""Pages to look at and to mail: what a run did, and what the model sees of a data folder. HTML files on their own.

gather       a run's folder → plain data; nothing is computed, nothing is formatted
contents     runs → the numbers of the page; judged: those of suites and of fine-tuning
samples      pictures that training drew → pictures of the page
clips        a prepared folder → some clips with what is known of them and a small film strip; facts of all
embedding    a checkpoint and clips → a map of its features
run_report   folders of runs → the report
inspecting   a prepared folder and a config → clips as the model sees them
styles       how runs and groups of clips are told apart
charts       plain data → charts, each as a still picture and as a specification to draw again; suite_charts
neighbours   a checkpoint and clips → those near each other; looking: where it looks
images       arrays and files → pictures inside the page
numbers      how a number is written, everywhere
page         all of it and a template → the text of the page

Altair and Vega were chosen over Plotly and Bokeh for size and for their pictures: Vega's library is 0.9 MB in the
page (Plotly's 4.5 MB), and the same chart is there as SVG without a script, in colours that the page's style sheet
sets. Needs the extra `report`.
"""

from __future__ import annotations

import importlib.util

from avemo_jax.errors import UserError

_NEEDED = {
    "altair": "altair",
    "vl_convert": "vl-convert-python",
    "jinja2": "jinja2",
}


def check_packages() -> None:
    """Raises a UserError that names the extra to install when a package for pages is missing."""
    missing = [package for name, package in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"pages need {', '.join(missing)}: pip install 'avemo_jax[report]'")
