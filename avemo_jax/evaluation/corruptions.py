"""What happens to clips in the wild, done to host batches: noise, rooms, light, cameras, networks, other voices.

A corruption takes a batch (`video` uint8 [B, T, H, W, 3], `waveform` int16 [B, S], zero after `waveform_length`,
`position` int32 [B], `valid` bool [B]; `class` int [B] where clips have one) and gives another one. Draws follow from
a seed and a clip's place in the data, so a clip is corrupted alike in any batch; only what takes from another clip
depends on who is beside it: clips are to come in a random order. Levels go from mild to severe. Pure functions, but
for `Corrupter`, which remembers a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from scipy import ndimage, signal

from avemo_jax.errors import UserError
from input_pipeline.audio import SAMPLE_RATE

Batch = dict[str, np.ndarray]
CLEAN = "none"  # no corruption: the clips as they are
SWAPPED = ("swapped_audio", "swapped_video")
_FULL = 32767


class Corruption(NamedTuple):
    """`apply(batch, level, rng_of)` with `rng_of(row)` a generator of that clip's own; its levels, from mild to severe,
    and their unit."""

    apply: Callable[..., Batch]
    levels: tuple[float, ...]
    unit: str
    stream: str  # that it changes: audio, video or both


def corrupt(name: str, level: float, batch: Batch, seed: int = 0) -> Batch:
    """The batch with one of `CORRUPTIONS`; `valid` rows only, all other fields as they are."""
    positions = batch["position"]

    def rng_of(row: int) -> np.random.Generator:
        return np.random.default_rng([seed, max(0, int(positions[row]))])

    changed = CORRUPTIONS[name].apply(batch, level, rng_of)
    kept = ~batch["valid"]
    for field, values in changed.items():
        values[kept] = batch[field][kept]
    return {**batch, **changed}


class Corrupter:
    """`corrupt` of one batch after the other; a clip that is alone in its batch takes from one of the batch before.

    Args:
      positions, classes: int [N], which class a clip at which place has; none where clips have no classes.

    Raises, when called:
      UserError: something of another clip is to be taken, and there is no other.
    """

    def __init__(
        self,
        name: str,
        level: float,
        seed: int = 0,
        positions: Sequence[int] = (),
        classes: Sequence[int] = (),
    ):
        self._name, self._level, self._seed = name, level, seed
        self._class_of = dict(zip(positions, classes, strict=True))
        self._before: Batch | None = None
        self.donor_class: dict[int, int] = {}  # position of a clip → class of whose stream it was given

    def __call__(self, batch: Batch) -> Batch:
        rows = np.flatnonzero(batch["valid"])
        if not len(rows):
            return batch
        classes = [self._class_of.get(position, 0) for position in batch["position"].tolist()]
        batch = batch | {"class": np.array(classes)}
        before, self._before = self._before, {field: values[rows[-1:]] for field, values in batch.items()}
        among = batch
        if len(rows) == 1 and before is not None:
            among = {field: np.concatenate([values, before[field]]) for field, values in batch.items()}
        if self._name in SWAPPED:
            given = among["class"][donors(among)]
            self.donor_class |= zip(batch["position"][rows].tolist(), given[rows].tolist(), strict=True)
        changed = corrupt(self._name, self._level, among, self._seed)
        return {field: values[: len(batch["valid"])] for field, values in changed.items()}


def noise(batch: Batch, snr_db: float, rng_of) -> Batch:
    """Pink noise at this ratio of the speech's power to its own."""
    return _added(batch, snr_db, lambda row, count: _pink(rng_of(row), count))


def babble(batch: Batch, snr_db: float, rng_of) -> Batch:
    """Other clips' voices: the three that follow in the batch, mixed; fewer where there are no more."""
    voices, rows = batch["waveform"].astype(np.float64), _several(batch)
    following = np.arange(1, min(4, len(rows)))

    def others(row: int, count: int) -> np.ndarray:
        return voices[rows[(np.searchsorted(rows, row) + following) % len(rows)], :count].sum(0)

    return _added(batch, snr_db, others)


def reverberation(batch: Batch, seconds: float, rng_of) -> Batch:
    """A room whose sound falls by 60 dB in so many seconds: after the direct sound white noise that decays, with as
    much energy as that has."""

    def in_room(row: int, wave: np.ndarray) -> np.ndarray:
        count = int(seconds * SAMPLE_RATE)
        tail = rng_of(row).standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
        response = np.concatenate([[1.0], tail / np.sqrt(np.square(tail).sum())])
        heard = signal.fftconvolve(wave, response)[: len(wave)]
        return heard * np.sqrt(np.square(wave).mean() / max(np.square(heard).mean(), 1e-12))

    return _each_wave(batch, in_room)


def silence(batch: Batch, level: float, rng_of) -> Batch:
    """No sound."""
    return {"waveform": np.zeros_like(batch["waveform"])}


def blur(batch: Batch, sigma: float, rng_of) -> Batch:
    """A Gaussian of so many per cent of the frame's height."""
    pixels = sigma / 100 * batch["video"].shape[2]
    return {"video": ndimage.gaussian_filter(batch["video"], (0, 0, pixels, pixels, 0))}


def low_light(batch: Batch, share: float, rng_of) -> Batch:
    """So much of the light, with the noise of a sensor that counts few photons (255 at full light)."""
    video = np.empty_like(batch["video"])
    for row, clip in enumerate(batch["video"]):
        video[row] = np.minimum(rng_of(row).poisson(clip * share), 255)
    return {"video": video}


