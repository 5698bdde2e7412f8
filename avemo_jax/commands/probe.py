"""Probes on a frozen checkpoint, beside the same network with random weights and plain statistics.

In each fold a small head is fitted on the training clips' features, its one setting chosen among the training
speakers, and the test clips are predicted. Scores are those of all test predictions together, with 95 %
intervals from resampling speakers. With --test_data, trained on one corpus and tested on another.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from avemo_jax.commands import add_sizes
from avemo_jax.paths import to_path

EXAMPLE = "avemo probe --checkpoint runs/first --data data/clips --label emotion --out runs/first/probe"

_PROTOCOLS = """leave_one_speaker_out (default); speaker_folds: speakers dealt into --folds groups;
within_speakers (default of --label speaker): each speaker's clips dealt into --folds groups;
folds: the manifest's column --fold_by; split: train on its split 'train', test on --test_split"""
_LABEL = """which label: 'emotion' is the manifest's column 'label_emotion', or speaker, gender; of votes the class with
the most; a number, or several comma-separated, by ridge regression"""
_HEADS = """comma-separated: linear (default), linear_centred (features keep their scales beside each other), ridge
(default of numbers) and knn of --features; layer_mix, a learned mean of all layers; attentive, a learned query over all
tokens; numbers have ridge and knn alone"""
_MISSING = """audio, video or both, comma-separated: more rows of what sees both, trained and tested on clips without
it: no sound, or black frames, as in fine-tuning"""
_SPLIT_SEEDS = (
    """deal those groups N times, by seeds from 0 on (repeated k-fold): scores are the means over them"""
)
_SCORES = """further metrics, comma-separated: kappa, or Python files with score(predicted, truth)"""
_MAP = """common names of the labels of both corpora: angry=ANG,sad=SAD, or a file with such a pair on each line"""
_SHARED = """names of speakers in both: refuse (default); drop: not trained on; differ: other people"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, help="a work directory, its checkpoints folder or one step's folder")
    add("--data", required=True, help="folder that `avemo prepare` made")
    add("--label", required=True, help=_LABEL)
    add("--out", required=True, help="folder for table.txt, rows.json and predictions.csv")
    add("--protocol", default="", help=_PROTOCOLS)
    add("--fold_by", default="fold", metavar="COLUMN", help="the manifest's column of protocol folds")
    add("--test_split", default="test", metavar="SPLIT", help="the split that protocol split tests on")
    add("--head", default="", help=_HEADS)
    add(
        "--head_steps",
        type=int,
        default=400,
        help="of layer_mix and attentive: so many steps of training (400)",
    )
    add("--features", default="default", help="names, comma-separated, or default, layers, all")
    add(
        "--modality",
        default="",
        help="only what sees audio, video or fused, both, comma-separated (default: all)",
    )
    add("--missing", default="", help=_MISSING)
    add("--test_data", default="", metavar="DIR", help="another corpus, to be tested on instead of --data")
    add("--test_label", default="", metavar="KEY", help="its label (default: --label)")
    add("--map", default="", metavar="PAIRS", help=_MAP)
    add("--drop_unmapped", action="store_true", help="leave out values that only one of the two corpora has")
    add("--shared_speakers", default="refuse", help=_SHARED)
    add("--classes", default="", help="only these values of the label, comma-separated (default: all)")
    add(
        "--loudness",
        default="as_recorded",
        choices=("as_recorded", "normalised", "both"),
        help="normalised: every clip's sound at the same RMS, so that loudness is no cue",
    )
    add_sizes(parser)
    add("--random_seeds", type=int, default=3, help="networks with random weights beside the checkpoint")
    add(
        "--views",
        default="cached",
        choices=("cached", "augmented"),
        help="cached: trained on each clip's centre view; augmented: on --views_per_clip random ones, as in training",
    )
    add("--views_per_clip", type=int, default=4, help="random views of augmented")
    add("--legacy", action="store_true", help="more rows, labelled so: setting chosen on the test clips")
    add("--scores", default="", metavar="NAMES", help=_SCORES)
    add("--against", metavar="DIR", help="folder of another checkpoint's probe, to compare with clip by clip")
    add("--cache", default="", metavar="DIR", help="folder that keeps features for other probes")
    add("--token_memory", type=float, default=4.0, help="most GiB of tokens for attentive")
    add("--folds", type=int, default=5, help="number of groups of speaker_folds and within_speakers")
    add("--split_seeds", type=int, default=1, metavar="N", help=_SPLIT_SEEDS)
    add("--inner_folds", type=int, default=5, help="most folds inside a training part")
    add("--batch_size", type=int, default=32, help="clips in one forward pass")
    add("--workers", type=int, default=0, help="processes that decode (0: none beside this one)")
    add("--json", metavar="FILE", help="write the rows here too")


def results_folder(args: argparse.Namespace) -> Path:
    return to_path(args.out)


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files
    from avemo_jax.evaluation import paired, probing, report
    from avemo_jax.evaluation.extraction import LOUDNESS
    from avemo_jax.evaluation.runs import check_is_no_run

    usual = "within_speakers" if args.label == "speaker" else "leave_one_speaker_out"
    options = probing.ProbeOptions(
        label=args.label,
        protocol=args.protocol or usual,
        fold_by=args.fold_by,
        test_split=args.test_split,
        features=args.features,
        heads=args.head,
        head_steps=args.head_steps,
        modality=args.modality,
        missing=args.missing,
        classes=tuple(name for name in args.classes.split(",") if name),
        loudness=LOUDNESS if args.loudness == "both" else (args.loudness,),
        random_seeds=args.random_seeds,
        folds=args.folds,
        inner_folds=args.inner_folds,
        split_seeds=args.split_seeds,
        views=args.views,
        views_per_clip=args.views_per_clip,
        legacy=args.legacy,
        scores=tuple(filter(None, args.scores.split(","))),
        cache=args.cache,
        token_memory=args.token_memory,
        sizes=args.sizes,
        positions=args.positions,
        batch_size=args.batch_size,
        workers=args.workers,
        other=_other(args),
    )
    places = [args.out, *([to_path(args.json).parent] if args.json else []), *filter(None, [args.cache])]
    for place in map(to_path, places):
        files.check_place(place)
    check_is_no_run(args.out)
    against = paired.read(args.against) if args.against else None
    result = probing.run(args.checkpoint, args.data, options, against)
    text = report.summary(args.checkpoint, result)
    print(text)
    written = report.write(args.out, text, result.judged, result.clips)
    if against:
        compared = paired.compare(result.judged, against, result.clips)
        versus = paired.table(compared, against.folder)
        print(f"\n{versus}")
        written = report.write(args.out, f"{text}\n\n{versus}", result.judged, result.clips, compared)
    if args.json:
        files.write_file(args.json, report.rows_json(result.rows))
        written.append(args.json)
    print("results: " + "  ".join(str(path) for path in written))
    return 0


def _other(args: argparse.Namespace):
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import cross_corpus

    if args.test_data:
        if args.protocol not in ("", cross_corpus.PROTOCOL):
            raise UserError(
                f"--protocol {args.protocol}: with --test_data all of it is tested; leave --protocol out"
            )
        names = cross_corpus.read_names(args.map)
        return cross_corpus.Other(
            args.test_data, args.test_label, names, args.drop_unmapped, args.shared_speakers
        )
    for flag in ("test_label", "map", "drop_unmapped"):
        if getattr(args, flag):
            raise UserError(f"--{flag} is of a second corpus: give --test_data its folder")
    if args.shared_speakers != cross_corpus.SHARED[0]:
        raise UserError("--shared_speakers is of a second corpus: give --test_data its folder")
    return None
