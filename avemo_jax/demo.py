"""The stages of `avemo demo`: which clips, which commands, and which of them are done already.

Every stage is an ordinary `avemo` command (see `stages`), so what is tried here is what is used later. Not here: what
those commands do, and how they are run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from avemo_jax import stages as stages_lib
from avemo_jax.config import load_config
from avemo_jax.doctor.packages import lacking_of_extra
from avemo_jax.errors import UserError
from avemo_jax.stages import Stage, words
from input_pipeline.corpora.listing import VIDEO, Listing, media_files
from input_pipeline.manifests import Row, read_manifest

NOTE = "demo.json"  # in the work directory: the commands that are done, and for which clips
CONFIG = "hicmae:demo"

# Twelve clips of each speaker, two of each emotion; emotions are probed on speakers left out.
_MADE_CLIPS, _MADE_SPEAKERS = 180, 15
_MADE_PROBE = ["--label", "emotion", "--protocol", "folds"]

# What takes seconds and still tells voice from face; `avemo probe` alone takes all features, and three seeds.
_BRIEF = ["--features", "cat4,audio_rows,video_cells", "--random_seeds", "1"]

# So that a folder of films is tried out in minutes too.
_MOST_FILES = 200
_LONGEST_S = 10

_MADE = "made"  # in place of a digest: the clips that the demo makes


class Clips(NamedTuple):
    """A manifest and the folder that its paths are relative to; made: that the demo makes them itself."""

    manifest: Path
    root: Path
    made: bool = False


def check_packages() -> None:
    """Raises a UserError when a package of the extra `demo` is not there, before anything is begun."""
    if lacking := lacking_of_extra("demo"):
        raise UserError(f"avemo demo: {', '.join(lacking)}; pip install 'avemo_jax[demo]'")


def find_clips(workdir: Path, folder: Path | None, manifest: Path | None) -> Clips:
    """The clips of `manifest` in `folder`; without a manifest all video files in it; without a folder those of
    the talking-face corpus, which the first stage makes.

    Raises:
      UserError: there are none, `manifest` is given without `folder`, or `workdir` holds the demo of others.
    """
    if folder is None:
        if manifest is not None:
            raise UserError("--manifest needs --clips, the folder that its paths are relative to")
        _refuse_others(workdir, _MADE)
        return Clips(workdir / "clips" / "manifest.csv", workdir / "clips", made=True)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (--clips)")
    if manifest is None:
        listed = _list_folder(folder)
        _refuse_others(workdir, _digest(listed.encode()))
        manifest = workdir / "clips.csv"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_bytes(listed.encode())
    elif manifest.is_file():
        _refuse_others(workdir, _digest(manifest.read_bytes()))
    return Clips(manifest, folder)


def plan(workdir: Path, clips: Clips, steps: int) -> list[Stage]:
    """The commands, in order.

    Raises:
      DataError: the manifest cannot be read.
    """
    data, run = workdir / "data", workdir / "run"
    stages = []
    if clips.made:
        generate = words("generate", "--out", clips.root)
        generate += ["--clips", str(_MADE_CLIPS), "--speakers", str(_MADE_SPEAKERS)]
        stages.append(Stage(f"{_MADE_CLIPS} clips of drawn faces that speak", generate, clips.manifest))
    workers = ["--workers", str(os.cpu_count() or 1)]
    prepare = words("prepare", "--manifest", clips.manifest, "--root", clips.root, "--out", data, *workers)
    stages.append(Stage("video files → records", prepare, data / "dataset_info.json"))

    settings = {
        "data.path": data,
        "total_steps": steps,
        "mask.repeats": 1,  # in so short a run, more clips teach more than more masks of each
        "checkpoint.every_steps": max(1, steps // 6),
        "log.every_steps": max(1, steps // 30),
        "log.samples_every_steps": steps,
    }
    train = words("train", "--config", CONFIG, "--workdir", run)
    train += [f"--config.{key}={value}" for key, value in settings.items()]
    size = load_config(CONFIG).batch_size
    title = f"pretraining on {steps * size:,} clips: {steps} steps of {size}"
    stages.append(Stage(title, train, run / "checkpoints" / f"{steps:08d}"))

    if chosen := _MADE_PROBE if clips.made else choose_probe(read_manifest(clips.manifest)):
        label = chosen[chosen.index("--label") + 1]
        out = run / f"probe_{label}"
        probe = words("probe", "--checkpoint", run, "--data", data, *chosen, *_BRIEF, "--out", out)
        title = f"a linear probe of {label} on frozen features, beside random networks and plain statistics"
        stages.append(Stage(title, probe, out / "rows.json", may_refuse=True))

    weights, folder = workdir / "hicmae.pth", workdir / "huggingface"
    for form, out, result, title in (
        ("hicmae-pretrain", weights, weights, "PyTorch weights under HiCMAE's names, compared in PyTorch"),
        (
            "huggingface",
            folder,
            folder / "config.json",
            "a folder for transformers, compared in a process without JAX",
        ),
    ):
        export = words("export", "--checkpoint", run, "--format", form, "--out", out, "--verify")
        stages.append(Stage(title, export, result))
    stages.append(Stage("all of it on one page", words("report", run), run / "report.html"))
    return stages


def choose_probe(rows: Sequence[Row]) -> list[str]:
    """Flags of `avemo probe` for the first label that these clips can be split for; none if there is no such."""
    for label in dict.fromkeys(name for row in rows for name in row.labels):
        labelled = [row for row in rows if label in row.labels]
        if any(isinstance(row.labels[label], (float, dict)) for row in labelled):
            continue  # no classes
        for protocol, group in (
            ("split", lambda row: row.split if row.split in ("train", "test") else ""),
            ("folds", lambda row: row.metadata.get("fold", "")),
            ("leave_one_speaker_out", lambda row: row.speaker),
        ):
            groups: dict[str, set[str]] = {}
            for row in labelled:
                if group(row):
                    groups.setdefault(str(row.labels[label]), set()).add(group(row))
            # A class of one group only cannot be both learnt and tested.
            classes = sorted(name for name, where in groups.items() if len(where) > 1 and "," not in name)
            if len(classes) > 1:
                # One word: a class such as -1 would be taken for a flag.
                return ["--label", label, "--protocol", protocol, f"--classes={','.join(classes)}"]
    return []


def run(stages: Sequence[Stage], clips: Clips, workdir: Path) -> int:
    """Runs what is not done yet; returns the exit code of the first command that failed, or 0."""
    # What tells these clips from others; those that the demo makes follow from the command that makes them.
    digest = _MADE if clips.made else _digest(clips.manifest.read_bytes())
    return stages_lib.run(stages, workdir / NOTE, {"clips": digest})


def closing(workdir: Path, stages: Sequence[Stage]) -> str:
    """Where everything is, and what comes next."""
    places = {
        "report": workdir / "run" / "report.html",
        "PyTorch weights": workdir / "hicmae.pth",
        "transformers": workdir / "huggingface",
        "checkpoints": workdir / "run" / "checkpoints",
        "records": workdir / "data",
    }
    width = max(map(len, places))
    lines = ["", "done. What came out:"]
    lines += [f"  {name:<{width}}  {place}" for name, place in places.items() if place.exists()]
    if not any("probe" in stage.words for stage in stages):
        lines.append("no probe: the clips have no label with two classes that can be both learnt and tested")
    lines.append("next: your own manifest with `avemo prepare`, then `avemo train --config hicmae:base`")
    return "\n".join(lines)


def _list_folder(folder: Path) -> str:
    """A manifest of the video files in a folder."""
    listing = Listing()
    found = list(media_files(folder, listing, VIDEO))
    if listing.refused:
        first = listing.refused[0]
        print(f"left out: {len(listing.refused)} files, as {first.path} ({first.reason})")
    if not found:
        raise UserError(f"{folder}: no video files in it (looked for {' '.join(sorted(VIDEO))})")
    names = [str(path) for path in found[:: -(-len(found) // _MOST_FILES)]]
    if len(names) < len(found):
        print(f"{folder} holds {len(found)} video files: {len(names)} of them, spread evenly, are taken")
    print(f"of each file its first {_LONGEST_S} s are taken; a --manifest may say otherwise, and give labels")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("path", "clip_id", "end_s"))
    writer.writerows((name, name, _LONGEST_S) for name in names)
    return text.getvalue()


def _refuse_others(workdir: Path, digest: str) -> None:
    """Raises a UserError where `workdir` holds a demo of other clips than those of `digest`."""
    if (noted := stages_lib.read_note(workdir / NOTE)) and noted["clips"] != digest:
        raise UserError(f"{workdir} holds a demo of other clips: choose another --workdir, or delete it")


def _digest(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()
