"""The pages of `avemo evaluate` that show clips: nearest neighbours, and where a network looks."""

import base64
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.report import looking
from avemo_jax.training.checkpoint_files import read_record, seal
from tests.evaluation import synthetic
from tests.report.test_report_page import NO_PICTURE_FAILS, TABLE


def evaluate(place, out, *words):
    flags = ["--checkpoint", place.run, "--data", place.data, "--out", out, "--batch_size", 16, *words]
    return main([str(word) for word in ("evaluate", *flags)])


@pytest.fixture(scope="module")
def out(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages")
    assert evaluate(place, out, "--suite", "neighbours", "rollout", "--clips", 3) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["neighbours", "rollout"])
def test_a_page_stands_alone_and_shows_its_clips(browser, out, name, width):
    page = out / f"{name}.html"
    browser.open(page, width=width)
    assert browser.complaints() == [] and browser.fetched() == [page.absolute().as_uri()]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.querySelectorAll('article').length") == 3
    assert browser.ask(NO_PICTURE_FAILS) and browser.violations() == []
    assert browser.ask("document.images.length") == {"neighbours": 3 * (1 + 5), "rollout": 3 * 2}[name]


@pytest.mark.slow
def test_neighbours_are_of_other_speakers_and_agree_where_features_tell(browser, out):
    rows = json.loads((out / "suites.json").read_text())["neighbours"]
    assert len({row["split_hash"] for row in rows}) == 1
    by = {(row["feature"], row["weights"], row["label"]): row for row in rows}
    assert (
        by["pixels", "none", "shade"]["precision"] > 0.9 > 0.6 > by["log_mel", "none", "shade"]["precision"]
    )
    assert by["log_mel", "none", "tone"]["precision"] > 0.8 and by["log_mel", "none", "tone"]["n"] == 48
    assert by["cat4", "checkpoint", "tone"]["chance"] == pytest.approx(1 / 3, abs=0.01)
    assert not {"rating", "constant"} & {row["label"] for row in rows}  # a number, and one class alone
    browser.open(out / "neighbours.html")
    shown = browser.ask(
        "[...document.querySelectorAll('article')].map(a => [...a.querySelectorAll('dl')].map(d => d.innerText))"
    )
    for query, *near in shown:
        assert len(near) == 5
        (own,) = [word for word in query.split() if word in ("p0", "p1", "p2", "p3")]
        assert all(own not in words.split() for words in near)
    (table,) = browser.ask(TABLE, "Neighbours with the same label")
    assert [float(cells[4]) for cells in table] == pytest.approx(
        [100 * r["precision"] for r in rows], abs=0.0501
    )


@pytest.mark.slow
def test_relevance_is_told_for_each_clip(out):
    rows = json.loads((out / "suites.json").read_text())["rollout"]
    assert len({row["clip_id"] for row in rows}) == 3
    for row in rows:  # of 2 × 2 × 2 patches one is a tenth at least, of 4 × 8 three are
        assert 1 / 8 <= row["video"] <= 1 and 3 / 32 <= row["audio"] <= 1


def test_patches_glow_where_they_are():
    relevance = np.zeros((2, 3, 4))
    relevance[1, 2, 0] = 0.5
    film = looking.over_film(relevance)
    assert film.shape == (48, 2 * 64) and (film[32:, 64:80] == 0.5).all() and film.sum() == 0.5 * 256
    sound = np.zeros((5, 8))
    sound[4, 0] = 1  # the last time, the lowest frequencies
    over = looking.over_sound(sound)
    assert over.shape == (128, 80) and (over[112:, 64:] == 1).all() and over.sum() == 256
    drawn = looking.glowing(np.full((128, 80, 3), 200, np.uint8), over)
    assert (drawn[:112] == 120).all() and drawn[120, 70, 0] > drawn[120, 70, 2] + 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "neighbours", "--feature", "cat4,video"), "neighbours are of one vector"),
        (("--suite", "neighbours", "--feature", "layers"), "neighbours are of one vector"),
        (("--suite", "neighbours", "--index", "annoy"), "--index: no 'annoy'"),
        (("--suite", "neighbours", "--query", "clip03", "clip99"), "has no clip 'clip99'; its clips.csv"),
        (("--suite", "rollout", "--clips", 0), "--clips is 0, it must be at least 1"),
    ],
)
def test_what_cannot_be_shown_is_one_line(small, tmp_path, capsys, words, message):
    words = [
        "evaluate",
        "--checkpoint",
        small / "run",
        "--data",
        small / "data",
        "--out",
        tmp_path / "new",
        *words,
    ]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_clips_that_are_asked_for_are_the_queries(small, tmp_path):
    flags = [
        "--checkpoint",
        small / "run",
        "--data",
        small / "data",
        "--out",
        tmp_path / "out",
        "--batch_size",
        16,
    ]
    words = [
        "evaluate",
        *flags,
        "--suite",
        "neighbours",
        "--random_seeds",
        0,
        "--query",
        "clip31",
        "clip03",
        "clip31",
    ]
    assert main([str(word) for word in words]) == 0
    page = (tmp_path / "out" / "neighbours.html").read_text()
    assert re.findall(r'<h3 id="query-\d+">(\w+)</h3>', page) == ["clip31", "clip03"]
    assert "2 clips, as asked for" in page
    rows = json.loads((tmp_path / "out" / "suites.json").read_text())["neighbours"]
    assert {row["n"] for row in rows if row["label"] == "tone"} == {48}  # the numbers are of all clips


