"""Takes a folder on object storage for one run, where no lock ends by itself with its process.

The holder writes a beat into a small object again and again. Another start watches it: while it beats the folder is in
use; once it is silent, or its process is known to be gone, the folder is free. No two clocks are compared. A holder
that finds the object in another's hands has been given up meanwhile, and must not write any more.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from avemo_jax import paths
from avemo_jax.errors import UserError

NAME = ".lease"
BEAT_S = 10.0
SILENT_S = 45.0  # without a beat for so long, and the holder is gone


class Lease:
    """A folder's lease, held from here to `close`.

    Raises:
      OSError: the object cannot be read or written.
      UserError: another run holds it.
    """

    def __init__(self, folder: Path, beat_s: float = BEAT_S, silent_s: float = SILENT_S):
        self._path, self._beat_s, self._lost = folder / NAME, beat_s, ""
        self._me = {"pid": os.getpid(), "host": os.uname().nodename, "token": secrets.token_hex(8)}
        self._count, self._ended = 0, threading.Event()
        self._await_silence(folder, silent_s)
        self._beat()
        if (found := self._read()).get("token") != self._me["token"]:  # the other wrote last
            raise UserError(_in_use(folder, found))
        self._thread = threading.Thread(target=self._keep_beating, daemon=True, name="lease")
        self._thread.start()
        atexit.register(self.close)  # also when the run is refused

    def check(self) -> None:
        """Raises a UserError when another run has taken the folder."""
        if self._lost:
            raise UserError(
                f"{self._path.parent} was taken over by {self._lost}: this run was silent for too long"
            )

    def close(self) -> None:
        """Gives the folder back."""
        atexit.unregister(self.close)
        self._ended.set()
        self._thread.join(timeout=30)
        with contextlib.suppress(OSError), paths.plain_errors(self._path):
            if self._read().get("token") == self._me["token"]:
                self._path.unlink()

    def _await_silence(self, folder: Path, silent_s: float) -> None:
        found = first = self._read()
        since = time.monotonic()
        while found and not _is_gone(found):
            if found != first:
                raise UserError(_in_use(folder, found))
            if time.monotonic() - since > silent_s:
                return
            time.sleep(min(1.0, self._beat_s / 2))
            found = self._read()

    def _keep_beating(self) -> None:
        while not self._ended.wait(self._beat_s):
            # A store that cannot be reached for a moment is none of this thread's business.
            with contextlib.suppress(OSError):
                found = self._read()
                if found and found.get("token") != self._me["token"]:
                    self._lost = _name(found)
                    return
                self._beat()

    def _beat(self) -> None:
        self._count += 1
        with paths.plain_errors(self._path):
            self._path.write_text(json.dumps({**self._me, "beat": self._count}), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        """What the object says; empty when there is none."""
        try:
            with paths.plain_errors(self._path):
                written = paths.read_whole(self._path)
            found = json.loads(written)
        except FileNotFoundError:
            return {}
        except ValueError:
            return {"beat": 0}  # not ours, or damaged: as silent as any
        return found if isinstance(found, dict) else {"beat": 0}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Is it a process of this machine that has ended? Of others that cannot be known."""
    if holder.get("host") != os.uname().nodename or not isinstance(holder.get("pid"), int):
        return False
    if holder["pid"] == os.getpid():  # of a container that was started again
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _in_use(folder: Path, holder: dict[str, Any]) -> str:
    return f"{folder} is in use by {_name(holder)}: stop it first, or choose another one"


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
