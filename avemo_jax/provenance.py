"""Which commands made what is in a folder: one line each in its `commands.jsonl`.

The line is written when the command ends, by the first process of a group. It never stands in the way: where
it cannot be written it is left out, and no folder is made for it. Nothing in it says on which machine it was.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from avemo_jax import paths

NAME = "commands.jsonl"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Call:
    """A command line that has just begun; `words` are those after `avemo`."""

    def __init__(self, words: Sequence[str]):
        self._command = shlex.join(["avemo", *words])
        self._began, self._since = datetime.now(UTC), time.monotonic()

    def note(self, folder: Callable[[], Path], exit_code: int) -> None:
        """Appends the call to the list in `folder()`, if that folder is there and can be written."""
        with contextlib.suppress(OSError), paths.plain_errors(place := folder()):
            if not place.is_dir() or not _is_first():
                return
            line = {
                "command": self._command,
                "began": self._began.isoformat(timespec="seconds").replace("+00:00", "Z"),
                "seconds": round(time.monotonic() - self._since, 3),
                "exit_code": exit_code,
                "versions": versions(("avemo_jax", *PACKAGES)) | {"python": platform.python_version()},
            }
            text = json.dumps(line, ensure_ascii=False) + "\n"
            if paths.is_remote(place):  # nothing can be appended there
                before = (place / NAME).read_text(encoding="utf-8") if (place / NAME).exists() else ""
                (place / NAME).write_text(before + text, encoding="utf-8")
                return
            with (place / NAME).open("a", encoding="utf-8") as file:
                file.write(text)


def read_calls(folder: Path) -> list[dict[str, Any]]:
    """The lines of the list in `folder`, oldest first; what is no such line is passed over."""
    calls = []
    with contextlib.suppress(OSError), paths.plain_errors(folder):
        for line in (folder / NAME).read_bytes().decode("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                call = json.loads(line)
                if isinstance(call, dict) and "command" in call:
                    calls.append(call)
    return calls


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _is_first() -> bool:
    """Of several processes that ran the command together, the one that writes."""
    jax = sys.modules.get("jax")  # without it there was no group to join
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0
