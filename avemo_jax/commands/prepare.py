"""Raw videos → a folder of records that `avemo train` reads, and a list of every clip left out and why.

The manifest is a CSV file with a header. `path` is required and relative to --root; clip_id, split, speaker,
gender, text, start_s and end_s are optional; a column `label_emotion` is the label `emotion`; further columns
are kept as metadata; audio_path is a file that the sound is taken from. Instead of a manifest, the name of a
corpus that lies in --root as it was unpacked (docs/corpora.md). Stopped half-way, the same command
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from avemo_jax.paths import on_disk
from input_pipeline.corpora import CORPORA

EXAMPLE = "avemo prepare --manifest clips.csv --root videos --out data/clips --workers 8"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", help="CSV file with one clip a line")
    source.add_argument("--corpus", help=f"instead: {', '.join(CORPORA)}, or NAME.py of yours")
    add(
        "--layout", default="", help="of --corpus folder: what folders say, as in split/speaker/label_emotion"
    )
    add(
        "--root",
        required=True,
        help="folder that the manifest's paths are relative to, or that holds the corpus",
    )
    add("--out", required=True, type=on_disk, help="folder to fill; new, or one that this command began")
    add(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that decode (default: one a core)"
    )
    add(
        "--crop",
        default="none",
        help="none (as they are); fixed: the reference's box in VoxCeleb2's 224 × 224 frames; face: find it, follow "
        "it and cut it out upright",
    )
    add(
        "--min_face_share",
        type=float,
        default=0.5,
        help="of --crop face: reject clips whose face is found in a smaller share of the frames (0.5)",
    )
    add(
        "--short_side",
        type=int,
        default=160,
        help="scale larger frames down to this short side, pixels (160)",
    )
    add("--jpeg_quality", type=int, default=95, help="of the stored frames, 1 to 100 (95)")
    add(
        "--allow_missing",
        default="none",
        choices=("none", "sound", "picture"),
        help="keep clips without sound, or without a picture (default: reject them)",
    )
    add("--min_s", type=float, default=0.2, help="reject shorter clips, seconds (0.2)")
    add(
        "--max_gap_s",
        type=float,
        default=0.5,
        help="cut picture and sound to the shorter one when their ends lie further apart, seconds (0.5)",
    )
    add(
        "--beam_options",
        metavar="OPTIONS",
        help="Apache Beam's workers decode instead, a shard each: its options, after = and in quotes, as "
        "--beam_options='--runner=FlinkRunner' (docs/bring_data.md)",
    )
    add("--clips_per_shard", type=int, default=128, help="clips in one file (128)")
    add("--json", help="also write the summary to this file")


def results_folder(args: argparse.Namespace) -> Path:
    return Path(args.out)


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files
    from avemo_jax.errors import UserError
    from input_pipeline.corpora import Listing, list_corpus
    from input_pipeline.manifests import read_manifest
    from input_pipeline.prepare import REJECTED_LIST, prepare
    from input_pipeline.storing import ClipOptions

    if args.workers < 0 or args.clips_per_shard < 1:
        raise UserError("--workers must be 0 or more and --clips_per_shard 1 or more")
    if args.json:
        files.check_place(Path(args.json).parent)
    try:
        beam_options = None if args.beam_options is None else shlex.split(args.beam_options)
    except ValueError as error:
        raise UserError(f"--beam_options {args.beam_options}: {error}") from error
    options = ClipOptions(
        crop=args.crop,
        short_side=args.short_side,
        jpeg_quality=args.jpeg_quality,
        allow_missing=args.allow_missing,
        min_s=args.min_s,
        max_gap_s=args.max_gap_s,
        min_face_share=args.min_face_share,
    )
    if args.corpus:
        listing = list_corpus(args.corpus, args.root, layout=args.layout)
        for note in listing.notes:
            print(f"note: {note}", file=sys.stderr)
    elif args.layout:
        raise UserError("--layout is for --corpus folder: a manifest says by itself what its clips are")
    else:
        listing = Listing(read_manifest(args.manifest))
    try:
        summary = prepare(
            listing.rows,
            args.root,
            args.out,
            options,
            clips_per_shard=args.clips_per_shard,
            workers=args.workers,
            beam_options=beam_options,
            refused=listing.refused,
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise
    share = 100 * summary.rejected / summary.clips
    print(f"{summary.kept} of {summary.clips} clips prepared, {summary.bytes / 1e6:.1f} MB, in {summary.out}")
    if faces := summary.faces:
        found = 100 * faces.found / faces.frames
        shows = "shows" if faces.several == 1 else "show"
        print(
            f"faces found in {found:.1f} % of the frames; "
            f"{faces.several} of the clips {shows} more than one person"
        )
    if summary.rejected:
        print(f"{summary.rejected} rejected ({share:.1f} %), listed in {summary.out / REJECTED_LIST}:")
        for reason, count in summary.reasons[:10]:
            print(f"  {count} × {reason}")
    if args.json:
        told = {**asdict(summary), "out": str(summary.out), "rejected": summary.rejected}
        files.write_file(args.json, json.dumps(told, indent=1))
    return 0
