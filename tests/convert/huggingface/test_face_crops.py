"""Folders of models whose training clips were cut to the face: they cut raw files alike, or say why they cannot."""

import json
import sys

import numpy as np
import pytest

from avemo_jax.convert.huggingface.files.feature_extraction_avemo import AvemoFeatureExtractor
from input_pipeline import blazeface
from input_pipeline.loader import eval_batches
from input_pipeline.manifests import Row
from input_pipeline.prepare import prepare
from input_pipeline.storing import ClipOptions
from input_pipeline.video import IMAGENET_MEAN, IMAGENET_STD
from tests.convert.small_models import run_export, run_import
from tests.input_pipeline.drawn_people import Person, needs_detector, scene, write_scenes

pytestmark = needs_detector
of_one_model = pytest.mark.parametrize("imported", ["pretrain"], indirect=True)  # both would show the same


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`raw`: files with one person, with two, with nobody; `data`: the first two, prepared."""
    place = tmp_path_factory.mktemp("faces")
    (place / "raw").mkdir()
    people = {
        "one.avi": [Person(0, 140, 110, 60)],
        "two.avi": [Person(1, 90, 120, 40), Person(2, 230, 110, 60)],
    }
    for name, there in {**people, "nobody.avi": []}.items():
        moved = [[one._replace(x=one.x + k) for one in there] for k in range(20)]
        write_scenes(place / "raw" / name, [scene(320, 240, *now) for now in moved])
    options = ClipOptions(crop="face", short_side=96, min_face_share=0.75)
    prepare([Row(name, name) for name in people], place / "raw", place / "data", options, workers=0)
    return place


@pytest.fixture
def run(imported, place, tmp_path):
    """A work directory of a model whose data is the prepared folder."""
    task, _, run = imported
    weights, out = run.parent / "theirs.pth", tmp_path / "run"
    assert run_import(task, weights, out, f"data.path={place / 'data'}", "data.crop=none") == 0
    return out


@of_one_model
def test_the_folder_and_its_card_tell_of_the_crop_and_what_it_needs(run, tmp_path):
    assert run_export(run, "huggingface", tmp_path / "out") == 0
    stored = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())["prepare"]
    assert stored["crop"] == "face" and stored["min_face_share"] == 0.75
    assert {"faces.py", "blazeface.py"} <= {path.name for path in (tmp_path / "out").iterdir()}
    card = (tmp_path / "out" / "README.md").read_text()
    assert blazeface.INSTALL in card and "cut to the face" in card and "fewer than 75 %" in card
    assert "No face is looked for" not in card


def test_a_raw_file_gives_the_pixels_that_were_prepared(place):
    sizes = {"frames": 4, "image_size": 64, "audio_frames": 64}
    (batch,) = eval_batches(str(place / "data"), **sizes, batch_size=2, crop="none")
    prepared = json.loads((place / "data" / "prepare" / "plan.json").read_text())
    options = {name: prepared[name] for name in ("crop", "short_side", "jpeg_quality", "min_face_share")}
    extractor = AvemoFeatureExtractor(**sizes, crop="none", prepare=options)
    video = extractor([place / "raw" / name for name in ("one.avi", "two.avi")])["video"]
    pixels = np.asarray(video).transpose(0, 2, 3, 4, 1) * IMAGENET_STD + IMAGENET_MEAN
    np.testing.assert_array_equal(np.round(pixels * 255), batch["video"])


def test_a_file_without_a_face_or_a_machine_without_the_packages_is_refused(place, monkeypatch):
    extractor = AvemoFeatureExtractor(crop="none", prepare={"crop": "face"})
    with pytest.raises(ValueError, match="nobody.avi: no face found"):
        extractor(place / "raw" / "nobody.avi")
    blazeface._networks.cache_clear()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "ai_edge_litert.interpreter", None)
        with pytest.raises(
            ValueError, match="one.avi: finding faces needs the package ai-edge-litert: pip install"
        ):
            extractor(place / "raw" / "one.avi")
    extractor(place / "raw" / "one.avi")


@pytest.mark.slow
@of_one_model
def test_verify_compares_on_a_face_that_it_draws(run, tmp_path, capsys):
    assert (
        run_export(run, "huggingface", tmp_path / "out", "--verify", "--json", str(tmp_path / "v.json")) == 0
    )
    rows = json.loads((tmp_path / "v.json").read_text())["differences"]
    (video,) = [row for row in rows if row["name"] == "from a file: input video"]
    assert video["ok"] and video["max_abs"] < 1e-5
