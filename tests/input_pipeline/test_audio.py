"""The log-mel against numbers recorded from the reference, and its arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline import audio

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "audio.json").read_text())["cases"]


@pytest.fixture(scope="module")
def recorded():
    return np.load(GOLDEN / "audio.npz")


def test_the_filter_bank_is_kaldis_with_its_empty_filter(recorded):
    bank = audio.mel_filter_bank()
    np.testing.assert_allclose(bank[:, :256], recorded["mel_filterbank"][:, :256], atol=2e-5)
    assert np.flatnonzero(bank.sum(axis=1) == 0).tolist() == [3]
    assert not bank[:, 256].any()


@pytest.mark.parametrize("case", CASES)
def test_log_mel_equals_the_reference(recorded, case):
    wave = recorded[f"{case}/wave"]
    ours = audio.log_mel(wave - wave.mean())
    # The reference works in float32; how far that is from float64 was recorded with each case.
    tolerance = 1e-3 + 2 * CASES[case]["max_abs_fp32_minus_fp64_input"]
    np.testing.assert_allclose(ours, recorded[f"{case}/fbank_raw"], atol=tolerance)
    fitted = audio.fit(ours, 256)
    np.testing.assert_allclose(fitted, recorded[f"{case}/fbank_padcut"], atol=tolerance)
    np.testing.assert_allclose(audio.normalise(fitted), recorded[f"{case}/normalised"], atol=tolerance)


def test_the_recorded_gain_gives_the_recorded_log_mel(recorded):
    aug = json.loads((GOLDEN / "audio.json").read_text())["aug"]
    wave = recorded[f"{aug['wave']}/wave"]
    ours = audio.fit(audio.log_mel((wave - wave.mean()) * aug["magnitude"]), 256)
    np.testing.assert_allclose(ours, recorded["aug/fbank_padcut"], atol=1e-3)


def test_rows_after_the_end_of_the_sound_are_zero_before_normalising():
    rows = audio.normalise(audio.fit(audio.log_mel(np.zeros(4000)), 256))
    assert rows[0, 0] == pytest.approx(-1.2776, abs=1e-4)
    assert rows[-1, 0] == pytest.approx(0.4670, abs=1e-4)


@given(st.integers(0, 50_000))
def test_frames_and_samples_count_each_other(samples):
    frames = audio.frames_in(samples)
    assert frames == len(audio.log_mel(np.zeros(samples)))
    if frames:
        assert audio.samples_for(frames) <= samples < audio.samples_for(frames + 1)
    else:
        assert samples < audio.samples_for(1)
