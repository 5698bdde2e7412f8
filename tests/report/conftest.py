"""What the tests of pages share: a tiny run with its probe, whose pages are made once, and a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from avemo_jax.cli import main
from tests.evaluation import synthetic
from tests.report import browser as browser_lib

# Its name would do harm on a page that did not mind it.
RUN = "first <img src=x onerror=document.title='harmed'>"


class Place(NamedTuple):
    """data: a prepared folder; run: a trained and probed run; other: one that was killed after step 3, without
    pictures or probes."""

    data: Path
    run: Path
    other: Path
    page: Path
    json: Path


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("report")
    data, run, other = folder / "data", folder / RUN, folder / "other"
    synthetic.write_folder(data)
    steps = {
        "total_steps": 6,
        "log.every_steps": 1,
        "log.samples_every_steps": 3,
        "checkpoint.every_steps": 3,
    }
    _train(data, run, **steps)
    probe = ["probe", "--checkpoint", run, "--data", data, "--label", "tone", "--out", run / "probe"]
    _avemo(*probe, "--random_seeds", 2, "--features", "cat4,audio_rows,video_cells")
    _avemo("export", "--checkpoint", run, "--format", "safetensors", "--out", folder / "weights.safetensors")
    shutil.copytree(run / "checkpoints" / "00000003", other / "checkpoints" / "00000003")
    (other / "metrics.jsonl").write_text("".join((run / "metrics.jsonl").read_text().splitlines(True)[:3]))
    config = json.loads((run / "config.json").read_text()) | {"seed": 1}
    (other / "config.json").write_text(json.dumps(config))
    page, numbers = run / "report.html", folder / "numbers.json"
    _avemo("report", run, "--json", numbers)
    return Place(data, run, other, page, numbers)


@pytest.fixture(scope="session")
def numbers(place) -> dict:
    return json.loads(place.json.read_text())


@pytest.fixture(scope="session")
def browser():
    browser_lib.need_browser()
    opened = browser_lib.Browser()
    yield opened
    opened.close()


def _train(data: Path, workdir: Path, **settings) -> None:
    settings = {"batch_size": 8, "data.workers": 0, "data.path": data, **settings}
    flags = [f"--config.{word}" for word in synthetic.TINY]
    flags += [f"--config.{key}={value}" for key, value in settings.items()]
    _avemo("train", "--config", "hicmae:demo", "--workdir", workdir, *flags)


def _avemo(*words) -> None:
    assert main([str(word) for word in words]) == 0
