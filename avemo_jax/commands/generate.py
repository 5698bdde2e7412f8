"""A labelled talking-face corpus, made on this machine: sentences by a speech synthesiser, drawn faces to it.

Real mp4 files for trying things out and for checks with known answers. The labels are emotion (six, told by
voice and face), sentence, sex and intensity; every other factor that was drawn is a column of the manifest.
Emotions are drawn, not acted: numbers on this corpus say that something works, not how well it reads people.
Stopped half-way, the same command goes on where it was; with more --clips it adds to what is there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from avemo_jax.paths import on_disk

EXAMPLE = "avemo generate --out data/talking --clips 300 --speakers 20"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, type=on_disk, help="folder to fill; new, or one that this command began")
    add("--clips", type=int, default=300, help="how many clips of 2 to 4 s (300)")
    add("--speakers", type=int, default=20, help="how many speakers take turns, at least 5 (20)")
    add("--seed", type=int, default=0, help="another seed, another corpus (0)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")


def results_folder(args: argparse.Namespace) -> Path:
    return Path(args.out)


def run(args: argparse.Namespace) -> int:
    from input_pipeline.talking_faces import MANIFEST, generate

    try:
        made = generate(args.out, args.clips, speakers=args.speakers, seed=args.seed, workers=args.workers)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    there = f", {args.clips - made} were there" if made < args.clips else ""
    manifest = os.path.join(args.out, MANIFEST)
    print(f"{made} clips made{there}, in {args.out}; the manifest is {manifest}")
    words = ["avemo", "prepare", "--manifest", manifest, "--root", args.out, "--out", f"{args.out}_prepared"]
    print(f"next: {shlex.join(words)}")
    return 0
