"""Evaluation beyond one number: can it be believed, is it fair, which modality does it follow, what breaks it.

Suites of predictions (calibration, fairness, conflict, paired) take the predictions.csv of a fine-tuned run or probe;
retrieval takes a pretrained run, robustness a fine-tuned one or a label to probe for, the others either; zero_shot,
text_retrieval and statements one that was aligned with texts, or any with --texts. Scores have 95 % intervals from
resampling speakers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avemo_jax.commands import add_wording
from avemo_jax.paths import to_path

if TYPE_CHECKING:
    from avemo_jax.evaluation.predicted import Predicted

_OF_ANY = tuple(
    (name, "trained")
    for name in ("identity", "neighbours", "rollout", "zero_shot", "text_retrieval", "statements")
)
_OF_TUNED = (("robustness", "fine-tuned"), ("cross_corpus", "fine-tuned"))
EXAMPLE = "avemo evaluate --predictions runs/first/probe --suite calibration fairness --data data/clips --out judged"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--suite",
        required=True,
        nargs="+",
        metavar="NAME",
        help="calibration, fairness, conflict, paired, retrieval, robustness, cross_corpus, identity, neighbours, "
        "rollout, zero_shot, text_retrieval, statements",
    )
    add("--checkpoint", help="a run: its predictions.csv, or for suites of networks its weights")
    add("--predictions", help="a predictions.csv, or the folder of a probe that has one")
    add("--data", metavar="DIR", help="prepared folder of the clips (not of calibration and paired)")
    add("--out", required=True, type=to_path, help="folder for table.txt and suites.json")
    add(
        "--models",
        default="",
        help="only models whose words hold all of these, comma-separated: cat4,checkpoint; column=word names the "
        "column of predictions.csv too: split_seed=0",
    )
    add(
        "--traits",
        default="",
        help="columns to group speakers by, comma-separated (speaker,gender,age,race,ethnicity)",
    )
    add(
        "--random_seeds",
        type=int,
        default=1,
        help="networks with random weights beside the checkpoint, of retrieval, identity, neighbours and texts",
    )
    add(
        "--label",
        default="",
        help="of zero_shot; of robustness: not of a fine-tuned run but of a probe of features for this label; of "
        "cross_corpus: that of --data (the run's own)",
    )
    add("--map", default="", metavar="PAIRS", help="of cross_corpus: common names, as in avemo probe")
    add("--drop_unmapped", action="store_true", help="of cross_corpus: only classes that both have")
    add(
        "--shared_speakers",
        default="refuse",
        help="of cross_corpus, names that were trained on too: refuse, drop (not tested), differ (other people)",
    )
    add("--protocol", default="leave_one_speaker_out", help="how that probe splits clips, as in avemo probe")
    add("--feature", default="cat4", help="of neighbours, and of robustness with --label (cat4)")
    add("--clips", type=int, default=8, help="so many on the pages of neighbours and rollout")
    add(
        "--query",
        nargs="+",
        default=[],
        metavar="CLIP_ID",
        help="of neighbours: these clips are on the page, not --clips at random",
    )
    add(
        "--index",
        default="exact",
        help="how neighbours are searched: exact, or faiss where it is installed; its index is kept in --out and read "
        "again for the same features",
    )
    add("--texts", default="", metavar="DIR", help="of suites of texts: folder of avemo describe --tower")
    add("--tower", default="", help="of zero_shot and statements: the text tower, as in avemo describe")
    add("--split", default="", help="of suites of texts: only the clips of this split")
    add_wording(parser, "of zero_shot: ")
    add(
        "--prompts",
        default="",
        metavar="FILE",
        help="of zero_shot: JSON, {class: text or texts}, not a template",
    )
    add(
        "--against",
        default="",
        metavar="RUN",
        help="of paired: another run, probe or predictions.csv of the same clips; of suites of texts: another run, "
        "such as the first stage",
    )
    add(
        "--against_models",
        default="",
        metavar="MODELS",
        help="of paired: only these of --against, said as in --models; models of the same name are paired, or the "
        "first of each where none is",
    )
    add("--batch_size", type=int, default=32, help="clips in one forward pass")
    add("--workers", type=int, default=0, help="processes that decode (0: none beside this one)")
    add("--json", metavar="FILE", help="write the rows here too")


def results_folder(args: argparse.Namespace) -> Path:
    return args.out


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files, report
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import suite_tables, suites, text_suites
    from avemo_jax.evaluation.outcome_files import plain, split_hash_of, step_of
    from avemo_jax.evaluation.runs import check_is_no_run

    chosen = tuple(dict.fromkeys(args.suite))
    if unknown := [name for name in chosen if name not in suites.SUITES]:
        raise UserError(f"--suite: no '{unknown[0]}'; there are {', '.join(suites.SUITES)}")
    if not args.data and (needing := [name for name in chosen if name not in ("calibration", "paired")]):
        raise UserError(f"suite {needing[0]} needs the clips: give --data the prepared folder")
    for name, kind in (("retrieval", "pretrained"), *_OF_TUNED, *_OF_ANY):
        if name in chosen and not args.checkpoint:
            raise UserError(f"suite {name} needs a {kind} network: give --checkpoint a run")
    for name, least in (("clips", 1), ("batch_size", 1), ("random_seeds", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} is {getattr(args, name)}, it must be at least {least}")
    if {"neighbours", "rollout"} & set(chosen):
        report.check_packages()
    of_texts = [name for name in chosen if name in text_suites.SUITES]
    asking = text_suites.Options(
        **{name: getattr(args, name) for name in text_suites.FLAGS}, seeds=args.random_seeds
    )
    asking.check(of_texts)
    if "paired" in chosen and not args.against:
        raise UserError("suite paired compares two: give --against another run, or its predictions.csv")
    if args.against and not (of_texts or "paired" in chosen):
        raise UserError("--against is of suite paired and of suites of texts: name one of them too")
    if args.against_models and "paired" not in chosen:
        raise UserError("--against_models is of suite paired: name it too")
    for place in (args.out, *([Path(args.json).parent] if args.json else [])):
        files.check_place(place)
    check_is_no_run(args.out)

    of_networks = [name for name in chosen if name not in (*suites.OF_PREDICTIONS, *of_texts)]
    if args.checkpoint and of_networks:
        _check_network(args, of_networks)
    results = {}
    if of_predictions := [name for name in chosen if name in suites.OF_PREDICTIONS]:
        models, folder = _models(args.predictions or args.checkpoint, args.models)
        suites.check_kinds(models, of_predictions)
        others = _others(args, models, split_hash_of(folder)) if "paired" in chosen else []
        clips = {clip for one in models for clip in one.clip_id.tolist()}
        needs_clips = {"fairness", "conflict"} & set(chosen)
        known = suites.facts_of(args.data, clips) if needs_clips else {}
        traits = tuple(filter(None, args.traits.split(","))) or suites.TRAITS
        for name in of_predictions:
            results[name] = {
                "calibration": lambda: suites.calibration_rows(models),
                "fairness": lambda: suites.fairness_rows(models, known, traits),
                "conflict": lambda: suites.conflict_rows(models, known),
                "paired": lambda: suites.paired_rows(models, others),
            }[name]()
            for row in results[name]:
                row["split_hash"] = split_hash_of(folder, row["model"]) or None
                row["step"] = step_of(folder, row["model"])
    if "retrieval" in chosen:
        results["retrieval"] = _retrieval(args)
    if "robustness" in chosen:
        results["robustness"] = _robustness(args)
    written = []
    if "cross_corpus" in chosen:
        results["cross_corpus"], written = _cross_corpus(args)
    if "identity" in chosen:
        results["identity"] = _identity(args)
    if of_texts:
        results |= text_suites.ask(args.checkpoint, args.data, of_texts, asking)
    pages = {}
    for name in ("neighbours", "rollout"):
        if name in chosen:
            pages[name], results[name] = {"neighbours": _neighbours, "rollout": _rollout}[name](args)
    text = suite_tables.text(results)
    print(text)
    rows = json.dumps(plain(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for name, content in (("table.txt", text + "\n"), ("suites.json", rows)):
        written.append(args.out / name)
        files.write_file(written[-1], content)
    for name, html in pages.items():
        written.append(args.out / f"{name}.html")
        files.write_file(written[-1], html)
    if args.json:
        files.write_file(args.json, rows)
        written.append(Path(args.json))
    print("results: " + "  ".join(map(str, written)))
    return 0


def _check_network(args: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Raises a UserError where a suite cannot be asked of this network, before another one has done its work."""
    from avemo_jax.config import from_json
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import features, rollout
    from avemo_jax.tasks import robustness
    from avemo_jax.training.checkpoint_files import newest_config

    if "robustness" in chosen and not args.label:
        robustness.check(args.checkpoint)
        if len(chosen) == 1:
            return  # of all folds, which the other suites do not take
    config = from_json(json.dumps(newest_config(args.checkpoint)))
    if "retrieval" in chosen and config.task == "finetune":
        raise UserError(f"{args.checkpoint} is of a classifier: suite retrieval needs a pretrained network")
    if "robustness" in chosen and args.label:
        features.select(args.feature, config.model)
    if "cross_corpus" in chosen:
        from avemo_jax.tasks import transfer

        transfer.check(config, args.checkpoint)
        _other(args)
    if "neighbours" in chosen:
        from avemo_jax.report import neighbours

        neighbours.check(config, args.feature, args.index)
        neighbours.check_queries(args.data, args.query)
    if "rollout" in chosen:
        rollout.check_model(config)


