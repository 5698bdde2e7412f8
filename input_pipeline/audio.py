"""Waveform → Kaldi-style log-mel, in NumPy: the constants, the filter bank and a plain reference of the maths.

The device's version (`avemo_jax.frontend.log_mel`) takes its constants and its filter bank from here. Kaldi's
filters are triangles on the mel axis; librosa's are triangles in hertz, so they cannot be used.
"""

from __future__ import annotations

import functools

import numpy as np

SAMPLE_RATE = 16_000  # Hz
FRAME_LENGTH, FRAME_SHIFT, FFT_LENGTH = 400, 160, 512  # samples: 25 ms, 10 ms, next power of two
PRE_EMPHASIS = 0.97
LOW_HZ, HIGH_HZ = 20.0, 8000.0
LOG_FLOOR = 1.1920929e-07  # float32's epsilon
NORM_MEAN, NORM_STD = -4.2677393, 4.5689974  # of log-mels, as the reference measured them


def window_samples(audio_frames: int) -> int:
    """Samples that make this many log-mel frames: 256 → 41,200."""
    return (audio_frames - 1) * FRAME_SHIFT + FRAME_LENGTH


@functools.cache
def mel_filter_bank(mels: int = 128) -> np.ndarray:
    """Kaldi's triangles, equally spaced on mel = 1127 ln(1 + f / 700): float64 [mels, 257].

    With 128 filters on a 512-point transform, filter 3 covers no bin and stays empty, as in the reference; the
    last bin (8 kHz) has weight 0.
    """

    def mel(hertz):
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    bins = mel(np.arange(FFT_LENGTH // 2) * SAMPLE_RATE / FFT_LENGTH)
    edges = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), mels + 2)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.pad(np.maximum(0.0, np.minimum(rising, falling)), ((0, 0), (0, 1)))


def log_mel(wave: np.ndarray, mels: int = 128) -> np.ndarray:
    """Log-mel energies of one waveform: float [S] at 16 kHz in [−1, 1) → float64 [1 + (S − 400) // 160, mels].

    The caller removes the waveform's mean first, as the reference does. Kaldi's `compute-fbank-feats` with a
    Hann window, no dither, no energy, whole frames only, natural log with a floor.
    """
    if len(wave) < FRAME_LENGTH:
        return np.zeros((0, mels))
    frames = np.lib.stride_tricks.sliding_window_view(np.float64(wave), FRAME_LENGTH)[::FRAME_SHIFT]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - PRE_EMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME_LENGTH), FFT_LENGTH)) ** 2
    return np.log(np.maximum(power @ mel_filter_bank(mels).T, LOG_FLOOR))
