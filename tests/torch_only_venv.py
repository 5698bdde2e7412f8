"""A venv as somebody in PyTorch has it: torch, transformers, PyAV, Pillow and what they need; no JAX, none of ours.

The packages are those that the tests run with, linked instead of installed: nothing is downloaded.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = ("torch", "transformers", "av", "pillow")


class TorchOnlyVenv:
    """The venv in `folder`, made of `packages` and their requirements."""

    def __init__(self, folder: Path, packages: Sequence[str] = PACKAGES):
        venv.create(folder, with_pip=False, symlinks=True)
        self._folder = folder
        (site,) = (folder / "lib").glob("python*/site-packages")
        for distribution in _with_requirements(packages):
            for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(distribution.locate_file(top))

    def run(
        self, code: str, *words: str | os.PathLike, cwd: Path | None = None
    ) -> subprocess.CompletedProcess:
        """Runs Python code in it, without network."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        alone = {"HOME": str(self._folder), "HF_HUB_OFFLINE": "1"}
        command = [self._folder / "bin" / "python", "-c", code, *words]
        return subprocess.run(
            command, env=kept | alone, cwd=cwd or self._folder, capture_output=True, text=True
        )


def _with_requirements(packages):
    found, waiting = {}, list(packages)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found.values()
