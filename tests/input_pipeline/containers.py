"""Files of every kind, made from a real clip with PyAV, for the tests of decoding."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# suffix → (picture codec, sound codec)
FORMATS = {
    "mp4": ("libx264", "aac"),
    "avi": ("mpeg4", "libmp3lame"),
    "flv": ("flv", "libmp3lame"),
    "mkv": ("libx264", "flac"),
    "mov": ("mpeg4", "pcm_s16le"),
    "webm": ("libvpx", "libopus"),
    "mpg": ("mpeg1video", "mp2"),
}


def write(
    path: Path,
    frames: list[np.ndarray] | None,
    audio: np.ndarray | None,
    *,
    rate: int = 25,
    audio_rate: int = 48_000,
    channels: int = 1,
    codecs: tuple[str, str] | None = None,
    times_ms: list[int] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    keyframes_every: int = 0,
    sound_starts_s: float = 0.0,
) -> Path:
    """Writes frames uint8 [H, W, 3] and int16 sound [channels, S] (or [S]).

    times_ms: when each frame is shown (a variable rate); rotation: degrees of the display matrix, which then mirrors
      left and right if asked; keyframes_every: frames, 0 for the codec's own choice.
    """
    picture_codec, sound_codec = codecs or FORMATS[path.suffix[1:]]
    with av.open(str(path), "w") as container:
        video = sound = None
        if frames is not None:
            video = container.add_stream(picture_codec, rate=rate)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuvj420p" if picture_codec == "mjpeg" else "yuv420p"
            if picture_codec == "libx264":
                video.options = {"preset": "ultrafast", "crf": "12"}
            else:
                video.bit_rate = 4_000_000
            if times_ms is not None:
                video.codec_context.time_base = Fraction(1, 1000)
                video.time_base = Fraction(1, 1000)
            if keyframes_every:
                video.gop_size = keyframes_every
            if rotation or mirrored:
                video.set_display_rotation(rotation, hflip=mirrored)
        if audio is not None:
            sound = container.add_stream(sound_codec, rate=audio_rate)
            sound.layout = "stereo" if channels == 2 else "mono"
        if video is not None:
            for i, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.time_base = Fraction(1, 1000) if times_ms is not None else Fraction(1, rate)
                frame.pts = times_ms[i] if times_ms is not None else i
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if sound is not None:
            packed = np.atleast_2d(audio)
            interleaved = np.ascontiguousarray(packed.T).reshape(1, -1)
            layout = "stereo" if channels == 2 else "mono"
            frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout=layout)
            frame.sample_rate = audio_rate
            frame.time_base = Fraction(1, audio_rate)
            frame.pts = round(sound_starts_s * audio_rate)
            resampler = av.AudioResampler(
                sound.codec_context.format, layout, audio_rate, sound.frame_size or 1024
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(sound.encode(piece))
            container.mux(sound.encode())
    return path


def tone(rate: int, seconds: float, hertz: float = 440.0) -> np.ndarray:
    """int16 [S]: a sine at half the full scale."""
    return (16_384 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.int16)


def strongest_hertz(audio: np.ndarray, rate: int = 16_000) -> float:
    """The frequency with the most energy."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum) * rate / len(audio))
