"""The job of a person whose data and runs are on object storage: train, resume, probe, report, export."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from avemo_jax import paths
from avemo_jax.cli import main
from avemo_jax.provenance import read_calls
from input_pipeline.stores import CACHE
from tests import object_stores
from tests.evaluation import synthetic
from tests.processes import environment
from tests.training.random_clips import SMALL
from tests.training.tiny import ROOT, losses_of


@pytest.mark.nightly
@pytest.mark.parametrize("scheme", object_stores.SCHEMES)
def test_a_run_on_object_storage_is_trained_resumed_probed_reported_and_handed_over(
    scheme, tmp_path, monkeypatch, compiled_once
):
    with object_stores.running(scheme, tmp_path) as variables:
        for name, value in {**variables, CACHE: str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        bucket = object_stores.make_bucket(scheme)
        synthetic.write_folder(tmp_path / "data")
        object_stores.upload(tmp_path / "data", f"{bucket}/data")
        run, data, out = f"{bucket}/runs/first", f"{bucket}/data", tmp_path / "out"

        words = [f"--config.{item}" for item in (*SMALL, f"data.path={data}", "data.workers=0")]
        words.append("--config.checkpoint.every_steps=1")
        command = ["train", "--config", "hicmae:demo", "--workdir", run, *words]
        for start in ("first", "second"):
            if start == "second":  # as a kill leaves it
                (paths.to_path(run) / "checkpoints" / "00000003" / "manifest.json").unlink()
            done = subprocess.run(
                [sys.executable, "-m", "avemo_jax", *command],
                env=environment(1), cwd=ROOT, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        said = done.stdout
        assert "resuming at step 2 of 3" in said and f"results are in {run}" in said
        assert sorted(losses_of(paths.to_path(run))) == [1, 2, 3]

        probe = ["probe", "--checkpoint", run, "--data", data, "--label", "tone", "--out", f"{run}/probe"]
        assert main([*probe, "--features", "cat4", "--random_seeds", "0", "--batch_size", "16"]) == 0
        rows = json.loads((paths.to_path(run) / "probe" / "rows.json").read_text())
        assert {row["step"] for row in rows if row["weights"] == "checkpoint"} == {3}

        assert main(["report", run, "--clips", "0", "--rollouts", "0"]) == 0
        page = (paths.to_path(run) / "report.html").read_text(encoding="utf-8")
        assert "data:image/jpeg;base64," in page and "tone" in page

        weights = out / "weights.safetensors"
        assert main(["export", "--checkpoint", run, "--format", "safetensors", "--out", str(weights)]) == 0
        tensors = safetensors.numpy.load_file(weights)
        assert tensors and all(np.isfinite(tensor).all() for tensor in tensors.values())
        assert [call["command"].split()[1] for call in read_calls(paths.to_path(run))] == [
            "train",
            "train",
            "export",
        ]
