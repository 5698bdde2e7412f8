"""A checkpoint → weights for PyTorch, under HiCMAE's own names and shapes.

hicmae-pretrain and hicmae-finetune write a .pth as the reference does (weights under 'model'); which of the two
fits depends on what was trained. HiCMAE's fine-tuning takes a pretraining file as it is. safetensors writes the same
names without pickle. --verify loads the written file into a plain PyTorch model and compares it with this one on
random clips; a file that differs is not kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "avemo export --checkpoint runs/base --format hicmae-pretrain --out hicmae.pth --verify"

_TASKS = {"hicmae-pretrain": "pretrain", "hicmae-finetune": "finetune"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="D", help="work directory, its checkpoints folder, or one step's folder")
    add("--format", required=True, choices=[*_TASKS, "safetensors"])
    add("--out", required=True, metavar="PATH", help="file to write; an old one is replaced, and that is said")
    add("--verify", action="store_true", help="run the file in PyTorch against this model; needs avemo_jax[torch]")


def run(args: argparse.Namespace) -> int:
    import avemo_jax
    from avemo_jax.config import to_json
    from avemo_jax.convert import checkpoint_file, hicmae
    from avemo_jax.training.checkpoints import load_params

    if args.verify or args.format != "safetensors":
        checkpoint_file.import_torch()
    config, params, step = load_params(args.checkpoint)
    _refuse_other_task(args.format, config.task)
    state = hicmae.to_reference(params)
    about = {"written_by": f"avemo_jax {avemo_jax.__version__}", "step": step, "config": to_json(config)}
    replaced = Path(args.out).exists()

    def check(part: Path) -> None:
        if args.verify:
            _verify(checkpoint_file.read_weights(part), config, params)

    if args.format == "safetensors":
        metadata = {"format": "pt", "names": f"HiCMAE {config.task}"} | {key: str(value) for key, value in about.items()}
        checkpoint_file.write_safetensors(args.out, state, metadata, check)
    else:
        # The reference counts on from `epoch` only when it resumes, which needs its optimiser too.
        checkpoint_file.write_pth(args.out, state, {"epoch": 0, "avemo": about}, check)
    numbers = sum(array.size for array in state.values())
    print(f"{len(state)} tensors, {numbers:,} numbers of step {step}: {args.out}{' (replaced)' if replaced else ''}")
    return 0


def _refuse_other_task(wanted: str, task: str) -> None:
    from avemo_jax.errors import UserError

    if _TASKS.get(wanted, task) == task:
        return
    if task == "pretrain":
        raise UserError(
            "the checkpoint is a pretraining model and has no classifier: use --format hicmae-pretrain, which "
            "HiCMAE's fine-tuning takes as it is (its --finetune option)"
        )
    raise UserError("the checkpoint is a classifier and has no decoders: use --format hicmae-finetune")


def _verify(state, config, params) -> None:
    from avemo_jax.convert.verify import verify
    from avemo_jax.errors import UserError

    differences = verify(state, config, params)
    for row in differences:
        print(f"{row.name:<16}  largest difference {row.max_abs:.1e}  limit {row.limit:.1e}  {'ok' if row.ok else 'FAIL'}")
    if not all(row.ok for row in differences):
        raise UserError("PyTorch computes something else from the exported weights; nothing was written", exit_code=1)
