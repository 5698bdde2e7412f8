"""What is wrong with this machine, this installation, a data folder or a checkpoint, and how to mend it.

findings    what a check says
packages    Python, packages and extras against the package's own metadata
machine     devices, cores, memory, disk
decoders    can the usual video, sound and picture files be read
faces       can the models that find faces be loaded
cluster     the variables that join several processes to one run
folders     a prepared data folder, a checkpoint
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

from avemo_jax.doctor.findings import Finding, wrong


def examine(workdir: Path, data: Path | None = None, checkpoint: Path | None = None) -> Iterator[Finding]:
    """All findings, as they come. A part whose own imports fail is a finding too: the doctor must not be ill.

    Args:
      workdir: where runs are to be written.
      data: a prepared folder to look into.
      checkpoint: a work directory, its checkpoints folder or one step's folder to look at.
    """
    checks: list[tuple[str, str, object]] = [
        ("packages", "check_packages", None),
        ("machine", "check_devices", os.environ),
        ("machine", "check_host", None),
        ("machine", "check_disk", workdir),
        ("decoders", "check_decoders", None),
        ("faces", "check_faces", None),
        ("cluster", "check_cluster", os.environ),
    ]
    checks += [("folders", "check_data", data)] if data else []
    checks += [("folders", "check_checkpoint", checkpoint)] if checkpoint else []
    for module, function, subject in checks:
        try:
            check = getattr(importlib.import_module(f"{__name__}.{module}"), function)
            yield from check() if subject is None else check(subject)
        except ImportError as error:
            yield wrong(module, f"cannot be checked: {error}", "mend the packages first")
