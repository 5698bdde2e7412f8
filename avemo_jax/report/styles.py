"""How runs and groups of clips are told apart: by a colour of the style sheet, and by dashes or a shape too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avemo_jax.report.clips import NOTHING

Row = dict[str, Any]

_DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2], [10, 3], [4, 4])
_RUN_COLOURS = 6  # in page.css
_FADED, _PLAIN = {"opacity": 0.07, "size": 44}, {"opacity": 0.9, "size": 44}

# Vega's names of shapes, and what they look like in a legend, around (0, 0).
MARKS = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "square": "M-4,-4h8v8h-8z",
    "triangle-up": "M0,-5L5,4H-5z",
    "diamond": "M0,-5.5L5,0L0,5.5L-5,0z",
    "cross": "M-1.7,-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
    "triangle-down": "M0,5L5,-4H-5z",
    "triangle-right": "M5,0L-4,-5V5z",
    "triangle-left": "M-5,0L4,-5V5z",
}
GROUPS = tuple({"colour": f"var(--group-{i})", "shape": shape} for i, shape in enumerate(MARKS, 1))
NO_GROUP = {"colour": "var(--quiet)", "shape": "circle"}  # of clips about which nothing is known

# What scripts need of it.
FOR_SCRIPTS = {
    "groups": GROUPS,
    "none": NO_GROUP,
    "nothing": NOTHING,
    "marks": MARKS,
    "plain": _PLAIN,
    "faded": _FADED,
    "chosen_size": 260,
}


def run_styles(runs: Sequence[str]) -> list[tuple[str, str, list[int]]]:
    """(run, colour, dashes) of each; one run alone has the page's own colour."""
    if len(runs) == 1:
        return [(runs[0], "var(--accent)", _DASHES[0])]
    return [
        (run, f"var(--run-{i % _RUN_COLOURS + 1})", _DASHES[i // _RUN_COLOURS % len(_DASHES)])
        for i, run in enumerate(runs)
    ]


def group_style(names: Sequence[str], index: int) -> Row:
    """How a clip of the group `names[index]` is drawn on a map; −1: there are no groups."""
    known = 0 <= index < len(names) and names[index] != NOTHING
    return {**(GROUPS[index] if known else NO_GROUP), **_PLAIN}
