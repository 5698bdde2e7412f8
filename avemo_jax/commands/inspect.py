"""Clips as the model sees them, before anything is trained, as one HTML page on its own.

Frames after sampling and crop, the log-mel spectrogram, and what the mask leaves of both: the views that training
draws first, and the centre view that is evaluated. With the facts of the folder: lengths, frame rates, loudness,
faces found, counts by split, speaker and label, clips left out by reason.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from avemo_jax.paths import to_path

EXAMPLE = "avemo inspect --data data/clips --out page.html"
TAKES_CONFIG = True
DEFAULT_CONFIG = "hicmae:demo"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder that `avemo prepare` made")
    add("--out", required=True, type=to_path, metavar="FILE", help="the page")
    add("--clips", type=int, default=8, help="how many to show (8)")
    add("--seed", type=int, metavar="S", help="of the run whose first batch is shown (the config's)")
    add("--json", metavar="FILE", help="also write the numbers that the page shows")


def run(args: argparse.Namespace) -> int:
    from avemo_jax import report
    from avemo_jax.config import load_config
    from avemo_jax.errors import UserError
    from avemo_jax.files import check_place, write_file

    if not 1 <= args.clips <= 100:
        raise UserError(f"--clips is {args.clips}, it must be 1 to 100")
    report.check_packages()
    config = load_config(args.config, args.overrides)
    with config.unlocked():
        config.data.path, config.data.workers = args.data, 0
        config.data.paths = config.data.weights = ()  # this folder alone
        config.seed = config.seed if args.seed is None else args.seed
    for place in (args.out.parent, *([Path(args.json).parent] if args.json else [])):
        check_place(place)

    from avemo_jax.report import inspecting

    html, numbers = inspecting.make(config, args.clips)
    write_file(args.out, html)
    print(f"page: {args.out} ({len(html.encode()) / 1e6:.1f} MB)")
    if args.json:
        write_file(args.json, json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        print(f"numbers: {args.json}")
    return 0
