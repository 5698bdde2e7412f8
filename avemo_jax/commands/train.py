"""Run the task of a config file; resumes by itself.

Started again with the same work directory, a run goes on from its newest whole checkpoint. SIGTERM saves and
exits with 143. As one process of several (`avemo launch`), it joins the others first.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax import platforms
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.paths import to_path
from avemo_jax.training.heartbeat import HEARTBEAT

EXAMPLE = "avemo train --config hicmae:demo --workdir runs/first --config.data.path=prepared/clips"
TAKES_CONFIG = True


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", required=True, type=to_path, help="the run's folder: checkpoints, metrics, samples"
    )


def results_folder(args: argparse.Namespace) -> Path:
    return args.workdir


def run(args: argparse.Namespace) -> int:
    HEARTBEAT.start()
    config = load_config(args.config, args.overrides)

    try:
        machine = platforms.apply()
    except ValueError as error:
        raise UserError(str(error)) from error

    # Only now JAX: a mistyped config is refused before any device work, and joining comes before devices.
    from avemo_jax.training import distributed

    distributed.initialize()

    from avemo_jax.training import mesh as mesh_lib
    from avemo_jax.training import stopping
    from avemo_jax.training.loop import train

    try:
        if distributed.is_first():
            print(machine, flush=True)
        mesh = mesh_lib.make_mesh(config.mesh)
        with contextlib.closing(make_loader(config, *mesh_lib.data_process(mesh))) as loader:
            ending = train(make_task(config), loader, config, args.workdir, mesh)
    except BaseException as error:
        distributed.leave_after(error)
        raise
    said = f"done: step {ending.step}; results are in {args.workdir}"
    if ending.preempted:
        said = f"stopped at step {ending.step} and saved: run the same command again to go on"
    if distributed.is_first():
        print(said, flush=True)
    return stopping.EXIT_CODE if ending.preempted else 0


def make_task(config: ConfigDict) -> Any:
    """The task of the config."""
    from avemo_jax import tasks

    return tasks.make_task(config)


def make_loader(config: ConfigDict, process_index: int, process_count: int) -> Any:
    """The training batches of the config, this process's share of them."""
    from avemo_jax.tasks import clips

    return clips.make_loader(config, process_index, process_count)
