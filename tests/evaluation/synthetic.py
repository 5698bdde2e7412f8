"""For whole probe runs: a small prepared folder with labels known by construction, and a tiny checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.evaluation.extraction import random_networks
from avemo_jax.training.checkpoint_files import read_record, save_params, seal
from input_pipeline import records

SPEAKERS, CLIPS_EACH, SECONDS, FPS, RATE = 4, 12, 1.2, 25, 16000
TINY = [
    "model.dim=16",
    "model.heads=2",
    "model.depth=2",
    "model.fusion_depth=1",
    "model.decoder_dim=16",
    "model.decoder_heads=2",
    "model.decoder_depth=3",
    "model.skip_layers=0,1",
    "model.frames=4",
    "model.image_size=32",
    "model.audio_frames=64",
]


def write_folder(path, lacking=lambda number: "") -> None:
    """48 clips of four speakers. Labels: `tone` (pitch of the sound), `level` (its loudness), `shade` (of the
    picture), `rating` (a number), `rare` (value "b" for one speaker only), `half` (empty for every other
    clip), `constant`. Metadata: `fold`, blank for the last speaker. `lacking` says of a clip's number what it has not:
    "picture", "sound" or "", nothing."""
    rng = np.random.default_rng(0)
    encoded, clips = [], []
    for number in range(SPEAKERS * CLIPS_EACH):
        speaker, turn = divmod(number, CLIPS_EACH)
        tone, level, shade = turn % 3, turn // 3 % 2, rng.integers(2)
        time = np.arange(int(SECONDS * RATE)) / RATE
        wave = np.sin(2 * np.pi * (300, 900, 2700)[tone] * (1 + 0.05 * rng.standard_normal()) * time)
        wave = (wave + 0.1 * rng.standard_normal(len(time))) * (0.03, 0.3)[level] * rng.uniform(0.9, 1.1)
        pixels = rng.integers(0, 60, (int(SECONDS * FPS), 36, 48, 3)) + (40, 140)[shade]
        record = records.Record(
            clip_id=f"clip{number:02d}",
            frames=[records.encode_picture(frame.astype(np.uint8), 90) for frame in pixels],
            fps=FPS,
            audio=(wave * 32767).astype(np.int16),
            audio_rate=RATE,
            duration_s=SECONDS,
            speaker=f"p{speaker}",
            split="test" if speaker == 0 else "train",
            labels={
                "tone": ("low", "middle", "high")[tone],
                "level": ("quiet", "loud")[level],
                "shade": ("dark", "bright")[shade],
                "rating": float(turn) / 7,
                "rare": "b" if speaker == 1 and turn < 3 else "ac"[turn % 2],
                "half": "xy"[turn // 2 % 2] if number % 2 else "",
                "constant": "same",
            },
            metadata={"fold": str(number % 5 % 3) if speaker < SPEAKERS - 1 else ""},
        )
        if lacking(number) == "picture":
            record.frames = []
        if lacking(number) == "sound":
            record.audio = record.audio[:0]
        encoded.append(records.encode(record))
        clips.append(
            {
                "position": number,
                "clip_id": record.clip_id,
                "split": record.split,
                "frames": len(record.frames),
                "samples": len(record.audio),
            }
        )
    path.mkdir(parents=True)
    records.write_shard(path / records.shard_name("clips", 0, 1), encoded)
    records.write_dataset(path, {"clips": ([len(encoded)], sum(map(len, encoded)))}, clips)


def write_changed(path, source, change) -> None:
    """The records of a prepared folder as `change` gives them back; None leaves one out."""
    kept = [new for record in _all(source) if (new := change(record)) is not None]
    encoded = [records.encode(record) for record in kept]
    clips = [
        {
            "position": place,
            "clip_id": record.clip_id,
            "split": record.split,
            "frames": len(record.frames),
            "samples": len(record.audio),
        }
        for place, record in enumerate(kept)
    ]
    path.mkdir(parents=True)
    records.write_shard(path / records.shard_name("clips", 0, 1), encoded)
    records.write_dataset(path, {"clips": ([len(encoded)], sum(map(len, encoded)))}, clips)


def _all(path):
    opened = records.open_records(path)
    return [opened[position] for position in range(opened.count)]


def write_checkpoint(path, overrides=(), dataset_size=None) -> None:
    """Freshly initialised parameters of a tiny model, as a checkpoint of step 7 of a run on so many clips."""
    config = load_config("hicmae:demo", [*TINY, *overrides])
    (network,) = random_networks(config, [123])
    folder = save_params(path, config, jax.tree.map(np.asarray, network.params), step=7)
    seal(folder, replace(read_record(folder), dataset_size=dataset_size))


def words(place, out, label, **flags):
    """A command line: of the folder with `data` and `run`, quick unless flags say otherwise; True is a bare flag."""
    flags = {"features": "cat4", "random_seeds": 0, "batch_size": 16} | flags
    line = ["probe", "--checkpoint", place / "run", "--data", place / "data", "--label", label, "--out", out]
    for name, value in flags.items():
        line += [f"--{name}"] if value is True else [f"--{name}", value]
    return [str(word) for word in line]


def probe_rows(place, out, label, **flags):
    """The rows of a probe that succeeds."""
    assert main(words(place, out, label, **flags)) == 0
    return json.loads((out / "rows.json").read_text())
