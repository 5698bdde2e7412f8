"""Devices, versions, decoders, disk, cluster variables, data: what is wrong, and how to mend it.

One line a check. Exit code 1 when something is wrong. With --data and --checkpoint it looks into a prepared
folder and at a run's checkpoints too; it changes nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from avemo_jax.errors import UserError

EXAMPLE = "avemo doctor --data data/clips --checkpoint runs/first"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workdir", type=Path, default=Path("."), help="where runs are to be written (this folder)")
    add("--data", type=Path, metavar="DIR", help="also a folder that `avemo prepare` made")
    add("--checkpoint", type=Path, metavar="D", help="also a work directory, or one step's folder")
    add("--json", type=Path, metavar="FILE", help="also write all findings to this file")


def run(args: argparse.Namespace) -> int:
    from avemo_jax import doctor

    findings = []
    for finding in doctor.examine(args.workdir, args.data, args.checkpoint):
        findings.append(finding)
        mend = f"\n{'':17}→ {finding.mend}" if finding.mend else ""
        print(f"{finding.level:<5}  {finding.topic:<10} {finding.text}{mend}", flush=True)
    bad = sum(finding.level == "wrong" for finding in findings)
    print(f"{bad} wrong" if bad else "nothing is wrong")
    if args.json:
        report = {"ok": not bad, "findings": [asdict(finding) for finding in findings]}
        try:
            args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {args.json} cannot be written: {error.strerror}") from error
        print(f"findings: {args.json}")
    return 1 if bad else 0
