"""A checkpoint and a prepared folder → probe results of its features and of their baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation import baselines, cross_corpus, extraction, features, heads, scores
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.extraction import LOUDNESS, MISSING, Network, Source
from avemo_jax.evaluation.gathering import Folder, Wanted, check_tokens, gather
from avemo_jax.evaluation.heads import pooled
from avemo_jax.evaluation.judging import Judged, judge
from avemo_jax.evaluation.labelled import read_labelled
from avemo_jax.evaluation.paired import Earlier
from avemo_jax.evaluation.protocols import DEALT, LabelledClips, Splits, make_splits, testing_on
from avemo_jax.models.positions import resized, sizes_of
from input_pipeline.progress import Progress

VIEWS = ("cached", "augmented")
_TRIED = 100  # seeds for each dealing that is asked for, as some deal alike, or cannot be used


@dataclass(frozen=True)
class ProbeOptions:
    """What to probe and how.

    label: one, or several that are numbers, comma-separated (`labelled.read_labelled`). fold_by: the metadata that
    protocol `folds` goes by. test_split: the split that protocol `split` tests on.
    features: names and groups, comma-separated (`features.select`). heads: names, comma-separated (`heads.select`),
    when empty the usual one; each takes the features of its kind. head_steps: of those that are trained step by step.
    modality, missing: comma-separated, all when empty
    and none when empty.
    classes: all of the label's when empty. random_seeds: how many randomly initialised networks stand beside the
    checkpoint. views: `cached` trains on the centre view, `augmented` on `views_per_clip` random ones. cache: folder
    of features, none when empty. token_memory: GiB. legacy: rows whose setting is chosen on the test clips too.
    split_seeds: how often the folds are dealt, each time differently, all fitted side by side (of `protocols.DEALT`).
    scores: further ones, names or Python files (`scores.select`). sizes, positions: of clips of another size than in
    training, see `models.positions`. other: the corpus to test on, all of it, where it is not the one to train on.
    """

    label: str
    protocol: str = "leave_one_speaker_out"
    fold_by: str = "fold"
    test_split: str = "test"
    features: str = "default"
    heads: str = ""
    head_steps: int = pooled.STEPS
    modality: str = ""
    missing: str = ""
    classes: tuple[str, ...] = ()
    loudness: tuple[str, ...] = ("as_recorded",)
    random_seeds: int = 3
    folds: int = 5
    inner_folds: int = 5
    split_seeds: int = 1
    views: str = "cached"
    views_per_clip: int = 4
    legacy: bool = False
    scores: tuple[str, ...] = ()
    cache: str = ""
    token_memory: float = 4.0
    sizes: str = ""
    positions: str = "extended"
    batch_size: int = 32
    workers: int = 0
    other: cross_corpus.Other | None = None


@dataclass(frozen=True)
class ProbeResult:
    """All results, with what they were computed on. `left_out` counts records by reason."""

    step: int
    clips: LabelledClips
    splits: Splits
    left_out: Counter
    judged: list[Judged] = field(repr=False)

    @property
    def rows(self) -> list[dict]:
        return [one.row for one in self.judged]


def run(
    checkpoint: str,
    data: str,
    options: ProbeOptions,
    against: Earlier | None = None,
    say: Callable[[str], None] = print,
) -> ProbeResult:
    """Probe the checkpoint, randomly initialised networks of its config and plain statistics.

    Of a fine-tuning run's folder the weights are those that it chose. The splits are made before any feature is
    computed, so what cannot be split is refused at once, and so is an earlier probe to compare with that was split
    otherwise. Raises UserError or DataError for bad input.
    """
    chosen, further = heads.select(options.heads or heads.USUAL), scores.select(options.scores, "--scores")
    _check(options)
    config, params, step, selection = load_result(checkpoint, say=say)
    if options.sizes:
        resized(config.model, sizes_of(options.sizes), options.positions)
    wanted = _features(options, chosen, config)
    clips, left_out, splits, folders = divided(data, options)
    if clips.numbers:
        chosen = heads.of_numbers(chosen if options.heads else (heads.USUAL_OF_NUMBERS,))
    networks = [Network("checkpoint", config.seed, params)]
    missing = (MISSING[0], *_words(options.missing))
    if against is not None:
        to_be = extraction.sources(networks, wanted, options.loudness, missing)
        against.check(options.label, clips, splits, _questions(to_be, chosen, options))

    networks += extraction.random_networks(config, range(options.random_seeds))
    augmented = options.views_per_clip if options.views == "augmented" else 0
    training = np.unique(np.concatenate([split.train for split in splits.splits]))
    rows = len(clips) + augmented * len(training)
    sources = extraction.sources(networks, wanted, options.loudness, missing)
    check_tokens(len(clips), rows, sources, config, options.token_memory)
    matrices, examples = gather(
        config,
        folders,
        clips,
        training,
        Wanted(networks, wanted, options.loudness, missing, options.batch_size, options.workers),
        augmented=augmented,
        cache=options.cache,
    )
    judged: list[Judged] = []
    with Progress(len(matrices), "features", "probe") as progress:
        for source, matrix in sorted(matrices.items(), key=lambda item: _order(item[0], wanted)):
            for head in chosen:
                if _is_asked(source, head, options):
                    judged += judge(
                        source,
                        matrix,
                        clips,
                        splits,
                        head,
                        examples,
                        legacy=options.legacy,
                        further=further,
                        steps=options.head_steps,
                    )
            progress.advance(source.feature)
    for one in judged:
        one.row.update(label=options.label, views=options.views, trained_on=data)
        one.row.update(tested_on=options.other.data if options.other else data)
        if options.fold_by != "fold":
            one.row.update(fold_by=options.fold_by)
        if options.test_split != "test":
            one.row.update(test_split=options.test_split)
        if options.head_steps != pooled.STEPS:
            one.row.update(head_steps=_steps(one.row["head"], options))
        if options.sizes:
            one.row.update(sizes=options.sizes, positions=options.positions)
        is_trained = one.row["weights"] == "checkpoint"
        one.row.update(step=step if is_trained else None, weights_selection=selection if is_trained else "")
    return ProbeResult(step, clips, splits, left_out, judged)


def divided(data: str, options: ProbeOptions) -> tuple[LabelledClips, Counter, Splits, tuple[Folder, ...]]:
    """The clips, how many were left out for which reason, their splits, and where they are."""
    if options.other:
        both = cross_corpus.join(data, options.label, options.classes, options.other)
        return both.clips, both.left_out, both.splits(options.inner_folds), both.folders
    clips, left_out = read_labelled(data, options.label, options.classes, options.fold_by)
    clips = testing_on(clips, options.test_split, f"--test_split {options.test_split}: {data}")
    split_up = partial(
        make_splits,
        options.protocol,
        folds=options.folds,
        inner_folds=options.inner_folds,
        need_classes=not clips.numbers,
        seeds=range(_TRIED * options.split_seeds),
        dealings=options.split_seeds,
    )
    splits = split_up(clips)
    if splits.left_out:
        left_out["in no fold"] = splits.left_out
        clips = clips.at(splits.rows).of_found_classes()
        splits = split_up(clips)
    if options.test_split != "test":
        named = tuple(replace(split, name=options.test_split) for split in splits.splits)
        splits = replace(splits, splits=named)
    return clips, left_out, splits, (Folder(data, np.arange(len(clips))),)


def need_classes(clips: LabelledClips, asked: str) -> None:
    """Raises a UserError where the label is a number; `asked` says what needs classes."""
    if clips.numbers:
        raise UserError(
            f"{asked} needs a label of classes, '{','.join(clips.numbers)}' is a number; `avemo probe` takes it"
        )


def _features(options: ProbeOptions, chosen: Sequence[str], config: ConfigDict) -> list[str]:
    """Names of what the heads take, of the modalities that are asked for."""
    names = [*features.select(options.features, config.model), *features.sequences(config.model)]
    taken = {heads.HEADS[head].takes for head in chosen}
    modalities = _words(options.modality) or features.MODALITIES
    wanted = [
        name for name in names if features.kind(name) in taken and features.modality(name) in modalities
    ]
    if not wanted:
        raise UserError(f"--modality {options.modality}: none of --features {options.features} is of it")
    return wanted


def _questions(sources: Sequence[Source], chosen: Sequence[str], options: ProbeOptions) -> list[dict]:
    """What says of the checkpoint's rows, before they are there, which question they answer."""
    return [
        {**source._asdict(), "head": head, "views": options.views, "head_steps": _steps(head, options)}
        for source in sources
        for head in chosen
        if source.weights == "checkpoint" and _is_asked(source, head, options)
    ]


