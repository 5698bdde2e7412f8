"""Size a pretraining job for a TPU pod, without a TPU: its train step compiled ahead of time.

Compiles the real step of a config for a topology and reports memory against the chip's limit, FLOPs,
collectives, the largest batch that fits, the speed to expect and what hosts must deliver. Topologies are named
as the compiler does: v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4; cpu:8 tries a layout on fake CPU
devices. A compile takes a minute or so, and the search for the largest batch some five of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avemo_jax.config import load_config

EXAMPLE = "avemo plan --config hicmae:base --topology v5e:16x16 --config.mesh.fsdp=16 --out plan.html"
TAKES_CONFIG = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--topology", required=True, help="chip and grid: v5e:16x16, v5p:4x4x4, cpu:8, …")
    add("--slices", type=int, default=1, help="so many slices of it, joined by the data centre's network")
    add(
        "--batch_per_chip",
        type=int,
        default=0,
        metavar="N",
        help="clips a chip (default: the config's batch_size)",
    )
    add(
        "--no_search",
        action="store_true",
        help="compile what is asked only: no largest batch, no other layouts",
    )
    add("--scaling", action="store_true", help="also compile for 4, 8, 64, 256 and 1,024 chips")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    add("--program", type=Path, metavar="FILE", help="write the compiled program's text (HLO) here")
    add("--out", type=Path, metavar="PAGE", help="write a page with the roofline here")


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files
    from avemo_jax.planning import chips, jobs, page, plan, report

    config = load_config(args.config, args.overrides)
    topology = chips.parse_topology(args.topology, args.slices)
    jobs.check_compiler(topology)
    for path in (args.json, args.out, args.program):
        if path:
            files.check_place(path.absolute().parent)
    if args.out:
        page.check_drawing()
    made = plan.make_plan(
        args.config,
        config,
        args.overrides,
        topology,
        batch_per_chip=args.batch_per_chip,
        look_for_batch=not args.no_search,
        scaling=args.scaling,
        program=args.program,
        say=lambda line: print(line, flush=True),
    )
    print(f"\n{report.to_text(made)}")
    for path, text in ((args.json, report.to_json), (args.out, page.to_html)):
        if path:
            files.write_file(path, text(made))
            print(f"written: {path}")
    return 0
