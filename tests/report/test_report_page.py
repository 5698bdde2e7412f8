"""`avemo report` in a real browser: on a phone and a desk, light and dark, with and without scripts."""

import json
import re

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from avemo_jax.cli import main
from avemo_jax.report.run_report import MOST_BYTES

pytestmark = pytest.mark.slow

SECTIONS = ("glance", "curves", "pictures", "map", "looks", "probes", "judged", "time", "made")
NO_PICTURE_FAILS = (
    "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt.trim().length > 20)"
)
CHARTS = """[...document.querySelectorAll('.plot')].map(
    p => [p.dataset.chart, !!p.querySelector('.live svg path'), p.querySelectorAll(':scope > svg').length])"""
POINTS = "[...document.querySelectorAll('.map .live .mark-symbol path')]"
TABLE = """[...document.querySelectorAll('table')].filter(t => t.caption.textContent.startsWith(arguments[0]))
    .map(t => [...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent.trim())))"""


def test_a_page_is_small_enough_to_mail_and_holds_its_numbers_once(place, numbers):
    page = place.page.read_text()
    assert len(page.encode()) < MOST_BYTES == 8_000_000
    (inside,) = re.findall(r'<script type="application/json" id="numbers">(.*?)</script>', page)
    assert json.loads(inside) == numbers
    assert page.count(f'"grad_norm":{numbers["tables"]["curves"][-1]["grad_norm"]}') == 1


