"""Corruptions, measured: each does what its level says, to what it says, and to a clip alike in any batch."""

import numpy as np
import pytest

from avemo_jax.errors import UserError
from avemo_jax.evaluation.corruptions import CORRUPTIONS, Corrupter, corrupt

CLIPS, LENGTH = 4, 16000


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH) / 16000
    waves = [
        3000 * np.sin(2 * np.pi * pitch * time) * (1 + np.sin(9 * time)) for pitch in (150, 220, 300, 410)
    ]
    waveform = np.zeros((CLIPS, LENGTH + 4000), np.int16)
    waveform[:, :LENGTH] = waves
    y, x = np.mgrid[:64, :64]
    picture = 128 + 60 * np.sin(y / 5)[..., None] * np.cos(x / 7)[..., None] * np.ones(3)
    video = np.clip(picture + rng.normal(0, 20, (CLIPS, 8, 64, 64, 3)), 0, 255).astype(np.uint8)
    return {
        "video": video,
        "waveform": waveform,
        "waveform_length": np.full(CLIPS, LENGTH, np.int32),
        "waveform_mean": np.zeros(CLIPS, np.float32),
        "position": np.array([7, 3, 9, -1], np.int32),
        "valid": np.array([True, True, True, False]),
    }


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_changes_its_stream_only_and_no_row_that_is_not_valid(batch, name):
    corruption = CORRUPTIONS[name]
    for level in corruption.levels:
        changed = corrupt(name, level, batch)
        assert changed.keys() == batch.keys()
        for field, before in batch.items():
            after = changed[field]
            assert after.shape == before.shape and after.dtype == before.dtype
            np.testing.assert_array_equal(after[3], before[3])
            is_audio = field.startswith("waveform")
            untouched = "video" if corruption.stream == "audio" else "waveform"
            if corruption.stream != "both" and field.startswith(untouched):
                np.testing.assert_array_equal(after, before)
            if field == ("video" if corruption.stream == "video" else "waveform"):
                assert any((after[row] != before[row]).any() for row in range(3))
            if is_audio and field == "waveform":
                assert not after[:, LENGTH:].any()


@pytest.mark.parametrize(
    "name", [name for name in CORRUPTIONS if name not in ("babble", "swapped_audio", "swapped_video")]
)
def test_a_clip_is_corrupted_alike_in_any_batch(batch, name):
    level = CORRUPTIONS[name].levels[-1]
    rows = np.array([2, 0, 1, 3])
    whole, moved = corrupt(name, level, batch), corrupt(name, level, {k: v[rows] for k, v in batch.items()})
    for field in ("video", "waveform"):
        np.testing.assert_array_equal(moved[field], whole[field][rows])


@pytest.mark.parametrize("name", ["noise", "babble"])
@pytest.mark.parametrize("snr_db", [20.0, 10.0, 0.0])
def test_noise_has_the_power_that_it_should(batch, name, snr_db):
    before = batch["waveform"][:3, :LENGTH].astype(float)
    added = corrupt(name, snr_db, batch)["waveform"][:3, :LENGTH] - before
    ratio = 10 * np.log10(np.square(before).mean(1) / np.square(added).mean(1))
    np.testing.assert_allclose(ratio, snr_db, atol=0.2)


def test_levels_go_from_mild_to_severe(batch):
    for name in ("noise", "blur", "low_light", "occlusion", "compression", "frame_drops"):
        corruption = CORRUPTIONS[name]
        field = "waveform" if corruption.stream == "audio" else "video"
        distances = [
            np.square(corrupt(name, level, batch)[field][:3].astype(float) - batch[field][:3]).mean()
            for level in corruption.levels
        ]
        assert distances == sorted(distances), name