def occlusion(batch: Batch, share: float, rng_of) -> Batch:
    """A grey square over so much of the picture, at one place for the whole clip."""
    video = batch["video"].copy()
    height, width = video.shape[2:4]
    side = round(np.sqrt(share * height * width))
    for row in range(len(video)):
        rng = rng_of(row)
        top, left = rng.integers(max(1, height - side + 1)), rng.integers(max(1, width - side + 1))
        video[row, :, top : top + side, left : left + side] = 128
    return {"video": video}


def compression(batch: Batch, quality: float, rng_of) -> Batch:
    """Every frame as a JPEG of this quality."""
    video = np.empty_like(batch["video"])
    for row, clip in enumerate(batch["video"]):
        for time, frame in enumerate(clip):
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=int(quality))
            video[row, time] = simplejpeg.decode_jpeg(data)
    return {"video": video}


def frame_drops(batch: Batch, share: float, rng_of) -> Batch:
    """So many of the frames are lost, and the one before them stands still; the first one always comes."""
    video = batch["video"].copy()
    for row in range(len(video)):
        lost = rng_of(row).random(video.shape[1]) < share
        lost[0] = False
        video[row] = video[row, np.maximum.accumulate(np.where(lost, 0, np.arange(len(lost))))]
    return {"video": video}


def black(batch: Batch, level: float, rng_of) -> Batch:
    """No picture."""
    return {"video": np.zeros_like(batch["video"])}


def desynchronisation(batch: Batch, milliseconds: float, rng_of) -> Batch:
    """The sound comes so much later; what is missing at its beginning is silence."""
    late = min(int(milliseconds / 1000 * SAMPLE_RATE), batch["waveform"].shape[1])
    waveform = np.zeros_like(batch["waveform"])
    waveform[:, late:] = batch["waveform"][:, : waveform.shape[1] - late]
    inside = np.arange(waveform.shape[1]) < batch["waveform_length"][:, None]
    return {"waveform": np.where(inside, waveform, 0)}


def swapped_audio(batch: Batch, level: float, rng_of) -> Batch:
    """The sound of another clip in the batch, see `donors`."""
    given = donors(batch)
    return {name: batch[name][given] for name in ("waveform", "waveform_length", "waveform_mean")}


def swapped_video(batch: Batch, level: float, rng_of) -> Batch:
    """The picture of another clip in the batch, see `donors`."""
    return {"video": batch["video"][donors(batch)]}


def donors(batch: Batch) -> np.ndarray:
    """Of each valid clip the row, int [B], of another one: of another class, as far as no class has more than half of
    them. Rows that are not valid are their own.

    Raises:
      UserError: one clip alone.
    """
    rows = _several(batch)
    classes = batch.get("class", np.zeros(len(batch["valid"]), np.int64))[rows]
    rows = rows[np.argsort(classes, kind="stable")]
    # Further on by the size of the largest class, so behind the end of one's own.
    largest = np.unique(classes, return_counts=True)[1].max()
    given = np.arange(len(batch["valid"]))
    given[rows] = np.roll(rows, -min(largest, len(rows) // 2))
    return given


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption(noise, (20.0, 10.0, 0.0), "dB", "audio"),
    "babble": Corruption(babble, (20.0, 10.0, 0.0), "dB", "audio"),
    "reverberation": Corruption(reverberation, (0.3, 0.6, 1.2), "s", "audio"),
    "blur": Corruption(blur, (1.0, 2.5, 5.0), "% of height", "video"),
    "low_light": Corruption(low_light, (0.3, 0.1, 0.03), "of the light", "video"),
    "occlusion": Corruption(occlusion, (0.1, 0.25, 0.5), "of the picture", "video"),
    "compression": Corruption(compression, (40.0, 15.0, 5.0), "JPEG quality", "video"),
    "frame_drops": Corruption(frame_drops, (0.25, 0.5, 0.75), "of the frames", "video"),
    "desynchronisation": Corruption(desynchronisation, (80.0, 240.0, 720.0), "ms", "both"),
    "silence": Corruption(silence, (1.0,), "", "audio"),
    "black": Corruption(black, (1.0,), "", "video"),
    "swapped_audio": Corruption(swapped_audio, (1.0,), "", "audio"),
    "swapped_video": Corruption(swapped_video, (1.0,), "", "video"),
}


def _several(batch: Batch) -> np.ndarray:
    """Numbers of the valid rows, at least two."""
    rows = np.flatnonzero(batch["valid"])
    if len(rows) < 2:
        raise UserError(
            "one clip alone cannot take sound or picture of another: more clips, or a larger batch_size"
        )
    return rows


def _each_wave(batch: Batch, change: Callable[[int, np.ndarray], np.ndarray]) -> Batch:
    waveform = batch["waveform"].copy()
    for row, length in enumerate(batch["waveform_length"].tolist()):
        if length and waveform[row, :length].any():
            changed = change(row, waveform[row, :length].astype(np.float64))
            waveform[row, :length] = np.clip(np.round(changed), -_FULL - 1, _FULL)
    return {"waveform": waveform}


def _added(batch: Batch, snr_db: float, sound: Callable[[int, int], np.ndarray]) -> Batch:
    """Each clip's sound with another one, scaled to this ratio of powers."""

    def mixed(row: int, wave: np.ndarray) -> np.ndarray:
        other = np.asarray(sound(row, len(wave)), np.float64)
        power = np.square(other).mean()
        if not power:
            return wave
        return wave + other * np.sqrt(np.square(wave).mean() / power / 10 ** (snr_db / 10))

    return _each_wave(batch, mixed)


def _pink(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise with as much power in each octave."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
