"""Run a command as several processes, here or on a cluster: local, slurm, gke, tpu-vm, host.

Everything behind the launcher's name is its own: `avemo launch local --help` lists the flags. The launchers are
programs of their own in `launch/`, which also run without this package.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from avemo_jax.errors import UserError

EXAMPLE = (
    "avemo launch local --processes 2 --devices_per_process 4 -- train --config hicmae:demo --workdir runs/a"
)

_PACKAGE = Path(__file__).resolve().parents[1]
# The wheel's copy, made when it was built, or else the checkout's own folder. In this order: what lies beside an
# installed package is anybody's.
_ROOTS = (_PACKAGE / "_launch", _PACKAGE.parent / "launch")
_NAME = "avemo_launch"  # under which it is imported, so that it hides no other package


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "launcher", help="where to run: local, slurm, gke, tpu-vm; or host, for one of a cluster"
    )
    parser.add_argument(
        "words", nargs=argparse.REMAINDER, help="the launcher's flags, then -- and the command"
    )


def run(args: argparse.Namespace) -> int:
    launch = _load()
    if args.launcher not in launch.LAUNCHERS:
        raise UserError(launch.unknown(args.launcher))
    return launch.main([args.launcher, *args.words])


def _load() -> ModuleType:
    """The folder of launchers as a package."""
    root = next((root for root in _ROOTS if root.is_dir()), None)
    if root is None:
        raise UserError(f"no launch folder beside {_PACKAGE}: install avemo_jax again")
    spec = importlib.util.spec_from_file_location(
        _NAME, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec and spec.loader  # a .py file always has them
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    spec.loader.exec_module(package)
    return package
