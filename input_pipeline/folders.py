"""A folder that one command fills: nobody else meanwhile, whole files only, and one line when that fails."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from input_pipeline.errors import DataError

_CALLS = "commands.jsonl"  # which commands were called for a folder; also those that made nothing in it


@contextmanager
def locked(out: Path, verb: str) -> Iterator[None]:
    """Makes `out` and its folder of notes, named as the verb, and keeps a second `avemo verb` out meanwhile.

    Two would take each other's half-written files for their own. Raises DataError when one is at work.
    """
    (out / verb).mkdir(parents=True, exist_ok=True)
    with open(out / verb / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{out}: another `avemo {verb}` is writing there; wait for it or stop it"
            ) from None
        yield


def claim(out: Path, verb: str, plan: dict[str, Any], names: Mapping[str, str] | None = None) -> None:
    """Notes what `out` is being made from, or checks that it is what was noted there before.

    names: what to call a part of the plan whose values say nothing to a reader.

    Raises:
      DataError: naming what differs, or what else is in the folder.
    """
    noted, names = out / verb / "plan.json", names or {}
    if noted.exists():
        before = json.loads(noted.read_text())
        changed = [key for key in plan if before.get(key) != plan[key]]
        if changed:
            what = ", ".join(names.get(k) or f"{k} (was {before.get(k)}, now {plan[k]})" for k in changed)
            raise DataError(
                f"{out} was begun with something else: {what}; choose another --out, or delete it"
            )
        return
    strangers = sorted(name for name in os.listdir(out) if name not in (verb, _CALLS))
    if strangers:
        raise DataError(f"{out} is not empty (it holds {strangers[0]}); choose an empty or new --out")
    write_json(noted, plan)


@contextmanager
def clear_about_disk(path: Path, size: int | None = None) -> Iterator[None]:
    """Turns a full disk or a missing permission into one line with the path and the size that was needed."""
    try:
        yield
    except OSError as error:
        needed = "" if size is None else f", {size / 1e6:.1f} MB were needed"
        where = error.filename or path
        raise DataError(
            f"{where}: cannot write ({error.strerror or error}){needed}; what is finished stays"
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that appears at its place whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Writes `whole_file` with a JSON value."""
    with whole_file(path) as file:
        json.dump(value, file, indent=1)
