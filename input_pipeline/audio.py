"""Waveform → log-mel filter bank as Kaldi computes it, in NumPy, and the constants of it.

The device version (`avemo_jax.frontend`) takes its constants and filter bank from here; this one is its check
and serves work on the host. Filters are triangles on the mel axis (librosa's are triangles in hertz).
"""

from __future__ import annotations

import functools

import numpy as np

SAMPLE_RATE = 16_000  # Hz
FRAME = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FFT = 512
MEL_BINS = 128
LOWEST_HZ, HIGHEST_HZ = 20.0, SAMPLE_RATE / 2
PRE_EMPHASIS = 0.97
FLOOR = 1.1920929e-07  # float32 epsilon, under the logarithm

# Statistics that HiCMAE normalises with: (log-mel − mean) / (2 · std).
LOG_MEL_MEAN, LOG_MEL_STD = -4.2677393, 4.5689974


def samples_for(frames: int) -> int:
    """The samples that `frames` whole log-mel frames need."""
    return (frames - 1) * HOP + FRAME


def frames_in(samples: int) -> int:
    """Whole log-mel frames in a number of samples (edges snipped)."""
    return 1 + (samples - FRAME) // HOP if samples >= FRAME else 0


@functools.cache
def mel_filter_bank(n_mels: int = MEL_BINS) -> np.ndarray:
    """float32 [n_mels, 257]: weights of the FFT bins, equally spaced triangles on mel = 1127 ln(1 + f / 700).

    With 128 filters, filter 3 lies between two FFT bins and is empty. The Nyquist bin has no weight.
    """

    def mel(hertz):
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(LOWEST_HZ), mel(HIGHEST_HZ), n_mels + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = mel(np.arange(FFT // 2) * SAMPLE_RATE / FFT)[None]
    weights = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    bank = np.pad(weights, ((0, 0), (0, 1))).astype(np.float32)
    bank.flags.writeable = False  # cached: everyone shares it
    return bank


@functools.cache
def window() -> np.ndarray:
    """float64 [400]: the symmetric Hann window."""
    return np.hanning(FRAME)


def log_mel(waveform: np.ndarray, n_mels: int = MEL_BINS) -> np.ndarray:
    """float32 [frames, n_mels] of a waveform [S] in [−1, 1) at 16 kHz; subtract its mean before."""
    frames = frames_in(len(waveform))
    if not frames:
        return np.zeros((0, n_mels), np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(np.asarray(waveform, np.float64), FRAME)[::HOP][:frames]
    pieces = pieces - pieces.mean(axis=1, keepdims=True)
    before = np.concatenate([pieces[:, :1], pieces[:, :-1]], axis=1)  # a frame's first sample precedes itself
    spectrum = np.fft.rfft((pieces - PRE_EMPHASIS * before) * window(), FFT)
    energy = (spectrum.real**2 + spectrum.imag**2) @ mel_filter_bank(n_mels).T.astype(np.float64)
    return np.log(np.maximum(energy, FLOOR)).astype(np.float32)


def fit(log_mel_frames: np.ndarray, frames: int) -> np.ndarray:
    """[frames, n_mels]: cut, or filled with zeros at the end (before normalising, as the reference does)."""
    missing = max(0, frames - len(log_mel_frames))
    return np.pad(log_mel_frames[:frames], ((0, missing), (0, 0)))


def normalise(log_mel_frames: np.ndarray) -> np.ndarray:
    """What the models see."""
    return (log_mel_frames - LOG_MEL_MEAN) / (2 * LOG_MEL_STD)
