"""The models as a whole: initial statistics, drop path, remat, precision."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avemo_jax import models, tasks
from avemo_jax.batch import TokenMask
from avemo_jax.config import load_config
from avemo_jax.convert import hicmae
from avemo_jax.errors import UserError
from avemo_jax.models.decoders import SkipDecoder
from avemo_jax.models.layers import DropPath, drop_path_rates
from avemo_jax.models.params import flatten, split
from avemo_jax.tasks import pretrain
from tests.golden_weights import GOLDEN
from tests.tasks.small import fresh

TINY = (
    "model.dim=32",
    "model.heads=2",
    "model.decoder_dim=16",
    "model.decoder_heads=2",
    "model.image_size=32",
    "batch_size=4",
)
QUICKLY = {"xla_backend_optimization_level": 0}  # run once: compiling is what takes time
INIT = json.loads((GOLDEN / "init_stats.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "name"), [("pretrain_dim384", "hicmae:small"), ("finetune_dim384", "finetune/crema_d:small")]
)
def test_initial_weights_have_the_statistics_of_the_reference(table, name):
    config = load_config(name)
    params = jax.jit(lambda: split(models.build(config, jax.random.key(0)))[1], compiler_options=QUICKLY)()
    state = hicmae.to_reference(params)
    assert list(state) == list(INIT[table])
    for key, recorded in INIT[table].items():
        tensor = state[key]
        error = recorded["std"] / np.sqrt(tensor.size)  # of a mean
        assert abs(tensor.mean() - recorded["mean"]) <= 9 * error + 1e-9, key
        assert tensor.std() == pytest.approx(
            recorded["std"], rel=6 / np.sqrt(tensor.size) + 0.01, abs=1e-9
        ), key
        largest = max(abs(recorded["min"]), abs(recorded["max"]))
        assert np.abs(tensor).max() <= 1.5 * largest + 1e-9, key


def random_batch(config):
    rng = np.random.default_rng(0)
    batch = {}
    for name, struct in tasks.make_task(config).batch_shapes().items():
        shape = struct.shape
        batch[name] = np.asarray(
            rng.integers(0, 200, shape) if struct.dtype != jnp.float32 else np.zeros(shape), struct.dtype
        )
    batch["waveform_length"][:] = batch["waveform"].shape[1]
    batch["position"] = np.arange(config.batch_size, dtype=np.int32)
    if "label" in batch:
        batch["label"] %= config.model.classes
    return batch


def loss_of(config):
    task = tasks.make_task(config)
    batch = random_batch(config)
    loss, metrics = jax.jit(task.loss, compiler_options=QUICKLY)(fresh(task, 1), batch, jax.random.key(2))
    return float(loss), metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hicmae:demo", "finetune/crema_d:demo"])
def test_remat_and_bfloat16_keep_the_loss(name):
    overrides = TINY if name.startswith("hicmae") else tuple(o for o in TINY if "decoder" not in o)
    exact, _ = loss_of(load_config(name, overrides))
    rematted, _ = loss_of(load_config(name, (*overrides, "remat=full")))
    half, _ = loss_of(load_config(name, (*overrides, "dtype=bfloat16")))
    assert rematted == pytest.approx(exact, rel=1e-6)
    assert half == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_the_rows_clips_have():
    config = load_config("hicmae:demo", TINY)
    task, batch = tasks.make_task(config), random_batch(config)
    model = fresh(task, 1)
    loss = jax.jit(lambda batch: task.loss(model, batch, jax.random.key(2))[0], compiler_options=QUICKLY)
    order = np.array([2, 0, 3, 1])
    shuffled = {name: array[order] for name, array in batch.items()}
    assert float(loss(shuffled)) == pytest.approx(float(loss(batch)), rel=1e-6)


def test_reconstruction_pictures_show_three_rows_a_clip():
    config = load_config("hicmae:demo", TINY)
    task, batch = tasks.make_task(config), random_batch(config)
    pictures = task.figures(fresh(task, 1), batch, jax.random.key(2))
    picture = pictures["reconstruction"]
    assert picture.dtype == np.uint8 and picture.shape == (4 * 3 * 32 + 3 * 4, 8 * 32 + 256, 3)


def test_pictures_have_the_masks_of_their_step(monkeypatch):
    ratios = ("mask.choices=((0.25,0.25),(0.75,0.75))", "mask.repeats=2")
    config = load_config("hicmae:demo", (*TINY, *ratios))
    task, batch = tasks.make_task(config), random_batch(config)
    drawn, seen, model = [], [], fresh(task, 1)
    monkeypatch.setattr(pretrain, "reconstruction_grid", lambda clip, masks, *_: drawn.append(masks))
    for seed in range(4):
        key = jax.random.key(seed)
        task.figures(model, batch, key)
        own, _ = task._predict(lambda clip, masks, keys: masks, batch, key, None, int(task.choice(key)))
        for shown, hidden in zip(drawn.pop(), own, strict=True):
            np.testing.assert_array_equal(shown.visible, hidden.visible[::2])
        seen.append(own.audio.visible.shape)
    assert len(set(seen)) == 2


def test_drop_path_drops_whole_branches_of_clips_and_scales_the_rest():
    keys = jax.random.split(jax.random.key(0), 4000)
    kept = np.asarray(DropPath(0.1, keys)(jnp.ones((4000, 2, 3))))
    assert (kept == kept[:, :1, :1]).all()
    assert set(np.unique(kept).tolist()) == {0.0, float(np.float32(1 / 0.9))}
    assert kept[:, 0, 0].mean() == pytest.approx(1.0, abs=0.03)


def test_drop_path_rates_grow_as_recorded():
    recorded = json.loads((GOLDEN / "optim_groups.json").read_text())
    cases = [case["drop_path_0p1"] for case in recorded.values() if "drop_path_0p1" in case]
    assert cases
    for rates in (each for case in cases for each in case.values()):
        np.testing.assert_allclose(drop_path_rates(0.1, len(rates)), rates, atol=1e-8)


def test_parameters_are_float32_whatever_the_activations_are():
    config = load_config("hicmae:demo", (*TINY, "dtype=bfloat16"))
    params = jax.eval_shape(lambda: split(models.build(config, jax.random.key(0)))[1])
    assert {leaf.dtype for leaf in flatten(params).values()} == {jnp.dtype("float32")}


@pytest.mark.parametrize("skips", [True, False])
def test_a_decoder_without_skips_has_plain_blocks_and_sees_no_encoder_layer(skips):
    sizes = {"encoder_dim": 8, "dim": 12, "heads": 2, "depth": 3, "patch_dim": 5, "tokens": 6}
    decoder = SkipDecoder(**sizes, skips=skips, rngs=nnx.Rngs(0))
    assert any("cross_attn" in path for path in flatten(split(decoder)[1])) == skips
    mask = TokenMask(jnp.asarray([[0, 2], [3, 4]]), jnp.asarray([[1, 3, 4, 5], [0, 1, 2, 5]]))
    tokens, layers = jax.random.normal(jax.random.key(1), (2, 2, 8)), jnp.ones((2, 2, 2, 8))
    seen = decoder(tokens, layers, mask)
    assert seen.shape == (2, 4, 5)
    assert np.array_equal(seen, decoder(tokens, layers.at[0, 0, 0, 0].set(3.0), mask)) == (not skips)


@pytest.mark.parametrize(
    "override",
    ["model.heads=5", "model.skip_layers=(1,2)", "model.skip_layers=(1,3,9)", "remat=some", "dtype=half"],
)
def test_sizes_that_make_no_model_are_refused(override):
    with pytest.raises(UserError, match="does not make a model"):
        models.build(load_config("hicmae:demo", (override,)), jax.random.key(0))
