"""The talking-face corpus as a check with known answers, from video files to scores, by the commands of a user.

Pretraining must carry what its clips share across speakers: probes find the factors that were drawn, sound
finds its own picture among clips of speakers never trained on, and neither survives sound that is another clip's.
"""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import stats

from avemo_jax.evaluation import extraction, probing, retrieval
from avemo_jax.training.checkpoints import load_params
from input_pipeline.records import open_records

pytestmark = pytest.mark.nightly

CLIPS, SPEAKERS = 480, 24
# The contrast weighs as much as the reconstructions, since it is pairs that are looked for.
SETTINGS = {"total_steps": 600, "mask.repeats": 1, "contrast.weight": 0.2, "data.split": "train"}


def avemo(*words) -> None:
    subprocess.run([sys.executable, "-m", "avemo_jax", *map(str, words)], check=True)


def pretrain(root: Path, manifest: Path, out: Path) -> Path:
    """The run's folder; its prepared clips lie beside it."""
    avemo("prepare", "--manifest", manifest, "--root", root, "--out", out / "data", "--workers", 2)
    settings = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    avemo(
        "train",
        "--config",
        "hicmae:demo",
        "--workdir",
        out / "run",
        f"--config.data.path={out / 'data'}",
        *settings,
    )
    return out / "run"


def with_sound_of(picture: Path, sound: Path, out: Path) -> None:
    """Both streams as they are, the picture of one file and the sound of another."""
    with av.open(picture) as one, av.open(sound) as other, av.open(out, "w") as made:
        sources = [(one, one.streams.video[0]), (other, other.streams.audio[0])]
        streams = [made.add_stream_from_template(stream) for _, stream in sources]
        for (container, source), stream in zip(sources, streams, strict=True):
            for packet in container.demux(source):
                if packet.dts is not None:
                    packet.stream = stream
                    made.mux(packet)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("known") / "clips"
    avemo("generate", "--out", out, "--clips", CLIPS, "--speakers", SPEAKERS, "--workers", 2)
    return out


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    return pretrain(corpus, corpus / "manifest.csv", tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def shuffled_run(corpus, tmp_path_factory) -> Path:
    """A network that saw the same pictures and the same sounds, but never together."""
    root = tmp_path_factory.mktemp("swapped")
    with open(corpus / "manifest.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for split in sorted({row["split"] for row in rows}):
        paths = [row["path"] for row in rows if row["split"] == split]
        sounds = random.Random(0).sample(paths, len(paths))
        for picture, sound in zip(paths, sounds, strict=True):
            with_sound_of(corpus / picture, corpus / sound, root / picture)
    return pretrain(root, corpus / "manifest.csv", tmp_path_factory.mktemp("shuffled"))


def found_at(run: Path, data: Path) -> np.ndarray:
    """Each sound's rank of its own picture, and the other way round, [2 N]: among the N clips of the speakers
    that were not trained on, by what the contrast compares of the last layer."""
    config, params, _ = load_params(str(run))
    records = open_records(data, "test")
    positions = [records.first_position + index for index in range(len(records))]
    last = config.model.depth - 1
    names = (f"video_layer_{last}", f"audio_layer_{last}")
    networks = [extraction.Network("checkpoint", 0, params)]
    _, matrices = extraction.extract_folder(config, str(data), positions, networks, names)
    video, audio = (matrices[extraction.Source(name, "checkpoint", 0, "as_recorded")] for name in names)
    print(retrieval.retrieval_scores(video, audio), "of", len(video))
    return np.concatenate([retrieval.match_ranks(video, audio), retrieval.match_ranks(audio, video)])


def chance_of(ranks: np.ndarray) -> float:
    """The probability that ranks drawn at random are as good on average; each pair counts once."""
    clips = len(ranks) // 2
    deviation = np.sqrt((clips**2 - 1) / 12 / clips)
    return float(stats.norm.cdf((ranks.mean() - (clips + 1) / 2) / deviation))


@pytest.mark.parametrize("label", ["emotion", "sentence", "sex"])
def test_probes_find_what_was_drawn_across_speakers(run, label):
    options = probing.ProbeOptions(label, protocol="folds", random_seeds=1)
    result = probing.run(str(run), str(run.parent / "data"), options)
    rows = {row["feature"]: row for row in result.rows if row["weights"] == "checkpoint"}
    best = max(rows.values(), key=lambda row: row["uar"])
    print(label, {name: (row["uar"], row["ci95"]) for name, row in rows.items()})
    assert best["ci95"][0] > best["chance"]


def test_sound_finds_its_picture_among_new_speakers(run):
    assert chance_of(found_at(run, run.parent / "data")) < 1e-4


def test_sound_of_other_clips_teaches_nothing_about_pairs(run, shuffled_run):
    assert chance_of(found_at(shuffled_run, run.parent / "data")) > 1e-2
