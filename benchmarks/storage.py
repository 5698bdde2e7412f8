"""Ways to store frames, measured: bytes, speed of reading, and what is lost.

    python benchmarks/storage.py --clips 12
    python benchmarks/storage.py --videos DIR --clips 40

The same clips, scaled down as `avemo prepare` does, stored raw, as PNG, as JPEG of several qualities (with colours
at half or at full resolution) and encoded again as H.264 of the stored size. Of each: bytes a clip with its sound; CPU
time of one core to read a record and decode 16 of its frames, every fourth from a random start; and what is lost
against the scaled original: PSNR, SSIM (Wang et al. 2004) of the brightness, and how much of the models' targets,
patches normalised to variance 1, is an artefact.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import measuring
import numpy as np
from av.video.reformatter import VideoReformatter
from formats import encoder, write_folder
from scipy.ndimage import gaussian_filter

from input_pipeline.media import read_clip
from input_pipeline.record import Record
from input_pipeline.records import Records, open_records
from input_pipeline.sampling import pretrain_frames, pretrain_starts
from input_pipeline.storing import ClipOptions, store_frame

FRAMES, STRIDE, PATCH = 16, 4, 16
DEFAULT = "JPEG 95"
PICTURES = {
    "raw (BMP)": encoder("BMP"),
    "PNG": encoder("PNG"),
    "JPEG 98 4:4:4": encoder("JPEG", quality=98, subsampling=0),
    "JPEG 95 4:4:4": encoder("JPEG", quality=95, subsampling=0),
    DEFAULT: encoder("JPEG", quality=95),
    "JPEG 90": encoder("JPEG", quality=90),
    "JPEG 85": encoder("JPEG", quality=85),
    "JPEG 75": encoder("JPEG", quality=75),
}
# Every 12th frame a key frame; "fastdecode" leaves out what costs the decoder most.
VIDEOS = {"H.264 crf 15": 15, "H.264 crf 20": 20, "H.264 crf 26": 26}


def main() -> None:
    flags = measuring.flags(__doc__)
    measuring.add_clips(flags)
    flags.add_argument("--short_side", type=int, default=160, help="of the stored frames, pixels (160)")
    flags.add_argument(
        "--times", type=int, default=3, help="read each record so often and take the fastest (3)"
    )
    args = flags.parse_args()
    with measuring.work_folder() as folder:
        figures = measuring.apart(measure, measuring.take_clips(args, folder), folder, args)
    measuring.report(args, figures, text(figures))


def measure(files: list[Path], folder: Path, args: Any) -> dict[str, Any]:
    options = ClipOptions(short_side=args.short_side)
    folders = {}
    for name, encode in PICTURES.items():
        folders[name] = folder / name.replace(" ", "_").replace(":", "")
        write_folder(files, folders[name], options, encode)
    originals = Originals(files, options)
    rates = {name: reading(open_records(path), args.times) for name, path in folders.items()}
    for name, path in folders.items():
        stored = open_records(path)
        rates[name] |= losses(originals, lambda i, stored=stored: _pictures(stored[i]))
    sound = np.mean([record.audio.nbytes for record in open_records(folders[DEFAULT])])
    for name, crf in VIDEOS.items():
        rates[name] = as_video(originals, crf, args.times, float(sound))
    frames = sum(len(clip) for clip in originals) / len(files)
    pixels = sum(frame[..., 0].size for clip in originals for frame in clip) / (frames * len(files))
    for found in rates.values():
        found["clips_per_core_s"] = 1000 / found["cpu_ms"]
        found["times_default"] = rates[DEFAULT]["cpu_ms"] / found["cpu_ms"]
        found["bits_per_pixel"] = 8 * (found["bytes_per_clip"] - sound) / (frames * pixels)
    return {
        "clips": len(files),
        "frames_per_clip": frames,
        "pixels_per_frame": float(pixels),
        "formats": rates,
        "machine": measuring.machine("array_record", "av", "numpy", "pillow"),
    }


class Originals(Sequence):
    """The frames of each file as they are scaled down, uint8 [T, H, W, 3]; one clip in memory at a time."""

    def __init__(self, files: list[Path], options: ClipOptions):
        self._files, self._options = files, options

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return np.stack(
            read_clip(
                self._files[index], on_frame=lambda frame: np.asarray(store_frame(frame, self._options))
            ).frames
        )


def reading(stored: Records, times: int) -> dict[str, float]:
    """Bytes a record and CPU ms to read one from the shard and decode 16 frames, without crop and batch."""
    rng, spent = np.random.default_rng(0), []
    for i in range(len(stored)):
        indices = _indices(rng, len(stored[i].frames))
        spent.append(measuring.timed(lambda i=i, indices=indices: stored[i].pictures(indices), times)[0])
    size = sum(sum(map(len, record.frames)) + record.audio.nbytes for record in stored)
    return {"bytes_per_clip": size / len(stored), "cpu_ms": float(np.mean(spent))}


def as_video(originals: Originals, crf: int, times: int, sound: float) -> dict[str, float]:
    """The same for clips encoded again as H.264, read from memory."""
    rng, spent, sizes = np.random.default_rng(0), [], []
    decoded: list[np.ndarray] = []

    def frames_of(index):
        clip = originals[index]
        data = h264(clip, crf)
        indices = _indices(rng, len(clip))
        sizes.append(len(data) + sound)
        spent.append(measuring.timed(lambda: decode_some(data, indices), times)[0])
        decoded[:] = decode_some(data, range(len(clip)))
        return np.stack(decoded)[:, : clip.shape[1], : clip.shape[2]]

    lost = losses(originals, frames_of)
    return {"bytes_per_clip": float(np.mean(sizes)), "cpu_ms": float(np.mean(spent)), **lost}


def h264(frames: np.ndarray, crf: int) -> bytes:
    """An mp4 file of uint8 [T, H, W, 3] at 25 frames a second; odd sides are filled up to even ones."""
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": str(crf), "g": "12", "bf": "0", "tune": "fastdecode", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def decode_some(data: bytes, wanted: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """The wanted frames of an mp4 file, uint8 [H, W, 3] each; nothing after the last one is decoded."""
    wanted, found, to_rgb = sorted(set(wanted)), {}, VideoReformatter()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = to_rgb.reformat(frame, format="rgb24").to_ndarray()
            if number == wanted[-1]:
                break
    return [found[number] for number in wanted]


def losses(originals: Originals, frames_of: Callable[[int], np.ndarray]) -> dict[str, float]:
    """What stored frames lose, over every fourth frame of all clips."""
    squares, ssims, shares = [], [], []
    for i, clip in enumerate(originals):
        stored = frames_of(i)[::STRIDE]
        clip = clip[::STRIDE]
        squares.append(np.mean((clip.astype(np.float32) - stored) ** 2))
        ssims += [ssim(_grey(a), _grey(b)) for a, b in zip(clip, stored, strict=True)]
        shares.append(np.mean((_targets(clip) - _targets(stored)) ** 2))
    square = float(np.mean(squares))
    return {
        "psnr_db": float(10 * np.log10(255**2 / square)) if square else None,  # type: ignore[dict-item]
        "ssim": float(np.mean(ssims)),
        "artefacts_in_targets": float(np.mean(shares)),
    }


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two pictures [H, W] in 0 … 255: Wang et al. 2004, Gaussian window of σ = 1.5."""

    def blur(picture):
        return gaussian_filter(picture, 1.5, truncate=3.5)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float(np.mean(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))


