"""A prepared folder and a config → a page of clips as the model sees them, before anything is trained.

The real loader draws and cuts the clips, the real task masks them: the training views are the first rows of the
first batch of a run with this config and seed, as its first step sees them.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.batch import Clip, Masks
from avemo_jax.errors import UserError
from avemo_jax.evaluation.extraction import centre_batches
from avemo_jax.report import charts, page
from avemo_jax.report.clips import Facts, collect_facts, read_cards
from avemo_jax.report.images import Picture
from avemo_jax.report.samples import stacked
from avemo_jax.tasks import make_task
from avemo_jax.tasks.clips import make_loader
from avemo_jax.tasks.pictures import ROWS, clip_strips
from avemo_jax.tasks.pretrain import Pretrain
from avemo_jax.training.state import run_keys
from input_pipeline.audio import SAMPLE_RATE

Row = dict[str, Any]
Batch = dict[str, np.ndarray]
VIEWS = ("training", "centre")
MOST_VALUES = 30  # of a label or of speakers that the page lists
_QUALITY = 88
_SEEN = ("video", "waveform", "waveform_length", "waveform_mean")  # of a batch, by a network


def make(config: ConfigDict, clips: int) -> tuple[str, Row]:
    """The HTML text, and what `--json` writes; `config.data.path` is the folder, `config.seed` what is drawn by.

    Raises:
      UserError, DataError: no prepared folder, or a config of another task than pretraining.
    """
    task = make_task(config)
    if not isinstance(task, Pretrain):
        raise UserError(
            f"config.task is '{config.task}': it hides nothing; give a pretraining config (hicmae:demo)"
        )
    path = config.data.path
    training = _first_rows(config, clips)
    positions = training["position"].tolist()
    (centre,) = centre_batches(config, path, positions, len(positions))
    # The key of a run's first step; a clip's own draws follow from it and its place in the data.
    key = jax.random.fold_in(run_keys(config.seed)[1], 0)
    batch = {name: jnp.asarray(training[name]) for name in task.batch_shapes()}
    seen, masks = task.first_copies(batch, key, int(task.choice(key)))
    # Evaluation hides nothing and leaves the volume as it is.
    whole = frontend.to_clip({name: jnp.asarray(centre[name]) for name in _SEEN}, mels=config.model.mel_bins)
    pictures = {
        "training": _pictures(task, seen, masks, "training view"),
        "centre": _pictures(task, whole, None, "centre view"),
    }
    cards = {card.position: asdict(card) for card in read_cards(path, clips, positions=positions)}
    seconds = {
        name: batch["waveform_length"] / SAMPLE_RATE
        for name, batch in zip(VIEWS, (training, centre), strict=True)
    }
    facts = collect_facts(path, config.seed)
    measured = {
        "durations": ("Length of clips", facts.durations_s, "seconds"),
        "levels": ("Level of the sound", facts.levels_db, "dB of full scale"),
        "faces": ("Frames in which the face was found", facts.faces, "share of a clip's frames"),
    }
    for index, label in enumerate(sorted(facts.scales)):
        measured[f"scale-{index}"] = (f"Label {label}", facts.scales[label], label)
    measured = {name: row for name, row in measured.items() if row[1]}
    numbers: Row = {
        **page.made(),
        "path": path,
        "seed": config.seed,
        "config": config.to_dict(),
        "tokens": {
            stream: {"all": math.prod(task.grids[stream]), "visible": mask.visible.shape[1]}
            for stream, mask in masks._asdict().items()
            if mask is not None
        },
        "clips": [
            {
                **{name: value for name, value in cards[position].items() if name != "strip"},
                "sound_s": {name: round(float(seconds[name][row]), 3) for name in VIEWS},
            }
            for row, position in enumerate(positions)
        ],
        "facts": _facts(facts),
        "tables": {name: charts.bins(values) for name, (_, values, _) in measured.items()},
    }
    drawn = [
        charts.histogram(numbers["tables"][name], name, values, unit)
        for name, (_, values, unit) in measured.items()
    ]
    html = page.render(
        "inspect.html.j2",
        {chart.name: chart for chart in drawn},
        numbers,
        pictures=pictures,
        titles={name: title for name, (title, _, _) in measured.items()},
    )
    return html, numbers


def _first_rows(config: ConfigDict, clips: int) -> Batch:
    """The first rows of the first batch that training sees; of a smaller folder, all of its clips."""
    with contextlib.closing(make_loader(config, batch_size=1)) as loader:
        size = min(clips, loader.dataset_size)
    with contextlib.closing(make_loader(config, batch_size=size)) as loader:
        return next(iter(loader))


def _pictures(task: Pretrain, clip: Clip, masks: Masks | None, view: str) -> list[tuple[Picture, Picture]]:
    """Each clip's frames and sound, whole and, with masks, masked."""
    strips = clip_strips(
        clip,
        masks,
        task.video_grid,
        task.audio_grid,
        clips=len(clip.video),
        mel_height=task.config.model.mel_bins,
    )
    return [
        stacked(rows, ROWS[: len(rows)], f"Clip {index + 1}, {view}", _QUALITY)
        for index, rows in enumerate(strips)
    ]


def _facts(facts: Facts) -> Row:
    """Plain lists, the most frequent first."""
    durations = np.array(facts.durations_s or [0.0])
    counted = {
        "split": facts.splits,
        "speaker": facts.speakers,
        "gender": facts.genders,
        "frames a second": facts.fps,
    }
    counted |= {f"label {key}": facts.labels[key] for key in sorted(facts.labels)}
    return {
        "clips": facts.clips,
        "read": facts.read,
        "unreadable": facts.unreadable,
        "rejected": facts.rejected.most_common(),
        "with_text": facts.with_text,
        "duration_s": {
            "shortest": float(durations.min()),
            "median": float(np.median(durations)),
            "longest": float(durations.max()),
            "all": float(durations.mean() * facts.clips),
        },
        "counts": [_counts(name, counter) for name, counter in counted.items()],
    }


def _counts(name: str, counter: Counter) -> Row:
    listed = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return {"name": name, "values": len(listed), "most": [list(pair) for pair in listed[:MOST_VALUES]]}
