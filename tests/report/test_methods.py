"""Pages of methods that look at one modality, or never at both together."""

import json

import jax
import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.evaluation.extraction import random_networks
from avemo_jax.report.embedding import FEWEST, embed
from avemo_jax.training.checkpoint_files import save_params
from tests.evaluation import synthetic

OVERRIDES = [
    one
    for one in synthetic.TINY
    if not one.startswith(("model.fusion_depth", "model.decoder_depth", "model.skip_layers"))
]
METHODS = {
    "audio_mae": ("audio", ["audio"]),
    "video_mae": ("video", ["video"]),
    "mjepa": ("cat2", ["video", "audio"]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "data"
    synthetic.write_folder(path)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_map_and_a_page_of_clips_are_of_what_the_method_has(data, tmp_path, method):
    feature, streams = METHODS[method]
    config = load_config(f"{method}:demo", OVERRIDES)
    (network,) = random_networks(config, [0])
    save_params(tmp_path / "run", config, jax.tree.map(np.asarray, network.params), step=7)
    found = embed(str(tmp_path / "run"), str(data), range(FEWEST))
    assert (found.step, found.feature) == (7, feature) and sorted(found.places) == list(range(FEWEST))

    words = ["inspect", "--data", data, "--out", tmp_path / "page.html", "--json", tmp_path / "page.json"]
    words += ["--clips", 2, "--config", f"{method}:demo", *(f"--config.{word}" for word in OVERRIDES)]
    assert main([str(word) for word in words]) == 0
    page, tokens = (
        (tmp_path / "page.html").read_text(),
        json.loads((tmp_path / "page.json").read_text())["tokens"],
    )
    assert sorted(tokens) == sorted(streams)
    for stream, of in tokens.items():
        assert f"{of['visible']} of {of['all']} {stream} tokens" in page
