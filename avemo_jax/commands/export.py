"""A checkpoint → weights for PyTorch: a file under HiCMAE's own names, or a folder for transformers.

hicmae-pretrain and hicmae-finetune write a .pth as the reference does (weights under 'model'); which of
the two fits depends on what was trained. HiCMAE's fine-tuning takes a pretraining file as it is. safetensors
writes the same names without pickle. huggingface writes a folder with weights, code, preparation of video
files and a model card, which transformers loads where there is no JAX; of a fine-tuned run also the names of its
outputs, and a temperature and thresholds from its development clips. Of a fine-tuned run's work directory the weights
that it chose are taken. onnx and stablehlo write the model as one graph, for any number of clips, which is run and
compared before it is kept. --verify loads what was
written into PyTorch and compares it with this model; what differs is not kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avemo_jax.paths import on_disk

if TYPE_CHECKING:  # at run time they bring JAX, which --help does without
    from avemo_jax.convert.hicmae import StateDict
    from avemo_jax.convert.verify import Difference

EXAMPLE = "avemo export --checkpoint runs/base --format hicmae-pretrain --out hicmae.pth --verify"

_TASKS = {"hicmae-pretrain": "pretrain", "hicmae-finetune": "finetune"}
_FOLDER = "huggingface"
_GRAPHS = ("onnx", "stablehlo")


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="D", help="work directory, or one step's folder")
    add("--format", required=True, choices=[*_TASKS, "safetensors", _FOLDER, *_GRAPHS])
    add(
        "--out",
        required=True,
        type=on_disk,
        metavar="PATH",
        help="file or folder to write; replaces an old one, and says so",
    )
    add(
        "--verify",
        action="store_true",
        help="compare with PyTorch; needs avemo_jax[torch], or [huggingface]; graphs are always compared",
    )
    add("--json", metavar="FILE", help="also write what --verify finds to this file")
    add(
        "--license",
        metavar="NAME",
        help="huggingface: licence of the weights, the Hub's short name (unknown)",
    )
    add(
        "--clip", metavar="FILE", type=Path, help="huggingface: video to --verify with, instead of a made one"
    )


def results_folder(args: argparse.Namespace) -> Path:
    """The run's, so that it tells which weights were handed out."""
    from avemo_jax.training.checkpoint_files import run_folder

    return run_folder(args.checkpoint)


def run(args: argparse.Namespace) -> int:
    from avemo_jax.convert import weight_files
    from avemo_jax.convert.hicmae import check_method
    from avemo_jax.evaluation.choosing import result_of
    from avemo_jax.files import check_place
    from avemo_jax.training.checkpoint_files import load_params

    _refuse_idle_flags(args)
    _refuse_folders(args)
    for path in filter(None, (args.out, args.json)):
        check_place(Path(path).parent)
    if args.format == _FOLDER:
        return _write_folder(args)
    if args.format in _GRAPHS:
        return _write_graph(args)
    if args.verify or args.format != "safetensors":
        weight_files.import_torch()
    chosen, selection = result_of(args.checkpoint)
    config, params, step = load_params(chosen)
    check_method(config)
    _refuse_other_task(args.format, config.task)
    _refuse_other_targets(config.model)
    _tell_choice(selection)
    return _write_file(args, config, params, step)


def _write_file(args, config, params, step) -> int:
    import avemo_jax
    from avemo_jax.config import to_json
    from avemo_jax.convert import hicmae, weight_files
    from avemo_jax.convert.verify import verify

    state = hicmae.to_reference(params)
    about = {"written_by": f"avemo_jax {avemo_jax.__version__}", "step": str(step), "config": to_json(config)}
    replaced = Path(args.out).exists()

    def check(part: Path) -> None:
        if args.verify:
            _tell(verify(weight_files.read_weights(part), config, params), args.json)

    if args.format == "safetensors":
        metadata = {"format": "pt", "names": f"HiCMAE {config.task}"} | about
        weight_files.write_safetensors(args.out, state, metadata, check)
    else:
        # The reference counts on from `epoch` only when it resumes, which needs its optimiser too.
        weight_files.write_pth(args.out, state, {"epoch": 0, "avemo": about}, check)
    _tell_written(args.out, state, step, replaced)
    return 0