def test_the_numbers_are_those_of_the_runs_files(place, numbers):
    (run,) = numbers["runs"]
    rows = [json.loads(line) for line in (place.run / "metrics.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "run"} for row in numbers["tables"]["curves"]] == rows
    assert run["step"] == run["checkpoint_step"] == 6
    spent = json.loads((place.run / "time.json").read_text())
    assert {row["kind"]: row["seconds"] for row in numbers["tables"]["time"]} == spent["seconds"]
    assert run["wall_s"] == spent["wall_s"] and run["devices"] == spent["devices"]
    assert [call["command"].split()[1] for call in run["commands"]] == ["train", "probe", "export"]
    assert run["config"] == json.loads((place.run / "config.json").read_text())
    found = {(row["feature"], row["weights"], row["seed"]): row for row in _rows(place)}
    (probe,) = numbers["probes"]
    lines = numbers["tables"][probe["table"]]
    assert len(lines) == 3 * 2 + 4  # of checkpoint and random weights, and plain statistics
    for line in lines:
        same = [row for key, row in found.items() if key[:2] == (line["feature"], line["weights"])]
        assert line["seeds"] == len(same) and line["uar"] == pytest.approx(
            sum(r["uar"] for r in same) / len(same)
        )
        if len(same) == 1:
            assert line["uar_bounds"] == same[0]["ci95"] and line["wf1_bounds"] == same[0]["wf1_ci95"]
    for matrix in probe["confusions"]:
        assert matrix["confusion"] == found[matrix["feature"], "checkpoint", 0]["confusion"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_missing_fetched_or_too_wide(browser, place, width, dark):
    browser.open(place.page, width=width, dark=dark)
    assert browser.ask("document.documentElement.dataset.drawn") == "all"
    assert browser.complaints() == []
    assert browser.fetched() == [place.page.absolute().as_uri()]
    assert browser.ask("document.title") == place.run.name
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.images.length") >= 2 * (
        2 * 4 + 2
    )  # frames and sound, of two steps, four clips each, and of two clips that are looked at
    assert browser.ask(NO_PICTURE_FAILS)
    charts = browser.ask(CHARTS)
    drawn = {
        "curve-loss",
        "curve-loss_video",
        "curve-loss_audio",
        "curve-loss_contrast",
        "curve-learning_rate",
    }
    assert {name for name, *_ in charts} >= drawn | {"curve-grad_norm", "time", "map-0", "scores-scores-0"}
    assert all(live and not still for _, live, still in charts), charts
    assert [
        i for i in SECTIONS if not browser.ask("document.getElementById(arguments[0]).querySelector('h2')", i)
    ] == []
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 150) == dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(browser, place, dark):
    browser.open(place.page, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.violations() == []


@pytest.mark.parametrize("width", [360, 1280])
def test_without_scripts_all_numbers_and_still_pictures_are_there(browser, place, width, numbers):
    browser.open(place.page, width=width, scripts=False)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    charts = browser.ask(CHARTS)
    assert len(charts) > 8 and all(not live and still == 1 for _, live, still in charts)
    told = browser.ask("[...document.querySelectorAll('.plot > svg')].map(s => s.getAttribute('aria-label'))")
    assert all(re.search(r"\d", words) for words in told)
    assert browser.ask(
        "[...document.querySelectorAll('.plot > svg')].every(s => s.getBoundingClientRect().width > 100)"
    )
    visible = "[...document.querySelectorAll('.scripts-only')].filter(e => e.offsetParent !== null).length"
    assert browser.ask(visible) == 0
    assert browser.ask(NO_PICTURE_FAILS)
    assert len(browser.ask(TABLE, "Scores of tone")[0]) == len(numbers["tables"]["scores-0"])


def test_tables_show_the_numbers_of_the_json(browser, place, numbers):
    browser.open(place.page)
    (table,) = browser.ask(TABLE, "Scores of tone")
    lines = numbers["tables"]["scores-0"]
    for cells, line in zip(table, lines, strict=True):
        assert cells[0] == line["feature"] and cells[-1] == f"{line['dim']:,}"
        for column, score in ((2, "uar"), (4, "war"), (6, "wf1")):
            assert float(cells[column]) == pytest.approx(100 * line[score], abs=0.0501)
            shown = [float(text) for text in re.findall(r"[\d.]+", cells[column + 1])]
            assert shown == pytest.approx([100 * bound for bound in line[f"{score}_bounds"]], abs=0.0501)
            assert cells[column + 1].startswith("[") == (line["seeds"] == 1)
    confusions = browser.ask(TABLE, "Confusions")
    assert len(confusions) == 3
    for table, matrix in zip(confusions, numbers["probes"][0]["confusions"], strict=True):
        assert [[int(cell) for cell in row[1:]] for row in table] == matrix["confusion"]
    (times,) = browser.ask(TABLE, "Wall time")
    shares = [float(cells[2]) for cells in times]
    assert shares == pytest.approx([100 * row["share"] for row in numbers["tables"]["time"]], abs=0.0501)
    (commands,) = browser.ask(TABLE, "Commands")
    assert [cells[1] for cells in commands] == [call["command"] for call in numbers["runs"][0]["commands"]]


def test_pointing_at_a_clip_shows_its_frames_and_what_is_known_of_it(browser, place, numbers):
    browser.open(place.page, width=1280)
    clips, places = numbers["data"][0]["clips"], numbers["tables"]["map-0"]
    seen = set()
    for x, y in ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75), (0.1, 0.5), (0.9, 0.9), (0.4, 0.4), (0.6, 0.5)):
        _point(browser, x, y)
        identity = browser.ask("document.querySelector('.shown dd').textContent")
        clip = next(clip for clip in clips if clip["clip_id"] == identity)
        text = browser.ask("document.querySelector('.shown').textContent")
        assert clip["speaker"] in text and clip["labels"]["tone"] in text
        browser.wait(
            "document.querySelector('.shown img').naturalWidth > document.querySelector('.shown img').naturalHeight"
        )
        assert browser.ask("document.querySelector('.shown img').alt").startswith(identity)
        seen.add((identity, browser.ask("document.querySelector('.shown img').src")))
    assert len(seen) > 2 and len({source for _, source in seen}) == len(seen)
    before = browser.ask("document.querySelector('.shown dd').textContent")
    browser.driver.find_element(By.CSS_SELECTOR, ".after").click()
    assert browser.ask("document.querySelector('.shown dd').textContent") != before
    assert len(places) == len(clips) == 48 and browser.complaints() == []


