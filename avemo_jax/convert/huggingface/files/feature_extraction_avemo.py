"""Raw video files → what the model takes, by the code that made its training data.

Frames are laid on an even grid, cut, scaled down and JPEG-compressed as for training; the middle of the clip
is taken, its frames resized and normalised; sound becomes the log-mel of 16 kHz mono. With the same versions
of PyAV and Pillow the pixels and samples are the same to the bit. The log-mel is computed in float64 here and
was in float32 in training, which differs by some 1e-4.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin

try:
    from input_pipeline.audio import SAMPLE_RATE, fit, log_mel
    from input_pipeline.audio import normalise as normalise_log_mel
    from input_pipeline.errors import DataError
    from input_pipeline.examples import Cut, Example
    from input_pipeline.media import read_clip
    from input_pipeline.record import Record
    from input_pipeline.storing import ClipOptions, as_record, stored_arrays, stored_clip
    from input_pipeline.video import normalise as normalise_video
except ImportError as error:
    if error.name not in ("av", "PIL"):
        raise
    raise ImportError("reading clips needs PyAV and Pillow: pip install av pillow") from error

if TYPE_CHECKING:  # transformers 4 copies from a local folder only what this file itself names
    from input_pipeline.augment import Box  # noqa: F401
    from input_pipeline.blazeface import find_faces  # noqa: F401
    from input_pipeline.faces import cut  # noqa: F401
    from input_pipeline.media import Clip  # noqa: F401
    from input_pipeline.randaugment import RandAugment  # noqa: F401
    from input_pipeline.sampling import centre_start  # noqa: F401
    from input_pipeline.targets import Target  # noqa: F401

Times = float | Sequence[float | None] | None


class AvemoFeatureExtractor(FeatureExtractionMixin):
    """Files, or frames and sound that were decoded already → `video` and `audio` for the model.

    Args:
      frames, image_size: of a clip's video, pixels.
      audio_frames, mel_bins: of a clip's log-mel, 10 ms a frame.
      frame_stride: every how many frames one is taken.
      crop: "multi_scale": the largest square in the middle of a frame; "none": the whole frame, squeezed.
      segments: views of a clip that a fine-tuned model was tested with, which its pipeline takes too.
      prepare: how clips were stored for training, see `ClipOptions`: crop, short_side, jpeg_quality, min_s,
        max_gap_s, min_face_share. With its crop "face" a face is found and cut out as for training, which needs
        two more packages; without them, or where no face is found, clips are refused. allow_missing: what clips of
        the training lacked; a file that lacks it is taken too, with black frames or silence.
    """

    model_input_names = ("video", "audio")

    def __init__(
        self,
        *,
        frames: int = 16,
        image_size: int = 160,
        audio_frames: int = 256,
        mel_bins: int = 128,
        frame_stride: int = 4,
        crop: str = "multi_scale",
        segments: int = 1,
        prepare: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.frames, self.image_size = frames, image_size
        self.audio_frames, self.mel_bins = audio_frames, mel_bins
        self.frame_stride, self.crop, self.prepare = frame_stride, crop, prepare or {}
        self.segments = segments

    def __call__(
        self,
        files: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        *,
        start_s: Times = None,
        end_s: Times = None,
        frames: Any = None,
        fps: Any = None,
        waveform: Any = None,
        sampling_rate: int = SAMPLE_RATE,
        segments: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """`video` float32 [B, 3, T, H, W] and `audio` float32 [B, 1, audio_frames, mel_bins].

        Args:
          files: one media file or several, each with picture and sound (but see allow_missing). One clip is taken
            from the middle.
          start_s, end_s: only this part of the files, in seconds; one value for all, or one for each file. The
            clip is then taken from the middle of the part.
          frames: instead of files, uint8 RGB [T, H, W, 3], all frames of a clip at a constant rate; or a list.
          fps: with `frames`, their rate; one for all, or one for each clip.
          waveform: with `frames`, its sound from the time of frame 0 on, one channel [S] at 16 kHz: int16, or
            float in [-1, 1), which is rounded to 16 bit; or a list.
          sampling_rate: of the waveforms; another than 16 kHz is refused.
          segments: so many views of each clip instead, evenly spread over its time, as fine-tuned models are tested:
            B is then clips times segments, a clip's views one behind the other.
          return_tensors: "pt", "np" or None (a NumPy array each).

        Raises:
          ValueError: a clip that cannot be used, with its name and the reason.
        """
        if (files is None) == (frames is None):
            raise ValueError("give either files, or frames with fps and waveform")
        if files is not None:
            if fps is not None or waveform is not None:
                raise ValueError("fps and waveform go with frames: files have their own")
            names = [files] if isinstance(files, (str, os.PathLike)) else list(files)
            starts, ends = _each(start_s, len(names), "start_s"), _each(end_s, len(names), "end_s")
            records = [self._read(*job) for job in zip(names, starts, ends, strict=True)]
        else:
            if start_s is not None or end_s is not None:
                raise ValueError("start_s and end_s are of files: cut frames and waveform before")
            if sampling_rate != SAMPLE_RATE:
                raise ValueError(f"waveform at {sampling_rate} Hz: resample it to {SAMPLE_RATE} Hz")
            if fps is None or waveform is None:
                raise ValueError("frames need fps and a waveform")
            single = getattr(frames, "ndim", 0) == 4
            pictures, sounds = ([frames], [waveform]) if single else (list(frames), list(waveform))
            if len(pictures) != len(sounds):
                raise ValueError(f"frames of {len(pictures)} clips, but {len(sounds)} waveforms")
            jobs = zip(pictures, _each(fps, len(pictures), "fps"), sounds, strict=True)
            records = [self._take(number, *job) for number, job in enumerate(jobs)]
        if not records:
            raise ValueError("no clips were given")
        sizes = self.frames, self.image_size, self.audio_frames
        lacking = self.prepare.get("allow_missing", "none") != "none"
        cut = Cut(*sizes, self.frame_stride, self.crop, allow_missing=lacking)
        if segments is None:
            examples = [cut.centre(record) for record in records]
        else:
            examples = [
                self._segment(cut, record, k, segments) for record in records for k in range(segments)
            ]
        video = normalise_video(np.stack([example["video"] for example in examples]))
        data = {
            "video": np.ascontiguousarray(video.transpose(0, 4, 1, 2, 3)),
            "audio": np.stack([self._log_mel(example) for example in examples])[:, None],
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def length_s(
        self, path: str | os.PathLike, *, start_s: float | None = None, end_s: float | None = None
    ) -> float:
        """Seconds that picture or sound of a file, or of this part of it, last: counted, as containers do not always
        know. Raises as a call does."""
        clip = _decoded(read_clip, path, start_s=start_s, end_s=end_s, on_frame=lambda frame: b"")
        return max(clip.video_s, clip.audio_s)

    def _read(self, path: str | os.PathLike, start_s: float | None, end_s: float | None) -> Record:
        options = ClipOptions(**self.prepare)
        clip = _decoded(stored_clip, path, options, start_s=start_s, end_s=end_s)
        return as_record(clip, os.fspath(path))

    def _take(self, number: int, frames: Any, fps: float, waveform: Any) -> Record:
        frames, sound = np.asarray(frames), np.asarray(waveform)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(f"clip {number}: frames are {_kind(frames)}, not uint8 [T, H, W, 3]")
        if sound.ndim != 1 or not (sound.dtype == np.int16 or sound.dtype.kind == "f"):
            raise ValueError(f"clip {number}: its waveform is {_kind(sound)}, not int16 or float [S]")
        if not fps > 0:
            raise ValueError(f"clip {number}: its rate is {fps} frames a second")
        if sound.dtype != np.int16:
            sound = np.round(sound * 32768.0).clip(-32768, 32767).astype(np.int16)
        try:
            return as_record(stored_arrays(frames, fps, sound, ClipOptions(**self.prepare)), str(number))
        except DataError as error:
            raise ValueError(f"clip {number}: {error}") from error

    def _segment(self, cut: Cut, record: Record, segment: int, segments: int) -> Example:
        try:
            return cut.segment(record, segment, segments)
        except (DataError, ValueError) as error:
            raise ValueError(f"{record.clip_id}: {error}") from error

    def _log_mel(self, example: Example) -> np.ndarray:
        """float32 [audio_frames, mel_bins], normalised."""
        wave = example["waveform"][: example["waveform_length"]].astype(np.float32) / 32768
        return normalise_log_mel(
            fit(log_mel(wave - example["waveform_mean"], self.mel_bins), self.audio_frames)
        )


def _decoded(read: Callable[..., Any], path: str | os.PathLike, *options: Any, **part: Any) -> Any:
    """What `read` makes of a file; raises a ValueError with its name and the reason."""
    try:
        return read(path, *options, **part)
    except DataError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    except Exception as error:  # whatever a damaged file makes the decoders raise
        reason = f"cannot be decoded ({type(error).__name__}: {error})"
        raise ValueError(f"{os.fspath(path)}: {reason}") from error


def _each(value: Any, count: int, name: str) -> list:
    """One value for each clip."""
    if value is None or np.ndim(value) == 0:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} values for {count} clips")
    return list(value)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
