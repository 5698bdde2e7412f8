"""Descriptions from measured facts: loudness, pitch and its range, speaking rate, motion of the picture.

Words are relative to the corpus that is described: of each fact the lowest third of clips has one word, the highest
another, and nothing is said of those between. No label is looked at, and nobody is asked: it works offline. Two people
who described these clips would say more; what this says is true. So what moves is called the face where the folder was
cut to faces (`avemo prepare --crop face`), and else the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from input_pipeline.describing import readable
from input_pipeline.errors import DataError
from input_pipeline.prepare import read_options
from input_pipeline.record import Record
from input_pipeline.records import Records
from input_pipeline.texts import Described

_LOWEST_HZ, _HIGHEST_HZ = 65.0, 500.0  # of a speaking voice
_FRAME, _HOP = 1024, 256  # samples at 16 kHz: 64 and 16 ms
_QUIETER_DB = 25.0  # than the loudest frames: not speech
_PERIODIC, _NEAR_BEST = 0.5, 0.9  # correlations of a frame with itself a period later
_SYLLABLE_FRAMES = 6  # apart at least: 100 ms
_SIDE, _PICTURES_A_SECOND = 32, 8.0


class Fact(NamedTuple):
    """A quantity and its words: (for a description, for a statement) of its lowest and of its highest third. `{}` is
    what is seen, `face` or `picture`."""

    low: tuple[str, str]
    high: tuple[str, str]


FACTS = {
    "loudness_db": Fact(("quiet", "The voice is quiet."), ("loud", "The voice is loud.")),
    "pitch_hz": Fact(("low", "The voice is low."), ("high", "The voice is high.")),
    "range_semitones": Fact(
        ("with a flat melody", "The melody of the voice is flat."),
        ("with a lively melody", "The melody of the voice is lively."),
    ),
    "rate_hz": Fact(("slowly", "The person speaks slowly."), ("quickly", "The person speaks quickly.")),
    "motion": Fact(("hardly moves", "The {} hardly moves."), ("moves a lot", "The {} moves a lot.")),
}


def describe(records: Records) -> Iterator[Described]:
    """Every clip of which something can be measured."""
    clip_ids, rows = [], []
    for record in readable(records):
        clip_ids.append(record.clip_id)
        rows.append(measure(record))
    table = {name: np.array([row[name] for row in rows]) for name in FACTS}
    seen = _seen(records)
    thirds = {name: level(values) for name, values in table.items()}
    for place, clip_id in enumerate(clip_ids):
        levels = {name: int(of[place]) for name, of in thirds.items() if np.isfinite(table[name][place])}
        if levels:
            yield Described(clip_id, in_words(levels, seen), statements(levels, seen))


def measure(record: Record) -> dict[str, float]:
    """The facts of one clip; NaN for what it does not have.

    loudness_db: root mean square of the speech, dB of full scale. pitch_hz: median. range_semitones: between the 10th
    and 90th percentile of pitch. rate_hz: onsets of energy, roughly syllables, a second of speech. motion: how far grey
    pixels move an eighth of a second on, as a share of the picture's contrast.
    """
    return {**_of_sound(record), "motion": _motion(record)}


def level(values: np.ndarray) -> np.ndarray:
    """−1, 0 or 1 for the lowest third of the finite values [N], the middle one and the highest; int [N]."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.zeros(len(values), int)
    low, high = np.quantile(finite, [1 / 3, 2 / 3])
    if low == high:
        return np.zeros(len(values), int)
    return np.where(values <= low, -1, np.where(values >= high, 1, 0))


def in_words(levels: dict[str, int], seen: str) -> str:
    """A sentence or two from the levels of some facts; `seen` is what moves."""

    def word(name: str) -> str:
        return "" if not levels.get(name) else FACTS[name][levels[name] > 0][0]

    sentences = []
    if "loudness_db" in levels or "pitch_hz" in levels:
        kind = ", ".join(filter(None, (word("loudness_db"), word("pitch_hz")))) or "ordinary"
        melody, pace = word("range_semitones"), word("rate_hz") or "at an ordinary pace"
        article = "An" if kind[0] in "aeio" else "A"
        sentences.append(" ".join(filter(None, (f"{article} {kind} voice speaks", pace, melody))) + ".")
    if "motion" in levels:
        sentences.append(f"The {seen} {word('motion') or 'moves a little'}.")
    return " ".join(sentences)