def _models(where: str, chosen: str, flag: str = "--models"):
    """The chosen models, and the folder of their predictions."""
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import predicted

    if not where:
        raise UserError(
            "suites of predictions need some: give --predictions a probe's folder, or --checkpoint a run"
        )
    path = to_path(where)
    path = path / predicted.NAME if path.is_dir() else path
    words = [word for word in chosen.split(",") if word]
    models = [one for one in predicted.read(path) if all(_has(one.model, word) for word in words)]
    if not models:
        raise UserError(f"{path}: no model has all of {flag} {chosen}")
    return models, path.parent


def _has(model: Mapping[str, str], word: str) -> bool:
    """Whether a word of --models is one of the model's, or COLUMN=WORD says what it has there."""
    return word in model.values() or word in [f"{column}={own}" for column, own in model.items()]


def _others(args: argparse.Namespace, models: Sequence[Predicted], split_hash: str):
    """The chosen models of --against; says so where they are paired by their places."""
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation.outcome_files import split_hash_of

    others, folder = _models(args.against, args.against_models, "--against_models")
    other_hash = split_hash_of(folder)
    if split_hash and other_hash and split_hash != other_hash:
        raise UserError(
            f"--against {args.against} was split otherwise (hash {other_hash[:12]}, here {split_hash[:12]}): only the "
            "same clips and folds can be compared"
        )
    same = any(one.model == other.model for one in models for other in others)
    if not same and len(models) + len(others) > 2:
        print(
            "paired: no two models are called the same, so the first of each are compared; --models and "
            "--against_models name others"
        )
    return others