def test_pictures_lose_what_is_said(batch):
    dark = corrupt("low_light", 0.1, batch)["video"][:3]
    assert dark.mean() == pytest.approx(0.1 * batch["video"][:3].mean(), rel=0.05)
    covered = (corrupt("occlusion", 0.25, batch)["video"] == 128).all((1, 4))[:3]
    assert covered.mean() == pytest.approx(0.25, abs=0.02)
    still = corrupt("frame_drops", 0.5, batch)["video"][:3]
    assert (still[:, 0] == batch["video"][:3, 0]).all()
    kept = [
        [(frame == before).all() for frame, before in zip(*clips, strict=True)]
        for clips in zip(still, batch["video"][:3], strict=True)
    ]
    assert 0.2 < np.mean(kept) < 0.9


def test_sound_comes_late_and_other_peoples_streams_are_the_next_clips(batch):
    late = corrupt("desynchronisation", 240.0, batch)["waveform"]
    assert not late[0, : 240 * 16].any()
    np.testing.assert_array_equal(late[0, 240 * 16 : LENGTH], batch["waveform"][0, : LENGTH - 240 * 16])
    assert not corrupt("desynchronisation", 5000.0, batch)["waveform"][:3].any()  # later than it is long
    np.testing.assert_array_equal(
        corrupt("swapped_audio", 1.0, batch)["waveform"][:3], batch["waveform"][[1, 2, 0]]
    )
    np.testing.assert_array_equal(
        corrupt("swapped_video", 1.0, batch)["video"][:3], batch["video"][[1, 2, 0]]
    )


@pytest.mark.parametrize("name", ["swapped_audio", "swapped_video"])
def test_the_other_clip_is_of_another_class_and_never_the_clip_itself(name):
    """Clips that tell their class in each stream; the last batch has one only."""
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], 3))[:9].tolist()
    stream = "waveform" if name == "swapped_audio" else "video"
    changed = Corrupter(name, 1.0, 0, range(9), classes)
    for numbers in (range(8), [8]):
        batch = {
            "video": np.zeros((9, 1), np.uint8),
            "waveform": np.zeros((9, 1), np.int16),
            "waveform_length": np.ones(9, np.int32),
            "waveform_mean": np.zeros(9, np.float32),
            "position": np.full(9, -1, np.int32),
            "valid": np.arange(9) < len(numbers),
        }
        batch["position"][: len(numbers)] = numbers
        batch[stream][: len(numbers), 0] = numbers
        after = changed(batch)[stream]
        assert len(after) == 9
        for number, other in zip(numbers, after[:, 0].tolist(), strict=False):
            assert other != number and (len(numbers) == 1 or classes[other] != classes[number])
            assert changed.donor_class[number] == classes[other]


@pytest.mark.parametrize("name", ["babble", "swapped_audio", "swapped_video"])
def test_a_clip_that_is_alone_has_no_other(batch, name):
    alone = batch | {"valid": np.arange(CLIPS) == 0}
    with pytest.raises(UserError, match="one clip alone"):
        Corrupter(name, 0.0)(alone)


def test_a_voice_is_no_babble_to_itself(batch):
    two = batch | {"valid": np.arange(CLIPS) < 2}
    before, after = (found["waveform"][:2].astype(float) for found in (two, corrupt("babble", 0.0, two)))
    added = after - before
    np.testing.assert_allclose(np.corrcoef(added[0], before[1])[0, 1], 1, atol=1e-3)


def test_a_room_lengthens_a_click():
    wave = np.zeros((1, 16000), np.int16)
    wave[0, 100] = 30000
    batch = {
        "video": np.zeros((1, 2, 8, 8, 3), np.uint8),
        "waveform": wave,
        "waveform_length": np.array([16000], np.int32),
        "position": np.array([0], np.int32),
        "valid": np.array([True]),
    }
    heard = corrupt("reverberation", 0.6, batch)["waveform"][0].astype(float)
    energy = np.cumsum(np.square(heard[::-1]))[::-1]
    decay_db = 10 * np.log10(np.maximum(energy, 1e-9) / energy[101])
    fallen_30 = np.argmax(decay_db < -30) - 101
    assert 2 * fallen_30 / 16000 == pytest.approx(0.6, rel=0.15)  # by Schroeder's integral
