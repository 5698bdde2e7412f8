"""Several `avemo` commands one after the other, as `avemo demo` and `avemo compare` run them: each in a process of its
own, noted when it is done, and not done again.

What is run so is what is run by hand; there is no second way to prepare, train or probe.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from avemo_jax.errors import UserError
from avemo_jax.training.manifest import write_durably

_REFUSED = 2  # the exit code of bad input


class Stage(NamedTuple):
    """One command. result: what is there when it is done; may_refuse: bad input does not end the whole."""

    title: str
    words: list[str]
    result: Path
    may_refuse: bool = False

    @property
    def command(self) -> str:
        return shlex.join(["avemo", *self.words])


def words(*parts: str | os.PathLike) -> list[str]:
    """The words of a command, paths among them."""
    return [os.fspath(part) for part in parts]


def run(stages: Sequence[Stage], note: Path, facts: Mapping[str, Any]) -> int:
    """Runs what is not done yet; returns the exit code of the first command that failed, or 0.

    A stage is done when `note` says so, and says it of all stages up to it. `facts` are noted too: what tells this work
    from another (see `read_note`).
    """
    done = read_note(note).get("done", [])
    for number, stage in enumerate(stages):
        print(f"\n[{number + 1}/{len(stages)}] {stage.title}\n$ {stage.command}", flush=True)
        before = [earlier.command for earlier in stages[:number]]
        if done[: number + 1] == [*before, stage.command] and stage.result.exists():
            print("done already")
            continue
        done = done[:number] if done[:number] == before else []
        _write_note(note, {**facts, "done": done})
        code = _call(stage.words)
        if code == _REFUSED and stage.may_refuse:
            print("not done, for the reason above: left out")
        elif code:
            return code
        done.append(stage.command)
        _write_note(note, {**facts, "done": done})
    return 0


def read_note(note: Path) -> dict[str, Any]:
    """The facts that were noted, and "done", the commands; or nothing."""
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_note(note: Path, content: Mapping[str, Any]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_durably(note, json.dumps(content, indent=1))
    except OSError as error:
        raise UserError(
            f"{note.parent} cannot be written ({error.strerror}): choose another --workdir"
        ) from error


def _call(words: Sequence[str]) -> int:
    """Runs `avemo` with these words; SIGTERM reaches it too, and it does not outlive an interrupted whole."""
    early: list[int] = []  # signals that come while it is being started: an interrupt there would lose it
    before = {
        number: signal.signal(number, lambda number, _: early.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        child = subprocess.Popen([sys.executable, "-m", "avemo_jax", *words])
        try:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
            for number in early:
                signal.raise_signal(number)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code
