"""One part of several by its name: a module that is here, or a Python file of the user's own with the same function."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from input_pipeline.errors import DataError


def load_plugin(flag: str, name: str, package: str, known: Sequence[str], function: str) -> ModuleType:
    """The module `package.name` where `name` is one of `known`, or the file `name`, NAME.py.

    Args:
      flag: of the command, for messages.
      function: what the module is to have; with its arguments, as `list_clips(root)`.

    Raises:
      DataError: no such module or file, or one that cannot be used.
    """
    if name in known:
        return importlib.import_module(f"{package}.{name}")
    path = Path(name)
    if path.suffix != ".py":
        raise DataError(f"{flag} {name}: there are {', '.join(known)}, or a file of your own, NAME.py")
    if not path.is_file():
        raise DataError(f"{flag} {name}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader  # a .py file always has them
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError) as error:
        raise DataError(f"{flag} {name} cannot be used: {type(error).__name__}: {error}") from error
    if not hasattr(module, function.partition("(")[0]):
        raise DataError(f"{flag} {name} has no {function}: see docs/extend.md")
    return module
