"""A run's folder → plain data, as its files say it. Nothing is computed, nothing is written.

Works on a run that is still going on, and on one that lacks most of what a run can have: what is not there is
None or empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avemo_jax import paths
from avemo_jax.errors import UserError
from avemo_jax.evaluation.retrieval import RECALLS
from avemo_jax.provenance import read_calls
from avemo_jax.training import checkpoint_files as files
from avemo_jax.training import goodput, manifest
from avemo_jax.training.workdir import CONFIG
from avemo_jax.training.writers import METRICS, SAMPLES

Row = dict[str, Any]
PROBE_ROWS = "rows.json"  # of fine-tuned runs too
SUITES = "suites.json"
_OWN_FOLDERS = (files.FOLDER, SAMPLES, "tensorboard", "wandb")  # in them nobody puts a probe
_OF_FOLD = re.compile(r"fold_[^/]+(/heads/[^/]+)?")  # where a fold's own test is, beside others of it
_PROBE_KEYS = {"feature", "weights", "loudness", "ci95"}
_CLASS_KEYS, _NUMBER_KEYS = _PROBE_KEYS | {"uar", "classes", "confusion"}, _PROBE_KEYS | {"target", "ccc"}
_OUTCOME_KEYS = {"selection", "modalities", "target", "label", "fold", "n", "ci95", "outputs"}
_SUITE_KEYS = {  # without which nothing can be shown of a suite's row
    "calibration": {"model", "n", "uar", "ece", "ece_ci95", "reliability", "risk_coverage"},
    "fairness": {"model", "trait", "groups", "gap"},
    "conflict": {"model", "n", "face", "voice", "other", "face_share", "ci95", "raters"},
    "paired": {"model", "against", "score", "n", "p_permutation"},
    "retrieval": {"weights", "seed", "layer", "n", "video_to_audio", "audio_to_video", "chance"},
    "robustness": {"corruption", "level", "unit", "score", "change", "change_ci95"},
    "cross_corpus": {"selection", "label", "fold", "n", "speakers", "outputs", "uar", "ci95", "chance"},
    "identity": {"feature", "weights", "seed", "uar", "ci95", "war", "wf1", "chance", "n", "speakers", "dim"},
    "neighbours": {"feature", "weights", "seed", "label", "k", "n", "precision", "precision_ci95", "chance"},
    "rollout": {"clip_id", "video", "audio"},
    "zero_shot": {"weights", "seed", "map", "by", "n", "uar", "uar_ci95", "war", "war_ci95", "chance"},
    "text_retrieval": {
        *("weights", "seed", "map", "by", "n", "chance"),
        *(
            f"{way}_r{k}{end}"
            for way in ("text_to_clip", "clip_to_text")
            for k in RECALLS
            for end in ("", "_ci95")
        ),
    },
    "statements": {"weights", "seed", "map", "by", "n", "accuracy", "accuracy_ci95", "auc", "auc_ci95"},
}


@dataclass
class Probe:
    """One `rows.json`: name of its folder within the run's, and its rows (without their folds)."""

    name: str
    rows: list[Row]


@dataclass
class Outcomes:
    """The `rows.json` of a fine-tuning run, likewise; the name is "." of the run's own folder."""

    name: str
    rows: list[Row]


@dataclass
class Suites:
    """One `suites.json`: name of its folder within the run's, and suite → rows; neighbours of clips without labels are
    only a page, and no rows."""

    name: str
    results: dict[str, list[Row]]


