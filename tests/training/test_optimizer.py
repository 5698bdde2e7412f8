"""Schedules, parameter groups and AdamW steps beside the numbers recorded from the PyTorch reference."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from avemo_jax import models
from avemo_jax.config import load_config
from avemo_jax.convert import hicmae
from avemo_jax.models.params import split
from avemo_jax.planning import worker
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import optimizer
from avemo_jax.training.schedules import WarmupCosine, schedules_of
from tests.golden_weights import GOLDEN, golden_weights
from tests.training.tiny import TinyTask, tiny_config

SCHEDULES = json.loads((GOLDEN / "schedules.json").read_text())
GROUPS = json.loads((GOLDEN / "optim_groups.json").read_text())
ADAMW = {path.stem: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("adamw_*.json"))}


@pytest.mark.parametrize("case", SCHEDULES)
def test_learning_rate_and_weight_decay_follow_the_recorded_schedule(case):
    recorded, arrays = SCHEDULES[case], np.load(GOLDEN / "schedules.npz")
    total = recorded["epochs"] * recorded["niter"]
    warmup = recorded.get("warmup_steps", -1)  # the reference's −1: it is by epochs
    warmup = warmup if warmup > 0 else recorded["warmup_epochs"] * recorded["niter"]
    steps = jnp.arange(recorded["length"])
    rate = WarmupCosine(recorded["lr"], recorded["min_lr"], total, warmup)(steps)
    np.testing.assert_allclose(rate, arrays[f"{case}/lr"], rtol=3e-5, atol=1e-7 * recorded["lr"])
    decay = WarmupCosine(recorded["wd"], recorded["wd_end"], total)(steps)
    np.testing.assert_allclose(decay[: len(arrays[f"{case}/wd"])], arrays[f"{case}/wd"], rtol=3e-5)


def test_the_reference_script_is_what_the_base_config_says():
    config = load_config("hicmae:base,reference")
    rate = schedules_of(config, 5000).learning_rate
    np.testing.assert_allclose(
        [rate(0), rate(1), rate(249), rate(250)], [0, 7.53012e-7, 1.875e-4, 1.875e-4], rtol=1e-5
    )


def shapes_of(name, *overrides):
    config = load_config(name, overrides)
    return jax.eval_shape(lambda: split(models.build(config, jax.random.key(0)))[1])


def by_reference_key(values, shapes):
    """Per-parameter values (arrays that broadcast over each of ours) under the reference's names, one number each."""
    full = jax.tree.map(lambda value, leaf: np.broadcast_to(np.float32(value), leaf.shape), values, shapes)
    return {key: float(np.ravel(array)[0]) for key, array in hicmae.to_reference(full).items()}


def depths_in(names):
    """Overrides by which a model has as many blocks as these names of the reference tell of."""

    def blocks(part):
        found = [re.match(rf"{part}\.blocks\.(\d+)\.", name) for name in names]
        return max((1 + int(match[1]) for match in found if match), default=0)

    words = [f"model.depth={blocks('encoder')}", f"model.fusion_depth={blocks('encoder_fusion')}"]
    if decoder := blocks("decoder"):
        words += [f"model.decoder_depth={decoder}", f"model.skip_layers={tuple(range(decoder - 1))}"]
    return words


@pytest.mark.parametrize("case", [case for case in GROUPS if "decay_names" in GROUPS[case]])
def test_pretraining_decays_the_parameters_that_the_reference_decays(case):
    recorded = GROUPS[case]
    shapes = shapes_of("hicmae:base", *depths_in(recorded["decay_names"] + recorded["no_weight_decay_names"]))
    mask = by_reference_key(optimizer.decay_mask(shapes, decay_audio_mask_token=True), shapes)
    assert {key for key, decayed in mask.items() if decayed} == set(recorded["decay_names"])
    assert {key for key, decayed in mask.items() if not decayed} == set(recorded["no_weight_decay_names"])
    corrected = by_reference_key(optimizer.decay_mask(shapes, decay_audio_mask_token=False), shapes)
    assert {key for key in mask if mask[key] != corrected[key]} == {"mask_token_audio"}


@pytest.mark.parametrize("case", [case for case in GROUPS if "per_param" in GROUPS[case]])
def test_fine_tuning_scales_and_decays_each_parameter_as_the_reference(case):
    recorded, layer_decay = GROUPS[case]["per_param"], GROUPS[case]["values"][-2]
    shapes = shapes_of("finetune/crema_d:base", *depths_in(recorded))
    scales = by_reference_key(optimizer.layer_scales(shapes, layer_decay), shapes)
    mask = by_reference_key(optimizer.decay_mask(shapes, decay_audio_mask_token=True), shapes)
    assert set(scales) == set(recorded)
    for key, row in recorded.items():
        assert scales[key] == pytest.approx(row["lr_scale"], rel=1e-6), key
        assert bool(mask[key]) == (row["weight_decay"] > 0), key


SIZES = {  # a fixture's name → the config's
    **{name: name for name in ("dim", "heads", "depth", "classes", "frames")},
    **{"fdepth": "fusion_depth", "ddim": "decoder_dim", "dheads": "decoder_heads", "ddepth": "decoder_depth"},
    **{"skip": "skip_layers", "img": "image_size"},
}


