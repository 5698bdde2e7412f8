"""This build against numbers recorded from the PyTorch reference.

Prints one line an array: name, largest absolute and relative difference, pass or fail. Exit code 0 when all
pass, 1 when one fails, 2 when the fixture cannot be used.
"""

from __future__ import annotations

import argparse
import io
import json

import numpy as np

from avemo_jax.paths import to_path

EXAMPLE = "avemo parity --fixture tests/golden/pretrain_tiny"


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fixture", required=True, help="path up to _info.json")
    parser.add_argument("--dump", type=to_path, metavar="F.npz", help="write all computed arrays here")
    parser.add_argument("--json", type=to_path, metavar="FILE", help="write the comparison here")


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files, parity

    for path in filter(None, (args.dump, args.json)):
        files.check_place(path.parent)
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
        buffer = io.BytesIO()
        np.savez(buffer, **computed)  # type: ignore[arg-type]  # numpy types them as flags
        files.write_bytes(args.dump, buffer.getvalue())
        print(f"arrays: {args.dump}")
    if args.json:
        report = {"passed": len(rows) - failed, "failed": failed, "arrays": [row._asdict() for row in rows]}
        files.write_file(args.json, json.dumps(report, indent=2) + "\n")
        print(f"comparison: {args.json}")
    return 1 if failed else 0
