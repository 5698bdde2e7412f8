"""What a checkpoint makes of every clip of a prepared folder, as a table: pooled vectors, layers, grids of tokens.

`--out` ends in .parquet or .npz for one file. Any other name is a folder of Parquet shards: started again, the command
goes on with those that are missing, and with --host 0/4 to 3/4 four hosts share the work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avemo_jax.commands import add_sizes
from avemo_jax.paths import on_disk

EXAMPLE = "avemo features --checkpoint runs/first --data data/clips --out runs/first/features.parquet"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, help="a work directory, its checkpoints folder or one step's folder")
    add("--data", required=True, metavar="DIR", help="folder that `avemo prepare` made")
    add("--out", required=True, type=on_disk, help="FILE.parquet, FILE.npz or a folder for shards")
    add("--features", default="default", help="names, comma-separated, or default, layers, all")
    add(
        "--tokens",
        nargs="?",
        const="last",
        default="",
        help="grids of tokens too: last (of the encoders, when no value is given), fused, or both: last,fused",
    )
    add(
        "--windows",
        default="centre",
        choices=("centre", "all"),
        help="the window in the middle of each clip (default), or all that cover its frames back to back, or its sound "
        "where it has no picture",
    )
    add_sizes(parser)
    add("--split", default="", help="only the clips of this split")
    add("--half", action="store_true", help="vectors and tokens as float16")
    add("--shard_clips", type=int, default=1000, help="clips of a shard (1000)")
    add("--host", default="0/1", metavar="K/N", help="shards K, K + N, … of a folder are written here (0/1)")
    add("--batch_size", type=int, default=32, help="windows in one forward pass")
    add("--workers", type=int, default=0, help="processes that decode (0: none beside this one)")


def results_folder(args: argparse.Namespace) -> Path:
    return Path(args.out).parent  # not a folder of shards: that is read as one table, with all files in it


def run(args: argparse.Namespace) -> int:
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import features, table_files
    from avemo_jax.evaluation.choosing import load_result
    from avemo_jax.evaluation.tables import TOKENS, Table, TableOptions
    from avemo_jax.models.positions import resized, sizes_of

    tokens = tuple(dict.fromkeys(filter(None, args.tokens.split(","))))
    if unknown := [word for word in tokens if word not in TOKENS]:
        raise UserError(f"--tokens: no '{unknown[0]}'; there are {', '.join(TOKENS)}")
    for name in ("shard_clips", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}, it must be at least 1")
    out = Path(args.out)
    table_files.check_place(out)
    config, params, step, selection = load_result(args.checkpoint)
    if args.sizes:
        resized(config.model, sizes_of(args.sizes), args.positions)
    options = TableOptions(
        features.select(args.features, config.model),
        tokens,
        args.windows,
        args.split,
        args.half,
        args.batch_size,
        args.workers,
    )
    table = Table(config, params, args.data, options)
    facts = {
        "checkpoint": str(args.checkpoint),
        "step": step,
        "selection": selection,
        "method": config.method,
        "size": config.size,
        "data": str(args.data),
        **({"sizes": args.sizes, "positions": args.positions} if args.sizes else {}),
    }
    rows = table_files.write(table, out, facts, shard_clips=args.shard_clips, host=_host(args.host))
    print(f"{rows} rows of {table.clips} clips: {out}")
    return 0


def _host(text: str) -> tuple[int, int]:
    from avemo_jax.errors import UserError

    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--host {text}: give K/N with K from 0 to N − 1, such as 0/4")
    return int(index), int(count)