def fixture_shapes(config):
    """Shapes of the model that a fixture's `config` describes."""
    audio = zip(("audio_frames", "mel_bins"), config["audio"], strict=True)
    sizes = {ours: config[name] for name, ours in SIZES.items() if name in config} | dict(audio)
    words = [f"model.{name}={tuple(v) if isinstance(v, list) else v}" for name, v in sizes.items()]
    return shapes_of("hicmae:demo" if "ddim" in config else "finetune/crema_d:demo", *words)


@pytest.mark.parametrize("case", ADAMW)
def test_adamw_steps_are_the_recorded_ones(case):
    recorded, tensors = ADAMW[case], np.load(GOLDEN / f"{case}.npz")
    source = recorded["source"]
    config = json.loads((GOLDEN / f"{source}_info.json").read_text())["config"]
    reference_grads = load_file(GOLDEN / f"{source}_grads.safetensors")
    shapes = fixture_shapes(config)
    start = golden_weights({key: grad.shape for key, grad in reference_grads.items()}, config["salt"])
    params = hicmae.from_reference(start, shapes, source)
    grads = hicmae.from_reference(reference_grads, shapes, source)
    rates, decays = jnp.asarray(recorded["lr"]), jnp.asarray(recorded["weight_decay"])
    b1, b2 = recorded["betas"]
    scales = optimizer.layer_scales(shapes, recorded["layer_decay"]) if recorded["layer_decay"] else None
    transform = optimizer.adamw(
        params,
        rate=lambda step: rates[step],
        decay=lambda step: decays[step],
        b1=b1,
        b2=b2,
        eps=recorded["eps"],
        decay_audio_mask_token=True,
        scales=scales,
    )
    state = transform.init(params)
    update = jax.jit(transform.update)
    for step, multiplier in enumerate(recorded["grad_multiplier"]):
        scaled = optax.tree.scale(np.float32(multiplier), grads)
        updates, state = update(scaled, state, params)
        params = optax.apply_updates(params, updates)
        ours = hicmae.to_reference(params)
        for key, sums in recorded["steps"][step].items():
            moved = np.float64(ours[key]) - np.float64(start[key])
            assert np.linalg.norm(moved) == pytest.approx(sums["delta_l2"], rel=2e-4), (step, key)
            assert np.linalg.norm(np.float64(ours[key])) == pytest.approx(sums["l2"], rel=1e-6), (step, key)
        for key in recorded["full_tensors"]:
            np.testing.assert_allclose(ours[key], tensors[f"step{step + 1}/{key}"], atol=2e-7, rtol=2e-6)


@pytest.mark.parametrize(
    ("freeze", "still", "moved"),
    [
        (
            ("freeze.layers=2",),
            (
                "encoder.patch_embed.proj.weight",
                "encoder.blocks.1.attn.q_bias",
                "encoder_audio.blocks.0.norm1.weight",
            ),
            (
                "encoder.blocks.2.attn.q_bias",
                "encoder_fusion.blocks.0.norm1.weight",
                "encoder.norm.weight",
                "head.bias",
            ),
        ),
        (
            ("freeze.encoders=true",),
            (
                "encoder.patch_embed.proj.bias",
                "encoder_audio.blocks.3.mlp.fc1.weight",
                "encoder_fusion.norm.weight",
            ),
            ("head.weight", "head.bias", "fc_norm.weight", "video_layer_weights"),
        ),
    ],
)
def test_frozen_parts_neither_move_nor_decay_nor_count_when_clipping(freeze, still, moved):
    sizes = ("model.dim=64", "model.heads=4", "model.depth=4")
    words = (*sizes, *freeze, "optimizer.clip_norm=1.0", "optimizer.warmup_share=0.0")
    config = load_config("finetune/crema_d:demo", words)
    shapes = shapes_of("finetune/crema_d:demo", *sizes)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    grads = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)
    transform = optimizer.make_optimizer(config, params, schedules_of(config, 10))
    update = jax.jit(transform.update, compiler_options={"xla_backend_optimization_level": 0})
    updates, _ = update(grads, transform.init(params), params)
    by_name = hicmae.to_reference(
        jax.tree.map(lambda u, leaf: jnp.broadcast_to(u, leaf.shape), updates, shapes)
    )
    for name in still:
        assert not np.any(by_name[name]), name
    for name in moved:
        assert np.all(by_name[name] < 0), name


@pytest.mark.parametrize("case", [case for case in ADAMW if ADAMW[case].get("clip_grad")])
def test_clipping_scales_the_gradient_to_the_recorded_norms(case):
    recorded = ADAMW[case]["clip_grad"]
    grads = load_file(GOLDEN / f"{ADAMW[case]['source']}_grads.safetensors")
    clip = optax.clip_by_global_norm(recorded["max_norm"])
    clipped, _ = clip.update(grads, clip.init(grads))
    assert float(optax.tree.norm(grads)) == pytest.approx(recorded["total_norm_before"], rel=1e-5)
    for key, norm in recorded["l2_after"].items():
        assert float(jnp.linalg.norm(clipped[key].ravel())) == pytest.approx(norm, rel=1e-4)


def test_runs_of_other_lengths_and_rates_take_the_same_program(monkeypatch):
    monkeypatch.setattr(worker, "make_task", TinyTask)  # quick to lower

    def program(*overrides):
        config = tiny_config(*overrides)
        mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
        return worker.trace_step(config, mesh)[0].lower().as_text()

    longer = ("total_steps=900", "optimizer.learning_rate=1e-3", "optimizer.warmup_share=0.5")
    assert program() == program(*longer)
    assert program() != program("optimizer.b2=0.9")
