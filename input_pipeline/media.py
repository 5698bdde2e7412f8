"""Open a video or sound file and read its frames and sound, aligned in time (PyAV).

Frames come back on an even time grid, sound as mono int16 at 16 kHz whose sample 0 belongs to the time of
frame 0. Not here: cropping and compressing (the caller passes `on_frame`), and what is done with a clip.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from input_pipeline.errors import MediaError

AUDIO_RATE = 16_000  # Hz: what the log-mel of the models is defined for

# Decode from a little before a window: containers seek coarsely. Some (MPEG's streams) do not seek to a picture that
# can be decoded by itself; where the next one is too late, from further back, and at last from the start.
_SEEK_MARGINS_S = (1.0, 12.0, np.inf)
_REORDER_MARGIN_S = 0.5  # AVI stamps frames in decoding order, up to a few frames away from their own time
_SOUND_GAP_S = 0.1  # a jump in the sound's time stamps longer than this is filled with silence
_LONGEST_GAP_S = 60.0  # but this one is a damaged time stamp
_USUAL_RATE = 25.0  # where neither container nor time stamps tell
STAMP_ERROR_S = 0.002  # containers with millisecond clocks round their stamps
# The clock of these streams has 33 bits: what lies before 0 is stamped so much too late.
_MPEG_STREAMS, _MPEG_CLOCK_S = {"mpeg", "mpegts"}, 2**33 / 90_000
_PLAYLISTS = {"hls", "dash", "concat", "sdp", "rtsp"}  # these name further files, which may lie anywhere


@dataclass(frozen=True)
class Clip:
    """What a file held between two times.

    frames: one entry a frame, as `on_frame` returned it; frame k is shown at k / fps seconds. May be empty.
    fps: frames a second, 0.0 without a picture.
    audio: int16 [S], mono, 16 kHz; sample 0 is at the time of frame 0. May be empty.
    """

    frames: list[Any]
    fps: float
    audio: np.ndarray

    @property
    def video_s(self) -> float:
        return len(self.frames) / self.fps if self.frames else 0.0

    @property
    def audio_s(self) -> float:
        return len(self.audio) / AUDIO_RATE


def read_clip(
    path: str | os.PathLike,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    on_frame: Callable[[np.ndarray], Any] = lambda frame: frame,
) -> Clip:
    """Reads the frames and the sound of `path` between `start_s` and `end_s` (seconds from the file's start).

    A constant-rate file gives exactly its own frames; a variable-rate one is laid on a grid at its average
    rate by its time stamps. Rotation is applied. A damaged file gives what can be decoded of it.

    on_frame: called with each decoded frame, uint8 [H, W, 3] RGB, as soon as it is decoded, so that a long
      file never lies in memory uncompressed.

    Raises:
      MediaError: with a short reason, when neither picture nor sound can be read.
    """
    for margin_s in _SEEK_MARGINS_S if start_s else (np.inf,):
        with _open(path) as container:
            video, sound = _streams(container)
            if video is None and sound is None:
                raise MediaError("holds neither picture nor sound")
            origin = (container.start_time or 0) / av.time_base
            first = origin + (start_s or 0.0)
            last = np.inf if end_s is None else origin + end_s
            seeks = margin_s < np.inf
            if seeks:
                _seek(container, first - margin_s)
            wraps = container.format.name in _MPEG_STREAMS
            too_late = origin + _MPEG_CLOCK_S - _LONGEST_GAP_S if wraps else np.inf
            decoded = _decode(container, video, sound, first, last, on_frame, seeks, too_late)
            clock = _clock(container, video, start_s)  # here: a stream's memory goes with its container
        if decoded is not None:
            break
    shown, heard = decoded

    frames, fps, frames_at = _grid(shown, clock, first, last)
    audio_at = frames_at if frames else (first if start_s else None)
    audio = _mono(heard, audio_at, last)
    if not frames and not len(audio):
        raise MediaError(_why_nothing(start_s, end_s))
    return Clip(frames, fps, audio)


def lay_on_grid(times_s: Sequence[float], rate: float, last_s: float) -> list[int]:
    """Which frame is on the screen at each point of an even grid.

    times_s: increasing time stamps of the frames, [N].
    rate: grid points a second; last_s: how long the last frame stays.
    Returns the index of the frame shown at times_s[0] + k / rate, for every k before the end.
    """
    times = np.asarray(times_s) - times_s[0]
    points = max(1, int(np.floor((times[-1] + last_s) * rate + 0.5)))
    at = np.arange(points) / rate + STAMP_ERROR_S
    return (np.searchsorted(times, at, side="right") - 1).tolist()


def is_even(times_s: Sequence[float], tolerance: float = 0.25) -> bool:
    """Whether time stamps lie on an even grid, up to `tolerance` of a frame: a constant frame rate."""
    n = len(times_s)
    if n < 3:
        return True
    even = np.linspace(times_s[0], times_s[-1], n)
    step = (times_s[-1] - times_s[0]) / (n - 1)
    return bool(step > 0 and np.abs(np.asarray(times_s) - even).max() <= tolerance * step)


def _open(path):
    try:
        if os.path.isdir(path):
            raise MediaError("is a folder, not a file")
        if os.path.getsize(path) == 0:
            raise MediaError("empty file")
        container = av.open(os.fspath(path), metadata_errors="replace")
    except FileNotFoundError:
        raise MediaError("no such file") from None
    except PermissionError:
        raise MediaError("no permission to read it") from None
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"not a readable video or sound file ({_short(error)})") from None
    if _PLAYLISTS & set(container.format.name.split(",")):
        container.close()
        raise MediaError("a list of other files, not a video or sound file")
    return container


def _streams(container):
    """The first picture (not a cover image) and the first sound of a file; None where there is none."""
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    chosen = []
    for streams in (videos, container.streams.audio):
        stream = next((s for s in streams if s.codec_context is not None), None)
        if stream is not None:
            stream.codec_context.thread_count = 1  # clips are decoded in parallel, not frames
        chosen.append(stream)
    return chosen


def _seek(container, time_s):
    with contextlib.suppress(av.FFmpegError):  # a container that cannot seek is decoded from its start
        container.seek(max(0, int(time_s * av.time_base)))


def _decode(container, video, sound, first, last, on_frame, sought, too_late):
    """Decodes what lies near [first, last); time stamps from `too_late` on lie before 0 on MPEG's clock.

    Returns [(time or None, on_frame(picture), duration or None)], [(time or None, sound frame)]; or None, before any
    call of `on_frame`, where the container was sought in and its pictures begin too late.
    """
    shown, heard = [], []
    late = sought and video is not None  # until a picture is early enough
    done = {stream.index: False for stream in (video, sound) if stream is not None}
    packets = container.demux([stream for stream in (video, sound) if stream is not None])
    to_rgb = (
        VideoReformatter()
    )  # one for all frames: each new one sets up its tables anew, which costs as much as decoding
    while not all(done.values()):
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, IndexError):  # IndexError: a packet of a stream that was not announced
            break  # the file is cut or damaged here: what came before still counts
        if done[packet.stream.index]:
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue  # a damaged packet; the decoder finds its feet again at the next one
        for frame in frames:
            time = frame.time
            if time is not None and time >= too_late:
                time -= _MPEG_CLOCK_S
            if late and packet.stream is video:
                if time is not None and time > first + STAMP_ERROR_S:
                    return None
                late = False
            if time is not None and time >= last + _REORDER_MARGIN_S:
                done[packet.stream.index] = True
            elif packet.stream is video:
                if time is None or time >= first - _REORDER_MARGIN_S:
                    shown.append((time, on_frame(_upright(frame, to_rgb)), _seconds(frame)))
            elif time is None or time + frame.samples / frame.sample_rate > first:
                heard.append((time, frame))
    return None if late else (shown, heard)


def _upright(frame, to_rgb):
    """uint8 [H, W, 3], turned and mirrored as the display matrix says (phones film sideways, some a mirror image)."""
    picture = to_rgb.reformat(frame, format="rgb24").to_ndarray()
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return picture
    # (x, y) of a pixel @ the upper left 2 × 2 is where it is shown; the angle is a quarter turn, or nearly.
    matrix = np.frombuffer(bytes(found), np.int32).reshape(3, 3)[:2, :2].astype(np.int64)
    if abs(matrix[0, 0]) < abs(matrix[0, 1]):
        picture, matrix = picture.swapaxes(0, 1), matrix[::-1]
    across, down = np.diag(matrix)
    picture = picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
    return np.ascontiguousarray(picture)


def _seconds(frame):
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else None


class _Clock(NamedTuple):
    """What a container claims about the time of its frames.

    rates: frames a second, the best claim first; often wrong.
    starts_at: time of its first frame, None when reading began in the middle.
    tolerance: of a frame, for an even grid.
    """

    rates: list[float]
    starts_at: float | None
    tolerance: float


def _clock(container, video, start_s):
    if video is None:
        return _Clock([], None, 0.0)
    rates = [float(r) for r in (video.average_rate, video.guessed_rate, video.base_rate) if r]
    whole = video.start_time is not None and not start_s
    starts_at = float(video.start_time * video.time_base) if whole else None
    # AVI has slots instead of time stamps, and FFmpeg leaves one empty after the first frame it writes.
    return _Clock(rates, starts_at, 1.0 if container.format.name == "avi" else 0.25)


def _grid(shown, clock, first, last):
    """Frames on an even grid, their rate, and the time of the first."""
    if not shown:
        return [], 0.0, None
    times = _times([time for time, _, _ in shown], clock)
    inside = [i for i, t in enumerate(times) if first - STAMP_ERROR_S <= t < last - STAMP_ERROR_S]
    if not inside:
        return [], 0.0, None
    frames = [shown[i][1] for i in inside]
    tail_s = shown[inside[-1]][2]
    times = [times[i] for i in inside]

    measured = _measured_rate(times)
    if measured is None:
        return frames[:1], (clock.rates[0] if clock.rates else _USUAL_RATE), times[0]
    if is_even(times, clock.tolerance):
        return frames, _believed(clock.rates, measured, 0.01 + 1.5 * clock.tolerance / len(times)), times[0]
    average = len(times) / (times[-1] - times[0] + (tail_s or 1 / measured))
    rate = _believed(clock.rates, average, 0.1)
    return [frames[i] for i in lay_on_grid(times, rate, tail_s or 1 / rate)], rate, times[0]


def _times(stamps, clock):
    """Time of each frame, increasing: decoders give frames in the order shown, whatever their stamps."""
    if None not in stamps and all(a <= b for a, b in pairwise(stamps)):
        return stamps
    # Raw streams carry no clock, AVI stamps frames in decoding order: such files have a constant rate.
    known = sorted(stamp for stamp in stamps if stamp is not None)
    measured = _measured_rate(known) if len(known) == len(stamps) else None
    if measured is None:
        rate = clock.rates[0] if clock.rates else _USUAL_RATE
    else:
        rate = _believed(clock.rates, measured, 0.01 + 1.5 / len(stamps))
    starts_at = clock.starts_at if clock.starts_at is not None else (known[0] if known else 0.0)
    return [starts_at + i / rate for i in range(len(stamps))]


def _measured_rate(times):
    span = times[-1] - times[0]
    return (len(times) - 1) / span if span > 0 else None


def _believed(rates, measured, tolerance):
    """The first claimed rate that agrees with the measured one, else the measured one."""
    return next((rate for rate in rates if abs(rate / measured - 1) <= tolerance), measured)


def _mono(heard, at, last):
    """int16 [S] at 16 kHz from the time `at` (None: where the sound starts) to `last`."""
    if not heard:
        return np.zeros(0, np.int16)
    begins = next((time for time, _ in heard if time is not None), 0.0)
    pieces, resampler, setup, clock = [], None, None, begins

    def flush():
        if resampler is not None:
            pieces.extend(out.to_ndarray()[0] for out in resampler.resample(None))

    for time, frame in heard:
        if time is not None and _SOUND_GAP_S < time - clock < _LONGEST_GAP_S:
            flush()
            resampler, setup = None, None
            pieces.append(np.zeros(round((time - clock) * AUDIO_RATE), np.int16))
            clock = time
        if setup != (setup := (frame.format.name, frame.layout.name, frame.sample_rate)):
            flush()
            resampler = av.AudioResampler(format="s16", layout="mono", rate=AUDIO_RATE)
        clock += frame.samples / frame.sample_rate
        frame.pts = None  # times are kept here; the resampler would fill small jumps in its own way
        pieces.extend(out.to_ndarray()[0] for out in resampler.resample(frame))
    flush()
    audio = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)

    at = begins if at is None else at
    if begins - at > _LONGEST_GAP_S:
        return np.zeros(0, np.int16)
    skip = round((at - begins) * AUDIO_RATE)
    audio = audio[skip:] if skip >= 0 else np.concatenate([np.zeros(-skip, np.int16), audio])
    return audio if np.isinf(last) else audio[: max(0, round((last - at) * AUDIO_RATE))]


def _why_nothing(start_s, end_s):
    if start_s is None and end_s is None:
        return "nothing in it can be decoded (cut off or damaged)"
    return f"nothing between {start_s or 0.0:g} s and {'its end' if end_s is None else f'{end_s:g} s'}"


def _short(error):
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0][:80] if text else type(error).__name__
