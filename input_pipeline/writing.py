"""A small media file out of frames and sound, to try decoders and the way from a file to a model with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np


def write_clip(
    path: str | os.PathLike,
    frames: Sequence[np.ndarray],
    rate: int,
    sound: np.ndarray,
    sound_rate: int,
    sound_codec: str = "pcm_s16le",
) -> None:
    """Writes frames uint8 [H, W, 3] (MPEG-4) and mono int16 sound [S]; the container is that of the suffix."""
    with av.open(os.fspath(path), "w") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.height, video.width, video.pix_fmt = *frames[0].shape[:2], "yuv420p"
        audio: Any = container.add_stream(sound_codec, rate=sound_rate, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame)))
        heard = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        heard.sample_rate, heard.time_base, heard.pts = sound_rate, Fraction(1, sound_rate), 0
        container.mux(audio.encode(heard))
        for stream in (video, audio):
            container.mux(stream.encode(None))
