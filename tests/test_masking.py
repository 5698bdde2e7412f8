"""Masks: counts, structure, and independence of the row a clip has."""

import json

import jax
import numpy as np
import pytest

from avemo_jax import masking
from avemo_jax.errors import UserError
from tests.golden_weights import GOLDEN

RECORDED = json.loads((GOLDEN / "masking.json").read_text())
KEYS = jax.random.split(jax.random.key(0), 5)


@pytest.mark.parametrize("case", [c for c in RECORDED["tube"] if 0 < c["masked"] < c["total"]], ids=str)
def test_tube_mask_hides_as_many_cells_as_the_reference_in_every_time_step(case):
    times, height, width = case["input_size"]
    mask = masking.tube_mask(KEYS, (times, height, width), case["ratio"])
    assert mask.masked.shape == (5, case["masked"]) and mask.visible.shape == (5, case["visible"])
    cells = np.asarray(mask.masked).reshape(5, times, -1) - np.arange(times)[:, None] * height * width
    assert cells.shape[2] == case["masked_per_frame"]
    assert (cells == cells[:, :1]).all()


@pytest.mark.parametrize("case", [c for c in RECORDED["random2d"] if 0 < c["masked"] < c["total"]], ids=str)
def test_random_mask_hides_as_many_tokens_as_the_reference(case):
    mask = masking.random_mask(KEYS, int(np.prod(case["input_size"])), case["ratio"])
    assert mask.masked.shape == (5, case["masked"])
    both = np.sort(np.concatenate([mask.masked, mask.visible], axis=1))
    assert (both == np.arange(case["total"])).all()
    assert (np.diff(mask.masked) > 0).all() and (np.diff(mask.visible) > 0).all()


def test_a_recorded_mask_becomes_raster_ordered_indices():
    mask = masking.from_boolean(np.array([[1, 0, 0, 1], [0, 1, 1, 0]]))
    assert np.asarray(mask.masked).tolist() == [[0, 3], [1, 2]]
    assert np.asarray(mask.visible).tolist() == [[1, 2], [0, 3]]


def test_clips_draw_different_masks_that_follow_their_key_and_not_their_row():
    mask = np.asarray(masking.random_mask(KEYS, 128, 0.8).masked)
    swapped = np.asarray(masking.random_mask(KEYS[::-1], 128, 0.8).masked)
    assert (mask == swapped[::-1]).all()
    assert len({row.tobytes() for row in mask}) == 5


@pytest.mark.parametrize("ratio", [0.0, 0.001, 1.0])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(UserError, match="mask ratio"):
        masking.random_mask(KEYS, 16, ratio)
