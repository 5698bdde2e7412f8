"""Spoken sentences with known words, emotion and phoneme times, and what the lips do with them.

Spoken by espeak-ng, which `espeakng-loader` carries: offline, the same samples for the same arguments. Not a
human voice and no acted emotion: pitch, tempo, loudness and pauses follow a small table. Not here: faces.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline.errors import DataError

RATE = 22_050  # Hz, espeak-ng's own

SENTENCES = {
    "kettle": "The kettle is humming on the stove.",
    "market": "We bought a few apples at the market.",
    "train": "My brother waited for the evening train.",
    "garden": "A small brown bird hopped over the wall.",
    "window": "Please move the chairs beside the window.",
    "letter": "Her letter arrived before the weekend.",
    "river": "Five old boats are moored by the bridge.",
    "music": "Someone upstairs is playing the piano.",
}

# espeak-ng's variants that sound like a person, by the gender that each imitates.
VOICES = {
    "f": ("f1", "f2", "f3", "f4", "f5", "belinda", "linda", "steph"),
    "m": ("m1", "m2", "m3", "m4", "m6", "m7", "max", "edward"),
}


class Delivery(NamedTuple):
    """How a sentence is said, in espeak-ng's units: `pitch` and `pitch_range` 0 to 99 around the voice's own at
    50 (20 of pitch are some 3.4 semitones), `rate` words a minute, `volume` 100 as loud as goes without
    clipping, `word_gap` 10 ms."""

    pitch: int
    pitch_range: int
    rate: int
    volume: int
    word_gap: int


class Manner(NamedTuple):
    """What an emotion at full strength changes of a speaker's own delivery: pitch added, the others as factors
    but `word_gap`; `tilt_db` an octave, louder voices being brighter."""

    pitch: float
    pitch_range: float
    rate: float
    volume: float
    word_gap: float
    tilt_db: float


# The directions that Juslin & Laukka (2003) found most studies of vocal expression to agree on, but for surprise,
# which they leave out; the sizes are ours.
MANNERS = {
    "neutral": Manner(0, 1.0, 1.0, 1.0, 0, 0),
    "happy": Manner(14, 1.5, 1.08, 1.3, 0, 1.0),
    "sad": Manner(-8, 0.55, 0.82, 0.65, 2, -2.5),
    "angry": Manner(6, 1.25, 1.15, 1.6, 0, 2.5),
    "fearful": Manner(18, 0.75, 1.2, 0.8, 1, -1.0),
    "surprised": Manner(22, 1.7, 0.95, 1.2, 0, 0.5),
}


class Speech(NamedTuple):
    """audio: float32 [S] in [-1, 1) at RATE. phonemes: (start in seconds, espeak-ng's name), in order."""

    audio: np.ndarray
    phonemes: list[tuple[float, str]]

    @property
    def duration_s(self) -> float:
        return len(self.audio) / RATE


def deliver(own: Delivery, emotion: str, intensity: float, jitter: np.ndarray) -> Delivery:
    """A speaker's own delivery with an emotion in it. jitter [5]: chance, standard normal."""
    manner = MANNERS[emotion]
    return Delivery(
        _bounded(own.pitch + intensity * manner.pitch + 4 * jitter[0], 0, 99),
        _bounded(own.pitch_range * manner.pitch_range**intensity * 1.15 ** jitter[1], 5, 99),
        _bounded(own.rate * manner.rate**intensity * 1.05 ** jitter[2], 125, 240),
        _bounded(own.volume * manner.volume**intensity * 1.12 ** jitter[3], 30, 100),
        _bounded(intensity * manner.word_gap + 0.6 * jitter[4], 0, 3),
    )


def speak(text: str, voice: str, delivery: Delivery) -> Speech:
    """Says a sentence in American English.

    voice: one of VOICES. Raises DataError when espeak-ng is not installed or fails.
    """
    loader = _loader()
    # What espeak-ng says depends on what it said before: counters of its flutter, echo and noise are never set
    # back. A library that was unloaded starts anew; that takes 3 ms.
    try:
        library, data = ctypes.CDLL(loader.get_library_path()), Path(loader.get_data_path())
    except (OSError, RuntimeError) as error:
        raise DataError(f"espeak-ng cannot be loaded ({error}); install espeakng-loader again") from None
    try:
        return _speak(library, data, text, voice, delivery)
    finally:
        library.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def tilted(audio: np.ndarray, db_per_octave: float) -> np.ndarray:
    """The same sound, brighter (or with less than 0 duller), float32 [S]; 1 kHz keeps its level."""
    spectrum = np.fft.rfft(audio)
    octaves = np.log2(np.fft.rfftfreq(len(audio), 1 / RATE).clip(100) / 1000)
    return np.fft.irfft(spectrum * 10 ** (db_per_octave * octaves / 20), len(audio)).astype(np.float32)


def lips(speech: Speech, times_s: np.ndarray) -> np.ndarray:
    """What the lips do at each time: float64 [T, 3], how open (0 to 1), how wide (-1 to 1), how round (0 to 1).

    Before and after the speech they are closed and at rest.
    """
    steps = round(speech.duration_s * _GRID)
    targets, closed = np.zeros((steps, 3)), np.zeros(steps)
    ends = [*(start for start, _ in speech.phonemes[1:]), speech.duration_s]
    for (start, name), end in zip(speech.phonemes, ends, strict=True):
        letters = [letter for letter in name if letter in _LIPS] or ["_"]
        for k, letter in enumerate(letters):  # a diphthong is on its way from one vowel to the next
            part = slice(*(round((start + (end - start) * j / len(letters)) * _GRID) for j in (k, k + 1)))
            targets[part] = _LIPS[letter]
            closed[part] = letter in _CLOSED
    shape = np.stack([_smooth(column, 0.11) for column in targets.T], 1)
    power = np.add.reduceat(np.square(speech.audio), np.arange(steps) * RATE // _GRID)
    level = np.sqrt(_smooth(power, 0.1))
    shape[:, 0] *= 0.5 + 0.5 * np.minimum(1, level / np.percentile(level, 90))  # loud syllables open wider
    # Closed for 40 ms more than the sound lasts: a short b would else lie between two frames.
    touch = np.convolve(closed, np.ones(9), "same") > 0
    shape[:, 0] *= 1 - np.minimum(1, 1.6 * _smooth(touch, 0.06))
    grid = np.arange(steps) / _GRID
    return np.stack([np.interp(times_s, grid, column, left=0, right=0) for column in shape.T], 1)


_GRID = 200  # steps a second of lip movement
_CLOSED = "mbp"
# Letters of espeak-ng's phoneme names → open, wide, round. Stress and length marks are in none of them.
_LIPS = {
    "_": (0.0, 0.0, 0.0),
    **dict.fromkeys("mbp", (0.0, 0.0, 0.1)),
    **dict.fromkeys("fv", (0.12, 0.1, 0.0)),
    **dict.fromkeys("TD", (0.25, 0.1, 0.0)),
    **dict.fromkeys("tdnszlLkgNhj;", (0.28, 0.2, 0.0)),
    **dict.fromkeys("SZ", (0.28, -0.2, 0.6)),
    "r": (0.3, -0.1, 0.5),
    "w": (0.15, -0.4, 1.0),
    "u": (0.25, -0.4, 1.0),
    "U": (0.35, -0.2, 0.7),
    "o": (0.55, -0.3, 0.8),
    "O": (0.7, -0.2, 0.6),
    "0": (0.8, -0.1, 0.2),
    "A": (1.0, 0.0, 0.0),
    "a": (0.95, 0.2, 0.0),
    "V": (0.75, 0.0, 0.0),
    "@": (0.5, 0.0, 0.0),
    "3": (0.45, -0.1, 0.4),
    "E": (0.65, 0.3, 0.0),
    "e": (0.55, 0.4, 0.0),
    "I": (0.4, 0.4, 0.0),
    "i": (0.3, 0.6, 0.0),
}


def _bounded(value, low, high) -> int:
    return int(np.clip(round(float(value)), low, high))


def _smooth(values, width_s):
    kernel = np.hanning(round(width_s * _GRID) + 2)
    return np.convolve(values, kernel / kernel.sum(), "same")


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT, _UTF8, _END_OF_LIST, _PHONEME = 2, 1, 0x8000, 1, 0, 7
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4, "word_gap": 7}


def _loader():
    try:
        import espeakng_loader
    except ImportError:
        raise DataError(
            "espeak-ng, which speaks the sentences, is not installed: pip install 'avemo_jax[demo]'"
        ) from None
    return espeakng_loader


def _speak(library, data, text, voice, delivery):
    options = _PHONEME_EVENTS | _DO_NOT_EXIT
    if library.espeak_Initialize(_SYNCHRONOUS, 0, str(data.parent).encode(), options) != RATE:
        raise DataError(f"espeak-ng does not start with its data in {data}; install espeakng-loader again")
    if not (data / "voices" / "!v" / voice).is_file():  # espeak-ng would take its plain voice without a word
        raise DataError(f"there is no voice {voice!r} in {data}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of its breath noise
    pieces: list[np.ndarray] = []
    phonemes: list[tuple[float, str]] = []

    def collect(samples, count, events):
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        i = 0
        while events[i].type != _END_OF_LIST:
            if events[i].type == _PHONEME:
                phonemes.append((events[i].sample / RATE, events[i].name.decode()))
            i += 1
        return 0

    callback = _CALLBACK(collect)
    library.espeak_SetSynthCallback(callback)
    codes = [library.espeak_SetVoiceByName(f"en-us+{voice}".encode())]
    codes += [
        library.espeak_SetParameter(number, getattr(delivery, name), 0)
        for name, number in _PARAMETERS.items()
    ]
    spoken = text.encode()
    codes.append(library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken) + 1), 0, 1, 0, _UTF8, None, None))
    if any(codes) or not pieces:
        raise DataError(f"espeak-ng cannot say {text!r} with the voice {voice!r} (codes {codes})")
    return Speech(np.concatenate(pieces).astype(np.float32) / 32768, phonemes)
