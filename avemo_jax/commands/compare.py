"""Pretraining methods under the same budget, on the same clips, judged alike: one table and one page.

Each config is trained, probed and searched by the ordinary commands, which are printed; stopped and called again, it
goes on. Beside every checkpoint stand its network with random weights, plain statistics, and a paired test against the
first method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avemo_jax.paths import on_disk

EXAMPLE = (
    "avemo compare --configs hicmae:demo cav_mae:demo 'no_contrast=hicmae:demo contrast.weight=0' --data data/clips "
    "--label emotion --budget 2000clips --out runs/compared"
)
_CONFIGS = (
    "[NAME=]CONFIG with overrides in the same word: "
    "'local=hicmae:demo contrast.negatives=local contrast.group_size=4'"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--configs", required=True, nargs="+", metavar="CONFIG", help=_CONFIGS)
    add(
        "--data", required=True, metavar="DIR", help="folder that `avemo prepare` made: trained and probed on"
    )
    add("--label", required=True, nargs="+", metavar="KEY", help="labels to probe")
    add("--budget", required=True, help="of each: clips seen, 30400, or training FLOPs, 2e15flops")
    add(
        "--out",
        required=True,
        type=lambda text: Path(on_disk(text)),
        metavar="DIR",
        help="folder for all results",
    )
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of every config")
    add("--protocol", default="leave_one_speaker_out", help="of the probes, as for `avemo probe`")
    add("--head", default="linear", help="as for `avemo probe`")
    add(
        "--loudness",
        default="as_recorded",
        choices=("as_recorded", "normalised", "both"),
        help="as for `avemo probe`",
    )
    add("--random_seeds", type=int, default=1, help="networks with random weights beside each checkpoint (1)")


def results_folder(args: argparse.Namespace) -> Path:
    return args.out


def run(args: argparse.Namespace) -> int:
    import json

    from avemo_jax import files, stages
    from avemo_jax.comparing import methods as methods_lib
    from avemo_jax.comparing import page, scores
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import heads, probing
    from avemo_jax.report import check_packages

    check_packages()
    files.check_place(args.out)
    if args.random_seeds < 1:
        raise UserError(
            f"--random_seeds is {args.random_seeds}: every method stands beside its random weights"
        )
    budget = methods_lib.read_budget(args.budget)
    facts, note = methods_lib.facts(args.data), args.out / methods_lib.NOTE
    if stages.read_note(note).get("data", facts["data"]) != facts["data"]:
        raise UserError(f"{args.out} holds a comparison on other data: choose another --out, or delete it")
    heads.select(args.head)
    for label in args.label:  # a label that cannot be probed is refused now, and not after hours of training
        clips, *_ = probing.divided(args.data, probing.ProbeOptions(label=label, protocol=args.protocol))
        probing.need_classes(clips, "avemo compare")
    compared = methods_lib.read_methods(args.configs, args.set, args.data, budget)
    print(methods_lib.describe(compared, budget), flush=True)
    flags = ("--protocol", args.protocol, "--head", args.head, "--loudness", args.loudness)
    asked = methods_lib.Asked(args.data, tuple(dict.fromkeys(args.label)), flags, args.random_seeds)
    code = stages.run(methods_lib.plan(compared, asked, args.out), note, facts)
    if code:
        return code

    found = {"budget": budget._asdict(), "data": args.data, **scores.gather(compared, asked, args.out)}
    text = scores.table(found)
    print(f"\n{text}")
    written = {
        "table.txt": text + "\n",
        "comparison.html": page.make(found),
        "comparison.json": json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, content in written.items():
        files.write_file(args.out / name, content)
    print("results: " + "  ".join(str(args.out / name) for name in written))
    return 0
