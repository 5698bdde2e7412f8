"""What a run did, as one HTML page on its own: curves, reconstructions, a map of clips, where it looks, probes, times,
commands.

Several runs stand side by side in one page, on the same clips where they have the same data (--data). It can be made
while a run goes on; a part whose data is not there says which command makes it. The page needs no network and is small
enough to mail (at most 8 MB); it shows people where clips do.
"""

from __future__ import annotations

import argparse
import json

from avemo_jax.paths import to_path

EXAMPLE = "avemo report runs/first --label emotion"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="a run's folder (--workdir of `avemo train`), or one step's")
    add(
        "--out",
        type=to_path,
        metavar="FILE",
        help="the page (RUN/report.html, of a step RUN/report_STEP.html; needed for several runs)",
    )
    add("--data", default="", metavar="DIR", help="prepared folder of the clips (default: the run's own)")
    add("--label", default="", metavar="KEY", help="label to colour maps by first")
    add("--clips", type=int, default=400, help="most clips on a map (400; 0: no map)")
    add("--rollouts", type=int, default=2, help="clips whose attention is shown, HiCMAE's (2; 0: none)")
    add("--json", metavar="FILE", help="also write the numbers that the page shows")
    add(
        "--charts",
        type=to_path,
        metavar="DIR",
        help="also write every chart as an SVG file, and every picture of clips as a JPEG file",
    )


def run(args: argparse.Namespace) -> int:
    from avemo_jax import report
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation.runs import page_of
    from avemo_jax.files import check_place, write_bytes, write_file

    report.check_packages()
    if args.out is None and len(args.runs) > 1:
        raise UserError("--out is needed for several runs: the page is in none of their folders")
    for name in ("clips", "rollouts"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}, it must be at least 0")
    out = args.out or page_of(args.runs[0])
    for folder in args.runs:
        if not to_path(folder).is_dir():
            raise UserError(f"{folder}: no such folder; give the --workdir of an `avemo train`")
    further = [to_path(args.json).parent] if args.json else []
    for place in (out.parent, *further, *([args.charts] if args.charts else [])):
        check_place(place)

    from avemo_jax.report import page, run_report

    made = run_report.make(
        args.runs,
        args.data,
        args.label,
        args.clips,
        beside=out.parent,
        rollouts=args.rollouts,
        files=bool(args.charts),
    )
    write_file(out, made.html)
    print(f"report: {out} ({len(made.html.encode()) / 1e6:.1f} MB)")
    if args.charts:
        for name, chart in made.charts.items():
            write_file(args.charts / f"{name}.svg", page.standalone(chart))
        for name, picture in made.pictures.items():
            write_bytes(args.charts / f"{name}.jpg", picture.file)
        print(f"charts: {args.charts} ({len(made.charts)} SVG files, {len(made.pictures)} JPEG files)")
    if args.json:
        write_file(args.json, json.dumps(made.numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        print(f"numbers: {args.json}")
    return 0
