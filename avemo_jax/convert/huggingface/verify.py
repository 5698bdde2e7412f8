"""An exported folder in transformers, where JAX cannot be imported, against the model it came from."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from avemo_jax import frontend
from avemo_jax.batch import Clip
from avemo_jax.convert.huggingface import outside
from avemo_jax.convert.huggingface.folder import kind_of, may_lack, output_names
from avemo_jax.convert.verify import (
    Difference,
    as_torch,
    difference,
    model_in_float32,
    named_outputs,
    random_clips,
)
from avemo_jax.convert.weight_files import import_torch
from avemo_jax.errors import UserError
from avemo_jax.evaluation import decisions
from avemo_jax.evaluation.views import Merger
from avemo_jax.models.params import Params
from input_pipeline import records
from input_pipeline.clips import make_record
from input_pipeline.examples import Cut, Example
from input_pipeline.manifests import Row
from input_pipeline.storing import ClipOptions
from input_pipeline.talking_faces.corpus import draw_speaker
from input_pipeline.talking_faces.drawing import EXPRESSIONS, Moment, draw
from input_pipeline.targets import Target
from input_pipeline.writing import write_clip

# Times max(1, largest output).
SAME_TENSORS = 1e-5
SAME_FILE = 1e-3  # the log-mel is computed in float64 on the host and in float32 on the device


class Verified(NamedTuple):
    """The largest difference of every output, from the same tensors and from a media file on, and with which
    versions of the packages that were used."""

    same_tensors: list[Difference]
    same_file: list[Difference]
    versions: dict[str, str]

    @property
    def differences(self) -> list[Difference]:
        return [*self.same_tensors, *self.same_file]


def check_installed() -> None:
    """Raises a UserError that names what to install for `verify`."""
    import_torch()
    if importlib.util.find_spec("transformers") is None:
        raise UserError("--verify loads the folder in transformers: pip install 'avemo_jax[huggingface]'")


def verify(
    folder: Path,
    config: ConfigDict,
    params: Params,
    options: ClipOptions,
    clip: Path | None = None,
    decision: Mapping[str, Any] | None = None,
) -> Verified:
    """Runs the folder and `params` on the same noise, and on the same media file, each by its own way.

    Args:
      folder: with all but its card.
      config: the run's.
      params: ours.
      options: how clips are stored, as in the folder.
      clip: a media file, with picture and sound where the folder needs both; None makes one.
      decision: of a classifier, what was fitted on development clips.

    Raises:
      UserError: the folder cannot be loaded, or the clip not be read.
    """
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if clip is None:
            clip = work / "clip.mp4"
            _write_test_clip(clip, config, options)
        noise = random_clips(config.model, np.random.default_rng(0))
        video, audio = as_torch(noise)
        np.savez(work / "tensors.npz", video=video, audio=audio)
        from_file, views = _prepared(clip, config, options)
        _run_outside(folder, work, clip)
        rebuild = model_in_float32(config)
        run = jax.jit(lambda params, clip: named_outputs(rebuild(params), clip, config))
        with jax.default_matmul_precision("highest"):
            ours = run(params, noise)
            ours_from_file = run(params, from_file)
            if config.task == "finetune":
                outputs = np.concatenate([run(params, view)["logits"] for view in views])
                ours_from_file["told"] = _told(outputs, config, decision)
        ours_from_file |= dict(zip(("input video", "input audio"), as_torch(from_file), strict=True))
        return Verified(
            _compare(ours, work / "tensors_outputs.npz", SAME_TENSORS),
            _compare(ours_from_file, work / "clip_outputs.npz", SAME_FILE, "from a file: "),
            json.loads((work / "versions.json").read_text(encoding="utf-8")),
        )


def _told(outputs: np.ndarray, config: ConfigDict, decision: Mapping[str, Any] | None) -> np.ndarray:
    """What evaluation makes of the outputs [V, K] for the views of one clip: [1, K]."""
    names, kind = tuple(output_names(config)), kind_of(config)
    target = Target(kind, names) if kind == "values" else Target(kind, ("label",), names)
    if raters := tuple(config.data.get("raters", ())):
        target = Target("raters", ("label",), names, raters=raters)
    merger = Merger(target, len(outputs))
    for view in outputs:
        merger.add(np.zeros(1, int), view[None])
    told = merger.merged([0])[1]
    return decisions.applied(dict(decision), target, told) if decision else told


def _prepared(path: Path, config: ConfigDict, options: ClipOptions) -> tuple[Clip, list[Clip]]:
    """The clip as evaluation sees it: through a record's bytes, cut at the centre view, normalised; and in the views
    that a fine-tuned model is tested with."""
    lacking = may_lack(config)
    options = replace(options, allow_missing=lacking)
    outcome = make_record((path.parent, Row(path.name, path.name), options))
    if outcome.reason:
        raise UserError(f"{path}: {outcome.reason}; give another clip to compare on")
    model, data = config.model, config.data
    sizes = model.frames, model.image_size, model.audio_frames
    cut = Cut(*sizes, data.frame_stride, data.crop, allow_missing=lacking != "none")
    record = records.decode(outcome.data)
    segments = config.views.segments if config.task == "finetune" else 0

    def normalised(example: Example) -> Clip:
        return frontend.to_clip(
            {name: jnp.asarray(value)[None] for name, value in example.items()}, mels=model.mel_bins
        )

    return normalised(cut.centre(record)), [
        normalised(cut.segment(record, k, segments)) for k in range(segments)
    ]


def _compare(ours: Mapping[str, Any], path: Path, limit: float, prefix: str = "") -> list[Difference]:
    with np.load(path) as loaded:
        theirs = dict(loaded)
    both = [name for name in theirs if name in ours]
    rows = [difference(prefix + name, ours[name], theirs[name], limit) for name in both]
    return rows + [Difference(prefix + name, math.inf, limit) for name in sorted(ours.keys() ^ theirs.keys())]


def _run_outside(folder: Path, work: Path, clip: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    alone = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work), "HF_MODULES_CACHE": str(work / "modules")}
    # -P: the folder of the program, which is ours, is not looked into for imports either.
    command = [sys.executable, "-P", outside.__file__, *map(str, (folder, work, clip))]
    done = subprocess.run(command, env={**kept, **alone}, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"transformers cannot use the folder, nothing was written: {lines[-1]}", exit_code=1)


def _write_test_clip(path: Path, config: ConfigDict, options: ClipOptions) -> None:
    """A moving pattern, or a drawn face where one is looked for, with a rising tone in noise, somewhat longer than
    what the model takes."""
    rng = np.random.default_rng(0)
    height, width = (224, 224) if options.crop == "fixed" else (224, 288)
    count, rate, sound_rate = config.model.frames * config.data.frame_stride + 12, 25, 48_000
    make = _face if options.crop == "face" else _pattern
    frames = make(rng, count, height, width)
    times = np.arange(count * sound_rate // rate) / sound_rate
    sound = 6000 * np.sin(2 * np.pi * (200 + 400 * times) * times) + 1500 * rng.standard_normal(len(times))
    write_clip(path, frames, rate, sound.astype(np.int16), sound_rate, "aac")


def _pattern(rng: np.random.Generator, count: int, height: int, width: int) -> list[np.ndarray]:
    waves = np.mgrid[0:height, 0:width].sum(0)[..., None] / np.array([9.0, 14.0, 23.0])
    grain = rng.uniform(-20, 20, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    return [
        (127 + 90 * np.sin(waves + 0.3 * k) + np.roll(grain, 3 * k, 1)).clip(0, 255).astype(np.uint8)
        for k in range(count)
    ]


def _face(rng: np.random.Generator, count: int, height: int, width: int) -> list[np.ndarray]:
    """That sways and tilts a little."""
    face, calm = draw_speaker(0, 0).face, EXPRESSIONS["neutral"]
    wall = Image.new("RGB", (width, height), (150, 160, 170))
    frames = []
    for k in range(count):
        sway = np.sin(0.2 * k)
        x, y, size = width / 2 + 8 * sway, 0.48 * height, 0.3 * height
        moment = Moment(x, y, size, 0.05 * sway, 0.1 * sway, 0.0, 1.0, 0.3 + 0.3 * sway, 0.0, calm)
        frames.append(np.asarray(draw(face, moment, wall)))
    return frames
