"""`avemo inspect`: what the real loader and the real task give, as a page in a real browser."""

import base64
import contextlib
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.tasks.clips import make_loader
from input_pipeline.records import open_records
from tests.evaluation import synthetic
from tests.report.test_report_page import CHARTS, NO_PICTURE_FAILS, TABLE

pytestmark = pytest.mark.slow
CLIPS = 5
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of data, page, its numbers)."""
    folder = tmp_path_factory.mktemp("inspect")
    synthetic.write_folder(folder / "data")
    (folder / "data" / "rejected.csv").write_text(
        "path,clip_id,reason\na.mp4,a,no sound\nb.mp4,b,no picture\nc.mp4,c,no sound\n"
    )
    words = [
        "inspect",
        "--data",
        folder / "data",
        "--out",
        folder / "page.html",
        "--json",
        folder / "page.json",
    ]
    words += ["--clips", CLIPS, "--seed", 3, *(f"--config.{word}" for word in synthetic.TINY)]
    assert main([str(word) for word in words]) == 0
    return folder / "data", folder / "page.html", json.loads((folder / "page.json").read_text())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_missing_fetched_or_too_wide(browser, made, width, dark):
    _, page, _ = made
    browser.open(page, width=width, dark=dark)
    assert browser.ask("document.documentElement.dataset.drawn") == "all"
    assert browser.complaints() == [] and browser.fetched() == [page.absolute().as_uri()]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.images.length") == CLIPS * 2 * 2 and browser.ask(NO_PICTURE_FAILS)
    assert all(live and not still for _, live, still in browser.ask(CHARTS))
    assert browser.violations() == []


def test_the_counts_are_those_of_the_records(browser, made):
    data, page, numbers = made
    records = list(open_records(data))
    browser.open(page, scripts=False)
    for heading, of in (
        ("Clips by speaker", lambda r: r.speaker),
        ("Clips by label tone", lambda r: r.labels["tone"]),
    ):
        (table,) = browser.ask(TABLE, heading)
        assert {name: int(count) for name, count in table} == Counter(map(of, records))
    assert numbers["facts"]["clips"] == len(records) == 48
    assert numbers["facts"]["duration_s"]["median"] == pytest.approx(synthetic.SECONDS)
    assert sum(row["clips"] for row in numbers["tables"]["durations"]) == 48
    assert browser.ask(TABLE, "Clips left out, by reason") == [[["no sound", "2"], ["no picture", "1"]]]
    assert sum(row["clips"] for row in numbers["tables"]["levels"]) == 48
    levels = [10 * np.log10(np.mean((record.audio / 2**15) ** 2)) for record in records]
    assert (
        numbers["tables"]["levels"][0]["from"] <= min(levels)
        and max(levels) <= numbers["tables"]["levels"][-1]["to"]
    )
    # Lengths, levels, and the label `rating`.
    assert browser.ask("document.querySelectorAll('figure.chart').length") == 3


def test_the_training_view_is_the_first_rows_of_a_runs_first_batch(browser, made):
    data, page, numbers = made
    overrides = [*synthetic.TINY, f"data.path={data}", "data.workers=0", "seed=3", "batch_size=16"]
    with contextlib.closing(make_loader(load_config("hicmae:demo", overrides))) as loader:
        batch = next(iter(loader))
    assert [clip["position"] for clip in numbers["clips"]] == batch["position"][:CLIPS].tolist()
    browser.open(page)
    sources = browser.ask(
        "[...document.querySelectorAll('.inspected figure:first-of-type .film')].map(i => i.src)"
    )
    assert len(sources) == CLIPS
    for source, video in zip(sources, batch["video"], strict=False):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))).astype(float)
        side = video.shape[1]
        film = np.concatenate(list(video[::2]), axis=1)
        assert shown.shape == (2 * side, film.shape[1], 3)
        # JPEG keeps the brightness of noise, roughly; with another clip, or another cut of it, there is no likeness.
        assert np.corrcoef((shown[:side] @ LUMA).ravel(), (film @ LUMA).ravel())[0, 1] > 0.8
        blank = np.abs(shown[side:] - 128).max(-1) < 12
        tokens = numbers["tokens"]["video"]
        assert blank.mean() == pytest.approx(1 - tokens["visible"] / tokens["all"], abs=0.1)


def test_a_task_that_hides_nothing_is_refused(made, tmp_path, capsys):
    words = [
        "inspect",
        "--data",
        made[0],
        "--out",
        tmp_path / "page.html",
        "--config",
        "finetune/crema_d:demo",
    ]
    assert main([str(word) for word in words]) == 2
    assert "config.task is 'finetune': it hides nothing" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
