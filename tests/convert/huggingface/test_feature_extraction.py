"""From files, and from what was decoded already, to the model's input: the pipeline's own numbers, clear errors."""

import numpy as np
import pytest
import torch

from avemo_jax import frontend
from avemo_jax.convert.huggingface.files.feature_extraction_avemo import AvemoFeatureExtractor
from input_pipeline.loader import eval_batches
from input_pipeline.records import open_records
from input_pipeline.video import IMAGENET_MEAN, IMAGENET_STD
from tests import real_clips
from tests.input_pipeline.containers import write

SIZES = {"frames": 4, "image_size": 96, "audio_frames": 64, "mel_bins": 128}


@pytest.fixture(scope="module")
def clip():
    """A real clip as it is in its file, and the file."""
    path = real_clips.talking_file()
    return path, real_clips.decode(path)


def bytes_of(video):
    """The uint8 pixels [B, T, H, W, 3] that were normalised to [B, 3, T, H, W]."""
    pixels = np.asarray(video).transpose(0, 2, 3, 4, 1) * IMAGENET_STD + IMAGENET_MEAN
    assert np.abs(pixels * 255 - np.round(pixels * 255)).max() < 1e-3
    return np.round(pixels * 255).astype(np.uint8)


@pytest.mark.parametrize("crop", ["multi_scale", "none"])
def test_files_give_to_the_bit_the_pixels_that_prepared_records_give(prepared_folder, crop):
    rows = real_clips.talking_rows()
    extractor = AvemoFeatureExtractor(**SIZES, crop=crop, prepare={"short_side": 112})
    records = open_records(prepared_folder)
    by_name = {row.clip_id: row for row in rows}
    assert len(records) == len(rows)
    chosen = [by_name[name] for name in records.clip_ids[::4]]
    (batch,) = eval_batches(
        str(prepared_folder),
        **{name: SIZES[name] for name in ("frames", "image_size", "audio_frames")},
        batch_size=len(chosen),
        crop=crop,
        positions=range(0, len(records), 4),
    )
    inputs = extractor(
        [real_clips.root() / row.path for row in chosen],
        start_s=[row.start_s for row in chosen],
        end_s=[row.end_s for row in chosen],
    )
    assert inputs["video"].shape == (len(chosen), 3, 4, 96, 96)
    assert inputs["audio"].shape == (len(chosen), 1, 64, 128)
    np.testing.assert_array_equal(bytes_of(inputs["video"]), batch["video"])
    device = frontend.to_clip(
        {name: batch[name] for name in ("video", "waveform", "waveform_length", "waveform_mean")}
    )
    np.testing.assert_allclose(inputs["audio"][:, 0], device.audio, atol=1e-3)


def test_what_was_decoded_elsewhere_gives_what_its_file_gives(clip):
    path, decoded = clip
    extractor = AvemoFeatureExtractor(**SIZES)
    expected = extractor(path)
    frames = np.stack(decoded.frames)
    for sound in (decoded.audio, decoded.audio / np.float32(32768), torch.from_numpy(decoded.audio.copy())):
        inputs = extractor(frames=frames, fps=decoded.fps, waveform=sound)
        for name in ("video", "audio"):
            torch.testing.assert_close(inputs[name], expected[name], rtol=0, atol=0)
    two = extractor(frames=[frames, frames[::-1]], fps=decoded.fps, waveform=[decoded.audio] * 2)
    torch.testing.assert_close(two["video"][:1], expected["video"], rtol=0, atol=0)
    assert len(two["audio"]) == 2


def test_a_part_of_a_file_is_taken_when_asked(clip):
    path, _ = clip
    extractor = AvemoFeatureExtractor(**SIZES)
    part = extractor(path, start_s=0.1, end_s=0.9)
    whole = extractor(path)
    assert not torch.equal(part["video"], whole["video"])
    both = extractor([path, path], start_s=[0.1, None], end_s=[0.9, None])
    torch.testing.assert_close(both["video"], torch.cat([part["video"], whole["video"]]), rtol=0, atol=0)


def test_arrays_instead_of_tensors_when_asked(clip):
    arrays = AvemoFeatureExtractor(**SIZES)(clip[0], return_tensors=None)
    assert {type(array) for array in arrays.values()} == {np.ndarray}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_it_comes_back_as_it_was_from_its_own_json():
    extractor = AvemoFeatureExtractor(**SIZES, frame_stride=2, crop="none", prepare={"jpeg_quality": 80})
    again = AvemoFeatureExtractor.from_dict(extractor.to_dict())
    assert again.to_dict() == extractor.to_dict() and again.prepare == {"jpeg_quality": 80}


def test_every_file_that_cannot_be_used_is_named_with_the_reason(clip, tmp_path):
    path, decoded = clip
    write(tmp_path / "mute.mp4", decoded.frames[:30], None)
    write(tmp_path / "blind.mkv", None, decoded.audio, audio_rate=16_000)
    (tmp_path / "text.mp4").write_text("no video")
    extractor = AvemoFeatureExtractor(**SIZES)
    for name, reason in {
        "mute.mp4": "no sound",
        "blind.mkv": "no picture",
        "text.mp4": "not a readable video or sound file",
        "absent.mp4": "no such file",
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {reason}"):
            extractor([path, tmp_path / name])


FRAMES = np.zeros((30, 64, 64, 3), np.uint8)
SOUND = np.zeros(16_000, np.int16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "either files, or frames"),
        ({"files": "a.mp4", "frames": FRAMES}, "either files, or frames"),
        ({"files": []}, "no clips"),
        ({"files": "a.mp4", "fps": 25}, "fps and waveform go with frames"),
        ({"files": "a.mp4", "waveform": SOUND}, "fps and waveform go with frames"),
        ({"frames": FRAMES, "fps": 25, "waveform": SOUND, "start_s": 0.5}, "start_s and end_s are of files"),
        ({"frames": FRAMES, "fps": 25, "waveform": SOUND, "end_s": 0.5}, "start_s and end_s are of files"),
        ({"files": ["a.mp4"], "start_s": [1.0, 2.0]}, "start_s has 2 values for 1 clips"),
        ({"frames": FRAMES, "fps": 25}, "frames need fps and a waveform"),
        ({"frames": FRAMES, "waveform": SOUND}, "frames need fps and a waveform"),
        ({"frames": [FRAMES] * 2, "fps": 25, "waveform": [SOUND]}, "frames of 2 clips, but 1 waveforms"),
        (
            {"frames": FRAMES, "fps": 25, "waveform": SOUND, "sampling_rate": 44_100},
            "resample it to 16000 Hz",
        ),
        (
            {"frames": FRAMES / 255, "fps": 25, "waveform": SOUND},
            r"clip 0: frames are float64 \[30, 64, 64, 3\]",
        ),
        ({"frames": FRAMES, "fps": 25, "waveform": SOUND[None]}, r"waveform is int16 \[1, 16000\]"),
        ({"frames": FRAMES, "fps": 25, "waveform": SOUND.astype(int)}, r"waveform is int64 \[16000\]"),
        ({"frames": FRAMES[:2], "fps": 25, "waveform": SOUND[:2000]}, "clip 0: shorter than 0.2 s"),
        ({"frames": FRAMES[:0], "fps": 25, "waveform": SOUND}, "clip 0: no picture"),
        ({"frames": FRAMES, "fps": 25, "waveform": SOUND[:0]}, "clip 0: no sound"),
        ({"frames": FRAMES, "fps": 0, "waveform": SOUND}, "clip 0: its rate is 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_they_are(call, message):
    with pytest.raises(ValueError, match=message):
        AvemoFeatureExtractor(**SIZES)(**call)