def _is_asked(source: Source, head: str, options: ProbeOptions) -> bool:
    modalities = _words(options.modality) or features.MODALITIES
    return (
        heads.HEADS[head].takes == features.kind(source.feature)
        and features.modality(source.feature) in modalities
    )


def _steps(head: str, options: ProbeOptions) -> int | None:
    """How long a head is trained; None of one that is not trained step by step."""
    return options.head_steps if heads.HEADS[head].by_steps else None


def _order(source: Source, wanted: Sequence[str]) -> tuple:
    """Networks' features in the wanted order, each with its random counterparts, then plain statistics; without a
    modality after all."""
    where = (LOUDNESS.index(source.loudness), source.weights == "random", source.seed)
    names = (*wanted, *baselines.NAMES)
    place = names.index(source.feature)
    return MISSING.index(source.missing), place, *where


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _check(options: ProbeOptions) -> None:
    for name, usual, protocol in (("fold_by", "fold", "folds"), ("test_split", "test", "split")):
        if getattr(options, name) != usual and (options.other or options.protocol != protocol):
            raise UserError(f"--{name} {getattr(options, name)} is of --protocol {protocol}")
    stepped = [name for name, head in heads.HEADS.items() if head.by_steps]
    if options.head_steps != pooled.STEPS and not set(stepped) & set(_words(options.heads)):
        raise UserError(f"--head_steps {options.head_steps} is of --head {' and '.join(stepped)}")
    if options.split_seeds > 1 and (options.other or options.protocol not in DEALT):
        where = "with --test_data" if options.other else f"by protocol {options.protocol}"
        raise UserError(
            f"--split_seeds {options.split_seeds}: {where} no fold is dealt; it is of --protocol {' and '.join(DEALT)}"
        )
    at_least_one = ("head_steps", "split_seeds", "views_per_clip", "batch_size")
    for name in ("random_seeds", "folds", "inner_folds", *at_least_one, "workers"):
        least = 0 if name in ("random_seeds", "workers") else 2 if name.endswith("folds") else 1
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}, it must be at least {least}")
    for name, known in (("modality", features.MODALITIES), ("missing", MISSING[1:])):
        for word in _words(getattr(options, name)):
            if word not in known:
                raise UserError(f"--{name}: no '{word}'; there are {', '.join(known)}")
