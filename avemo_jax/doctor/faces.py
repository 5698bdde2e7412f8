"""Can faces be found? By loading the models: of their two packages one cannot stand among this one's extras."""

from __future__ import annotations

from collections.abc import Iterator

from avemo_jax.doctor.findings import Finding, note, ok
from input_pipeline import blazeface
from input_pipeline.errors import DataError


def check_faces() -> Iterator[Finding]:
    """Both models."""
    try:
        blazeface.check_installed()
    except DataError as error:
        text, _, install = str(error).partition(": ")
        yield note("faces", text, install)
    else:
        yield ok("faces", "both models that find faces were loaded (avemo prepare --crop face)")
