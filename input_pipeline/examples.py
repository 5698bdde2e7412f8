"""What one example takes from a record: frames, a cut of them, a slice of sound, a label.

Joins `sampling` (which frames, which sound) and `augment` (which part of the frame). Not here: which record,
and batches (loader).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from input_pipeline.audio import SAMPLE_RATE, samples_for
from input_pipeline.augment import centre_box, crop_and_resize, draw_multi_scale_box
from input_pipeline.errors import DataError
from input_pipeline.randaugment import RandAugment
from input_pipeline.record import Record
from input_pipeline.sampling import (
    centre_start,
    finetune_frames,
    finetune_starts,
    pretrain_frames,
    pretrain_sound,
    pretrain_starts,
    relative_sound,
    test_frames,
    view_start,
    window_starts,
)
from input_pipeline.targets import Target

# video uint8 [T, H, W, 3]; waveform int16 [S], zero after `waveform_length`; waveform_mean, of the whole
# slice of sound before it is cut to S, in [−1, 1); label, as its target says, where there is one. Scalars are int32
# and float32.
Example = dict[str, Any]
TIMES = ("video_start_s", "frame_s", "audio_start_s")


@dataclass(frozen=True)
class Cut:
    """The shapes of an example, and which rules of `sampling` and `augment` it follows.

    whole: height and width of stored frames, of which random examples then keep all, with the `box` to cut and whether
      to `flip`; the device cuts. Empty: they are cut here.
    allow_missing: whether a record without picture, or without sound, gives an example too, with zeros for it.
    fine_tuning: whether random examples follow the rules of fine-tuning without a target too.
    """

    frames: int
    image_size: int
    audio_frames: int
    frame_stride: int = 4
    crop: str = "multi_scale"
    flip: bool = False
    whole: tuple[int, ...] = ()
    target: Target | None = None
    rand_augment: RandAugment | None = None
    allow_missing: bool = False
    fine_tuning: bool = False

    def __post_init__(self):
        if self.crop not in ("multi_scale", "none"):
            raise DataError(f"data.crop {self.crop!r}: there are 'multi_scale' and 'none'")
        if self.whole and len(self.whole) != 2:
            raise DataError(f"data.device_crop {self.whole}: give (height, width) of the stored frames")
        if self.whole and self.rand_augment:
            raise DataError(
                "data.rand_augment works on frames cut here: leave data.device_crop empty with it"
            )

    def train(self, record: Record, rng: np.random.Generator) -> Example:
        """A random example: by the sampling rules of pretraining, or of fine-tuning when there is a target."""
        self.check_streams(record)
        if not record.frames:
            return self._unseen(record, int(rng.integers(max(1, len(record.audio) - self._samples + 1))))
        count, frames, stride = len(record.frames), self.frames, self.frame_stride
        if self.target or self.fine_tuning:
            start = int(rng.integers(finetune_starts(count, frames, stride)))
            indices = finetune_frames(count, start, frames, stride)
            sound = _relative_sound(record, start, start + frames * stride)
        else:
            start = int(rng.integers(pretrain_starts(count, frames, stride)))
            indices = pretrain_frames(count, start, frames, stride)
            sound = pretrain_sound(indices, count, stride, record.fps)
        if self.whole:
            video = record.video(indices)
            return self._uncut(record, video, sound, *self._draw(rng, video.shape[2], video.shape[1]))
        pictures = record.pictures(indices)
        example = self._arrays(record, pictures, sound, *self._draw(rng, *pictures[0].size))
        if self.rand_augment:
            example["video"] = self.rand_augment(example["video"], rng)
        return example

    def centre(self, record: Record) -> Example:
        """The example from the middle of a clip; a missing picture or sound is zeros."""
        example = self.window(record, self.middle(len(record.frames), len(record.audio)))
        return {name: value for name, value in example.items() if name not in TIMES}

    def middle(self, count: int, samples: int) -> int:
        """Where the window in the middle of a clip of so many frames and samples of sound starts."""
        if not count:
            return centre_start(samples, self._samples, 1)
        return centre_start(count, self.frames, self.frame_stride)

    def cover(self, count: int, samples: int) -> list[int]:
        """Where windows that cover such a clip start: its frames, or its sound where it has none (see `sampling`)."""
        if not count:
            return window_starts(samples, self._samples, 1)
        return window_starts(count, self.frames, self.frame_stride)

    def window(self, record: Record, start: int) -> Example:
        """The example from frame `start` on, or from this sample on of a clip without pictures, and when it is: float32
        `video_start_s` and `audio_start_s`, seconds into the clip, and `frame_s` from one frame to the next."""
        count, stride = len(record.frames), self.frame_stride
        if count:
            indices = pretrain_frames(count, start, self.frames, stride)
            sound = pretrain_sound(indices, count, stride, record.fps)
            example, seconds = self._fixed(record, indices, sound), (start / record.fps, stride / record.fps)
        else:
            sound = (start, self._samples)
            example, seconds = self._arrays(record, [], sound, None), (0.0, 0.0)
        times = zip(TIMES, (*seconds, sound[0] / SAMPLE_RATE), strict=True)
        return example | {name: np.float32(value) for name, value in times}

    def segment(self, record: Record, segment: int, segments: int) -> Example:
        """One of the reference's test views; of a clip without pictures, a part of its sound at the same distances."""
        self.check_streams(record)
        if not record.frames:
            spare = max(0, len(record.audio) - self._samples)
            return self._unseen(record, view_start(spare, segment, segments))
        indices = test_frames(len(record.frames), segment, segments, self.frames, self.frame_stride)
        sound = _relative_sound(record, indices[0], indices[-1] + self.frame_stride)
        return self._fixed(record, indices, sound)

    def label_of(self, record: Record) -> Example:
        """{"label": int32 [] or float32 [K]}, or nothing when no target is asked for.

        Raises DataError when the record's labels do not give the target.
        """
        if not self.target:
            return {}
        labels = record.all_labels
        label = self.target.of(labels)
        if label is None:
            found = ", ".join(f"{name!r} is {labels.get(name)!r}" for name in self.target.labels)
            wanted = f"none of the classes {', '.join(self.target.classes)}"
            if not self.target.is_class or self.target.rule != "class":
                wanted = f"no {self.target.rule} of {', '.join(self.target.names)}"
            raise DataError(
                f"clip {record.clip_id}: label {found}, which is {wanted}; set data.label and data.classes, or leave "
                "the clip out of the manifest"
            )
        return {"label": label}

    def empty(self) -> Example:
        """An example of zeros, in the place of a clip that is not there."""
        label = {"label": self.target.empty} if self.target else {}
        return {
            "video": np.zeros((self.frames, self.image_size, self.image_size, 3), np.uint8),
            "waveform": np.zeros(samples_for(self.audio_frames), np.int16),
            "waveform_length": np.int32(0),
            "waveform_mean": np.float32(0),
            **label,
        }

    def check_streams(self, record: Record) -> None:
        """Raises DataError when the record lacks what an example needs."""
        if not record.frames and not len(record.audio):
            raise DataError("neither picture nor sound")
        if not self.allow_missing:
            need_both(record)

    @property
    def _samples(self) -> int:
        return samples_for(self.audio_frames)

    def _unseen(self, record: Record, first: int) -> Example:
        """Of a clip without pictures: black frames, and the sound from a sample on."""
        sound = first, self._samples
        if not self.whole:
            return self._arrays(record, [], sound, None)
        black = np.zeros((self.frames, *self.whole, 3), np.uint8)
        return self._uncut(record, black, sound, None, False)

    def _fixed(self, record, indices, sound):
        pictures = record.pictures(indices)
        box = centre_box(*pictures[0].size) if self.crop == "multi_scale" else None
        return self._arrays(record, pictures, sound, box)

    def check_size(self, record: Record) -> None:
        """Raises DataError when the record's frames are not of the size that the device is to cut."""
        if self.whole and record.frames:
            self._check_size(record.video([0]))

    def _check_size(self, video):
        height, width = self.whole
        if video.shape[1:3] != (height, width):
            raise DataError(
                f"frames of {video.shape[1]} × {video.shape[2]} pixels where data.device_crop says {height} × {width}; "
                "leave it empty where frames differ in size"
            )

    def _draw(self, rng, width, height):
        """The part of a random example's frames, None for all of them, and whether they are mirrored."""
        box = (
            draw_multi_scale_box(rng, width, height, self.image_size) if self.crop == "multi_scale" else None
        )
        return box, self.flip and rng.random() < 0.5

    def _uncut(self, record, video, sound, box, flip) -> Example:
        self._check_size(video)
        height, width = self.whole
        example = self._arrays(record, [], sound, None)
        box = np.array(box or (0, 0, width, height), np.int32)
        return {**example, "video": video, "box": box, "flip": np.bool_(flip)}

    def _arrays(self, record, pictures, sound, box, flip=False) -> Example:
        """See `Example`."""
        example = self.empty()
        if pictures:
            example["video"] = crop_and_resize(pictures, box, self.image_size, flip)
        first, length = sound
        slice_ = record.audio[first : first + length]
        kept = slice_[: len(example["waveform"])]
        example["waveform"][: len(kept)] = kept
        example["waveform_length"] = np.int32(len(kept))
        if len(slice_):
            example["waveform_mean"] = np.float32(slice_.mean(dtype=np.float64) / 32768)
        return example


def need_both(record: Record) -> None:
    """Raises DataError when the record lacks picture or sound."""
    if not record.frames or not len(record.audio):
        raise DataError("no picture" if not record.frames else "no sound")


def _relative_sound(record, first, last):
    return relative_sound(int(first), int(last), len(record.frames), len(record.audio))
