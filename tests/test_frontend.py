"""The device's log-mel and normalisation beside recorded numbers, librosa and the host's NumPy version."""

import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import frontend
from avemo_jax.errors import UserError
from input_pipeline import audio
from tests.golden_weights import GOLDEN

RECORDED = np.load(GOLDEN / "audio.npz")
CASES = sorted({name.split("/")[0] for name in RECORDED.files if name.endswith("/wave")})


@pytest.mark.parametrize("case", CASES)
def test_device_log_mel_is_the_recorded_one(case):
    wave = RECORDED[f"{case}/wave"]
    ours = np.asarray(frontend.log_mel(jnp.asarray(wave - wave.mean())[None]))[0]
    # The reference's own float32 noise in near-empty bins of pure tones is up to 0.03.
    np.testing.assert_allclose(ours, RECORDED[f"{case}/fbank_raw"], atol=0.05 if case == "chirp" else 2e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_is_cut_padded_and_normalised_as_recorded(case):
    wave = RECORDED[f"{case}/wave"]
    samples = audio.samples_for(256)
    stored = np.zeros((1, samples), np.int16)
    pcm = np.round(wave * 32768).clip(-32768, 32767)
    stored[0, : min(len(wave), samples)] = pcm[:samples]
    batch = {
        "video": jnp.zeros((1, 2, 16, 16, 3), jnp.uint8),
        "waveform": jnp.asarray(stored),
        "waveform_length": jnp.asarray([min(len(wave), samples)], jnp.int32),
        "waveform_mean": jnp.asarray([wave.mean()], jnp.float32),
    }
    ours, expected = np.asarray(frontend.to_clip(batch).audio)[0], RECORDED[f"{case}/normalised"]
    assert ours.shape == expected.shape
    loud = expected > 0.0  # 16-bit samples cannot hold what lies far below the signal
    np.testing.assert_allclose(ours[loud], expected[loud], atol=2e-2)
    padded = (expected == np.float32((0 - audio.LOG_MEL_MEAN) / (2 * audio.LOG_MEL_STD))).all(1)
    np.testing.assert_allclose(ours[padded], 0.4670, atol=1e-4)


def test_device_and_host_agree_on_any_length():
    waves = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32) * 0.1
    device = np.asarray(frontend.log_mel(jnp.asarray(waves), jnp.asarray([4000, 1000])))
    np.testing.assert_allclose(device[0], audio.log_mel(waves[0]), atol=1e-3)
    short = audio.log_mel(waves[1, :1000])
    np.testing.assert_allclose(device[1, : len(short)], short, atol=1e-3)
    assert not device[1, len(short) :].any()


def test_video_is_normalised_with_imagenet_statistics():
    white = frontend.normalise_video(jnp.full((1, 2, 16, 16, 3), 255, jnp.uint8))
    np.testing.assert_allclose(
        white[0, 0, 0, 0], (1 - frontend.IMAGENET_MEAN) / frontend.IMAGENET_STD, rtol=1e-6
    )


@pytest.mark.parametrize(("frames", "size"), [(15, 160), (16, 150)])
def test_sizes_that_do_not_cut_into_patches_are_refused(frames, size):
    with pytest.raises(UserError, match="patches"):
        frontend.video_grid(frames, size)
