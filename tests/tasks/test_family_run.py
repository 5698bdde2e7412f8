"""Every method beside HiCMAE through the commands: trained on real clips, probed, its features written, planned."""

from __future__ import annotations

import contextlib
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.models.params import merge, split
from avemo_jax.tasks import clips, make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.checkpoints import load_params
from avemo_jax.training.loop import train
from tests.evaluation import synthetic
from tests.tasks.small import fresh
from tests.tasks.test_family import marked

SMALL = (
    *("model.dim=32", "model.heads=2", "model.depth=2", "model.decoder_dim=16", "model.decoder_heads=2"),
    *(
        "model.decoder_depth=1",
        "model.frames=4",
        "model.image_size=32",
        "model.audio_frames=64",
        "batch_size=8",
    ),
    *(
        "total_steps=30",
        "log.every_steps=1",
        "log.samples_every_steps=30",
        "mask.repeats=1",
        "data.crop=none",
    ),
    *("optimizer.warmup_share=0.0", "optimizer.learning_rate=0.2", "data.audio_gain=False", "data.workers=0"),
)
FLAGS = [f"--config.{word}" for word in SMALL]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled") / "data"
    synthetic.write_folder(folder)
    return folder


@pytest.mark.parametrize("method", marked("audio_mae", "mjepa"))
def test_a_method_learns_from_real_clips_and_is_probed(method, prepared_folder, labelled, tmp_path, capsys):
    run = tmp_path / "run"
    config = load_config(f"{method}:demo", [*SMALL, f"data.path={prepared_folder}"])
    task = make_task(config)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    with contextlib.closing(clips.make_loader(config)) as loader:
        train(task, loader, config, run, mesh)
    with contextlib.closing(clips.make_loader(config)) as loader:
        first = next(iter(loader))
    of = {name: first[name] for name in task.batch_shapes()}
    learnt = jax.tree.map(jnp.asarray, load_params(run)[1])
    graphdef, begun = split(fresh(task))
    # A teacher moves while it is learnt from: both are asked about the one that the run ended with.
    teacher = {"teacher": merge(graphdef, learnt)} if task.learns_from_average else {}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def loss(params):
        return task.loss(merge(graphdef, params), of, jax.random.key(0), **teacher)[0]

    assert float(loss(learnt)) < 0.995 * float(loss(begun))
    assert bool(list((run / "samples").glob("*.png"))) == (
        method != "mjepa"
    )  # what that predicts is no picture

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
