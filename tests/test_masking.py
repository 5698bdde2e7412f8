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


MANY = jax.random.split(jax.random.key(1), 40)
VIDEO, AUDIO = (4, 5, 6), (8, 4)


def hidden(mask, grid):
    """bool [B, *grid], after checking that the two index lists are a sorted partition of all tokens."""
    both = np.sort(np.concatenate([mask.masked, mask.visible], axis=1))
    total = int(np.prod(grid))
    assert (both == np.arange(total)).all()
    assert (np.diff(mask.masked) > 0).all() and (np.diff(mask.visible) > 0).all()
    out = np.zeros((len(both), total), bool)
    np.put_along_axis(out, np.asarray(mask.masked), True, axis=1)
    return out.reshape(-1, *grid)


@pytest.mark.parametrize("grid", [VIDEO, AUDIO], ids=["video", "audio"])
@pytest.mark.parametrize("kind", masking.KINDS)
@pytest.mark.parametrize("ratio", [0.3, 0.75])
def test_every_kind_hides_the_floor_of_its_ratio_in_every_clip_and_differs_between_clips(kind, grid, ratio):
    modality = "video" if len(grid) == 3 else "audio"
    if modality not in masking.KINDS[kind]:
        with pytest.raises(UserError, match=f"mask.{modality} is '{kind}', not one of"):
            masking.draw(kind, MANY, grid, ratio)
        return
    cells = hidden(masking.draw(kind, MANY, grid, ratio), grid)
    per_step = kind in ("tube", "blocks") and modality == "video"  # the count is of one time step then
    n = int(np.prod(grid[1:])) if per_step else int(np.prod(grid))
    assert (cells.reshape(40, -1).sum(1) == int(ratio * n) * (grid[0] if per_step else 1)).all()
    assert len({row.tobytes() for row in cells}) > 3
    swapped = hidden(masking.draw(kind, MANY[::-1], grid, ratio), grid)
    assert (swapped[::-1] == cells).all()
    covered = cells.reshape(40, -1).mean(0)
    assert covered.min() > 0  # no token is always seen
    assert covered.max() < 1 or kind == "blocks"  # or never; but the middle of a grid is in most large boxes


@pytest.mark.parametrize(
    "kind, axis, grid", [("time", 0, VIDEO), ("time", 0, AUDIO), ("frequency", 1, AUDIO)]
)
@pytest.mark.parametrize("ratio", [0.5, 0.6])
def test_strips_are_whole_and_fewer_single_tokens_than_a_strip_fill_up(kind, axis, grid, ratio):
    cells = np.moveaxis(hidden(masking.draw(kind, MANY, grid, ratio), grid), axis + 1, 1).reshape(
        40, grid[axis], -1
    )
    size = cells.shape[2]
    whole = cells.all(2).sum(1)
    masked = int(ratio * np.prod(grid))
    assert (whole >= masked // size).all()
    rest = np.where(cells.all(2), 0, cells.sum(2)).sum(1)
    assert (rest == masked - whole * size).all() and (rest < size).all()


def test_time_and_frequency_strips_are_hidden_together():
    grid = (10, 8)
    for share, strips in [({}, (2, 2)), ({"strip_share": 0.3}, (1, 0))]:
        cells = hidden(masking.draw("time_frequency", MANY, grid, 0.4, **share), grid)
        whole = cells.all(2).sum(1), cells.all(1).sum(1)
        assert tuple(of.min() for of in whole) == strips
    # Four steps and three bands hold 50 cells, and 48 are to be hidden: two of theirs are seen.
    cells = hidden(masking.draw("time_frequency", MANY, grid, 0.6), grid)
    for clip in cells:
        steps, bands = np.sort(clip.sum(1))[-4:], np.sort(clip.sum(0))[-3:]
        assert steps.sum() >= 4 * 8 - 2 and bands.sum() >= 3 * 10 - 2


def test_blocks_of_a_video_are_the_same_in_every_time_step_and_hang_together():
    grid = (3, 10, 12)
    cells = hidden(masking.block_mask(MANY, grid, 0.5, blocks=2), grid)
    assert (cells == cells[:, :1]).all()

    def edges(of):  # neighbours of which one is hidden
        return (of[:, 1:] != of[:, :-1]).sum((1, 2)) + (of[:, :, 1:] != of[:, :, :-1]).sum((1, 2))

    scattered = hidden(masking.random_mask(MANY, 120, 0.5), (10, 12))
    assert edges(cells[:, 0]).max() < 0.6 * edges(scattered).min()


def test_one_block_is_a_box_but_for_what_its_edge_gives_or_takes():
    cells = hidden(masking.draw("blocks", MANY, (12, 12), 0.25, blocks=1), (12, 12))
    for clip in cells:
        rows, columns = np.nonzero(clip)
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 36 <= box <= 36 + 2 * 9 and 5 <= np.ptp(rows) + 1 <= 8


@pytest.mark.parametrize("video, audio", [((4, 2, 3), (8, 4)), ((6, 2, 2), (9, 2))])
def test_complementary_masks_show_each_moment_in_exactly_one_modality(video, audio):
    masks = masking.complementary_masks(MANY, video, audio, 0.5)
    common = np.gcd(video[0], audio[0])
    picture = hidden(masks.video, video).reshape(40, common, -1)
    sound = hidden(masks.audio, audio).reshape(40, common, -1)
    for moments in (picture, sound):
        assert (moments.all(2) | ~moments.any(2)).all()
    assert (picture.all(2) == ~sound.any(2)).all()
    assert (picture.all(2).sum(1) == common // 2).all()


def test_of_the_hidden_tokens_a_second_mask_keeps_some_for_the_decoder():
    mask = masking.random_mask(MANY, 60, 0.8)
    part = masking.decoded_part(MANY, mask, 0.5)
    assert part.visible is mask.visible and part.masked.shape == (40, 24)
    for kept, all_hidden in zip(np.asarray(part.masked), np.asarray(mask.masked), strict=True):
        assert set(kept.tolist()) <= set(all_hidden.tolist()) and (np.diff(kept) > 0).all()
    assert masking.decoded_part(MANY, mask, 1.0) is mask
