"""A checkpoint and a prepared folder → its clips' neighbours: how often they share a label, and a page to look at.

The page holds pictures of people: it is only ever written where its reader asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction, features, nearest
from avemo_jax.evaluation.choosing import load_result
from avemo_jax.evaluation.extraction import Network, Source
from avemo_jax.evaluation.heads import scaling
from avemo_jax.evaluation.protocols import clips_hash
from avemo_jax.report import page
from avemo_jax.report.clips import draw, read_cards
from input_pipeline.errors import DataError
from input_pipeline.record import classes_of
from input_pipeline.records import open_records

Row = dict[str, Any]
PAGE = "neighbours.html"
MOST_QUERIES = 2000  # that numbers are from; drawn at random from more clips


def make(
    checkpoint: str,
    data: str,
    *,
    feature: str = "cat4",
    clips: int = 8,
    seeds: int = 1,
    index: str = "exact",
    asked: Sequence[str] = (),
    keep: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> tuple[str, list[Row]]:
    """The HTML text, and a row a network and label.

    Keys: `feature`, `weights`, `seed` (see `extraction.Source`; plain statistics too), of the checkpoint `step` and
    `selection`, how its weights were chosen; `label`, `k` neighbours a clip, `index`, `split_hash` of all clips, and
    those of `nearest.agreement`. Neighbours are clips of other speakers, by cosine of features that are standardised
    over all clips.

    Args:
      feature: a vector of `features.names`.
      clips: so many queries on the page, drawn at random.
      asked: names of clips that are the queries instead.
      index: see `nearest.search`; keep: a folder for the index of the checkpoint's features.

    Raises:
      UserError: no usable checkpoint, no such feature or index, too few clips, or a query that is none of them.
    """
    config, params, step, selection = load_result(checkpoint)
    names, places = check(config, feature, index), check_queries(data, asked)
    known = _known(data)
    networks = [Network("checkpoint", config.seed, params)]
    networks += extraction.random_networks(config, range(seeds))
    positions, matrices = extraction.extract_folder(
        config, data, sorted(known), networks, names, batch_size=batch_size, workers=workers
    )
    if len(positions) < 2:
        raise UserError(f"{data} has {len(positions)} readable clips: neighbours need two")
    row_of = {position: row for row, position in enumerate(positions.tolist())}
    if unread := [name for name, place in places.items() if place not in row_of]:
        raise UserError(f"--query: clip '{unread[0]}' of {data} cannot be read")
    speaker = np.array([known[position]["speaker"] for position in positions.tolist()])
    labels = {
        name: np.array([known[position]["labels"].get(name, "") for position in positions.tolist()])
        for name in sorted({name for one in known.values() for name in one["labels"]})
    }
    labels = {name: values for name, values in labels.items() if len(set(values) - {""}) > 1}
    queries = np.array(draw(len(positions), MOST_QUERIES, 0))
    fixed = {"k": nearest.NEIGHBOURS, "index": index}
    fixed["split_hash"] = clips_hash([known[position]["clip_id"] for position in positions.tolist()])

    def of(source: Source) -> Row:
        return {"step": step, "selection": selection} if source.weights == "checkpoint" else {}

    def near(source: Source, asking: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = keep if source.weights == "checkpoint" else None
        return nearest.search(
            _standardised(matrices[source]), asking, speaker, index=index, keep=kept, say=say
        )

    rows: list[Row] = []
    for source in matrices:
        found, _ = near(source, queries)
        rows += [
            {**_named(source), **of(source), "label": name, **fixed}
            | nearest.agreement(found, queries, values, speaker)
            for name, values in labels.items()
        ]
    shown = np.array([row_of[place] for place in places.values()] or draw(len(positions), clips, 1))
    (own,) = (source for source in matrices if source.weights == "checkpoint")
    found, similar = near(own, shown)
    used = sorted({positions[row] for row in (*shown, *found[found >= 0])})
    cards = {card.position: asdict(card) for card in read_cards(data, 0, positions=[int(p) for p in used])}
    groups = [
        {
            "query": cards.get(int(positions[query])),
            "near": [
                {**cards[int(positions[row])], "similarity": float(how)}
                for row, how in zip(others, alike, strict=True)
                if row >= 0 and int(positions[row]) in cards
            ],
        }
        for query, others, alike in zip(shown, found, similar, strict=True)
    ]
    numbers = {
        **page.made(),
        "path": data,
        "step": step,
        "selection": selection,
        "feature": names[0],
        "clips": len(positions),
        "asked": len(places),
        "rows": rows,
        "tables": {},
    }
    return page.render("neighbours.html.j2", {}, numbers, groups=[g for g in groups if g["query"]]), rows


def check(config: ConfigDict, feature: str, index: str) -> tuple[str, ...]:
    """The one feature's name; raises a UserError where the model has no such vector, or there is no such index."""
    nearest.check_index(index)
    names = features.select(feature, config.model)
    if len(names) != 1 or features.kind(names[0]) != "vector":
        raise UserError(f"--feature {feature}: neighbours are of one vector, such as cat4 or video_cells")
    return names


def check_queries(data: str, asked: Sequence[str]) -> dict[str, int]:
    """Each of these clips → its place in the folder; raises a UserError where one is not in it."""
    place = {name: number for number, name in enumerate(open_records(data).clip_ids)} if asked else {}
    if unknown := [name for name in asked if name not in place]:
        example = next(iter(place), "")
        raise UserError(f"--query: {data} has no clip '{unknown[0]}'; its clips.csv names them, as {example}")
    return {name: place[name] for name in asked}


def _known(data: str) -> dict[int, Row]:
    """position → name, speaker and classes of the clips that can be read."""
    records, known = open_records(data), {}
    for position in range(records.count):
        try:
            record = records[position]
        except DataError:
            continue
        known[position] = {
            "clip_id": record.clip_id,
            "speaker": record.speaker,
            "labels": classes_of(record.labels),
        }
    return known


def _standardised(matrix: np.ndarray) -> np.ndarray:
    """What all clips have in common would make all of them alike."""
    return scaling.standardise(matrix, np.ones(len(matrix), bool))


def _named(source: Source) -> Row:
    return {"feature": source.feature, "weights": source.weights, "seed": source.seed}
