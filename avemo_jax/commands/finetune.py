"""Train a classifier or a regressor from a pretrained run, and score it on the clips that were left out.

It is `avemo train` with a config of `finetune/`, and then the test of its protocol: two views of each clip in time,
merged; scores with 95 % intervals from resampling speakers; predictions.csv and rows.json in the work directory.
--config.data.fold=all does so for every fold, each in a folder of its own, and scores them together. finetune/several
trains one encoder on several folders, a head for each, by labels and by teachers. Started again it goes on where it
was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.paths import to_path
from avemo_jax.training.heartbeat import HEARTBEAT

EXAMPLE = (
    "avemo finetune --config finetune/crema_d:demo --workdir runs/tuned --config.data.path=data/crema_d "
    "--config.init.checkpoint=runs/first"
)
TAKES_CONFIG = True
SEQUENCES = "sequences.csv"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workdir", required=True, type=to_path, help="the run's folder: checkpoints, metrics, scores")
    add("--json", metavar="FILE", type=to_path, help="write the rows here too")


def results_folder(args: argparse.Namespace) -> Path:
    return args.workdir


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files
    from avemo_jax.commands import train

    HEARTBEAT.start()
    config = load_config(args.config, args.overrides)
    if config.task == "several":
        return _several(args, config)
    if config.task != "finetune":
        raise UserError(f"{args.config} is a config of {config.task}: avemo finetune takes one of finetune/")
    if not config.data.protocol:
        raise UserError("data.protocol is empty, so there are no test clips: set it, or use avemo train")
    if args.json:
        files.check_place(args.json.parent)
    with train.joined(config) as mesh:
        from avemo_jax.evaluation.outcome_files import ALL_FOLDS
        from avemo_jax.evaluation.partition import fold_names
        from avemo_jax.tasks import finetuning

        every = config.data.fold == ALL_FOLDS
        _check_place(args.workdir, every)
        folds = fold_names(config.data) if every else [config.data.fold]
        by_fold, configs = [], [config.copy_and_resolve_references() for _ in folds]
        for fold, config in zip(folds, configs, strict=True):
            with config.unlocked():
                config.data.fold = fold
        # What is wrong with a later fold is said before the first is trained.
        partitions = [finetuning.partition_of(config) for config in configs]
        for fold, config, partition in zip(folds, configs, partitions, strict=True):
            assert partition  # since there is a protocol
            workdir = finetuning.fold_folder(args.workdir, fold) if every else args.workdir
            code = train.train_in(workdir, config, mesh, partition)
            if code:
                return code
            by_fold.append(finetuning.test(config, partition, workdir, mesh))
            HEARTBEAT.part_done()
            if every:
                _report(workdir, config, partition, by_fold[-1])
        assert partition
        outcomes = finetuning.pooled(config, partition, by_fold) if every else by_fold[0]
        _report(args.workdir, config, partition, outcomes, args.json)
    return 0


def _check_place(workdir: Path, every: bool) -> None:
    """Raises a UserError where results of one fold and of all folds would replace each other."""
    from avemo_jax.training.workdir import CONFIG

    if every and (workdir / CONFIG).is_file():
        raise UserError(f"{workdir} is the run of one fold: give data.fold=all another --workdir")
    if not every and any(workdir.glob(f"fold_*/{CONFIG}")):
        raise UserError(f"{workdir} holds the runs of all folds: give a single one another --workdir")


def _several(args: argparse.Namespace, config: Any) -> int:
    """Trains one encoder with a head for each of several folders, and scores each head on its folder's test clips."""
    from avemo_jax import files
    from avemo_jax.commands import train

    if args.json:
        files.check_place(args.json.parent)
    with train.joined(config) as mesh:
        from avemo_jax.evaluation.outcome_files import plain
        from avemo_jax.tasks import finetuning, lessons
        from avemo_jax.tasks.heads import heads_of, single_configs
        from avemo_jax.tasks.looks import make_watch
        from avemo_jax.training import distributed, starting, workdir

        say = print if distributed.is_first() else lambda _: None
        starting.remember_sizes(config, args.workdir)  # each head's model has them too
        heads = heads_of(config)
        singles = single_configs(config, heads)
        parts = lessons.partitions(heads, singles)
        if distributed.is_first():
            workdir.check_config(args.workdir, config)  # before teachers are asked, and heard there
        watch = make_watch(config, lessons.watched(heads, singles, parts), args.workdir, mesh, say)
        taught = lessons.lessons(config, heads, singles, parts, mesh, say, args.workdir / lessons.KEPT)
        code = train.train_in(args.workdir, config, mesh, None, watch, **taught._asdict())
        if code:
            return code
        rows = []
        folders = lessons.hand_out(config, heads, singles, args.workdir, mesh, say)
        for head, single, part, folder in zip(heads, singles, parts, folders, strict=True):
            outcomes = finetuning.test(single, part, folder, mesh)
            for one in outcomes:
                one.row["head"] = head.name
            say(f"\n{head.name}:")
            _report(folder, single, part, outcomes)
            rows += [plain(one.row) for one in outcomes]
        if args.json and distributed.is_first():
            files.write_file(args.json, json.dumps(rows, indent=1, allow_nan=False) + "\n")
    return 0


def _report(
    folder: Path, config: Any, partition: Any, outcomes: Sequence[Any], further: Path | None = None
) -> None:
    """Writes and prints what came out; the first process of a run does."""
    from avemo_jax import files
    from avemo_jax.evaluation import outcome_files
    from avemo_jax.tasks import finetuning
    from avemo_jax.training import distributed

    if not distributed.is_first():
        return
    said, sequences = finetuning.joined(config, partition, outcomes)
    text = outcome_files.table(partition.target, [one.row for one in outcomes], partition.left_out)
    written = outcome_files.write(folder, partition.target, outcomes, text, further)
    if sequences:
        files.write_file(folder / SEQUENCES, sequences)
        written.insert(0, folder / SEQUENCES)
        text += f"\n{said}"
    print(text)
    print("results: " + "  ".join(str(path) for path in written))
