"""Batches with the texts of their clips: a table that was made beforehand, joined to a loader's clips by name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from input_pipeline.mixtures import open_data
from input_pipeline.texts import TextTable, read_table

CLIPS = ("described", "all")


class ClipTexts(NamedTuple):
    """The texts of some data's clips.

    fields: the batch's `text` and `text_number`, a row for each position. positions: of the clips to draw from; None
    for all.
    """

    fields: dict[str, np.ndarray]
    positions: list[int] | None


def texts_of(config: ConfigDict) -> ClipTexts:
    """The texts of the config's clips.

    Raises:
      UserError: no table, vectors of another size than the model takes, or no clip of the data that has a text.
    """
    table = _table(config)
    if table.dim != config.model.text_dim:
        raise UserError(
            f"text.path: vectors have {table.dim} numbers and model.text_dim is {config.model.text_dim}: set "
            f"--config.model.text_dim={table.dim}"
        )
    records = open_data(config.data)
    rows = table.rows_of(records.clip_ids)
    if not (rows >= 0).any():
        raise UserError(
            f"none of the {len(records)} clips has a text in {config.text.path}: its clip_id are to be the data's own, "
            f"such as {records.clip_ids[0]}"
        )
    rows = np.concatenate([np.full(records.first_position, -1), rows])
    has = rows >= 0
    fields = {
        "text": np.where(has[:, None], table.embedding[rows], np.float32(0)),
        "text_number": np.where(has, table.number[rows], np.int32(-1)),
    }
    return ClipTexts(fields, np.flatnonzero(has).tolist() if config.text.clips == "described" else None)


def remember_tower(config: ConfigDict) -> None:
    """Fills in who made the vectors of the config's texts, where it has any."""
    if "text" in config:
        digest = _table(config).digest
        with config.unlocked():
            config.text.tower_digest = digest


def _table(config: ConfigDict) -> TextTable:
    if not config.text.path:
        raise UserError("text.path is empty: give the folder that avemo describe --tower made, or an .npz")
    return read_table(config.text.path)