def text(figures: dict[str, Any]) -> str:
    rows = [["", "kB a clip", "bits/pixel", "ms a clip", "clips/s", "× default", "PSNR", "SSIM", "artefacts"]]
    for name, found in figures["formats"].items():
        numbers = (
            f"{found['bytes_per_clip'] / 1000:.0f}",
            f"{found['bits_per_pixel']:.2f}",
            f"{found['cpu_ms']:.2f}",
            f"{found['clips_per_core_s']:.0f}",
            f"{found['times_default']:.2f}",
            "∞" if found["psnr_db"] is None else f"{found['psnr_db']:.1f}",
            f"{found['ssim']:.4f}",
            f"{100 * found['artefacts_in_targets']:.2f} %",
        )
        rows.append([name, *numbers])
    return (
        f"{figures['clips']} clips of {figures['frames_per_clip']:.0f} frames of "
        f"{figures['pixels_per_frame']:,.0f} pixels; reading 16 frames of each on one core\n\n{measuring.table(rows)}"
    )


def _indices(rng, count):
    return pretrain_frames(count, int(rng.integers(pretrain_starts(count, FRAMES, STRIDE))), FRAMES, STRIDE)


def _pictures(record: Record) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in record.pictures(range(len(record.frames)))])


def _grey(frame: np.ndarray) -> np.ndarray:
    return frame @ np.array([0.299, 0.587, 0.114])


def _targets(frames: np.ndarray) -> np.ndarray:
    """Patches of 16 × 16 pixels, each colour of each with mean 0 and variance 1: float32 [T, h, w, 256, 3]."""
    times, height, width, _ = frames.shape
    rows, columns = height // PATCH, width // PATCH
    cut = frames[:, : rows * PATCH, : columns * PATCH].astype(np.float32)
    cut = (
        cut.reshape(times, rows, PATCH, columns, PATCH, 3).swapaxes(2, 3).reshape(times, rows, columns, -1, 3)
    )
    deviation = np.sqrt(cut.var(axis=-2, ddof=1, keepdims=True))
    return (cut - cut.mean(axis=-2, keepdims=True)) / (deviation + 255e-6)  # the reference's 1e-6, of 0 … 1


if __name__ == "__main__":
    main()
