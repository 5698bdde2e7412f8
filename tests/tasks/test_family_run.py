"""Every method on real clips: its loss falls; and by commands: trained, probed, its features written, planned."""

from __future__ import annotations

import contextlib
import itertools
import json

import jax
import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.tasks import clips, make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.loop import train
from tests.evaluation import synthetic
from tests.tasks.small import drawn
from tests.tasks.test_family import CONFIGS, EQUATIONS, differentiated, marked, task
from tests.training.tiny import losses_of

SMALL = (
    *("model.dim=32", "model.heads=2", "model.depth=2", "model.decoder_dim=16", "model.decoder_heads=2"),
    *(
        "model.decoder_depth=1",
        "model.frames=4",
        "model.image_size=32",
        "model.audio_frames=64",
        "batch_size=8",
    ),
    *("mask.repeats=1", "data.crop=none", "data.audio_gain=False", "data.workers=0", "total_steps=20"),
    *("log.every_steps=1", "log.samples_every_steps=20"),
    *("optimizer.warmup_share=0.0", "optimizer.learning_rate=0.2"),
)
FLAGS = [f"--config.{word}" for word in SMALL]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled") / "data"
    synthetic.write_folder(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", CONFIGS)
def test_the_loss_of_a_method_falls_on_real_clips(method, prepared_folder):
    """By the program that `test_every_parameter_learns_…` compiles, for some methods; a teacher stays as it was."""
    words = (f"data.path={prepared_folder}", "data.workers=0")
    made = task(method, *EQUATIONS.get(method, ()), *words, count=8)
    with contextlib.closing(clips.make_loader(made.config)) as loader:
        batches = [{name: of[name] for name in made.batch_shapes()} for of in itertools.islice(loader, 3)]
    graphdef, begun = drawn(made)
    run, params = differentiated(made, graphdef, 1), begun
    losses = []
    for number in (*range(12), 0):
        loss, slopes = run(params, begun, batches[number % 3], jax.random.key(number))
        losses.append(loss)
        params = jax.tree.map(lambda x, slope: x - np.float32(0.004) * np.sign(slope), params, slopes)
    assert np.isfinite(losses).all() and losses[-1] < 0.95 * losses[0]  # of the same clips and masks


@pytest.mark.parametrize("method", marked("audio_mae", "mjepa"))
def test_a_run_of_a_method_is_probed_and_its_features_written(
    method, prepared_folder, labelled, tmp_path, capsys
):
    run, config = tmp_path / "run", load_config(f"{method}:demo", [*SMALL, f"data.path={prepared_folder}"])
    made, mesh = make_task(config), mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    with contextlib.closing(clips.make_loader(config)) as loader:
        train(made, loader, config, run, mesh)
    losses = losses_of(run)
    assert (
        made.learns_from_average or losses[20] < 0.95 * losses[1]
    )  # a teacher moves while it is learnt from
    # What mjepa predicts is no picture.
    assert bool(list((run / "samples").glob("*.png"))) == (method != "mjepa")

    words = ["--checkpoint", str(run), "--data", str(labelled)]
    probe = ["--label", "tone", "--random_seeds", "0", "--out", str(tmp_path / "probe")]
    assert main(["probe", *words, *probe, "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {row["feature"] for row in rows if row["weights"] == "checkpoint"}
    seen = {"video": {"video", "video_cells"}, "audio": {"audio", "audio_rows"}}
    wanted = {
        "video_mae": seen["video"],
        "audio_mae": seen["audio"],
        "mjepa": {"cat2", *seen["video"], *seen["audio"]},
    }
    fused = {"cat4", "fused_video", "fused_audio", *seen["video"], *seen["audio"]}
    assert found == wanted.get(method, fused)

    table = tmp_path / "features.npz"
    assert main(["features", *words, "--tokens", "--features", "all", "--out", str(table)]) == 0
    names = set(np.load(table, allow_pickle=False).files)
    assert ("video_tokens" in names, "audio_tokens" in names) == (
        method != "audio_mae",
        method != "video_mae",
    )
    capsys.readouterr()
    assert (
        main(["export", "--checkpoint", str(run), "--format", "safetensors", "--out", str(tmp_path / "x")])
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "for method hicmae only" in line
    if method == "audio_mae":
        assert main(["probe", *words, *probe, "--features", "video"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert (
            "no feature 'video'; there are audio, audio_rows, audio_spans, audio_layer_0 … audio_layer_1"
            in line
        )
        assert main(["evaluate", *words, "--suite", "retrieval", "--out", str(tmp_path / "suites")]) == 2
        assert "looks at one of them only" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["cav_mae", "mjepa"])
def test_a_method_is_planned_and_moves_no_activations(method, tmp_path):
    """`mjepa` holds the average of its parameters too."""
    words = [f"--config.{word}" for word in (*SMALL, "mesh.fsdp=4", "batch_size=16")]
    out = tmp_path / "plan.json"
    assert (
        main(["plan", "--config", f"{method}:demo", *words, "--topology", "cpu:8", "--json", str(out)]) == 0
    )
    plan = json.loads(out.read_text())
    assert plan["fits"] and plan["replicated"] == []
    assert {row["purpose"] for row in plan["collectives"]} <= {
        "parameters",
        "gradients",
        "contrast",
        "scalar",
    }
    assert plan["hardware_flops_per_step_per_chip"] * 8 == pytest.approx(
        plan["model_flops_per_step"], rel=0.05
    )