def test_clips_without_a_label_of_two_values_have_neighbours_and_no_numbers(small, tmp_path, capsys):
    data, out, labels = tmp_path / "data", tmp_path / "run" / "judged", {"rating": 0.5, "all": "x"}
    synthetic.write_changed(data, small / "data", lambda one: replace(one, labels=labels))
    shutil.copytree(small / "run", tmp_path / "run")
    words = ["evaluate", "--checkpoint", tmp_path / "run", "--data", data, "--out", out, "--batch_size", 16]
    words += ["--suite", "neighbours", "--random_seeds", 0, "--query", "clip03"]
    assert main([str(word) for word in words]) == 0
    assert "neighbours: no label with two values, so there is only the page" in capsys.readouterr().out
    assert json.loads((out / "suites.json").read_text()) == {"neighbours": []}
    page = (out / "neighbours.html").read_text()
    assert "No label has two values" in page and 'id="query-0"' in page
    report = tmp_path / "page.html"
    words = ["report", tmp_path / "run", "--clips", 0, "--rollouts", 0, "--out", report]
    assert main([str(word) for word in words]) == 0
    shown = report.read_text()
    assert 'href="run/judged/neighbours.html"' in shown
    assert "holds no suite" not in shown and "Nothing of run was asked" not in shown


@pytest.fixture(scope="module")
def several(small, tmp_path_factory):
    """(page, numbers, folder of charts) of a run, the folder of its step, a run of another method, one whose config is
    of an earlier version, one that has only begun, and all folds of a tuning."""
    place = tmp_path_factory.mktemp("several")
    (step,) = (small / "run" / "checkpoints").iterdir()
    older = read_record(step).config
    del older["model"]["mel_bins"]
    for name, config in (("other", json.loads(load_config("video_mae:demo").to_json())), ("older", older)):
        copied = place / name / "checkpoints" / step.name
        shutil.copytree(step, copied)
        seal(copied, replace(read_record(copied), config=config))
    for begun in ("begun", "folds/fold_1"):
        (place / begun).mkdir(parents=True)
        (place / begun / "config.json").write_text("{}")
    (place / "folds" / "rows.json").write_text("[]")
    page, numbers, charts = place / "page.html", place / "numbers.json", place / "charts"
    words = ["report", small / "run", step, *(place / name for name in ("other", "older", "begun", "folds"))]
    words += ["--clips", 0, "--data", small / "data", "--out", page, "--json", numbers, "--charts", charts]
    assert main([str(word) for word in words]) == 0
    return page.read_text(), json.loads(numbers.read_text()), charts


def test_what_runs_look_at_stands_side_by_side_on_the_report(several, small):
    page, numbers, _ = several
    (section,) = re.findall(r'<section id="looks".*?</section>', page, re.S)
    assert [(one["run"], one["step"], one["data"]) for one in numbers["rollouts"]] == [
        (name, 7, str(small / "data")) for name in ("run", "run at step 7")
    ]
    one, same = (entry["clips"] for entry in numbers["rollouts"])
    assert one == same and len(one) == 2
    articles = section.split("<article")[1:]
    assert [re.findall(r"<h3.*?>(.*?)</h3>", article) for article in articles] == [
        [row["clip_id"]] for row in one
    ]
    for article in articles:
        assert re.findall(r"<strong>(.*?)</strong>", article) == ["run", "run at step 7"]
        assert article.count("<img") == 4 == len(re.findall(r'alt="clip\d\d: .{90,}?"', article))
    told = dict(re.findall(r'<p class="missing">No attention rollout of (.*?): (.*?)</p>', section))
    assert told.keys() == {"other", "older", "begun", "folds"}
    assert "a run of video_mae" in told["other"] and "<code>" not in told["other"]
    assert "lacks &#39;mel_bins&#39; and may be of another version" in told["older"]
    assert "it has no checkpoint yet" in told["begun"] and "begun --rollouts 2</code>" in told["begun"]
    assert "each fold has weights of its own" in told["folds"]
    assert "folds/fold_1 --rollouts 2</code>" in told["folds"]