def _robustness(args: argparse.Namespace):
    if args.label:
        from avemo_jax.evaluation import probe_robustness

        return probe_robustness.rows(
            args.checkpoint,
            args.data,
            args.label,
            protocol=args.protocol,
            feature=args.feature,
            batch_size=args.batch_size,
            workers=args.workers,
        )
    from avemo_jax.tasks import robustness
    from avemo_jax.training.mesh import make_mesh

    mesh = make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
    return robustness.rows(to_path(args.checkpoint), args.data, mesh)


def _other(args: argparse.Namespace):
    from avemo_jax.evaluation import cross_corpus

    names = cross_corpus.read_names(args.map)
    return cross_corpus.Other(args.data, args.label, names, args.drop_unmapped, args.shared_speakers)


def _cross_corpus(args: argparse.Namespace):
    """Rows, and the files that other suites can be asked of."""
    from avemo_jax import files
    from avemo_jax.evaluation import outcome_files
    from avemo_jax.tasks import transfer
    from avemo_jax.training.mesh import make_mesh

    mesh = make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
    target, outcomes = transfer.test(to_path(args.checkpoint), _other(args), mesh)
    rows = [outcome_files.plain(one.row) for one in outcomes]
    written = [args.out / outcome_files.PREDICTIONS, args.out / outcome_files.ROWS]
    files.write_file(written[0], outcome_files.predictions(target, outcomes))
    files.write_file(written[1], json.dumps(rows, indent=1, allow_nan=False) + "\n")
    return rows, written


def _neighbours(args: argparse.Namespace):
    from avemo_jax.report import neighbours

    return neighbours.make(
        args.checkpoint,
        args.data,
        feature=args.feature,
        clips=args.clips,
        seeds=args.random_seeds,
        index=args.index,
        asked=args.query,
        keep=args.out,
        batch_size=args.batch_size,
        workers=args.workers,
    )


def _rollout(args: argparse.Namespace):
    from avemo_jax.report import looking

    return looking.make(args.checkpoint, args.data, clips=args.clips, workers=args.workers)


def _identity(args: argparse.Namespace):
    from avemo_jax.evaluation import identity

    return identity.rows(
        args.checkpoint,
        args.data,
        seeds=args.random_seeds,
        batch_size=args.batch_size,
        workers=args.workers,
    )


def _retrieval(args: argparse.Namespace):
    from avemo_jax.evaluation import suites
    from avemo_jax.training.checkpoints import load_params

    config, params, step = load_params(args.checkpoint)
    rows = suites.retrieval_rows(
        config,
        params,
        args.data,
        seeds=args.random_seeds,
        batch_size=args.batch_size,
        workers=args.workers,
    )
    return [{**row, "step": step if row["weights"] == "checkpoint" else None} for row in rows]
