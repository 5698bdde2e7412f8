"""One short file a verb: its flags, its messages, its exit code. No logic of its own."""

from __future__ import annotations

import argparse

from avemo_jax.evaluation.prompts import TEMPLATE


def add_wording(parser: argparse.ArgumentParser, of: str = "") -> None:
    """`--template` and `--words`, of verbs that say labels in sentences; `of` begins their help."""
    parser.add_argument("--template", default=TEMPLATE, help=f"{of}how a label is said ('{TEMPLATE}')")
    parser.add_argument("--words", default="", help=f"{of}words of labels: ANG=angry,HAP=happy")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """`--sizes` and `--positions`, of verbs that may look at clips of another size than a checkpoint was trained on."""
    parser.add_argument(
        "--sizes",
        default="",
        metavar="NAME=N,…",
        help="clips of another size than in training: frames, image_size, audio_frames (10 ms each), mel_bins",
    )
    parser.add_argument(
        "--positions",
        default="extended",
        choices=("regenerated", "interpolated", "extended"),
        help="with --sizes, how position tables follow: stretched within a frame and gone on with in time (extended), "
        "stretched along all axes, or made anew",
    )
