"""Spoken sentences with known words, emotion and phoneme times, and what the lips do with them.

Spoken by espeak-ng, which `espeakng-loader` carries: offline, the same samples for the same arguments. Not a
human voice and no acted emotion: pitch, tempo, loudness and pauses follow a small table.
"""

from __future__ import annotations

import ctypes
from itertools import pairwise
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

    pitch: float
    pitch_range: float
    rate: float
    volume: float
    word_gap: float


# What an emotion at full strength adds. The directions that Juslin & Laukka (2003) found most studies of vocal
# expression to agree on, but for surprise, which they leave out; the sizes are ours.
MANNERS = {
    "neutral": Delivery(0, 0, 0, 0, 0),
    "happy": Delivery(14, 25, 14, 18, 0),
    "sad": Delivery(-8, -22, -30, -20, 2),
    "angry": Delivery(6, 12, 26, 36, 0),
    "fearful": Delivery(18, -12, 34, -12, 1),
    "surprised": Delivery(22, 35, -9, 12, 0),
}
_JITTER = Delivery(4, 7, 9, 7, 0.6)  # what goes up and down by itself


class Speech(NamedTuple):
    """audio: float32 [S] in [-1, 1) at RATE. phonemes: (start in seconds, espeak-ng's name), in order; the last
    has no name and is where the sound ends."""

    audio: np.ndarray
    phonemes: list[tuple[float, str]]


def deliver(own: Delivery, emotion: str, intensity: float, jitter: np.ndarray) -> Delivery:
    """A speaker's own delivery with an emotion in it. jitter [5]: chance, standard normal."""
    wanted = np.array(own) + intensity * np.array(MANNERS[emotion]) + np.array(_JITTER) * jitter
    return Delivery(
        *np.clip(np.round(wanted), (0, 5, 125, 30, 0), (99, 99, 240, 100, 3)).astype(int).tolist()
    )


def speak(text: str, voice: str, delivery: Delivery) -> Speech:
    """Says a sentence in American English.

    voice: one of VOICES. Raises DataError when espeak-ng is not installed or fails.
    """
    library, data = _load()
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

    callback, spoken = _CALLBACK(collect), text.encode()
    try:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS | _DO_NOT_EXIT) != RATE:
            raise DataError(f"espeak-ng does not start in {data.decode()}; install espeakng-loader again")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of its breath noise
        library.espeak_SetSynthCallback(callback)
        codes = [library.espeak_SetVoiceByName(f"en-us+{voice}".encode())]
        for name, number in _PARAMETERS.items():
            codes.append(library.espeak_SetParameter(number, getattr(delivery, name), 0))
        size = ctypes.c_size_t(len(spoken) + 1)
        codes.append(library.espeak_Synth(spoken, size, 0, 1, 0, _UTF8, None, None))
    finally:
        # What espeak-ng says depends on what it said before: counters of its flutter, echo and noise are never
        # set back. A library that was unloaded starts anew; that takes 3 ms.
        library.espeak_Terminate()
        ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))
    if any(codes) or not pieces:
        raise DataError(f"espeak-ng cannot say {text!r} with the voice {voice!r} (codes {codes})")
    audio = np.concatenate(pieces).astype(np.float32) / 32768
    return Speech(audio, [*phonemes, (len(audio) / RATE, "")])


def lips(speech: Speech, times_s: np.ndarray) -> np.ndarray:
    """What the lips do at each time: float64 [T, 2], how open (0 to 1), how wide (1) or round (-1).

    Before and after the speech they are closed and at rest.
    """
    keys = [(0.0, 0.0, 0.0)]
    for (start, name), (end, _) in pairwise(speech.phonemes):
        shapes = [shape for letter in name for letters, shape in _LIPS.items() if letter in letters]
        shapes = shapes or [(0.0, 0.0)]  # a pause; a diphthong has the shapes of two vowels
        parts = pairwise(np.linspace(start, end, len(shapes) + 1))
        for shape, (first, last) in zip(shapes, parts, strict=True):
            # Held in the middle; but lips close for the whole time, or a short b might lie between two frames.
            margin = 0.0 if shape == _LIPS["mbp"] else 0.3 * (last - first)
            keys += [(first + margin, *shape), (last - margin, *shape)]
    at, opening, width = np.transpose([*keys, (speech.phonemes[-1][0], 0.0, 0.0)])
    return np.stack([np.interp(times_s, at, opening), np.interp(times_s, at, width)], 1)


# Letters of espeak-ng's phoneme names → open, wide. Stress and length marks are in none of them.
_LIPS = {
    "mbp": (0.0, -0.05),
    "fv": (0.12, 0.1),
    "TDtdnszlLkgNhj;": (0.27, 0.15),
    "SZr": (0.28, -0.55),
    "wu": (0.2, -1.0),
    "Uo": (0.45, -0.75),
    "O": (0.7, -0.6),
    "0Aa": (0.95, 0.0),
    "V": (0.75, 0.0),
    "@3": (0.5, -0.1),
    "Ee": (0.6, 0.35),
    "Ii": (0.35, 0.5),
}


class _Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h; what is not used here has no names."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("_", ctypes.c_int * 4),
        ("sample", ctypes.c_int),
        ("_user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT, _UTF8, _END_OF_LIST, _PHONEME = 2, 1, 0x8000, 1, 0, 7
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4, "word_gap": 7}


def _load():
    """espeak-ng, and the folder that its data is in."""
    try:
        import espeakng_loader

        folder = Path(espeakng_loader.get_data_path()).parent
        return ctypes.CDLL(espeakng_loader.get_library_path()), str(folder).encode()
    except ImportError:
        raise DataError(
            "espeak-ng, which speaks the sentences, is not installed: pip install 'avemo_jax[demo]'"
        ) from None
    except (OSError, RuntimeError) as error:
        raise DataError(f"espeak-ng cannot be loaded ({error}); install espeakng-loader again") from None
