"""Charts: their still pictures, in colours of the page's style sheet, and what they tell those who cannot see."""

import importlib.util
import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

from avemo_jax import report
from avemo_jax.errors import UserError
from avemo_jax.report import charts, page, suite_charts
from avemo_jax.report.clips import MOST_GROUPS
from avemo_jax.report.styles import GROUPS, group_style, run_styles
from avemo_jax.training.goodput import KINDS

CURVES = [{"run": run, "step": step, "loss": 2 / step} for run in ("a", "b") for step in (1, 2, 4)]


def lines_of(*weights):
    return [
        {
            "feature": "cat4",
            "weights": kind,
            "loudness": "as_recorded",
            "seeds": 1,
            "uar": 0.5,
            "uar_bounds": [0.4, 0.6],
        }
        for kind in weights
    ]


def all_charts():
    time = [{"run": "a", "kind": k, "place": i, "seconds": 1.0, "share": 1 / 7} for i, k in enumerate(KINDS)]
    names = ["none", "light"]
    places = [
        {"x": 0.1 * i, "y": -0.1 * i, "group": names[i % 2], **group_style(names, i % 2)} for i in range(8)
    ]
    groups = [(name, GROUPS[i]["colour"], GROUPS[i]["shape"]) for i, name in enumerate(names)]
    values = [1.0, 1.5, 2.0, 4.0]
    return [
        charts.curve(CURVES, "loss", ["a", "b"]),
        charts.scores(lines_of("checkpoint", "random", "none"), "scores-0", 0.25),
        charts.time_bars(time, ["a"]),
        charts.embedding(places, "map-0", "map-0", "Map of 8 clips.", groups),
        charts.histogram(charts.bins(values), "durations", values, "seconds"),
        *suites_charts(),
    ]


def suites_charts():
    names = ("one", "other")
    bins = [{"series": s, "confidence": x, "accuracy": x / 2, "clips": 3} for s in names for x in (0.3, 0.9)]
    wrong = [{"series": s, "coverage": x, "risk": x / 2} for s in names for x in (0.5, 1.0)]
    group = {"n": 3, "speakers": 2, "value": 0.5, "bounds": [0.4, 0.6]}
    groups = [{"series": s, "group": g, **group} for s in names for g in ("f", "m")]
    followed = [
        {"series": s, "followed": f, "place": i, "clips": i, "share": i / 3}
        for s in names
        for i, f in enumerate(("face", "voice", "other"))
    ]
    changed = {"value": 0.4, "change": -0.1, "change_bounds": [-0.2, 0.0], "kept": 0.8}
    noisy = [
        {"series": s, "condition": what, "corruption": name, **changed}
        for s in names
        for what, name in (("as they are", "none"), ("noise, 20 dB", "noise"), ("blur, 1 %", "blur"))
    ]
    layers = [{"stream": s, "layer": i, "share": 0.5} for s in ("video", "audio") for i in range(2)]
    cells = [
        {"truth": a, "predicted": b, "clips": 2, "share": 0.5}
        for a in ("sad", "fear")
        for b in ("sad", "fear")
    ]
    return [
        suite_charts.reliability(bins),
        suite_charts.risk(wrong),
        suite_charts.group_scores(groups, "groups-0", "gender", names, "uar", True),
        suite_charts.conflict(followed),
        suite_charts.robustness(noisy, "robustness", "uar", True),
        suite_charts.layer_bars(layers, "layers-0", "cat4"),
        suite_charts.confusion(cells, "confusion-0", "emotion"),
    ]


@pytest.fixture(scope="module")
def drawn():
    return all_charts()


def test_every_chart_has_a_still_picture_with_words_and_numbers(drawn):
    for chart in drawn:
        root = xml.fromstring(chart.svg)
        assert root.get("role") == "img" and root.get("aria-label") == chart.alt
        assert re.search(r"\d", chart.alt)
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 3


def test_no_chart_has_a_colour_of_its_own(drawn):
    for chart in drawn:
        colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', chart.svg)) - {"none", "transparent"}
        assert colours and all(colour.startswith("var(--") for colour in colours), (chart.name, colours)
        known = (page.TEMPLATES / "page.css").read_text()
        assert all(f"{name}:" in known for name in re.findall(r"var\((--[\w-]+)\)", chart.svg))


def test_groups_and_runs_are_told_apart_by_more_than_colour():
    assert len(GROUPS) == MOST_GROUPS == len({group["shape"] for group in GROUPS})
    styles = [(colour, tuple(dashes)) for _, colour, dashes in run_styles([str(i) for i in range(20)])]
    assert len(set(styles)) == 20
    sheet = (page.TEMPLATES / "page.css").read_text()
    names = {group["colour"] for group in GROUPS} | {colour for colour, _ in styles}
    light, dark = sheet.split("prefers-color-scheme: dark")
    for scheme in (light, dark):
        assert all(f"{name[4:-1]}:" in scheme for name in names)


