"""This build against numbers recorded from the PyTorch reference.

Prints one line an array: name, largest absolute and relative difference, pass or fail. Exit code 0 when all
pass, 1 when one fails, 2 when the fixture cannot be used.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

EXAMPLE = "avemo parity --fixture tests/golden/pretrain_tiny"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fixture", required=True, help="path up to _info.json")
    parser.add_argument("--dump", metavar="F.npz", help="write all computed arrays here")
    parser.add_argument("--json", metavar="FILE", help="write the comparison here")


def run(args: argparse.Namespace) -> int:
    from avemo_jax import parity

    rows, computed = parity.run(args.fixture)
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        print(
            f"{row.name:<{width}}  abs {row.max_abs:.2e}  rel {row.max_rel:.2e}  {'pass' if row.ok else 'FAIL'}"
        )
    failed = sum(not row.ok for row in rows)
    print(
        f"{len(rows) - failed} passed, {failed} failed"
        if rows
        else "nothing to compare: the fixture expects no array"
    )
    if args.dump:
        np.savez(args.dump, **computed)  # type: ignore[arg-type]  # numpy types them as flags
        print(f"arrays: {args.dump}")
    if args.json:
        report = {"passed": len(rows) - failed, "failed": failed, "arrays": [row._asdict() for row in rows]}
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
        print(f"comparison: {args.json}")
    return 1 if failed else 0
