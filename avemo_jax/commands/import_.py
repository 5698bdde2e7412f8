"""HiCMAE weights from PyTorch → a work directory that train, probe and export go on from.

Reads .pth files as the reference writes them, and safetensors; only weights, never code. The config says
which model they are for: names and shapes must be its own. Pretraining weights with a fine-tuning config give
its encoders and fusion, as in the reference; the rest of the classifier starts fresh.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from avemo_jax.paths import to_path

EXAMPLE = "avemo import --from hicmae --weights checkpoint-99.pth --config hicmae:base --out runs/reference"
TAKES_CONFIG = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--from", required=True, choices=["hicmae"], dest="origin", help="whose names the weights have")
    add("--weights", required=True, metavar="X.pth", help=".pth or safetensors file")
    add("--out", required=True, metavar="D", help="work directory to make, without checkpoints of its own")


def results_folder(args: argparse.Namespace) -> Path:
    return to_path(args.out)


def run(args: argparse.Namespace) -> int:
    import numpy as np

    from avemo_jax.config import load_config
    from avemo_jax.convert.take_over import take_over
    from avemo_jax.convert.weight_files import read_weights
    from avemo_jax.errors import UserError
    from avemo_jax.training.checkpoint_files import FOLDER, save_params, step_folders
    from avemo_jax.training.manifest import is_finished

    config = load_config(args.config, args.overrides)
    if any(is_finished(folder) for folder in step_folders(to_path(args.out) / FOLDER)):
        raise UserError(f"{args.out} holds checkpoints already: choose another --out, or delete them")
    state = read_weights(args.weights)
    params, fresh = take_over(state, config, args.weights)
    odd = [name for name, array in state.items() if not np.isfinite(array).all()]
    save_params(args.out, config, params)
    numbers = sum(array.size for array in state.values())
    print(f"{len(state)} tensors, {numbers:,} numbers, from {args.weights}: {args.out}")
    if fresh and config.task == "pretrain":
        print(f"fresh, since HiCMAE's weights have none: {', '.join(fresh)}")
    elif fresh:
        print(f"a pretraining model: its decoders are not used; fresh in the classifier: {', '.join(fresh)}")
    if odd:
        print(f"warning: {len(odd)} tensors hold values that are not finite: {', '.join(odd[:4])}")
    print(f"the weights do not show their number of heads: {config.model.heads} are taken from the config")
    words = ["--config", args.config, "--workdir", args.out, *(f"--config.{item}" for item in args.overrides)]
    print(f"go on with: avemo train {shlex.join(words)}")
    return 0
