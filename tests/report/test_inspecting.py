"""What `avemo inspect` shows, beside what the task itself makes of the same batch."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.config import load_config
from avemo_jax.report import inspecting
from avemo_jax.tasks import make_task
from avemo_jax.tasks.clips import make_loader
from avemo_jax.training.state import run_keys
from tests.evaluation import synthetic

CLIPS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspecting") / "data"
    synthetic.write_folder(folder)
    return folder


def config_of(data, *overrides):
    words = [*synthetic.TINY, f"data.path={data}", "data.workers=0", "seed=3", *overrides]
    return load_config("hicmae:demo", words)


def made(config, monkeypatch):
    """(page, numbers, clips as the training view shows them, their masks)."""
    drawn, draw = [], inspecting.clip_strips

    def drawing(clip, masks, *args, **options):
        drawn.append((clip, masks))
        return draw(clip, masks, *args, **options)

    monkeypatch.setattr(inspecting, "clip_strips", drawing)
    return *inspecting.make(config, CLIPS), *drawn[0]


def of_first_step(config):
    """Clips and masks as the task gives them to a model, copies side by side, and the choice of ratios."""
    task, given = make_task(config), []
    with contextlib.closing(make_loader(config, batch_size=CLIPS)) as loader:
        host = next(iter(loader))
    batch = {name: jnp.asarray(host[name]) for name in task.batch_shapes()}
    key = jax.random.fold_in(run_keys(config.seed)[1], 0)
    choice = int(task._at_some_ratio(lambda choice: (jnp.int32(choice),), key)[0])
    task._predict(lambda *seen: given.append(seen[:2]), batch, key, None, choice)
    return *given[0], choice


def test_masks_are_those_of_the_first_copy_that_the_first_step_sees(data, monkeypatch):
    config = config_of(data, "mask.repeats=2", "data.device_crop=(36,48)")
    page, _, clip, masks = made(config, monkeypatch)
    expected, hidden, _ = of_first_step(config)
    for shown, own in ((clip.video, expected.video), (clip.audio, expected.audio)):
        np.testing.assert_allclose(shown, own[::2], atol=1e-5)
    for stream in ("video", "audio"):
        shown, own = (np.asarray(getattr(each, stream).visible) for each in (masks, hidden))
        assert len(shown) == CLIPS and (shown == own[::2]).all() and (shown != own[1::2]).any()
    assert "under 2 masks, of which the first is shown" in re.sub(r"\s+", " ", page)


def test_the_ratios_are_those_that_the_first_step_draws(data, monkeypatch):
    config = config_of(data, "mask.choices=((0.25,0.25),(0.5,0.5),(0.75,0.75))", "mask.repeats=1")
    _, numbers, _, masks = made(config, monkeypatch)
    _, hidden, choice = of_first_step(config)
    assert (np.asarray(masks.audio.visible) == hidden.audio.visible).all()
    tokens = numbers["tokens"]["audio"]
    assert tokens["visible"] == tokens["all"] * (3 - choice) // 4


def test_what_only_training_batches_have_is_not_asked_of_centre_views(data):
    page, numbers = inspecting.make(config_of(data, "contrast.within=speaker"), CLIPS)
    assert len(numbers["clips"]) == CLIPS and "Centre view" in page
