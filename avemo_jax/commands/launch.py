"""Run a command as several processes: local.

Everything behind the launcher's name is its own: `avemo launch local --help` lists the flags. A launcher is a
program of its own in `launch/`, which also runs without this package.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from avemo_jax.errors import UserError

EXAMPLE = (
    "avemo launch local --processes 2 --devices_per_process 4 -- train --config hicmae:demo --workdir runs/a"
)

_PACKAGE = Path(__file__).resolve().parents[1]
# The wheel's copy, made when it was built, or else the checkout's own folder. In this order: what lies beside an
# installed package is anybody's.
_ROOTS = (_PACKAGE / "_launch", _PACKAGE.parent / "launch")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("launcher", help="where to run: local")
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, help="the launcher's flags, then -- and the command"
    )


def run(args: argparse.Namespace) -> int:
    root = next((root for root in _ROOTS if root.is_dir()), None)
    if root is None:
        raise UserError(f"no launch folder beside {_PACKAGE}: install avemo_jax again")
    path = root / f"{args.launcher.replace('-', '_')}.py"
    if not path.is_file():
        known = ", ".join(sorted(other.stem.replace("_", "-") for other in root.glob("*.py")))
        raise UserError(f"no launcher '{args.launcher}': there are {known}")
    spec = importlib.util.spec_from_file_location(f"avemo_launch_{path.stem}", path)
    assert spec and spec.loader  # a .py file always has them
    launcher = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(launcher)
    return launcher.main(args.words)