def _write_folder(args: argparse.Namespace) -> int:
    from avemo_jax.comparing.counting import count_here
    from avemo_jax.convert.huggingface.exporting import export

    def compare(differences: Sequence[Difference]) -> None:
        _tell(differences, args.json)

    written = export(
        args.checkpoint,
        Path(args.out),
        license_name=args.license or "unknown",
        compare=compare if args.verify else None,
        clip=args.clip,
        count_flops=lambda config: count_here(config).flops,
    )
    _tell_choice(written.selection)
    print(f"clips are prepared {written.preparation}")
    if written.decision:
        thresholds = " and thresholds" if written.decision["thresholds"] else ""
        print(
            f"probabilities have a temperature of {written.decision['temperature']:.3g}{thresholds}, fitted on "
            f"{written.decision['clips']} development clips"
        )
    _tell_written(args.out, written.state, written.step, written.replaced)
    return 0


def _write_graph(args: argparse.Namespace) -> int:
    from avemo_jax.convert.graphs.exporting import export

    written = export(args.checkpoint, args.format, Path(args.out), lambda rows: _tell(rows, args.json))
    _tell_choice(written.selection)
    (out, replaced), *beside = written.files.items()
    _tell_written(str(out), written.state, written.step, replaced)
    for path, replaced in beside:
        print(f"its inputs, outputs and labels: {path}{_note(replaced)}")
    return 0


def _refuse_idle_flags(args: argparse.Namespace) -> None:
    from avemo_jax.errors import UserError

    if args.format != _FOLDER and (args.license or args.clip):
        raise UserError(f"--license and --clip belong to --format {_FOLDER}")
    if args.clip and not args.verify:
        raise UserError("--clip is the video that --verify compares on: give --verify too")
    if args.json and not args.verify and args.format not in _GRAPHS:
        raise UserError("--json is what --verify finds: give --verify too")


def _refuse_folders(args: argparse.Namespace) -> None:
    """Where a file is to be written."""
    from avemo_jax.errors import UserError

    files = {"--json": args.json}
    if args.format != _FOLDER:
        files["--out"] = args.out
    if args.format == "stablehlo":
        files["--out, with .json behind it,"] = f"{args.out}.json"
    for flag, path in files.items():
        if path is not None and Path(path).is_dir():
            raise UserError(f"{flag} is a folder ({path}), and a file is to be written: give its name")


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


def _refuse_other_targets(model) -> None:
    from avemo_jax.errors import UserError

    if model.get("target_dim"):
        raise UserError(
            "the decoder of this run predicts a teacher's tokens (target.kind), and HiCMAE's predicts pixels and "
            f"log-mel alone: use --format {_FOLDER}, which is without decoders, or fine-tune it first"
        )


def _tell_choice(selection: str) -> None:
    if selection:
        print(f"weights: {selection}")


def _tell(differences: Sequence[Difference], report: str | None) -> None:
    """Prints and reports the comparison, an infinite difference as null; raises a UserError when one output differs."""
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation.outcome_files import plain
    from avemo_jax.files import write_file

    width = max(len(row.name) for row in differences)
    for row in differences:
        verdict = "ok" if row.ok else "FAIL"
        print(f"{row.name:<{width}}  largest difference {row.max_abs:.1e}  limit {row.limit:.1e}  {verdict}")
    if report:
        rows = plain([{**row._asdict(), "ok": row.ok} for row in differences])
        write_file(report, json.dumps({"differences": rows}, indent=2, allow_nan=False) + "\n")
    if not all(row.ok for row in differences):
        raise UserError(
            "what was exported computes something else from these weights; nothing was written", exit_code=1
        )


def _tell_written(out: str, state: StateDict, step: int, replaced: bool) -> None:
    numbers = sum(array.size for array in state.values())
    print(f"{len(state)} tensors, {numbers:,} numbers of step {step}: {out}{_note(replaced)}")


def _note(replaced: bool) -> str:
    return " (replaced)" if replaced else ""