def test_clips_can_be_filtered_by_value_and_coloured_by_speaker(browser, place, numbers):
    browser.open(place.page)
    grouping = next(each for each in numbers["data"][0]["groupings"] if each["key"] == "tone")
    faint = f"{POINTS}.filter(p => p.getAttribute('opacity') < 0.5).length"
    colours = f"new Set({POINTS}.map(p => p.getAttribute('fill'))).size"
    assert browser.ask(faint) == 0 and browser.ask(colours) == 3
    assert browser.ask("document.querySelectorAll('.map .legend li').length") == 3
    Select(browser.driver.find_element(By.CSS_SELECTOR, ".only")).select_by_value("high")
    browser.wait(f"{faint} === arguments[0]", 48 - grouping["counts"][grouping["names"].index("high")])
    assert "high" in browser.ask("document.querySelector('.shown').textContent")
    Select(browser.driver.find_element(By.CSS_SELECTOR, ".by")).select_by_visible_text("speaker")
    browser.wait(f"{faint} === 0 && {colours} === 4")
    legend = browser.ask(
        "[...document.querySelectorAll('.map .legend li')].map(l => l.innerText.replace(/\\s+/g, ' '))"
    )
    assert legend == ["p0 12", "p1 12", "p2 12", "p3 12"]


def test_a_label_that_the_data_lacks_is_answered_with_those_it_has(place, tmp_path, capsys):
    assert main(["report", str(place.run), "--label", "mood", "--out", str(tmp_path / "page.html")]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("avemo: error")]
    assert "no label 'mood' with classes; there are constant, half, level, rare, shade, tone, speaker" in line
    assert not (tmp_path / "page.html").exists()


def test_several_runs_stand_side_by_side(browser, place, numbers, tmp_path):
    page, written = tmp_path / "both.html", tmp_path / "both.json"
    words = [place.run, place.other, "--out", page, "--json", written, "--clips", "12"]
    assert main(["report", *map(str, words)]) == 0
    both = json.loads(written.read_text())
    assert [run["step"] for run in both["runs"]] == [6, 3]
    browser.open(page, width=360)
    assert browser.ask("document.documentElement.dataset.drawn") == "all" and browser.complaints() == []
    assert browser.ask("document.documentElement.scrollWidth") <= 360
    lines = "document.querySelectorAll('[data-chart=curve-loss] .live .mark-line path').length"
    assert browser.ask(lines) == 2
    assert browser.ask("document.querySelectorAll('.map').length") == 2
    assert browser.ask("document.querySelectorAll('#looks figure').length") == 2 * 2
    (glance,) = browser.ask(TABLE, "Runs at a glance")
    last = [numbers["tables"]["curves"][step - 1]["loss"] for step in (6, 3)]
    loss = next(cells for cells in glance if cells[0].startswith("Total loss"))
    assert [float(text) for text in loss[1:]] == pytest.approx(last, rel=1e-3)
    (differing,) = browser.ask(TABLE, "Config values that differ")
    assert {cells[0]: cells[1:] for cells in differing}["seed"] == ["0", "1"]
    lacking = browser.ask("[...document.querySelectorAll('.missing')].map(p => p.textContent)")
    assert any("avemo probe --checkpoint" in text and str(place.other) in text for text in lacking)
    assert any("log.samples_every_steps" in text for text in lacking)
    browser.open(page, dark=True)
    assert browser.violations() == []


def _rows(place):
    return json.loads((place.run / "probe" / "rows.json").read_text())


def _point(browser, x, y):
    """Moves the pointer to a place of the map, as shares of its width and height."""
    plot = browser.driver.find_element(By.CSS_SELECTOR, ".map .plot")
    browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    width, height = plot.size["width"], plot.size["height"]
    offset = round((x - 0.5) * width), round((y - 0.5) * height)
    ActionChains(browser.driver).move_to_element_with_offset(plot, *offset).perform()
