"""Run the task of a config file; resumes by itself.

Started again with the same work directory, a run goes on from its newest whole checkpoint. SIGTERM saves and
exits with 143. As one process of several (`avemo launch`), it joins the others first.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
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
    if config.task == "several":
        raise UserError(
            f"{args.config} learns from folders and teachers that avemo finetune reads first: use that"
        )
    with joined(config) as mesh:
        from avemo_jax.tasks.finetuning import partition_of

        return train_in(args.workdir, config, mesh, partition_of(config))


@contextlib.contextmanager
def joined(config: ConfigDict) -> Iterator[Any]:
    """The mesh of a config, as one of the processes of a run; an error inside ends this process at once, where others
    would wait for it."""
    try:
        machine = platforms.apply()
    except ValueError as error:
        raise UserError(str(error)) from error

    # Only now JAX: a mistyped config is refused before any device work, and joining comes before devices.
    from avemo_jax.training import distributed

    distributed.initialize()

    from avemo_jax.training import mesh as mesh_lib

    try:
        if distributed.is_first():
            print(machine, flush=True)
        yield mesh_lib.make_mesh(config.mesh)
    except BaseException as error:
        distributed.leave_after(error)
        raise


def train_in(
    workdir: Path, config: ConfigDict, mesh: Any, partition: Any, watch: Any = None, **of: Any
) -> int:
    """Trains to the last step, or until told to stop, on a partition's clips or on all, or as `of` says (see
    `tasks.clips.make_loader`); the exit code, 0 or 143. A partition brings the watch that looks at the run."""
    from avemo_jax.tasks import finetuning, looks, texts, token_teacher
    from avemo_jax.training import distributed, starting, stopping
    from avemo_jax.training import mesh as mesh_lib
    from avemo_jax.training.loop import train

    say = print if distributed.is_first() else lambda _: None
    if partition is not None:
        of["positions"] = partition.positions(partition.train)
        if absent := finetuning.absent_in_words(partition):
            say(absent)
    starting.remember_sizes(config, workdir)
    texts.remember_tower(config)
    token_teacher.remember(config)
    if missing := missing_in_words(config, partition):
        say(missing)
    task = make_task(config)
    if partition is not None:
        watch = looks.make_watch(config, [looks.Watched(config, partition)], workdir, mesh, say)
    with contextlib.closing(make_loader(config, *mesh_lib.data_share(mesh), **of)) as loader:
        ending = train(task, loader, config, workdir, mesh, watch)
    said = f"done: step {ending.step}; results are in {workdir}"
    if ending.preempted:
        saved = " and saved" if ending.step else ""
        said = f"stopped at step {ending.step}{saved}: run the same command again to go on"
    if distributed.is_first():
        print(said, flush=True)
    return stopping.EXIT_CODE if ending.preempted else 0


def make_task(config: ConfigDict) -> Any:
    """The task of the config."""
    from avemo_jax import tasks

    return tasks.make_task(config)


def make_loader(config: ConfigDict, parts: tuple[int, ...], count: int, **of: Any) -> Any:
    """The training batches of the config, those of their `count` parts that this process reads; of some clips alone
    (see `tasks.clips`)."""
    from avemo_jax.tasks import clips
    from input_pipeline.loader import Share

    return clips.make_loader(config, Share(parts, count), **of)


def missing_in_words(config: ConfigDict, partition: Any) -> str:
    """How many of the clips, or of each part of a partition, lack picture or sound; empty where none does."""
    from avemo_jax.tasks import clips, finetuning

    return finetuning.missing_in_words(config, partition) if partition else clips.missing_in_words(config)
