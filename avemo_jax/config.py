"""Configs: find a file by path or name, call its `get_config(arg)`, apply overrides strictly.

Not here: what a config says. That is in `configs/`, one experiment a file.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
# A checkout's own folder first; the wheel carries a copy made when it was built.
_ROOTS = (_PACKAGE.parent / "configs", _PACKAGE / "_configs")


def load_config(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The resolved, locked config of `FILE[:arg]`, with `key.path=value` overrides applied.

    Raises:
      UserError: no such file, an argument that the file does not know, an unknown key (with the nearest
        valid one) or a value of the wrong type.
    """
    file, _, argument = name.partition(":")
    path = find_config(file)
    spec = importlib.util.spec_from_file_location(f"avemo_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except UserError as error:
        raise UserError(f"config '{name}': {error}") from error
    except (SyntaxError, ImportError, AttributeError, TypeError, NameError) as error:
        raise UserError(f"config file {path} cannot be used: {type(error).__name__}: {error}") from error
    config.lock()
    for override in overrides:
        _apply(config, override)
    return config


def find_config(name: str) -> Path:
    """The file that a config name stands for: a path, `pretrain/hicmae`, or just `hicmae`."""
    for candidate in (Path(name), Path(f"{name}.py")):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.resolve()
    root = configs_root()
    found = [root / f"{name}.py"] if (root / f"{name}.py").is_file() else sorted(root.glob(f"*/{name}.py"))
    if len(found) == 1:
        return found[0]
    known = sorted(str(p.relative_to(root).with_suffix("")) for p in root.glob("*/*.py"))
    if found:
        choices = ", ".join(str(p.relative_to(root).with_suffix("")) for p in found)
        raise UserError(f"config name '{name}' is ambiguous: {choices}; give the folder too")
    near = difflib.get_close_matches(name, [*known, *(k.split("/")[-1] for k in known)], n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
    raise UserError(f"no config '{name}' (neither a .py file nor a name): {hint}")


def configs_root() -> Path:
    """The folder that config names are looked up in."""
    for root in _ROOTS:
        if root.is_dir():
            return root
    raise UserError(f"no configs folder beside {_PACKAGE}: install avemo_jax again")


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text, keys sorted: what `config.json` and the golden dumps hold."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote; lists come back as tuples."""
    config = ConfigDict(_tuples(json.loads(text)), convert_dict=True)
    config.lock()
    return config


def keys_of(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Every leaf's dotted path."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _apply(config: ConfigDict, override: str) -> None:
    key, _, text = override.partition("=")
    keys = list(keys_of(config))
    if key not in keys:
        inside = [k for k in keys if k.startswith(key + ".")]
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.4) or keys[:1]
        hint = f"it has the keys {', '.join(inside)}" if inside else f"the nearest valid key is '{near[0]}'"
        raise UserError(f"config has no value '{key}' (from --config.{override}): {hint}")
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = _parse(key, text, node[leaf])


def _parse(key: str, text: str, old: Any) -> Any:
    """`text` as a value of the type of `old`."""
    kind = type(old)
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false") else text)
    except (ValueError, SyntaxError):
        value = text
    if kind is tuple and isinstance(value, (list, tuple)):
        if all(not old or isinstance(item, type(old[0])) for item in value):
            return tuple(value)
    elif kind is tuple and isinstance(value, str):
        if not old or isinstance(old[0], str):
            return tuple(item for item in value.split(",") if item)
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    raise UserError(f"config key '{key}' takes a {kind.__name__} (now {old!r}), got '{text}'")
