"""How often faces are found in real clips, and what that costs beside decoding them.

    python benchmarks/faces.py --clips videos --sample 100

Takes video files from all of a folder, spread evenly over it, and prints how many clips and frames show a face, and
CPU seconds of one core: decoding alone, finding, following and cutting, each also as a multiple of decoding. All
of it in one run, so that the ratios hold on a busy machine too. Needs the extra `faces`, see docs/bring_data.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.blazeface import find_faces
from input_pipeline.errors import MediaError
from input_pipeline.faces import cut, follow
from input_pipeline.media import read_clip
from input_pipeline.storing import ClipOptions, stored_clip

SUFFIXES = {".mp4", ".avi", ".flv", ".mkv", ".mov", ".webm", ".mpg", ".mpeg"}


def main() -> None:
    about = str(__doc__)
    flags = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--clips", required=True, help="folder of video files, searched with all in it")
    flags.add_argument("--sample", type=int, default=100, help="how many of them to take (100)")
    flags.add_argument("--min_face_share", type=float, default=0.5, help="as of avemo prepare (0.5)")
    flags.add_argument(
        "--around",
        type=int,
        default=1,
        help="put each frame into the middle of a grey one this many times as wide, for small faces (1: do not)",
    )
    flags.add_argument("--json", help="also write the figures to this file")
    args = flags.parse_args()

    files = sorted(path for path in Path(args.clips).rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        flags.error(f"no video files in {args.clips}")
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, args.sample).round().astype(int))]
    figures = measure(chosen, ClipOptions(crop="face", min_face_share=args.min_face_share), args.around)
    print(table(figures))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(files: list[Path], options: ClipOptions, around: int = 1) -> dict[str, Any]:
    """Of each file: decoded, faces found, followed, cut; then all as `avemo prepare` does it, without and with.

    around: see --around; what `avemo prepare` does is then left out, which reads the files as they are.
    """
    find_faces(np.zeros((64, 64, 3), np.uint8))  # loads the models
    spent: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    frames = found = kept_frames = kept_found = several = sizes = 0

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        try:
            return work()
        finally:
            spent[name] += time.process_time() - started

    for path in files:
        try:
            clip = timed("decoding", lambda path=path: read_clip(path))
        except MediaError as error:
            reasons[str(error)] += 1
            continue
        if not clip.frames:
            reasons["no picture"] += 1
            continue
        if around > 1:
            clip = replace(clip, frames=[_amid(frame, around) for frame in clip.frames])
        frames += len(clip.frames)
        sizes += clip.frames[0].shape[0] * clip.frames[0].shape[1] * len(clip.frames)
        faces = timed("finding", lambda clip=clip: [find_faces(frame) for frame in clip.frames])
        found += sum(len(one.scores) > 0 for one in faces)
        if around == 1:
            timed("prepare --crop none", lambda path=path: _stored(path, ClipOptions()))
        try:
            cutting = timed(
                "following",
                lambda faces=faces, clip=clip: follow(
                    faces, clip.fps, least_share=options.min_face_share, largest=options.short_side
                ),
            )
        except MediaError as error:
            reasons[str(error)] += 1
            continue
        kept_frames, kept_found = kept_frames + cutting.counts.frames, kept_found + cutting.counts.found
        several += cutting.counts.others > 0
        pairs = list(zip(clip.frames, cutting.squares, strict=True))
        timed("cutting", lambda pairs=pairs, size=cutting.size: [cut(*pair, size) for pair in pairs])
        if around == 1:
            timed("prepare --crop face", lambda path=path: _stored(path, options))
    return {
        "clips": len(files),
        "clips_with_face": len(files) - sum(reasons.values()),
        "clips_with_several_people": several,
        "frames": frames,
        "share_of_frames_with_any_face": found / max(1, frames),
        "share_of_frames_of_kept_clips": kept_found / max(1, kept_frames),
        "pixels_a_frame": sizes / max(1, frames),
        "left_out": dict(reasons),
        "cpu_ms_a_frame": {name: 1000 * seconds / max(1, frames) for name, seconds in spent.items()},
    }


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"clips {figures['clips']}, a face in {figures['clips_with_face']}, "
        f"several people in {figures['clips_with_several_people']}; left out: {figures['left_out'] or 'none'}",
        f"frames {figures['frames']}, of {figures['pixels_a_frame']:.0f} pixels; with any face "
        f"{100 * figures['share_of_frames_with_any_face']:.2f} %; of kept clips with the kept one "
        f"{100 * figures['share_of_frames_of_kept_clips']:.2f} %",
        "one core:               ms a frame  frames/s  × decoding",
    ]
    spent = figures["cpu_ms_a_frame"]
    spent = {**spent, "finding and following": spent["finding"] + spent.get("following", 0)}
    for name, each in spent.items():
        lines.append(
            f"{name:22}  {each:10.3f}  {1000 / max(each, 1e-9):8.0f}  {each / spent['decoding']:10.2f}"
        )
    return "\n".join(lines)


def _amid(frame: np.ndarray, around: int) -> np.ndarray:
    height, width, _ = frame.shape
    larger = np.full((height * around, width * around, 3), 90, np.uint8)
    top, left = height * (around - 1) // 2, width * (around - 1) // 2
    larger[top : top + height, left : left + width] = frame
    return larger


def _stored(path: Path, options: ClipOptions) -> Any:
    try:
        return stored_clip(path, options)
    except MediaError:  # counted where it is found first, or it only lacks sound
        return None


if __name__ == "__main__":
    main()
