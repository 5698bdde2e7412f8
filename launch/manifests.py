"""Values as YAML that people can read: what Kubernetes' manifests need of it, no more."""

from __future__ import annotations

import json
import re
from typing import Any

# Left without quotes: what no YAML reader takes for a number, a date or a truth value.
_PLAIN = re.compile(r"[A-Za-z/][\w./-]*(?: [\w./-]+)*")
_MEANT_OTHERWISE = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan"}


def to_yaml(value: Any, indent: int = 0) -> str:
    """Dicts, lists, strings, numbers and truth values; strings of several lines as blocks."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_scalar(key)}:{_below(inner, indent)}" for key, inner in value.items())
    if isinstance(value, list) and value:
        lines = []
        for inner in value:
            nested = isinstance(inner, (dict, list)) and inner
            text = f" {to_yaml(inner, indent + 1).lstrip()}" if nested else _below(inner, indent)
            lines.append(f"{pad}-{text}")
        return "".join(lines)
    return f"{pad}{_scalar(value)}\n"


def _below(value: Any, indent: int) -> str:
    if isinstance(value, (dict, list)) and value:
        return "\n" + to_yaml(value, indent + 1)
    if isinstance(value, str) and "\n" in value and not value.startswith((" ", "\n")):
        pad = "  " * (indent + 1)
        body = "".join(f"{pad}{line}\n" if line else "\n" for line in value.rstrip("\n").split("\n"))
        return f" |{'' if value.endswith(chr(10)) else '-'}\n{body}"
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _MEANT_OTHERWISE
    return value if plain else json.dumps(value, ensure_ascii=False)