def test_clips_of_which_nothing_is_known_are_on_a_map_too(small, tmp_path):
    data, page = tmp_path / "data", tmp_path / "page.html"
    synthetic.write_changed(data, small / "data", lambda one: replace(one, speaker="", labels={}))
    words = ["report", small / "run", "--data", data, "--clips", 9, "--rollouts", 0, "--out", page]
    assert main([str(word) for word in words]) == 0
    (figure,) = re.findall(r'<figure class="map".*?</figure>', page.read_text(), re.S)
    assert "9 clips, drawn at random" in figure and "<option" not in figure and "<li>" not in figure


def test_clips_that_cannot_be_looked_at_are_left_out(small, tmp_path):
    def change(record):
        number = int(record.clip_id.removeprefix("clip"))
        if number % 4 == 1:  # a frame that the model does not see, but the strip of the clip's card shows
            place = len(record.frames) // 6
            frames = [*record.frames[:place], b"no picture", *record.frames[place + 1 :]]
            return replace(record, frames=frames)
        return replace(record, frames=[]) if number % 4 == 3 else replace(record, audio=record.audio[:0])

    synthetic.write_changed(tmp_path / "data", small / "data", change)
    with pytest.raises(UserError, match="none of the 48 clips drawn has a picture and a sound"):
        looking.look(str(small / "run"), str(tmp_path / "data"), 48)
    whole = tmp_path / "whole"
    synthetic.write_changed(
        whole, small / "data", lambda one: one if one.clip_id == "clip07" else change(one)
    )
    assert [row["clip_id"] for row in looking.look(str(small / "run"), str(whole), 48).rows] == ["clip07"]


def test_many_clips_are_looked_at_a_few_at_a_time(small, monkeypatch):
    sizes, relevance = [], looking.rollout.relevance

    def counted(config, params, batch):
        sizes.append(len(batch["video"]))
        return relevance(config, params, batch)

    monkeypatch.setattr(looking.rollout, "relevance", counted)
    found = looking.look(str(small / "run"), str(small / "data"), 11)
    assert sizes == [8, 3] and len({row["clip_id"] for row in found.rows}) == 11
    for row, pair in zip(found.rows, found.pictures, strict=True):
        assert all(picture.alt.startswith(f"{row['clip_id']}: ") for picture in pair)
    monkeypatch.setattr(looking, "_BATCH", 11)
    told = [[row[name] for name in looking.TENTHS] for row in found.rows]
    at_once = looking.look(str(small / "run"), str(small / "data"), 11).rows
    np.testing.assert_allclose(told, [[row[name] for name in looking.TENTHS] for row in at_once], atol=1e-5)


def test_the_page_of_the_suite_shows_the_same(several, small):
    html, rows = looking.make(str(small / "run"), str(small / "data"), clips=2)
    page, (known, *_) = several[0], several[1]["rollouts"]
    assert rows == [row | {"step": 7, "selection": ""} for row in known["clips"]]
    shown = re.findall(r'<img[^>]* alt="(.*?)"', html)
    assert len(set(shown)) == 4 and set(shown) <= set(re.findall(r'<img[^>]* alt="(.*?)"', page))


def test_pictures_of_the_report_are_files_too(several):
    page, numbers, charts = several
    clips = [row["clip_id"] for row in numbers["rollouts"][0]["clips"]]
    assert sorted(path.name for path in charts.glob("*.jpg")) == sorted(
        f"rollout-{run}-{clip}-{part}.jpg"
        for run in ("run", "run_at_step_7")
        for clip in clips
        for part in ("frames", "sound")
    )
    for path in charts.glob("*.jpg"):
        assert base64.b64encode(path.read_bytes()).decode() in page
        rows = 3 * 32 if "frames" in path.name else 3 * 128
        assert Image.open(path).height == rows


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    place = tmp_path_factory.mktemp("small")
    synthetic.write_folder(place / "data")
    synthetic.write_checkpoint(place / "run")
    return place
