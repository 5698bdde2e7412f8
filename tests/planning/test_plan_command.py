"""`avemo plan` from end to end on fake CPU devices, where the whole way is the same but for the TPU's compiler."""

from __future__ import annotations

import importlib.util
import json

import pytest

from avemo_jax.cli import main
from avemo_jax.planning import jobs
from tests.planning.test_report import PROMISED
from tests.training.test_hicmae_run import SMALL

SMALL_STEP = [f"--config.{override}" for override in SMALL]


def plan(*words):
    return main(["plan", "--config", "hicmae:demo", *SMALL_STEP, *words])


@pytest.mark.slow
def test_a_step_divided_over_fsdp_moves_weights_and_gradients_but_no_activations(tmp_path, capsys):
    words = (
        "--topology",
        "cpu:8",
        "--config.mesh.fsdp=4",
        "--batch_per_chip",
        "2",
        "--config.contrast.chunk=4",
    )
    assert plan(*words, "--json", str(tmp_path / "plan.json"), "--out", str(tmp_path / "plan.html")) == 0
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written.keys() >= PROMISED
    assert (written["chips"], written["hosts"], written["batch_per_chip"], written["fits"]) == (8, 1, 2, True)
    assert written["dtype"] == "float32" and written["predicted_step_s"] is None
    assert written["hardware_flops_per_step_per_chip"] * 8 == pytest.approx(
        written["model_flops_per_step"], rel=0.02
    )
    purposes = {row["purpose"] for row in written["collectives"]}
    assert purposes == {"parameters", "gradients", "contrast", "scalar"}
    assert written["replicated"] == []
    assert written["optimizer_shard_bytes"] < 0.35 * written["optimizer_bytes"]  # biases and norms are whole
    assert "<svg" not in (tmp_path / "plan.html").read_text()  # a CPU has no roofline
    printed = capsys.readouterr().out
    assert "clips a chip" in printed and "warning" not in printed


@pytest.mark.parametrize(
    "words, said",
    [
        (("--topology", "v5e:32x32"), "--slices 4"),
        (("--topology", "cpu:8", "--config.mesh.fsdp=3"), "does not fit 8 devices"),
        (("--topology", "cpu:1", "--config.mesh.tensor=2"), "does not fit 1 devices"),
        (("--topology", "cpu:8", "--config.batch_size=12"), "cannot be divided over 8 devices"),
        (("--topology", "cpu:8", "--scaling", "--no_search"), "--scaling needs a TPU topology"),
    ],
)
def test_what_cannot_be_planned_is_one_line(words, said, capsys):
    assert plan(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_without_the_tpus_compiler_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert plan("--topology", "v5e:2x2") == 2
    assert "pip install 'avemo_jax[tpu]'" in capsys.readouterr().err


def test_the_compilers_last_words_are_taken_from_its_noise():
    noise = (
        "WARNING: Logging before InitGoogle()\n"
        "F1123 17:15:03.799967   12702 target.cc:1467] Check failed: chip_bounds().x <= 16 (32 vs. 16)\n"
        "*** Check failure stack trace: ***\n    @ 0x7f\n"
    )
    assert jobs.last_words(noise) == "target.cc:1467] Check failed: chip_bounds().x <= 16 (32 vs. 16)"
    assert jobs.last_words("") == "it said nothing"