def statements(levels: dict[str, int], seen: str) -> tuple[tuple[str, bool], ...]:
    """Of every fact that stands out what is true, and its contrary, which is not."""
    return tuple(
        (FACTS[name][side][1].format(seen), side == (of > 0))
        for name, of in levels.items()
        if of
        for side in (0, 1)
    )


def _seen(records: Records) -> str:
    try:
        return "face" if read_options(records.source).crop == "face" else "picture"
    except DataError:  # no note of it
        return "picture"


def _of_sound(record: Record) -> dict[str, float]:
    nothing = dict.fromkeys(("loudness_db", "pitch_hz", "range_semitones", "rate_hz"), np.nan)
    if len(record.audio) < 2 * _FRAME or not np.any(record.audio):
        return nothing
    try:
        import librosa
        from scipy.signal import find_peaks
    except ImportError as error:
        raise DataError("--by facts measures with librosa: pip install 'avemo_jax[text]'") from error
    wave, rate = record.audio.astype(np.float32) / 32768, record.audio_rate
    power = librosa.feature.rms(y=wave, frame_length=_FRAME, hop_length=_HOP)[0] ** 2
    decibel = 10 * np.log10(np.maximum(power, 1e-12))
    speech = decibel > np.quantile(decibel, 0.95) - _QUIETER_DB
    strength = librosa.onset.onset_strength(y=wave, sr=rate, hop_length=_HOP)[: len(speech)]
    peaks, _ = find_peaks(
        strength, height=strength.mean(), prominence=strength.std(), distance=_SYLLABLE_FRAMES
    )
    facts = nothing | {
        "loudness_db": float(10 * np.log10(power[speech].mean())),
        "rate_hz": float(speech[peaks].sum() / (speech.sum() * _HOP / rate)),
    }
    pitch = _pitch(np.pad(wave, _FRAME // 2), rate)[: len(speech)]
    voiced = pitch[speech[: len(pitch)] & np.isfinite(pitch)]
    if len(voiced) >= 5:
        low, middle, high = np.quantile(voiced, [0.1, 0.5, 0.9])
        facts |= {"pitch_hz": float(middle), "range_semitones": float(12 * np.log2(high / low))}
    return facts


def _pitch(wave: np.ndarray, rate: int) -> np.ndarray:
    """Hertz of each frame, float64 [frames], NaN where it has no period: of the first lag at which the frame's
    correlation with itself comes near its best one.

    librosa has better ways, all over functions that Numba compiles; several processes that compile them at once can
    leave files behind which crash every later one (numba issue 10128).
    """
    frames = np.lib.stride_tricks.sliding_window_view(wave, _FRAME)[::_HOP].astype(np.float64)
    frames = frames - frames.mean(1, keepdims=True)
    spectrum = np.fft.rfft(frames, 2 * _FRAME, axis=1)
    product = np.fft.irfft(np.square(np.abs(spectrum)), axis=1)[:, :_FRAME]
    squares = np.cumsum(np.square(frames), axis=1)
    whole = squares[:, -1:]
    # Energy of the frame without its last, and without its first, `lag` samples.
    begin = np.concatenate([whole, squares[:, ::-1][:, 1:]], axis=1)
    end = whole - np.concatenate([np.zeros_like(whole), squares[:, :-1]], axis=1)
    likeness = product / np.maximum(np.sqrt(begin * end), 1e-12)
    first, last = int(rate / _HIGHEST_HZ), min(int(rate / _LOWEST_HZ), _FRAME - 2)
    lags = np.arange(first, last + 1)
    peak = (likeness[:, lags] > likeness[:, lags - 1]) & (likeness[:, lags] >= likeness[:, lags + 1])
    candidate = np.where(peak, likeness[:, lags], 0.0)
    best = candidate.max(1)
    near = candidate >= _NEAR_BEST * best[:, None]
    return np.where(best > _PERIODIC, rate / lags[near.argmax(1)], np.nan)


def _motion(record: Record) -> float:
    step = max(1, round(record.fps / _PICTURES_A_SECOND)) if record.fps else 1
    chosen = np.arange(0, len(record.frames), step)
    if len(chosen) < 2:
        return np.nan
    grey = np.stack(
        [np.asarray(one.convert("L").resize((_SIDE, _SIDE)), np.float32) for one in record.pictures(chosen)]
    )
    contrast = grey.std()
    return float(np.abs(np.diff(grey, axis=0)).mean() / contrast) if contrast > 0 else np.nan