@dataclass
class Run:
    """What a run's folder tells."""

    name: str
    folder: Path
    weights: Path  # what is looked at: the folder itself, or that of one step
    config: dict[str, Any]
    metrics: list[Row]  # by step
    checkpoint_step: int | None  # of the newest finished checkpoint, or of that one step
    parameters: int | None  # numbers in its model
    versions: dict[str, str]  # of the packages it was made with
    samples: dict[int, dict[str, Path]]  # step → name → file; of one step none that came later
    probes: list[Probe]
    outcomes: list[Outcomes]  # of a run with folds, not the folds' own tests but those of all together
    suites: list[Suites]
    time: dict[str, Any] | None  # see training/goodput.py
    calls: list[Row]  # that made it, its data and its probes, oldest first; see provenance.py
    folds: list[Path] = field(default_factory=list)  # of a fine-tuning of all folds, each a run of its own
    notes: list[str] = field(default_factory=list)  # to be careful about: files that could not be read, say

    @property
    def total_steps(self) -> int | None:
        """As configured; None when the run counts epochs."""
        return self.config.get("total_steps") or None

    @property
    def data(self) -> str:
        """The prepared folder that it was trained on."""
        return self.config.get("data", {}).get("path", "")


def gather_run(folder: str | os.PathLike) -> Run:
    """Reads what is in a run's folder; of the folder of one of its steps likewise, with the weights of that step.

    Raises:
      UserError: there is no such folder, or no run in it, or the step's checkpoint is not finished.
    """
    weights, folder = paths.to_path(folder), folder_of(folder)
    is_step = weights != folder
    if is_step and not manifest.is_finished(weights):
        raise UserError(
            f"{weights}: this checkpoint is not finished; give another step's folder, or {folder}"
        )
    begun = (folder / CONFIG).is_file() or files.step_folders(folder / files.FOLDER)
    folds = [] if begun else sorted(path.parent for path in folder.glob(f"fold_*/{CONFIG}"))
    if not begun and not (folds and (folder / PROBE_ROWS).is_file()):
        what = "no run in it (neither config.json nor checkpoints)" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}; give the --workdir of an `avemo train`")
    name = paths.absolute(folder).name
    run = Run(name, folder, weights, {}, [], None, None, {}, {}, [], [], [], None, read_calls(folder))
    _read_checkpoint(run)
    run.config = _read_json(run, folder / CONFIG) or run.config
    run.metrics = _read_metrics(folder / METRICS)
    run.samples = _find_samples(folder / SAMPLES)
    if is_step and run.checkpoint_step is not None:
        run.name = f"{name} at step {run.checkpoint_step}"
        run.samples = {step: found for step, found in run.samples.items() if step <= run.checkpoint_step}
    run.time = _read_json(run, folder / goodput.NAME)
    if folds:
        run.folds = folds
        one = shlex.quote(str(folds[0]))
        run.notes.append(f"all folds together; curves and times are of each: avemo report {one}")
    made_in = set()
    for path in _find(folder, PROBE_ROWS):
        if _add_rows(run, path):
            made_in.add(path.parent)
    if any(one.name == "." for one in run.outcomes):  # single folds are part of those of all folds
        run.outcomes = [one for one in run.outcomes if not _OF_FOLD.fullmatch(one.name)]
    for path in _find(folder, SUITES):
        if _add_suites(run, path):
            made_in.add(path.parent)
    for place in sorted(made_in - {folder}):
        run.calls += read_calls(place)
    run.calls += read_calls(paths.to_path(run.data)) if run.data else []
    run.calls.sort(key=lambda call: str(call.get("began")))
    return run


def folder_of(path: str | os.PathLike) -> Path:
    """The run's folder: itself, or that of which this is the folder of one step."""
    path = paths.to_path(path)
    return files.run_folder(path) if (path / files.ARRAYS).is_dir() else path


def check_is_no_run(folder: str | os.PathLike) -> None:
    """Raise a UserError for a run's own folder: what is judged would replace the results of the run's test."""
    folder = paths.to_path(folder)
    if (folder / CONFIG).is_file() or any(folder.glob(f"fold_*/{CONFIG}")):
        raise UserError(
            f"{folder} is a run's own folder, whose results would be replaced; give --out one in it, such as "
            f"{folder / 'judged'}"
        )


def trained_in(run: Run) -> tuple[Run, tuple[str, ...]]:
    """The run that trained these weights, and its other heads: of `heads/NAME` of a run of several that run."""
    folder = paths.absolute(run.folder)
    if folder.parent.name == "heads":
        with contextlib.suppress(UserError):
            whole = gather_run(folder.parent.parent)
            if folder.name in whole.config.get("heads", {}):
                return whole, tuple(name for name in whole.config["heads"] if name != folder.name)
    return run, ()


