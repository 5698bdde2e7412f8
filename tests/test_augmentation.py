"""Crops, erasing and mixing on the device, beside PyTorch's pixels and the reference's recorded mixing."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avemo_jax import augmentation
from avemo_jax.augmentation import Box, Mixing
from avemo_jax.batch import Clip
from avemo_jax.objectives.supervised import soft_targets

CASES = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())["mixup"]
SIZE = 24
VIDEO = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE, 3)), jnp.float32)


def box(*numbers):
    return Box(*(jnp.asarray(number, jnp.int32) for number in numbers))


@pytest.mark.parametrize("numbers", [(0, 0, SIZE, SIZE), (3, 5, 10, 7), (20, 22, 1, 2), (0, 1, SIZE, 5)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_crop_has_the_pixels_of_pytorch_s_bilinear_interpolation(numbers, flipped):
    boxes = jax.tree.map(lambda number: number[None].repeat(2), box(*numbers))
    ours = augmentation.crop_and_resize(VIDEO, boxes, jnp.array([flipped, flipped]))
    top, left, height, width = numbers
    cut = torch.tensor(np.asarray(VIDEO[:, :, top : top + height, left : left + width])).flatten(0, 1)
    theirs = torch.nn.functional.interpolate(
        cut.permute(0, 3, 1, 2), size=(SIZE, SIZE), mode="bilinear", align_corners=False
    )
    theirs = theirs.permute(0, 2, 3, 1).reshape(VIDEO.shape).numpy()
    np.testing.assert_allclose(ours, theirs[:, :, :, ::-1] if flipped else theirs, atol=1e-5)


def test_boxes_have_the_areas_and_aspects_that_are_asked_for_and_lie_inside():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = lambda key: augmentation.crop_box(key, 160, 160, (0.08, 1.0), (3 / 4, 4 / 3))  # noqa: E731
    top, left, height, width = (np.asarray(part) for part in jax.jit(jax.vmap(draw))(keys))
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 160).all() and (left + width <= 160).all()
    area, aspect = height * width / 160**2, width / height
    assert area.min() > 0.075 and area.max() <= 1
    assert 0.72 < aspect.min() < 0.76 and 1.31 < aspect.max() < 1.39
    assert 0.4 < area.mean() < 0.54  # large ones are drawn again more often


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.8, 1.0)])
def test_what_is_mirrored_is_as_wide_as_what_is_not(area, monkeypatch):
    drawn = []
    monkeypatch.setattr(augmentation, "crop_and_resize", lambda video, *of: drawn.append(of))
    keys = jax.random.split(jax.random.key(3), 4000)
    video = jnp.zeros((4000, 1, 160, 160, 0))
    augmentation.resized_crop(video, keys, area=area, aspect=(3 / 4, 4 / 3), flip=0.5)
    ((boxes, mirrored),) = drawn
    wide, mirrored = np.asarray(boxes.width > boxes.height), np.asarray(mirrored)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)
    assert wide[mirrored].mean() == pytest.approx(wide[~mirrored].mean(), abs=0.06)


def test_what_is_erased_is_as_often_wide_as_tall_and_never_an_absent_picture():
    video, keys = jnp.full((3000, 1, 32, 32, 1), 7.0), jax.random.split(jax.random.key(5), 3000)
    seen = jnp.arange(3000) % 3 > 0
    out = np.asarray(jax.jit(lambda *of: augmentation.erase(*of, probability=0.25))(video, keys, seen))
    erased = (out != 7)[:, 0, :, :, 0]
    hit = erased.any((1, 2))
    assert not hit[~np.asarray(seen)].any() and hit[np.asarray(seen)].mean() == pytest.approx(0.25, abs=0.04)
    height, width = erased[hit].any(2).sum(1), erased[hit].any(1).sum(1)
    assert np.mean(width > height) == pytest.approx(np.mean(width < height), abs=0.12)


def test_a_box_that_never_fits_is_the_whole_picture():
    found = augmentation.crop_box(jax.random.key(0), 32, 32, (0.9, 1.0), (3.9, 4.1))
    assert [int(part) for part in found] == [0, 0, 32, 32]


def test_erasing_puts_noise_into_one_box_of_all_frames_of_some_clips():
    video = jnp.full((400, 2, 32, 32, 3), 7.0)
    out = np.asarray(
        jax.jit(lambda *of: augmentation.erase(*of, probability=0.25))(
            video, jax.random.split(jax.random.key(1), 400), jnp.ones(400, bool)
        )
    )
    erased = (out != 7).any(-1)
    assert (erased[:, 0] == erased[:, 1]).all()
    hit = erased[:, 0].any((1, 2))
    assert 0.18 < hit.mean() < 0.32
    for mask in erased[hit, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()  # a rectangle
        assert 0.01 < mask.mean() < 0.37
    noise = out[out != 7]
    assert abs(noise.mean()) < 0.02 and noise.std() == pytest.approx(1, abs=0.02)
    first, second = out[hit][0]
    assert not np.array_equal(first[erased[hit][0, 0]], second[erased[hit][0, 0]])


def golden_clip(case):
    """The recorded batch, [B, C, T, H, W] in the reference."""
    video = jnp.asarray(case["video"], jnp.float32).transpose(0, 2, 3, 4, 1)
    audio = jnp.asarray(np.random.default_rng(1).standard_normal((len(video), 16, 8)), jnp.float32)
    return Clip(video, audio)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed_{case['numpy_legacy_seed']}")
def test_the_recorded_batches_are_mixed_as_they_were(case):
    clip = golden_clip(case)
    target = soft_targets(jnp.asarray(case["labels"]), len(case["target_out"][0]), smoothing=0.1)
    top, bottom, left, right = case["bbox_yl_yh_xl_xh"] or (0, 0, 0, 0)
    kept = jnp.asarray(case["lam_used"])
    mixing = Mixing(
        kept,
        jnp.asarray(1.0) if case["use_cutmix"] else kept,
        box(top, left, bottom - top, right - left),
        jnp.zeros(2, jnp.int32),
    )
    mixed, mixed_target = augmentation.mix(clip, target, mixing, sound=False)
    np.testing.assert_allclose(mixed.video.transpose(0, 4, 1, 2, 3), case["video_out"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mixed_target, case["target_out"], atol=1e-6)
    np.testing.assert_array_equal(mixed.audio, clip.audio)


@pytest.mark.parametrize("case", [case for case in CASES if case["use_cutmix"]], ids=lambda case: "cut")
def test_a_recorded_box_and_its_share_follow_from_the_recorded_draw(case):
    height, width = np.shape(case["video"])[-2:]
    rows, columns = (grid.ravel() for grid in np.mgrid[:height, :width])
    cut, kept = jax.vmap(
        lambda row, column: augmentation.cutmix_box(
            jnp.asarray(case["lam_drawn"]), row, column, height, width
        )
    )(rows, columns)
    edges = np.stack([cut.top, cut.top + cut.height, cut.left, cut.left + cut.width], 1)
    same = (edges == case["bbox_yl_yh_xl_xh"]).all(1)
    assert same.any()
    np.testing.assert_allclose(np.asarray(kept)[same], case["lam_used"], rtol=1e-6)


@given(st.floats(0, 1), st.integers(0, 31), st.integers(0, 31))
def test_a_cutmix_box_is_inside_and_leaves_the_share_it_says(share, row, column):
    cut, kept = augmentation.cutmix_box(jnp.float32(share), jnp.int32(row), jnp.int32(column), 32, 32)
    top, left, height, width = (int(part) for part in cut)
    assert 0 <= top <= top + height <= 32 and 0 <= left <= left + width <= 32
    assert float(kept) == pytest.approx(1 - height * width / 1024, abs=1e-6)
    assert float(kept) >= share - 1e-5


def draws(count=3000, **more):
    settings = {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "switch": 0.5} | more
    draw = lambda key: augmentation.draw_mixing(key, 32, 32, 64, **settings)  # noqa: E731
    mixings = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), count))
    return jax.tree.map(np.asarray, mixings)


def test_half_of_the_batches_are_cut_and_half_are_blended():
    mixings = draws()
    cut = mixings.box.height * mixings.box.width > 0
    blended = mixings.blended < 1
    assert not (cut & blended).any()
    assert 0.42 < cut.mean() < 0.52 and 0.47 < blended.mean() < 0.53  # a box can have no size
    np.testing.assert_array_equal(mixings.kept[blended], mixings.blended[blended])
    # Beta(0.8, 0.8): mean 1/2, variance 1 / (4 · 2.6)
    assert mixings.kept[blended].var() == pytest.approx(1 / (4 * 2.6), rel=0.08)
    length = mixings.span[:, 1] - mixings.span[:, 0]
    np.testing.assert_allclose(length[cut] / 64, 1 - mixings.kept[cut], atol=0.5 / 64 + 1e-6)
    assert (mixings.span >= 0).all() and (mixings.span <= 64).all()
    assert (length[~cut] == 0).all()


def test_without_a_chance_or_an_alpha_nothing_is_mixed():
    for nothing in ({"probability": 0.0}, {"mixup": 0.0, "cutmix": 0.0}):
        mixings = draws(20, **nothing)
        assert (mixings.kept == 1).all() and (mixings.blended == 1).all() and (mixings.box.height == 0).all()
    only_mixup = draws(200, cutmix=0.0)
    assert (only_mixup.box.height == 0).all() and (only_mixup.blended < 1).mean() > 0.95


def test_sound_is_mixed_with_the_same_partner_and_share_when_asked_for():
    clip, target = golden_clip(CASES[0]), jnp.eye(4, dtype=jnp.float32)
    share = jnp.asarray(0.3)
    blend = Mixing(share, share, box(0, 0, 0, 0), jnp.zeros(2, jnp.int32))
    mixed, mixed_target = augmentation.mix(clip, target, blend, sound=True)
    for part, whole in ((mixed.video, clip.video), (mixed.audio, clip.audio), (mixed_target, target)):
        np.testing.assert_allclose(part, 0.3 * whole + 0.7 * whole[::-1], rtol=1e-5)
    cut = Mixing(jnp.asarray(0.75), jnp.asarray(1.0), box(0, 0, 3, 3), jnp.array([4, 8]))
    mixed, _ = augmentation.mix(clip, target, cut, sound=True)
    np.testing.assert_array_equal(mixed.audio[:, 4:8], clip.audio[::-1, 4:8])
    np.testing.assert_array_equal(mixed.audio[:, 8:], clip.audio[:, 8:])


def test_a_clip_never_loses_both_picture_and_sound():
    count = 2000
    batch = {
        "video": jnp.ones((count, 1, 2, 2, 3), jnp.uint8),
        "waveform": jnp.ones((count, 5), jnp.int16),
        "waveform_length": jnp.full(count, 5, jnp.int32),
        "waveform_mean": jnp.ones(count, jnp.float32),
        "position": jnp.arange(count, dtype=jnp.int32),
    }
    keys = jax.random.split(jax.random.key(0), count)
    out = augmentation.drop_modalities(batch, keys, video=0.2, audio=0.3)
    seen, heard = np.asarray(out["video"]).any((1, 2, 3, 4)), np.asarray(out["waveform"]).any(1)
    assert (seen | heard).all()
    assert (~seen).mean() == pytest.approx(0.2, abs=0.03) and (~heard).mean() == pytest.approx(0.3, abs=0.03)
    # What is gone is as the loader gives a clip that has none.
    assert (np.asarray(out["waveform_length"])[~heard] == 0).all()
    assert (np.asarray(out["waveform_mean"])[~heard] == 0).all()
    assert {name: field.dtype for name, field in out.items()} == {n: f.dtype for n, f in batch.items()}