def test_ids_are_not_shared_between_charts(drawn):
    ids = [name for chart in drawn for name in set(re.findall(r'\bid="([^"]+)"', chart.svg))]
    assert len(ids) == len(set(ids))
    for chart in drawn:
        own = set(re.findall(r'\bid="([^"]+)"', chart.svg))
        assert set(re.findall(r"url\(#([^)]+)\)", chart.svg)) <= own


def test_rows_are_not_in_the_specification(drawn):
    for chart in drawn:
        assert chart.spec["width"] == "container"
        assert all(chart.table not in spec.get("datasets", {}) for spec in (chart.spec, chart.alone))


def test_a_curve_tells_where_each_run_began_and_ended(drawn):
    assert drawn[0].alt == (
        "Total loss: a: 2 at step 1, lowest 0.5000, 0.5000 at step 4; b: 2 at step 1, lowest 0.5000, 0.5000 at step 4."
    )


def test_a_chart_is_a_file_on_its_own_too(drawn):
    for chart in drawn:
        text = page.standalone(chart)
        root = xml.fromstring(text)
        assert "var(" not in text and root.get("aria-label") == chart.alt
        size = {key: root.get(key) for key in ("width", "height")}
        assert root[0].attrib == size | {"fill": "#fdfdfc"}  # behind all, so that dark viewers show the text
        assert re.findall(r'(?:fill|stroke)="(#[0-9a-f]{6})"', text)


LEGEND = r"role-legend-label.*?>([^<]+)</text>"


def title_of(svg):
    """Of a chart's file, in one line."""
    return " ".join(re.findall(r">([^<>]+)<", re.search(r"role-title-text.*?</text>", svg, re.S)[0]))


@pytest.mark.parametrize(
    ("name", "title", "labels"),
    [
        ("curve-loss", "Total loss", ["a", "b"]),
        ("map-0", "Map of 8 clips", ["none", "light"]),
        ("scores-scores-0", "UAR in per cent, chance 25.0", ["checkpoint", "no network", "random"]),
        ("layers-0", "Shares of the layers of cat4, in per cent", ["video", "audio"]),
        ("time", "Shares of wall time in per cent", KINDS),
    ],
)
def test_a_file_says_what_it_is_and_what_its_colours_mean(drawn, name, title, labels):
    (chart,) = (one for one in drawn if one.name == name)
    text = page.standalone(chart)
    assert title_of(text) == title and set(labels) <= set(re.findall(LEGEND, text))


def test_a_legend_names_only_what_is_drawn():
    """Not a run without this number, random weights that were not probed, or a model of another chart's groups."""
    rows = [*CURVES, {"run": "c", "step": 1, "lr": 0.1}, {"run": "c", "step": 9, "loss": None}]
    group = {"group": "f", "n": 3, "speakers": 2, "value": 0.5, "bounds": [0.4, 0.6]}
    groups = [{"series": "one", **group}, {"series": "other", **group, "value": None, "bounds": [None, None]}]
    for chart, names in [
        (charts.curve(rows, "loss", ["a", "b", "c"]), ["a", "b"]),
        (charts.scores(lines_of("none", "checkpoint"), "scores-0", 0.25), ["checkpoint", "no network"]),
        (suite_charts.group_scores(groups, "groups-0", "gender", ["one", "other"], "uar", True), ["one"]),
    ]:
        assert re.findall(LEGEND, page.standalone(chart)) == names


def test_a_legend_shows_the_dashes_that_tell_runs_of_one_colour_apart():
    runs = [str(number) for number in range(8)]
    rows = [{"run": run, "step": step, "loss": 2 / step} for run in runs for step in (1, 2)]
    marks = re.findall(
        r"role-legend-symbol.*?<path([^>]+)>", page.standalone(charts.curve(rows, "loss", runs))
    )
    assert ['stroke-dasharray="6,2"' in mark for mark in marks] == [False] * 6 + [True] * 2
    looks = [tuple(re.findall(r'(stroke|stroke-dasharray| d)="(.*?)"', mark)) for mark in marks]
    assert len(set(looks)) == 8 and all(mark.count('d="M-10,0L10,0"') for mark in marks)


def test_every_value_is_in_one_bar():
    values = np.random.default_rng(0).gamma(3.0, size=300).tolist()
    rows = charts.bins(values)
    assert sum(row["clips"] for row in rows) == 300
    assert rows[0]["from"] == pytest.approx(min(values), abs=1e-4) and rows[-1]["to"] == pytest.approx(
        max(values), abs=1e-4
    )
    assert charts.bins([2.0, 2.0]) == [{"from": 1.5, "to": 2.5, "clips": 2}]


def test_a_missing_package_is_answered_with_the_extra_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "altair" else find(name))
    with pytest.raises(UserError, match=r"pages need altair: pip install 'avemo_jax\[report\]'"):
        report.check_packages()