def page_of(path: str | os.PathLike) -> Path:
    """Where the page of a run lies, or that of the folder of one of its steps, unless told otherwise."""
    weights, folder = paths.to_path(path), folder_of(path)
    return folder / ("report.html" if weights == folder else f"report_{paths.absolute(weights).name}.html")


def _are_rows(rows: Any, keys: set[str]) -> bool:
    return (
        isinstance(rows, list) and bool(rows) and all(isinstance(r, dict) and r.keys() >= keys for r in rows)
    )


def _add_rows(run: Run, path: Path) -> bool:
    """Those of a probe or of a fine-tuning run."""
    rows = _read_json(run, path)
    name = path.parent.relative_to(run.folder).as_posix()
    is_probe = _are_rows(rows, _CLASS_KEYS) or _are_rows(rows, _NUMBER_KEYS)
    is_outcome = _are_rows(rows, _OUTCOME_KEYS)
    if is_probe or is_outcome:
        rows = [{key: value for key, value in row.items() if key != "folds"} for row in rows]
        run.probes += [Probe(name, rows)] if is_probe else []
        run.outcomes += [Outcomes(name, rows)] if is_outcome else []
    return is_probe or is_outcome


def _add_suites(run: Run, path: Path) -> bool:
    found = _read_json(run, path)
    known = found if isinstance(found, dict) else {}
    results = {name: rows for name, rows in known.items() if name in _SUITE_KEYS}
    results = {
        name: rows
        for name, rows in results.items()
        if _are_rows(rows, _SUITE_KEYS[name]) or (name == "neighbours" and rows == [])
    }
    if results:
        run.suites.append(Suites(path.parent.relative_to(run.folder).as_posix(), results))
    elif found is not None:
        run.notes.append(f"{path} holds no suite as `avemo evaluate` of this version writes them")
    return bool(results)


def _read_checkpoint(run: Run) -> None:
    steps = [run.weights] if run.weights != run.folder else files.step_folders(run.folder / files.FOLDER)
    finished = [folder for folder in steps if manifest.is_finished(folder)]
    if not finished:
        return
    try:
        record = files.read_record(finished[-1])
    except (OSError, ValueError, TypeError) as error:
        run.notes.append(f"{finished[-1] / files.RECORD} cannot be read ({error})")
        return
    run.checkpoint_step, run.config, run.versions = record.step, record.config, record.versions
    shapes = [shape for name, (shape, _) in record.arrays.items() if name.startswith("params/")]
    run.parameters = sum(int(np.prod(shape)) for shape in shapes)


def _read_json(run: Run, path: Path) -> Any:
    """What the file holds; None, and a note, when it cannot be read."""
    try:
        with paths.plain_errors(path):
            # Files of earlier versions can hold NaN, which is no JSON.
            return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        run.notes.append(f"{path} cannot be read ({error})")
        return None


def _read_metrics(path: Path) -> list[Row]:
    """By step; a line that is cut, because the run is being killed or is writing it, is passed over."""
    rows = {}
    with contextlib.suppress(OSError), paths.plain_errors(path):
        for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                row = json.loads(line)
                rows[int(row["step"])] = row
    return [rows[step] for step in sorted(rows)]


def _find_samples(folder: Path) -> dict[int, dict[str, Path]]:
    found: dict[int, dict[str, Path]] = {}
    for path in paths.files_under(folder):
        if path.suffix != ".png":
            continue
        step, _, name = path.stem.partition("_")
        if step.isdecimal():
            found.setdefault(int(step), {})[name] = path
    return found


def _find(folder: Path, name: str) -> Iterator[Path]:
    if paths.is_remote(folder):
        for path in paths.files_under(folder):
            if path.name == name and not set(path.relative_to(folder).parts[:-1]) & set(_OWN_FOLDERS):
                yield path
        return
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(inner for inner in folders if inner not in _OWN_FOLDERS)
        if name in names:
            yield Path(root) / name
