"""What a network knows of texts: suites of `avemo evaluate`.

  zero_shot        which class's prompt is a clip nearest to, and does a prompt find the clips of its class?
  text_retrieval   does a description find its clip among all, and a clip its description?
  statements       are true statements about a clip nearer to it than false ones?

A row is a space of `text_space`: the checkpoint's heads by each view, and maps fitted to descriptions of the
checkpoint, of random networks and of another run (`against`), from whose map all rows of the checkpoint tell their
difference. A row judges the clips that have the streams which its space needs; a difference is of the clips that both
spaces have, and says how many (`n`) where these are fewer. Every score has a 95 % interval from resampling speakers;
`split_hash` is that of the list of judged clips.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.convert.text_tower import load_tower
from avemo_jax.errors import UserError
from avemo_jax.evaluation import metrics, retrieval
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.intervals import bootstrap_scores
from avemo_jax.evaluation.prompts import TEMPLATE, class_prompts, filled, words_of
from avemo_jax.evaluation.protocols import clips_hash
from avemo_jax.evaluation.text_space import FITTED, Judged, Model, Space, mean_vector, spaces
from avemo_jax.models.params import Params
from input_pipeline.record import classes_of
from input_pipeline.texts import Described, TextTable, read_table, read_texts

Row = dict[str, Any]
Embed = Callable[[Sequence[str]], np.ndarray]  # texts → their tower's vectors [M, E]
Measure = Callable[[np.ndarray], Mapping[str, float]]  # scores of some of the rows, some of them twice
# The clips of its rows by their numbers, some of them more than once, scores of these rows, and further keys
Measured = tuple[np.ndarray, Measure, Row]
SUITES = ("zero_shot", "text_retrieval", "statements")
AGAINST = "against"
_BLOCK = 1024  # texts that are compared at a time
# Of the command, by the names of `Options`.
FLAGS = (
    "texts",
    "tower",
    "split",
    "label",
    "template",
    "words",
    "prompts",
    "against",
    "batch_size",
    "workers",
)


@dataclass(frozen=True)
class Options:
    """Of `ask`, as the flags of the command.

    texts: folder of `avemo describe`, "" for none. tower: name, for prompts and statements. split: of the data. label,
    template, words, prompts: of zero_shot; `words` is LABEL=WORD,…, `prompts` a JSON file instead of the template.
    against: another run. seeds: random networks.
    """

    texts: str = ""
    tower: str = ""
    split: str = ""
    label: str = ""
    template: str = TEMPLATE
    words: str = ""
    prompts: str = ""
    against: str = ""
    seeds: int = 1
    batch_size: int = 32
    workers: int = 0

    def check(self, suites: Sequence[str]) -> None:
        """Raises a UserError where a suite lacks what it asks by."""
        for name in suites:
            if name != "text_retrieval" and not self.tower:
                raise UserError(
                    f"suite {name} needs a text tower: give --tower the one that the texts were made by"
                )
            if name != "zero_shot" and not self.texts:
                raise UserError(f"suite {name} needs descriptions: give --texts the folder of avemo describe")
        if "zero_shot" in suites and not self.label:
            raise UserError("suite zero_shot needs --label, whose classes are told apart")
        if suites and self.against and not self.texts:
            raise UserError("--against compares maps that are fitted to descriptions: give --texts")
        filled(self.template, "", words_of(self.words))


def ask(checkpoint: str, data: str, suites: Sequence[str], options: Options) -> dict[str, list[Row]]:
    """The rows of these suites, by suite.

    Raises:
      UserError: no usable checkpoint, texts that do not go with it, or another tower than its own.
    """
    options.check(suites)
    config, params, step, _ = load_result(checkpoint)
    table = read_table(options.texts) if options.texts else None
    described = read_texts(options.texts) if "statements" in suites else []
    tower = load_tower(options.tower) if options.tower else None
    for digest, whose in (
        (config.text.tower_digest if "text" in config else "", f"{checkpoint} learnt from"),
        (table.digest if table else "", f"{options.texts} holds"),
    ):
        if tower and digest and digest != tower.digest:
            raise UserError(f"--tower {options.tower}: {whose} the vectors of another tower; give that one")
    if table and tower and table.dim != tower.dim:
        raise UserError(f"--tower {options.tower} gives {tower.dim} numbers, {options.texts} has {table.dim}")

    def asked(weights: str, config: ConfigDict, params: Params, seeds: int) -> tuple[Judged, list[Space]]:
        return spaces(
            Model(weights, config, params),
            data,
            table,
            split=options.split,
            seeds=seeds,
            batch_size=options.batch_size,
            workers=options.workers,
        )

    judged, found = asked("checkpoint", config, params, options.seeds)
    if options.against:
        other_config, other_params, _, _ = load_result(options.against)
        others, more = asked(AGAINST, other_config, other_params, 0)
        if others.clip_id != judged.clip_id:
            raise UserError(f"{data}: not every clip can be read; prepare it again to compare two runs on it")
        found += [space for space in more if space.map == FITTED]
    results = {}
    for name in suites:
        if name == "text_retrieval":
            assert table  # checked above
            results[name] = text_retrieval_rows(judged, found, table)
            continue
        assert tower  # checked above
        if name == "statements":
            results[name] = statement_rows(judged, found, described, tower.embed)
        else:
            prompts = _prompts(judged, options)
            results[name] = zero_shot_rows(judged, found, options.label, prompts, tower.embed)
    for row in itertools.chain.from_iterable(results.values()):
        row["step"] = step if row["weights"] == "checkpoint" else None
    return results


def _prompts(judged: Judged, options: Options) -> dict[str, list[str]]:
    classes = sorted({value for labels in judged.labels if (value := classes_of(labels).get(options.label))})
    if len(classes) < 2:
        raise UserError(
            f"suite zero_shot: the clips have {len(classes)} classes by label '{options.label}', not two"
        )
    return class_prompts(classes, options.template, words_of(options.words), options.prompts)


def zero_shot_rows(
    judged: Judged, spaces: Sequence[Space], label: str, prompts: Mapping[str, Sequence[str]], embed: Embed
) -> list[Row]:
    """Keys beside those of a space: `label`, `n`, `classes`; `uar`, `war` with `uar_ci95` and so on, and `recalls` by
    class; likewise `average_precision`, the mean over classes of how well a class's prompt ranks all clips, and
    `precisions` by class; `chance`, of all of them but `war`. Clips with another label, or none, are left out.

    Raises:
      UserError: no clip has one of the classes.
    """
    classes = list(prompts)
    number = {name: index for index, name in enumerate(classes)}
    own = np.array([number.get(classes_of(labels).get(label, ""), -1) for labels in judged.labels])
    count = len(classes)
    vectors = np.stack([mean_vector(embed(list(prompts[name]))) for name in classes])

    def measured(space: Space, there: np.ndarray) -> Measured | None:
        kept = np.flatnonzero((own >= 0) & there)
        if not len(kept):
            return None
        truth = own[kept]
        present = truth[:, None] == np.arange(count)
        similarity = space.similarity(vectors)[kept]
        guess = similarity.argmax(1)

        def scores(rows: np.ndarray) -> dict[str, float]:
            confusion = metrics.confusion_matrix(truth[rows], guess[rows], count)
            ranked = np.nanmean(metrics.average_precision(similarity[rows], present[rows]))
            return {
                "uar": float(metrics.uar(confusion)),
                "war": float(metrics.war(confusion)),
                "average_precision": float(ranked),
            }

        known = {name: index for name, index in number.items() if present[:, index].any()}
        recalls = {name: float(np.mean(guess[truth == index] == index)) for name, index in known.items()}
        each = metrics.average_precision(similarity, present)
        precisions = {name: float(each[index]) for name, index in known.items()}
        facts = {"label": label, "classes": classes, "chance": 1 / count}
        return kept, scores, {**facts, "recalls": recalls, "precisions": precisions}

    nothing = f"suite zero_shot: no clip's label '{label}' is one of {', '.join(classes)}"
    return _rows(spaces, measured, judged, nothing)


def text_retrieval_rows(judged: Judged, spaces: Sequence[Space], table: TextTable) -> list[Row]:
    """Keys beside those of a space: `n` clips with a text, `texts` different ones; `text_to_clip_r1`, `_r5`, `_r10` and
    `_median_rank`, of each clip's text among all these clips, where any clip with that text counts as found;
    `clip_to_text_…`, of each clip among the different texts; each with its `…_ci95`; and `chance`, for the recalls.

    Raises:
      UserError: less than two different texts.
    """
    described = table.rows_of(judged.clip_id)

    def measured(space: Space, there: np.ndarray) -> Measured | None:
        kept = np.flatnonzero((described >= 0) & there)
        rows = described[kept]
        _, first, text = np.unique(table.number[rows], return_index=True, return_inverse=True)
        if len(first) < 2:
            return None
        vectors = table.embedding[rows[first]]
        alike = np.bincount(text)[text]  # clips with the same text
        chance = {}
        for k in retrieval.RECALLS:
            chance[f"text_to_clip_r{k}"] = float(
                np.mean([_found_by_chance(len(kept), c, k) for c in alike.tolist()])
            )
            chance[f"clip_to_text_r{k}"] = min(1.0, k / len(first))

        starts = range(0, len(first), _BLOCK)
        own, of_text = np.zeros(len(kept)), np.full(len(first), -np.inf)
        for start in starts:  # a block of texts at a time, so that memory does not grow with clips × texts
            similarity = space.similarity(vectors[start : start + _BLOCK])[kept]
            inside = np.flatnonzero((text >= start) & (text < start + _BLOCK))
            own[inside] = similarity[inside, text[inside] - start]
        np.maximum.at(of_text, text, own)
        to_text, others = np.zeros(len(kept), int), np.zeros(len(first), int)
        for start in starts:
            similarity = space.similarity(vectors[start : start + _BLOCK])[kept]
            number = np.arange(start, start + similarity.shape[1])
            to_text += (similarity >= own[:, None]).sum(1)
            nearer = (similarity >= of_text[number]) & (text[:, None] != number)
            others[number] = nearer.sum(0)
        to_clip = 1 + others[text]

        def scores(rows: np.ndarray) -> dict[str, float]:
            ways = {"text_to_clip": to_clip[rows], "clip_to_text": to_text[rows]}
            return {
                f"{way}_{name}": x
                for way, ranks in ways.items()
                for name, x in retrieval.summary(ranks).items()
            }

        return kept, scores, {"texts": len(first), "chance": chance}

    return _rows(
        spaces, measured, judged, "suite text_retrieval: the clips have less than two different texts"
    )


def statement_rows(
    judged: Judged, spaces: Sequence[Space], described: Sequence[Described], embed: Embed
) -> list[Row]:
    """Keys beside those of a space: `n` statements of `clips` clips, `true_share` of them true; `accuracy`, when those
    are called true that are nearer to their clip than to the clips on average; `auc`, of that nearness; each with its
    `…_ci95`.

    Raises:
      UserError: no statement about these clips, or all of them true, or none.
    """
    place = {clip_id: row for row, clip_id in enumerate(judged.clip_id)}
    said = [
        (place[one.clip_id], *each) for one in described if one.clip_id in place for each in one.statements
    ]
    nothing = f"suite statements: {len(said)} statements about these clips in --texts; true and false ones are needed"
    if not said:
        raise UserError(nothing)
    texts = list(dict.fromkeys(text for _, text, _ in said))
    number = {text: index for index, text in enumerate(texts)}
    every = np.array([(row, number[text], true) for row, text, true in said])
    vectors = embed(texts)

    def measured(space: Space, there: np.ndarray) -> Measured | None:
        clip, text, true = every[there[every[:, 0]]].T
        true = true > 0
        if len(set(true.tolist())) < 2:
            return None
        similarity = space.similarity(vectors)
        nearer = (similarity - similarity[there].mean(0))[clip, text]

        def scores(rows: np.ndarray) -> dict[str, float]:
            area = metrics.auc(nearer[rows, None], true[rows, None])[0]
            return {"accuracy": float(np.mean((nearer[rows] > 0) == true[rows])), "auc": float(area)}

        return clip, scores, {"clips": len(set(clip.tolist())), "true_share": float(true.mean())}

    return _rows(spaces, measured, judged, nothing)


def _rows(
    spaces: Sequence[Space],
    measured: Callable[[Space, np.ndarray], Measured | None],
    judged: Judged,
    nothing: str,
) -> list[Row]:
    """A row a space, of the clips that it has; those of the first network with their difference from the fitted map of
    `against`. measured: of a space and some of its clips, bool [N]; None where these are too few. nothing: what is
    wrong where they are too few for every space."""
    other = next((one for one in spaces if one.weights == AGAINST and one.map == FITTED), None)
    theirs = None if other is None else measured(other, other.there)
    rows: list[Row] = []
    for space in spaces:
        its = theirs if space is other else measured(space, space.there)
        if its is None:
            continue
        clips, measure, facts = its
        speakers = judged.speaker[clips]
        hashed = clips_hash([judged.clip_id[clip] for clip in np.unique(clips).tolist()])
        everything = measure(np.arange(len(speakers)))
        row: Row = {**space.name, "n": len(speakers), "split_hash": hashed, **facts, **everything}
        intervals = bootstrap_scores(measure, speakers)
        row |= {f"{name}_ci95": list(bounds) for name, bounds in intervals.bounds.items()}
        row["ci_unit"] = intervals.unit
        if other is not None and space.weights == "checkpoint":
            there = space.there & other.there
            one = its if np.array_equal(there, space.there) else measured(space, there)
            another = theirs if np.array_equal(there, other.there) else measured(other, there)
            if one and another:
                clips = one[0]
                row["difference"] = _differences(one[1], another[1], judged.speaker[clips])
                if len(clips) < row["n"]:
                    row["difference"]["n"] = len(clips)
        rows.append(row)
    if not rows:
        raise UserError(nothing)
    return rows


def _differences(one: Measure, other: Measure, speakers: np.ndarray) -> Row:
    """Of each score, paired: the same speakers are drawn for both."""

    def gap(rows: np.ndarray) -> dict[str, float]:
        theirs = other(rows)
        return {name: value - theirs[name] for name, value in one(rows).items()}

    bounds = bootstrap_scores(gap, speakers).bounds
    everything = gap(np.arange(len(speakers)))
    return {**everything, **{f"{name}_ci95": list(of) for name, of in bounds.items()}}


def _found_by_chance(candidates: int, right: int, k: int) -> float:
    """The chance that one of `right` of the candidates is among k drawn ones."""
    missed = 1.0
    for drawn in range(min(k, candidates)):
        missed *= max(0, candidates - right - drawn) / (candidates - drawn)
    return 1 - missed
