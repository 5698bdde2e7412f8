"""A batch in microbatches: the same loss and gradients as at once, contrast over the whole batch included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import augmentation
from avemo_jax.errors import UserError
from avemo_jax.models.params import flatten, split
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.gradients import loss_and_grads
from tests.tasks.small import batch, fresh, task

CLIPS = 8


def computed(devices, *overrides, lacking=()):
    """(loss, terms, gradients by path) of one batch, in which these clips have no sound."""
    made, of = task(*overrides, clips=CLIPS), batch(CLIPS)
    of = augmentation.without(of, jnp.zeros(CLIPS, bool), jnp.isin(jnp.arange(CLIPS), jnp.array(lacking)))
    mesh = mesh_lib.make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    graphdef, params = split(fresh(made))
    of = jax.device_put(of, mesh_lib.batch_shardings(of, mesh))
    params = jax.device_put(params, mesh_lib.shardings(params, mesh))
    run = jax.jit(
        lambda params, of, key: loss_and_grads(made, graphdef, params, of, key, mesh),
        compiler_options={"xla_backend_optimization_level": 0},  # run once: compiling is what takes time
    )
    (loss, terms), grads = run(params, of, jax.random.key(1))
    return float(loss), {k: float(v) for k, v in terms.items()}, jax.tree.map(np.asarray, flatten(grads))


@pytest.fixture(scope="module")
def at_once():
    return computed(1, "mask.repeats=2")


def assert_same(one, other, exceptions=()):
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    for name, value in one[1].items():
        if name not in exceptions:
            assert other[1][name] == pytest.approx(value, rel=1e-5), name
    for path, grad in one[2].items():
        np.testing.assert_allclose(other[2][path], grad, rtol=1e-4, atol=1e-6 + 1e-5 * np.abs(grad).max())


@pytest.mark.nightly
@pytest.mark.parametrize("devices", [1, 4])
def test_with_cached_embeddings_microbatches_are_contrasted_as_one_batch(devices, at_once):
    assert_same(
        at_once,
        computed(devices, "mask.repeats=2", "accumulate=2", "contrast.cached=True", "contrast.weight=0.0025"),
    )


@pytest.mark.nightly
def test_without_them_each_microbatch_has_its_own_negatives(at_once):
    _, terms, _ = computed(1, "mask.repeats=2", "accumulate=2")
    assert terms["loss_video"] == pytest.approx(at_once[1]["loss_video"], rel=1e-5)
    assert terms["loss_contrast"] < at_once[1]["loss_contrast"] - 0.5  # half as many to be told apart


@pytest.mark.nightly
def test_clips_that_lack_a_stream_count_in_microbatches_as_in_the_whole_batch():
    missing = ("data.allow_missing=true", "contrast.weight=0.0")
    parts = computed(1, *missing, "accumulate=2", lacking=(0, 2, 4))  # of the first microbatch
    assert_same(computed(1, *missing, lacking=(0, 2, 4)), parts)


@pytest.mark.nightly
def test_strong_contrast_has_the_same_gradients_too():
    strong = ("contrast.weight=1.0", "contrast.chunk=4")
    assert_same(
        computed(1, "contrast.weight=1.0"), computed(1, *strong, "accumulate=4", "contrast.cached=True")
    )


def test_a_batch_that_does_not_cut_evenly_is_refused():
    with pytest.raises(UserError, match="batch_size 8 does not cut into 4 microbatches for 4 devices"):
        computed(4, "accumulate=4")
