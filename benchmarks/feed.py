"""How fast the host feeds a model, beside decoding the same mp4 files with decord in a PyTorch DataLoader.

    python benchmarks/feed.py --clips 24
    python benchmarks/feed.py --videos DIR --clips 100

Both give 16 frames at a stride of 4, cut by the multi-scale crop and scaled to the model's size by the same
function, and 16 kHz sound; ours from a prepared folder, the peer as HiCMAE's own loader does it, once as the same
integers and once as what that loader hands over: normalised float32 and a log-mel. Where all frames are of one size
they also go to the device whole (`data.device_crop`), and goals are those of that way. Clips per second of one core, of
reading process and consumer together. Then: decoding whole files by our reader and by decord; how long a consumer of
80 % of the loader's speed waits for it; and the bytes that go to the device. Needs `avemo_jax[benchmarks]`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from formats import encoder, prepare_files, write_folder
from PIL import Image

from input_pipeline import audio, video
from input_pipeline.augment import crop_and_resize, draw_multi_scale_box
from input_pipeline.examples import Cut
from input_pipeline.loader import Loader
from input_pipeline.media import read_clip
from input_pipeline.records import open_records
from input_pipeline.sampling import pretrain_frames, pretrain_sound, pretrain_starts
from input_pipeline.storing import ClipOptions

FRAMES, STRIDE, AUDIO_FRAMES = 16, 4, 256
ON_DEVICE = "prepared, JPEG, cut and resized on the device"
PEERS = ("decord", "decord, float32 and log-mel")
_WAITING_STEPS = 40


def main() -> None:
    flags = measuring.flags(__doc__)
    measuring.add_clips(flags)
    add = flags.add_argument
    add("--image_size", type=int, default=160, help="of the model, pixels (160)")
    add("--batch", type=int, default=16, help="clips in a batch (16)")
    add("--seconds", type=float, default=4.0, help="of CPU time for each figure (4)")
    add("--rounds", type=int, default=1, help="measure so often and take the fastest (1)")
    add("--repeats", type=int, default=4, help="masks of each clip, mask.repeats of the config (4)")
    args = flags.parse_args()
    for package in ("decord", "torch"):
        measuring.need(package, "the peer")

    with measuring.work_folder() as folder:
        files = measuring.apart(readable, measuring.take_clips(args, folder))
        figures = measure(files, folder, args)
    measuring.report(args, figures, text(figures))


def readable(files: list[Path]) -> list[Path]:
    """Those that both can read: the same clips for both, whatever they are."""
    cut, rng = _cut(32), np.random.default_rng(0)
    kept = []
    for file in files:
        try:
            _from_mp4(file, cut, rng)
            clip = read_clip(file, on_frame=lambda _: None)
        except Exception as error:  # decord has many
            print(f"left out: {file} ({str(error).splitlines()[0][:80]})")
            continue
        if clip.frames and len(clip.audio):
            kept.append(file)
    if not kept:
        raise SystemExit("none of the files can be read by both")
    return kept


def measure(files: list[Path], folder: Path, args: Any) -> dict[str, Any]:
    options = ClipOptions(short_side=max(16, args.image_size))
    stored = {
        "prepared, JPEG (default)": (folder / "jpeg", prepare_files(files, folder / "jpeg", options)),
        "prepared, raw": (folder / "raw", write_folder(files, folder / "raw", options, encoder("BMP"))),
    }
    frames = pixels = picture_bytes = 0
    sizes = set()
    for record in open_records(folder / "jpeg"):
        width, height = record.pictures([0])[0].size
        sizes.add((height, width))
        frames += len(record.frames)
        pixels += width * height * len(record.frames)
        picture_bytes += sum(map(len, record.frames))
    # Of what the goal is for: 2.56 s of VoxCeleb2's video, cut to 160 × 160 pixels.
    usual_mb = (picture_bytes / pixels * 64 * 160**2 + 2.56 * 2 * audio.SAMPLE_RATE) / 1e6
    jobs = {name: (loader_rate, (path, args)) for name, (path, _) in stored.items()}
    if len(sizes) == 1:
        jobs[ON_DEVICE] = (loader_rate, (folder / "jpeg", args, sizes.pop()))
    jobs |= {name: (peer_rate, (files, args, name == PEERS[1])) for name in PEERS}
    rates: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for name, (function, its) in jobs.items():
            found = measuring.apart(function, *its)
            if name not in rates or found["cpu_ms"] < rates[name]["cpu_ms"]:
                rates[name] = found
    for name, (_, size) in stored.items():
        rates[name]["mb_per_clip"] = size / len(files) / 1e6
    peer, default = rates[PEERS[0]]["clips_per_core_s"], rates["prepared, JPEG (default)"]
    best = rates.get(ON_DEVICE, default)
    for found in rates.values():
        found["times_peer"] = found["clips_per_core_s"] / peer
    views = best["clips_per_core_s"] * args.repeats
    decoding = measuring.apart(decode_times, files, args.rounds)
    waiting = measuring.apart(waiting_share, folder / "jpeg", args, env={"JAX_PLATFORMS": "cpu"})
    sent = device_bytes(folder / "jpeg", args)
    return {
        "clips": len(files),
        "frames_per_clip": frames / len(files),
        "pixels_per_frame": pixels / frames,
        "mb_per_64_frames_of_160": usual_mb,
        "reading": rates,
        "repeats": args.repeats,
        "masked_views_per_core_s": views,
        "decoding": decoding,
        "waiting": waiting,
        "device_bytes": sent,
        "goals": measuring.goals(
            {
                "JPEG records, times decord in clips/s per core": (best["times_peer"], "at least", 5),
                "JPEG records, MB for 64 frames of 160 × 160": (usual_mb, "at most", 0.65),
                "raw records, times decord in clips/s per core": (
                    rates["prepared, raw"]["times_peer"],
                    "at least",
                    10,
                ),
                f"JPEG records, times decord in masked views/s, {args.repeats} a clip": (
                    views / peer,
                    "at least",
                    10,
                ),
                "decoding whole mp4 files, times decord": (decoding["times_peer"], "at least", 1.3),
                "share of step time waiting for input": (waiting["share"], "at most", 0.02),
                "bytes to the device, times float32": (sent["times_float32"], "at most", 0.27),
            }
        ),
        "machine": measuring.machine("av", "decord", "grain", "numpy", "pillow", "torch"),
    }


def loader_rate(path: Path, args: Any, whole: tuple[int, ...] = ()) -> dict[str, float]:
    """Our loader with one worker; `whole`: height and width of frames that are left to the device to cut."""
    loader = _loader(path, args, whole=whole)
    found = measuring.rate(iter(loader), args.batch, args.seconds)
    loader.close()
    return found


def peer_rate(files: list[Path], args: Any, as_float: bool) -> dict[str, float]:
    """decord in a PyTorch DataLoader with one worker."""
    from torch.utils.data import DataLoader, RandomSampler

    clips = Mp4Clips(files, args.image_size, as_float)
    sampler = RandomSampler(clips, replacement=True, num_samples=10**9)
    batches = DataLoader(clips, args.batch, sampler=sampler, num_workers=1)
    return measuring.rate(iter(batches), args.batch, args.seconds)


class Mp4Clips:
    """A PyTorch data set of video files (anything with a length and items is one)."""

    def __init__(self, files: list[Path], image_size: int, as_float: bool):
        self._files, self._cut, self._as_float = files, _cut(image_size), as_float
        self._rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = _from_mp4(self._files[index], self._cut, self._rng)
        if not self._as_float:
            return example
        sound = example["waveform"].astype(np.float32) / 32768
        mel = audio.fit(audio.log_mel(sound - sound.mean()), AUDIO_FRAMES)
        return {"video": video.normalise(example["video"]), "audio": audio.normalise(mel)}


def _from_mp4(path: Path, cut: Cut, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of our `Example`, by decord."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    count = len(reader)
    start = int(rng.integers(pretrain_starts(count, FRAMES, STRIDE)))
    indices = pretrain_frames(count, start, FRAMES, STRIDE)
    pictures = [Image.fromarray(frame) for frame in reader.get_batch(indices.tolist()).asnumpy()]
    box = draw_multi_scale_box(rng, *pictures[0].size, cut.image_size)
    first, length = pretrain_sound(indices, count, STRIDE, reader.get_avg_fps())
    sound = decord.AudioReader(str(path), sample_rate=audio.SAMPLE_RATE, mono=True)
    samples = sound[min(first, len(sound) - 1) : first + length].asnumpy()[0]
    waveform = np.zeros(audio.samples_for(AUDIO_FRAMES), np.int16)
    kept = samples[: len(waveform)]
    waveform[: len(kept)] = np.clip(kept * 32768, -32768, 32767)
    return {"video": crop_and_resize(pictures, box, cut.image_size), "waveform": waveform}


def decode_times(files: list[Path], rounds: int) -> dict[str, float]:
    """CPU ms a clip for all frames and all sound of the files, by us and by decord, file by file in turn."""
    import decord

    ours = theirs = 0.0
    for file in files:
        ours += measuring.timed(lambda file=file: read_clip(file), rounds)[0]

        def by_decord(file=file):
            reader = decord.VideoReader(str(file), num_threads=1)
            frames = reader.get_batch(range(len(reader))).asnumpy()
            return frames, decord.AudioReader(str(file), sample_rate=audio.SAMPLE_RATE, mono=True)[
                :
            ].asnumpy()

        theirs += measuring.timed(by_decord, rounds)[0]
    count = len(files)
    return {"cpu_ms": ours / count, "decord_cpu_ms": theirs / count, "times_peer": theirs / ours}


def waiting_share(path: Path, args: Any) -> dict[str, float]:
    """How much of its time a consumer that takes 80 % of what the loader can give waits, by the training's own feed.

    The consumer only sleeps: a step is the work of another device.
    """
    import jax

    from avemo_jax.training.feed import DeviceFeed

    loader = _loader(path, args)
    speed = measuring.rate(iter(loader), args.batch, args.seconds)["clips_per_s"]
    step_s = args.batch / (0.8 * speed)
    batch = next(iter(loader))
    shapes = {name: jax.ShapeDtypeStruct(field.shape, field.dtype) for name, field in batch.items()}
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    feed = DeviceFeed(loader, shapes, dict.fromkeys(shapes, place))  # type: ignore[arg-type]
    feed.next(lambda: False)
    time.sleep(4 * step_s)  # a run has compiled meanwhile
    feed.idle_s, began, longest = 0.0, time.monotonic(), 0.0
    for _ in range(_WAITING_STEPS):
        before = feed.idle_s
        feed.next(lambda: False)
        longest = max(longest, feed.idle_s - before)
        time.sleep(step_s)
    took = time.monotonic() - began
    feed.close()
    loader.close()
    return {"share": feed.idle_s / took, "step_s": step_s, "steps": _WAITING_STEPS, "longest_s": longest}


def device_bytes(path: Path, args: Any) -> dict[str, float]:
    """Bytes a clip of a real batch, and of the float32 arrays that the reference sends."""
    loader = _loader(path, args, workers=0)
    batch = next(iter(loader))
    loader.close()
    ours = sum(field.nbytes for field in batch.values()) / args.batch
    pixels = batch["video"][0].size
    float32 = 4.0 * (pixels + AUDIO_FRAMES * audio.MEL_BINS)
    return {"bytes_per_clip": ours, "float32_bytes_per_clip": float32, "times_float32": ours / float32}


def text(figures: dict[str, Any]) -> str:
    rows = [["one core", "clips/s", "CPU ms a clip", "times decord", "MB a clip"]]
    for name, found in figures["reading"].items():
        size = f"{found['mb_per_clip']:.2f}" if "mb_per_clip" in found else ""
        speed, ms = f"{found['clips_per_core_s']:.1f}", f"{found['cpu_ms']:.1f}"
        rows.append([name, speed, ms, f"{found['times_peer']:.2f}", size])
    decoding, waiting, sent = figures["decoding"], figures["waiting"], figures["device_bytes"]
    head = (
        f"{figures['clips']} clips of {figures['frames_per_clip']:.0f} frames, stored with "
        f"{figures['pixels_per_frame']:,.0f} pixels a frame\n\n"
    )
    return (
        head
        + measuring.table(rows)
        + f"\n\n{figures['repeats']} masks of each clip: {figures['masked_views_per_core_s']:.0f} masked views/s\n"
        f"whole files: {decoding['cpu_ms']:.1f} ms a clip, decord {decoding['decord_cpu_ms']:.1f}\n"
        f"a consumer of 80 % of the loader's speed waits {100 * waiting['share']:.2f} % of its time, "
        f"{waiting['steps']} steps of {waiting['step_s']:.2f} s\n"
        f"bytes to the device: {sent['bytes_per_clip']:,.0f} a clip, float32 {sent['float32_bytes_per_clip']:,.0f}"
    )


def _cut(image_size: int, whole: tuple[int, ...] = ()) -> Cut:
    return Cut(FRAMES, image_size, AUDIO_FRAMES, STRIDE, whole=whole)


def _loader(path: Path, args: Any, workers: int = 1, whole: tuple[int, ...] = ()) -> Loader:
    cut = _cut(args.image_size, whole)
    return Loader(open_records(path), cut, batch_size=args.batch, seed=0, workers=workers)


if __name__ == "__main__":
    main()
