"""Which frames and which samples of sound an example takes from a clip: pure index arithmetic.

Two families of rules, both HiCMAE's (numbers from its recorded behaviour): pretraining takes every
`stride`-th frame from a random start and the sound between their time stamps; fine-tuning spreads frames over
a window and takes the sound at the same relative place. All rules repeat frames where a clip is too short.
Not here: decoding, crops, randomness (callers pass the drawn start).
"""

from __future__ import annotations

import numpy as np

from input_pipeline.audio import SAMPLE_RATE

SHORTEST_SOUND = 1024  # samples; a shorter slice is not used
_SHORT_CLIP = int(2.56 * SAMPLE_RATE)  # below this, a slice that came out too short becomes the whole sound


def pretrain_starts(count: int, frames: int, stride: int) -> int:
    """How many starts (0, 1, …) a clip of `count` frames offers."""
    return max(1, count - frames * stride + 1)


def pretrain_frames(count: int, start: int, frames: int, stride: int) -> np.ndarray:
    """Indices [frames]: start, start + stride, …; near the end the last one that fits is repeated.

    The very last frame of a clip is never stepped onto, as in the reference.
    """
    steps = max(0, (count - 2 - start) // stride)
    return start + stride * np.minimum(np.arange(frames), steps)


def pretrain_sound(indices: np.ndarray, count: int, stride: int, fps: float) -> tuple[int, int]:
    """First sample and number of samples: from the first frame's start to one stride past the last one's.

    Time stamps are float32, as the reference's video reader gives them; it decides single samples.
    """
    last = min(int(indices[-1]) + stride, count - 1)
    begin = np.float32(int(indices[0]) / fps)
    end = np.float32((last + 1) / fps)
    return int(SAMPLE_RATE * begin), int(SAMPLE_RATE * (end - begin))


def centre_start(count: int, frames: int, stride: int) -> int:
    """The start in the middle of those of `pretrain_starts`: one fixed view for evaluation (ours)."""
    return (pretrain_starts(count, frames, stride) - 1) // 2


def window_starts(count: int, frames: int, stride: int) -> list[int]:
    """Starts of windows of frames · stride that cover a clip: back to back, the last one moved so that it ends with
    the clip (ours). A clip that is too short has one. Their sound is what `pretrain_sound` says, of which examples
    keep what fits: of slow pictures it leaves gaps."""
    last = pretrain_starts(count, frames, stride) - 1
    return sorted({*range(0, last + 1, frames * stride), last})


def finetune_starts(count: int, frames: int, stride: int) -> int:
    """How many starts fine-tuning draws from; the last frame of a clip is never in a window."""
    return max(1, count - frames * stride)


def finetune_frames(count: int, start: int, frames: int, stride: int) -> np.ndarray:
    """Indices [frames] spread evenly over frames·stride frames: spacing frames·stride / (frames − 1)."""
    window = frames * stride
    if count <= window:
        spread = np.linspace(0, count, count // stride).astype(int)
        return np.minimum(np.concatenate([spread, np.full(frames - len(spread), count)]), count - 1)
    return np.clip(np.linspace(start, start + window, frames).astype(int), start, start + window - 1)


def test_frames(count: int, segment: int, segments: int, frames: int, stride: int) -> np.ndarray:
    """Indices [frames] of one of `segments` views at even distances; spacing is exactly `stride`."""
    strided = np.arange(0, count, stride)
    strided = np.concatenate([strided, np.full(max(0, frames - len(strided)), strided[-1])])
    start = view_start(len(strided) - frames, segment, segments)
    return strided[start : start + frames]


def view_start(spare: int, segment: int, segments: int) -> int:
    """Where one of `segments` views at even distances begins, of `spare` + 1 places; a single one is the middle."""
    return segment * spare // (segments - 1) if segments > 1 else spare // 2


def relative_sound(first: int, last: int, count: int, samples: int) -> tuple[int, int]:
    """First sample and number of samples between two frames, by their relative place in the clip.

    last: finetune: first + frames·stride; test: last frame + stride; anything past the end is the end.
    Raises ValueError when that is too short and the clip is not a short one.
    """
    last = min(last, count - 1)
    begin, end = (first / (count - 1), last / (count - 1)) if count > 1 else (0.0, 0.0)
    first_sample, end_sample = int(begin * samples), int(end * samples)
    if end_sample - first_sample > SHORTEST_SOUND:
        return first_sample, end_sample - first_sample
    if samples < _SHORT_CLIP:
        return 0, samples
    raise ValueError(f"only {end_sample - first_sample} samples of sound between frames {first} and {last}")
