"""The whole job in minutes on a CPU: make clips → prepare → train → probe → export → report.

Without --clips it makes its own: drawn faces that speak, labelled. Each stage prints the command that repeats
it. Stopped at any moment and run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avemo_jax.paths import on_disk

EXAMPLE = "avemo demo --workdir runs/demo"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--workdir",
        type=lambda text: Path(on_disk(text)),
        default=Path("runs/demo"),
        help="folder for all results (runs/demo)",
    )
    add("--steps", type=int, default=120, help="training steps of 16 clips (120)")
    add("--clips", type=Path, metavar="DIR", help="your own videos: all in this folder, by default")
    add(
        "--manifest", type=Path, metavar="M.csv", help="of these only the ones listed, as for `avemo prepare`"
    )


def run(args: argparse.Namespace) -> int:
    from avemo_jax import demo
    from avemo_jax.errors import UserError

    if args.steps < 1:
        raise UserError(f"--steps is {args.steps}, it must be at least 1")
    demo.check_packages()
    clips = demo.find_clips(args.workdir, args.clips, args.manifest)
    stages = demo.plan(args.workdir, clips, args.steps)
    code = demo.run(stages, clips, args.workdir)
    if code:
        return code
    print(demo.closing(args.workdir, stages))
    return 0
