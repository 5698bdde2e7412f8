"""Cutting on the device against the host's, which is Pillow's: on noise, and on real clips through the loader."""

import jax
import numpy as np
import pytest
from PIL import Image

from avemo_jax.resizing import crop_and_resize
from input_pipeline import augment
from input_pipeline.errors import DataError
from input_pipeline.prepare import prepare
from input_pipeline.records import open_records
from input_pipeline.storing import ClipOptions
from tests import real_clips
from tests.input_pipeline.test_loader import SHAPE, loader, take

on_device = jax.jit(crop_and_resize, static_argnums=3)


@pytest.mark.parametrize("height, width, size", [(160, 200, 160), (224, 224, 160), (90, 70, 96)])
def test_noise_is_cut_and_resized_as_pillow_does_it_up_and_down(height, width, size):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (6, 2, height, width, 3), np.uint8)
    boxes = augment.multi_scale_boxes(width, height, size)
    chosen = [(0, 0, width, height), *(boxes[place] for place in rng.integers(len(boxes), size=5))]
    flip = np.arange(6) % 2 == 0
    hosts = [
        augment.crop_and_resize([Image.fromarray(frame) for frame in clip], box, size, bool(mirrored))
        for clip, box, mirrored in zip(video, chosen, flip, strict=True)
    ]
    ours = np.asarray(on_device(video, np.array(chosen, np.int32), flip, size))
    difference = np.abs(ours.astype(int) - np.stack(hosts))
    assert ours.dtype == np.uint8 and difference.max() <= 1  # Pillow's weights are rounded
    assert difference.mean() < 0.15


@pytest.fixture(scope="module")
def one_clip(tmp_path_factory):
    """A folder of one real clip, so that all frames are of one size."""
    out, rows = tmp_path_factory.mktemp("one") / "clips", real_clips.talking_rows()[:1]
    prepare(rows, real_clips.root(), out, ClipOptions(short_side=72), workers=0)
    real_clips.count(rows)
    return out


@pytest.mark.parametrize("crop", ["multi_scale", "none"])
def test_a_batch_that_the_device_cuts_is_the_one_that_the_host_cuts(one_clip, crop):
    picture = open_records(one_clip)[0].pictures([0])[0]
    whole = (picture.height, picture.width)
    (host,) = take(loader(one_clip, crop=crop, flip=True), 1)
    (device,) = take(loader(one_clip, crop=crop, flip=True, device_crop=whole), 1)
    assert device["video"].shape == (4, SHAPE["frames"], *whole, 3)
    cut = on_device(device["video"], device["box"], device["flip"], SHAPE["image_size"])
    assert np.abs(np.asarray(cut).astype(int) - host["video"]).max() <= 1
    for name in ("waveform", "waveform_length", "waveform_mean", "position"):
        np.testing.assert_array_equal(device[name], host[name])


def test_another_size_of_frames_than_the_datas_is_refused_at_once(one_clip):
    picture = open_records(one_clip)[0].pictures([0])[0]
    words = f"frames of {picture.height} × {picture.width} pixels where data.device_crop says 80 × 90"
    with pytest.raises(DataError, match=words):
        loader(one_clip, device_crop=(80, 90))
    with pytest.raises(DataError, match=r"give \(height, width\)"):
        loader(one_clip, device_crop=(80,))
