"""Rows of a manifest → a folder of shards, and a list of every clip that was left out and why.

Safe to stop at any moment and start again: a shard is written beside its place, moved there, and then noted
as finished; the folder becomes a dataset in one last step. What a shard holds does not depend on how many
workers made it. Not here: decoding (media) and the bytes of a record (records).

    OUT/prepare/plan.json         what this folder is being made from; another plan is refused
    OUT/prepare/shard-00000.json  a finished shard: its size, its clips, the clips it rejected
    OUT/avemo_clips-….array_record-…, dataset_info.json, features.json, clips.csv, rejected.csv
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from input_pipeline import beam, blazeface, faces, folders, records, stores
from input_pipeline.clips import ClipOptions, Outcome, make_record
from input_pipeline.errors import DataError
from input_pipeline.manifests import SPLIT_NAME, SPLIT_RULE, Refused, Row
from input_pipeline.pool import results_in_order
from input_pipeline.progress import Progress

REJECTED_LIST = "rejected.csv"
_VERB = "prepare"  # and the name of the folder of notes
_NO_SPLIT = "clips"
_SPACE_FOR_METADATA = 1 << 20


@dataclass(frozen=True)
class FaceSummary:
    """Over the clips that were kept. frames: all of them; found: those in which the kept face was found; several:
    clips that showed further faces."""

    frames: int
    found: int
    several: int


@dataclass(frozen=True)
class Summary:
    """What came of it. reasons: how many clips were rejected for what, the commonest first; faces: where they were
    looked for."""

    out: Path
    clips: int
    kept: int
    bytes: int
    reasons: list[tuple[str, int]]
    faces: FaceSummary | None = None

    @property
    def rejected(self) -> int:
        return self.clips - self.kept


@dataclass(frozen=True)
class _Shard:
    number: int  # over all splits
    name: str
    split: str
    rows: Sequence[Row]
    reserve: int  # bytes to leave free, for the lists of all clips


def prepare(
    rows: Sequence[Row],
    root: str | os.PathLike,
    out: str | os.PathLike,
    options: ClipOptions,
    *,
    clips_per_shard: int = 128,
    workers: int = 1,
    beam_options: Sequence[str] | None = None,
    refused: Sequence[Refused] = (),
) -> Summary:
    """Makes `out` a dataset of the clips in `rows`, or goes on where an earlier call was stopped.

    root: the folder that the rows' paths are relative to.
    workers: processes that decode; 0 decodes in this process.
    beam_options: instead of these, Apache Beam's workers decode, a shard each; they must see both folders by the
      same names. As Beam takes them, for instance `--runner=FlinkRunner`.
    refused: files that were found to be no clips before; listed and counted with those rejected here.

    Raises:
      DataError: `out` belongs to another manifest or other options, cannot be written, or no clip is usable;
        packages for what was asked are missing; or Beam's pipeline failed.
    """
    root, out = Path(root), Path(out)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (--root)")
    if options.crop == "face":
        blazeface.check_installed()
    if beam_options is not None:
        beam.check(beam_options)
    shards = _shards(rows, clips_per_shard)
    with folders.clear_about_disk(out), folders.locked(out, _VERB):
        plan = _plan(rows, refused, options, clips_per_shard)
        folders.claim(out, _VERB, plan, names={"manifest": "the manifest"})
        finished = {shard.number: note for shard in shards if (note := _note(out, shard)) is not None}
        todo = [shard for shard in shards if shard.number not in finished]
        done = len(rows) - sum(len(shard.rows) for shard in todo)
        for half in out.glob("*.part"):
            shutil.rmtree(half) if half.is_dir() else half.unlink()
        if todo or not (out / "dataset_info.json").exists():
            with Progress(len(rows), "clips", "prepare", done) as progress:
                if beam_options is None:
                    jobs = [(root, row, options) for shard in todo for row in shard.rows]
                    outcomes = results_in_order(make_record, jobs, workers, on_crash=_crashed)
                    for shard in todo:
                        finished[shard.number] = _finish_shard(out, shard, outcomes, progress.advance)
                elif todo:
                    finished |= _finish_on_beam(out, todo, root, options, beam_options, progress)
            _finish(out, shards, finished, refused)
    return _summary(out, rows, refused, [finished[shard.number] for shard in shards])


def read_options(path: str | os.PathLike) -> ClipOptions:
    """How the clips of a prepared folder, on disk or on object storage, were stored; raises DataError where the note
    of it is not there."""
    noted = f"{_VERB}/plan.json"
    try:
        found = json.loads(stores.read_file(path, noted))
        plan = {"min_face_share": ClipOptions.min_face_share, **found}
        return ClipOptions(**{option.name: plan[option.name] for option in fields(ClipOptions)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}/{noted}: no note of how these clips were prepared") from error


def read_notes(path: str | os.PathLike) -> tuple[Counter[str], list[float]]:
    """What preparing the folder, on disk or on object storage, noted: {reason: rejected clips}, and of each clip in
    which a face was looked for the share of frames in which it was found. Both are empty in a folder that another
    program wrote."""
    reasons: Counter[str] = Counter()
    with contextlib.suppress(FileNotFoundError):
        listed = stores.read_file(path, REJECTED_LIST).decode("utf-8")
        reasons.update(row["reason"] for row in csv.DictReader(io.StringIO(listed, newline="")))
    notes = map(json.loads, stores.read_files(path, _VERB, "shard-*.json"))
    return reasons, [clip["found"] / clip["frames"] for note in notes for clip in note.get("faces", ())]


def _shards(rows, clips_per_shard) -> list[_Shard]:
    """Rows in the manifest's order, split by split, the same number to each shard."""
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(row.split or _NO_SPLIT, []).append(row)
    if wrong := [split for split in by_split if not SPLIT_NAME.fullmatch(split)]:
        raise DataError(f"split {wrong[0]!r} {SPLIT_RULE}")
    reserve = _SPACE_FOR_METADATA + sum(map(_listed_bytes, rows))
    shards: list[_Shard] = []
    for split, members in by_split.items():
        count = -(-len(members) // clips_per_shard)
        for i in range(count):
            part = members[i * clips_per_shard : (i + 1) * clips_per_shard]
            shards.append(_Shard(len(shards), records.shard_name(split, i, count), split, part, reserve))
    return shards


def _listed_bytes(row: Row) -> int:
    """About what a clip takes in clips.csv, or in rejected.csv."""
    return 100 + sum(map(len, (row.path, row.clip_id, row.split, row.speaker, json.dumps(row.labels))))


def _plan(rows, refused, options, clips_per_shard) -> dict:
    lines = [asdict(row) for row in rows]
    for line in lines:
        for name in ("audio_path", "half"):
            if not line[name]:  # as before there was one: folders begun then can be gone on with
                del line[name]
    lines += [asdict(file) for file in refused]
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    stored = asdict(options)
    if options.crop == "face":
        stored["faces_version"] = faces.VERSION
    else:  # as before faces could be found: likewise
        del stored["min_face_share"]
    return {
        "manifest": digest,
        "clips_per_shard": clips_per_shard,
        "prepare_version": records.VERSION,
        **stored,
    }


def _finish_on_beam(out, todo, root, options, beam_options, progress) -> dict[int, dict]:
    """The notes of the shards, by their numbers, when all are made. A pipeline that fails is begun again, unless two
    in a row made nothing."""
    notes: dict[int, dict] = {}
    in_vain = 0

    def look():
        written = set(os.listdir(out / _VERB))  # one look at what may be a distant disk, not one a shard
        for shard in todo:
            if shard.number in notes or _note_path(out, shard).name not in written:
                continue
            if (note := _note(out, shard)) is not None:
                notes[shard.number] = note
                for _ in shard.rows:
                    progress.advance()

    while left := [shard for shard in todo if shard.number not in notes]:
        jobs = [(out.resolve(), shard, root.resolve(), options) for shard in left]
        try:
            beam.run(make_shard, jobs, beam_options, out / _VERB / "beam.log", look)
        except beam.PipelineFailed as error:
            in_vain = in_vain + 1 if len(left) == len(todo) - len(notes) else 0
            if in_vain == 2:
                raise
            progress.say(f"{error}; going on with the rest")
    return notes


def make_shard(job: tuple[Path, _Shard, Path, ClipOptions]) -> dict[str, int]:
    """Makes the shard (folder, shard, root of the videos, options) unless it is there; how many clips that were."""
    out, shard, root, options = job
    note = _note(out, shard)
    if note is None:
        jobs = [(root, row, options) for row in shard.rows]
        # In a process of its own: a decoder that crashes must not take Beam's worker along.
        note = _finish_shard(out, shard, results_in_order(make_record, jobs, 1, on_crash=_crashed))
    return {"clips_kept": len(note["clips"]), "clips_rejected": len(note["rejected"])}


def _finish_shard(out, shard, outcomes: Iterator[Outcome], advance=lambda _: None) -> dict:
    """Collects the outcomes of a shard's rows, writes its file, then the note that it is finished."""
    encoded, clips, rejected, found = [], [], [], []
    for row in shard.rows:
        outcome = next(outcomes)
        if outcome.reason:
            rejected.append({"path": row.path, "clip_id": row.clip_id, "reason": outcome.reason})
        else:
            encoded.append(outcome.data)
            if outcome.faces:
                found.append({"clip_id": row.clip_id, **outcome.faces._asdict()})
            clips.append(
                {
                    "clip_id": row.clip_id,
                    "frames": outcome.frames,
                    "samples": outcome.samples,
                    "speaker": row.speaker,
                    "labels": json.dumps(row.labels, ensure_ascii=False, sort_keys=True),
                }
            )
        advance(f"{len(rejected)} rejected in this shard" if rejected else "")
    size = sum(map(len, encoded))
    path, part = out / shard.name, out / f"{shard.name}.{uuid.uuid4().hex}.part"  # two may be at it, on Beam
    needed = size + shard.reserve
    with folders.clear_about_disk(path, needed):
        if shutil.disk_usage(out).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        records.write_shard(part, encoded)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        note = {
            "file_bytes": part.stat().st_size,
            "record_bytes": size,
            "clips": clips,
            "rejected": rejected,
            **({"faces": found} if found else {}),
        }
        os.replace(part, path)
        folders.write_json(_note_path(out, shard), note)
    return note


def _note(out, shard) -> dict | None:
    """The note of a finished shard; None when it is not finished or its file is not the one noted."""
    try:
        note = json.loads(_note_path(out, shard).read_text())
        return note if (out / shard.name).stat().st_size == note["file_bytes"] else None
    except (FileNotFoundError, ValueError):
        return None


def _note_path(out, shard):
    return out / _VERB / f"shard-{shard.number:05d}.json"


def _finish(out, shards, notes, refused):
    """Writes rejected.csv, and unless nothing is left, the files that make the folder a dataset."""
    rejected = [asdict(file) for file in refused]
    rejected += [row for shard in shards for row in notes[shard.number]["rejected"]]
    with folders.whole_file(out / REJECTED_LIST) as file:
        writer = csv.DictWriter(file, ("path", "clip_id", "reason"))
        writer.writeheader()
        writer.writerows(rejected)
    splits: dict[str, tuple[list[int], int]] = {}
    clips = []
    for shard in shards:
        note = notes[shard.number]
        lengths, size = splits.get(shard.split, ([], 0))
        splits[shard.split] = ([*lengths, len(note["clips"])], size + note["record_bytes"])
        for clip in note["clips"]:
            clips.append({"position": len(clips), "split": shard.split, **clip})
    if not clips:
        raise DataError(f"not one of the {len(rejected)} clips can be used; {out / REJECTED_LIST} says why")
    # TFDS reads no splits without a record.
    records.write_dataset(out, {name: split for name, split in splits.items() if sum(split[0])}, clips)


def _summary(out, rows, refused, notes) -> Summary:
    reasons = Counter(file.reason for file in refused)
    reasons.update(row["reason"] for note in notes for row in note["rejected"])
    kept = sum(len(note["clips"]) for note in notes)
    return Summary(
        out,
        len(rows) + len(refused),
        kept,
        sum(note["file_bytes"] for note in notes),
        reasons.most_common(),
        _faces(clip for note in notes for clip in note.get("faces", ())),
    )


def _faces(clips) -> FaceSummary | None:
    """The sums of what shards noted of each clip; None when no faces were looked for."""
    counted = [(clip["frames"], clip["found"], clip["others"] > 0) for clip in clips]
    return FaceSummary(*map(sum, zip(*counted, strict=True))) if counted else None


def _crashed(job) -> Outcome:
    return Outcome(reason="the decoder crashed on it")
