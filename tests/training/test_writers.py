"""Metrics and pictures: rows that are there once, strict JSON, and extras that say how to install them."""

from __future__ import annotations

import builtins
import json
import math

import numpy as np
import pytest

from avemo_jax.errors import UserError
from avemo_jax.training.writers import FolderWriter, make_writers
from tests.training.tiny import tiny_config


@pytest.mark.parametrize(
    "damage", ["", '{"step": 4, "los', "\x00\x00\x00", "[1, 2]\n", '{"loss": 1.0}\n', '{"step": null}\n']
)
def test_rows_after_the_resumed_step_and_damaged_ones_are_taken_back(damage, tmp_path):
    writer = FolderWriter(tmp_path)
    writer.rewind(0)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": 1.0 / step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(damage)
    writer.rewind(2)
    writer.scalars(3, {"loss": 9.0})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 9.0}]


def test_a_number_that_is_none_is_null_and_the_line_stays_strict_json(tmp_path):
    writer = FolderWriter(tmp_path)
    writer.rewind(0)
    writer.scalars(1, {"loss": math.nan, "grad_norm": math.inf})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "loss": None, "grad_norm": None}


@pytest.mark.parametrize("extra, package", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_an_extra_that_is_missing_is_named(extra, package, tmp_path, monkeypatch):
    imports = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return imports(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=rf"pip install 'avemo_jax\[{extra}\]'"):
        make_writers(tmp_path, tiny_config(f"log.{extra}=True"))


def test_tensorboard_gets_the_numbers_and_pictures(tmp_path):
    pytest.importorskip("tensorboardX")
    _, writer = make_writers(tmp_path, tiny_config("log.tensorboard=True"))
    writer.rewind(0)
    writer.scalars(1, {"loss": 0.5})
    writer.images(1, {"picture": np.zeros((4, 6, 3), np.uint8)})
    writer.rewind(1)
    writer.scalars(2, {"loss": 0.25})
    writer.close()
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"loss" in events and b"picture" in events


def test_wandb_keeps_one_run_for_the_folder(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    ids = []
    for step in (1, 2):
        _, writer = make_writers(tmp_path, tiny_config("log.wandb=True"))
        writer.rewind(step - 1)
        writer.scalars(step, {"loss": 0.5})
        writer.images(step, {"picture": np.zeros((4, 6, 3), np.uint8)})
        writer.close()
        ids.append((tmp_path / "wandb_id").read_text())
    assert ids[0] == ids[1]
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}"))
