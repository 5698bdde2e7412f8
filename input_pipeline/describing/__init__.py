"""Who describes clips: `facts`, from what can be measured; `chat`, a multimodal language model; or a Python file of
one's own.

A writer is a module with `describe(records)`: it is given the records of a prepared folder (`records.Records`: they
have a length and come by index; a damaged one raises a DataError, `readable` leaves them out) and gives a
`texts.Described` for each clip that it has something to say of, in any order. Keywords that it has besides are its
options, `--options NAME=VALUE`; one named `folder` is where the descriptions will lie.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipeline import own_files
from input_pipeline.errors import DataError
from input_pipeline.progress import Progress
from input_pipeline.records import Records
from input_pipeline.texts import Described

# Each is a module here with `describe(records)`.
WRITERS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def describe(
    name: str,
    records: Records,
    folder: Path,
    options: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> list[Described]:
    """What the writer says of the records.

    Args:
      name: one of `WRITERS`, or a file.
      folder: where the descriptions will lie.
      options: the writer's own, NAME=VALUE.

    Raises:
      DataError: no such writer or option, or it gives what is no description, nothing at all or a clip that is not
        there.
    """
    writer = own_files.find(name, "--by", __name__, WRITERS, "describe(records)")
    chosen = _options(writer.describe, name, folder, options)
    known, found = set(records.clip_ids), dict[str, Described]()
    try:
        for one in writer.describe(records, **chosen):
            if not isinstance(one, Described) or not one.text.strip():
                raise DataError(f"--by {name} gave {one!r}: it is to give Described(clip_id, text)")
            if one.clip_id not in known or one.clip_id in found:
                what = "described twice" if one.clip_id in found else "not in the data"
                raise DataError(f"--by {name}: clip {one.clip_id} is {what}")
            found[one.clip_id] = one
    except DataError:
        raise
    except Exception as error:  # a writer is anybody's code, and may ask anything of anybody
        why = " ".join(str(error).split())
        raise DataError(
            f"--by {name} failed after {len(found)} clips: {type(error).__name__}: {why}"
        ) from error
    if not found:
        raise DataError(f"--by {name} describes none of {len(records)} clips")
    say(f"{len(found)} of {len(records)} clips are described")
    return list(found.values())


def _options(function: Callable, name: str, folder: Path, given: Sequence[str]) -> dict[str, Any]:
    """The keywords of a writer's function: what was given as text, of the kind of its default; and the folder."""
    keywords = dict(list(inspect.signature(function).parameters.items())[1:])
    chosen: dict[str, Any] = {"folder": folder} if keywords.pop("folder", None) else {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in keywords:
            known = f"NAME=VALUE, of {', '.join(keywords)}" if keywords else "it has none"
            raise DataError(f"--options {text}: no option of --by {name}; {known}")
        default = keywords[key].default
        try:
            chosen[key] = _like(default, value)
        except ValueError as error:
            raise DataError(f"--options {text}: to be such as {key}={json.dumps(default)}") from error
    missing = [key for key, one in keywords.items() if one.default is one.empty and key not in chosen]
    if missing:
        raise DataError(f"--by {name} needs --options {' '.join(f'{key}=…' for key in missing)}")
    return chosen


def _like(default: Any, text: str) -> Any:
    """The text as a value of the default's kind; raises ValueError where it is none. What has no default is text."""
    if not isinstance(default, (bool, int, float)):
        return text
    value = json.loads(text)
    if type(value) is not type(default) and not (type(value) is int and isinstance(default, float)):
        raise ValueError(text)
    return value


def readable(records: Records) -> Iterator:
    """The records that are not damaged, with their progress."""
    with Progress(len(records), "clips", "describe") as progress:
        for index in range(len(records)):
            with contextlib.suppress(DataError):
                yield records[index]
            progress.advance()
