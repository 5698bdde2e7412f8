"""A checkpoint → weights for PyTorch, under HiCMAE's own names and shapes.

hicmae-pretrain and hicmae-finetune write a .pth as the reference does (weights under 'model'); which of
the two fits depends on what was trained. HiCMAE's fine-tuning takes a pretraining file as it is. safetensors
writes the same names without pickle. --verify loads the written file into a plain PyTorch model and compares
it with this one on random clips; a file that differs is not kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLE = "avemo export --checkpoint runs/base --format hicmae-pretrain --out hicmae.pth --verify"

_TASKS = {"hicmae-pretrain": "pretrain", "hicmae-finetune": "finetune"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="D", help="work directory, or one step's folder")
    add("--format", required=True, choices=[*_TASKS, "safetensors"])
    add("--out", required=True, metavar="PATH", help="file to write; replaces an old one, and says so")
    add("--verify", action="store_true", help="compare with PyTorch; needs avemo_jax[torch]")
    add("--json", metavar="FILE", help="also write the differences to this file")


def run(args: argparse.Namespace) -> int:
    import avemo_jax
    from avemo_jax.config import to_json
    from avemo_jax.convert import hicmae, weight_files
    from avemo_jax.training.checkpoint_files import load_params

    if args.verify or args.format != "safetensors":
        weight_files.import_torch()
    config, params, step = load_params(args.checkpoint)
    _refuse_other_task(args.format, config.task)
    state = hicmae.to_reference(params)
    about = {"written_by": f"avemo_jax {avemo_jax.__version__}", "step": str(step), "config": to_json(config)}
    replaced = Path(args.out).exists()

    def check(part: Path) -> None:
        if args.verify:
            _verify(weight_files.read_weights(part), config, params, args.json)

    if args.format == "safetensors":
        metadata = {"format": "pt", "names": f"HiCMAE {config.task}"} | about
        weight_files.write_safetensors(args.out, state, metadata, check)
    else:
        # The reference counts on from `epoch` only when it resumes, which needs its optimiser too.
        weight_files.write_pth(args.out, state, {"epoch": 0, "avemo": about}, check)
    numbers = sum(array.size for array in state.values())
    note = " (replaced)" if replaced else ""
    print(f"{len(state)} tensors, {numbers:,} numbers of step {step}: {args.out}{note}")
    return 0


def _refuse_other_task(wanted: str, task: str) -> None:
    from avemo_jax.errors import UserError

    if _TASKS.get(wanted, task) == task:
        return
    if task == "pretrain":
        raise UserError(
            "the checkpoint is a pretraining model and has no classifier: use --format hicmae-pretrain, "
            "which HiCMAE's fine-tuning takes as it is (its --finetune option)"
        )
    raise UserError("the checkpoint is a classifier and has no decoders: use --format hicmae-finetune")


def _verify(state, config, params, report: str | None) -> None:
    from avemo_jax.convert.verify import verify
    from avemo_jax.errors import UserError

    differences = verify(state, config, params)
    for row in differences:
        verdict = "ok" if row.ok else "FAIL"
        print(f"{row.name:<16}  largest difference {row.max_abs:.1e}  limit {row.limit:.1e}  {verdict}")
    if report:
        rows = [{**row._asdict(), "ok": row.ok} for row in differences]
        Path(report).write_text(json.dumps({"differences": rows}, indent=2) + "\n", encoding="utf-8")
    if not all(row.ok for row in differences):
        raise UserError(
            "PyTorch computes something else from these weights; nothing was written", exit_code=1
        )
