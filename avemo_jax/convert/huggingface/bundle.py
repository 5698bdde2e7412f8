"""Modules of ours as a flat folder of files that need each other and nothing else of ours.

transformers loads code that comes with weights from one folder, and finds the files that belong together by
lines of the form `from .name import …`. So each module is copied as it is, but for these lines.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

_OURS = ("avemo_jax", "input_pipeline")


def flatten(modules: Sequence[str]) -> dict[str, str]:
    """{file name: source text} of these modules and of all of ours that they import.

    Raises:
      ValueError: an import that cannot be written in the one form, or two modules with the same last name.
    """
    files: dict[str, str] = {}
    origin: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        name = f"{module.rpartition('.')[2]}.py"
        if origin.setdefault(name, module) != module:
            raise ValueError(f"{module} and {origin[name]} cannot lie in one folder")
        if name not in files:
            files[name], needed = _relative(module)
            waiting += needed
    return dict(sorted(files.items()))


def _relative(module: str) -> tuple[str, list[str]]:
    """A module's text with its imports of ours made relative, and the modules that they name."""
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, module
    text = Path(spec.origin).read_text(encoding="utf-8")
    lines, needed = text.splitlines(keepends=True), []
    for node, imported in _imports_of_ours(ast.parse(text)):
        before, after = f"from {imported} import", f"from .{imported.rpartition('.')[2]} import"
        line = lines[node.lineno - 1]
        if not isinstance(node, ast.ImportFrom) or before not in line or _is_package(imported):
            raise ValueError(
                f"{spec.origin}, line {node.lineno}: write it as `from package.module import name`"
            )
        lines[node.lineno - 1] = line.replace(before, after)
        needed.append(imported)
    return "".join(lines), needed


def _imports_of_ours(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        yield from ((node, name) for name in names if name.split(".")[0] in _OURS)


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is None or spec.submodule_search_locations is not None
