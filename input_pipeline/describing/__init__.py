"""Who describes clips: `facts`, from what can be measured, or a Python file of one's own.

A writer is a module with `describe(records)`: it is given the records of a prepared folder (`records.Records`: they
have a length and come by index; a damaged one raises a DataError, `readable` leaves them out) and gives a
`texts.Described` for each clip that it has something to say of, in any order. A multimodal LLM, here or far away, is
such a file: docs/text.md shows one.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator

from input_pipeline import own_files
from input_pipeline.errors import DataError
from input_pipeline.records import Records
from input_pipeline.texts import Described

# Each is a module here with `describe(records)`.
WRITERS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def describe(name: str, records: Records, say: Callable[[str], None] = print) -> list[Described]:
    """What the writer says of the records.

    Raises:
      DataError: no such writer, or it gives what is no description, nothing at all or a clip that is not there.
    """
    writer = own_files.find(name, "--by", __name__, WRITERS, "describe(records)")
    known, found = set(records.clip_ids), dict[str, Described]()
    try:
        for one in writer.describe(records):
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


def readable(records: Records) -> Iterator:
    """The records that are not damaged."""
    for index in range(len(records)):
        try:
            yield records[index]
        except DataError:
            continue
