"""A Python file of one's own → what it holds, for corpora, writers, models, objectives and scores.

docs/extend.md has an example of each. Not here: what such a file must do.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from input_pipeline.errors import DataError, in_one_line

ENDING = ".py"  # by which a file is told from a name


def find(name: str, asked: str, package: str, known: Sequence[str], holds: str) -> ModuleType:
    """The module `package.name` where `name` is one of `known`, or else the file that it names; see `load`.

    asked: where it was named, for messages: `--corpus`.

    Raises:
      DataError: there is neither.
    """
    if name in known:
        return importlib.import_module(f"{package}.{name}")
    if not name.endswith(ENDING):
        raise DataError(f"{asked}: no '{name}'; there are {', '.join(known)}, or a file of your own, NAME.py")
    return load(name, f"{asked} {name}", holds)


def load(name: str, asked: str, holds: str) -> ModuleType:
    """The module that a file is, loaded once for as long as the file stays as it is.

    Args:
      name: the file.
      asked: where it was named, for messages: `--corpus my_corpus.py`.
      holds: what it must define: `list_clips(root)`.

    Raises:
      DataError: there is no such file, it cannot be loaded, or it does not define that.
    """
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{asked}: no such file")
    path = path.resolve()
    stat = path.stat()
    # One module a file, whoever asks: of a class that was loaded twice there are two, which are not equal.
    state = hashlib.sha256(f"{path} {stat.st_mtime_ns} {stat.st_size}".encode()).hexdigest()[:16]
    known = f"avemo_own_{path.stem}_{state}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec and spec.loader  # a .py file always has them
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # anybody's code
            del sys.modules[known]
            if isinstance(error, DataError):
                raise
            raise DataError(f"{asked} cannot be used: {in_one_line(error)}") from error
    if not hasattr(sys.modules[known], holds.partition("(")[0]):
        raise DataError(f"{asked} has no {holds}: see docs/extend.md")
    return sys.modules[known]
