"""Weights that change over the steps: the factors, and that the loop's step reaches them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.batch import Outputs, Targets
from avemo_jax.models.params import split
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.gradients import loss_and_grads
from tests.tasks.small import batch, fresh, task

RAMPS = "objectives.ramps=(('contrast',0,1,2,6),('video',1,0.5,0,10),('video',1,0,20,40))"


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_factor_goes_from_one_value_to_the_other_between_two_steps(shape):
    weighing = task(RAMPS, f"objectives.ramp={shape}").weighing
    found = {
        step: {name: float(value) for name, value in weighing.factors(step).items()} for step in range(45)
    }

    def ramp(first, last, start, end, step):
        share = min(max((step - start) / (end - start), 0), 1)
        share = share if shape == "linear" else 0.5 - 0.5 * np.cos(np.pi * share)
        return first + (last - first) * share

    for step, factors in found.items():
        assert factors["contrast"] == pytest.approx(ramp(0, 1, 2, 6, step), abs=1e-6)
        both = ramp(1, 0.5, 0, 10, step) * ramp(1, 0, 20, 40, step)
        assert factors["video"] == pytest.approx(both, abs=1e-6)
    assert found[0]["contrast"] == 0 and found[6]["contrast"] == 1 and found[40]["video"] == 0


def test_the_loss_is_weighed_by_the_factors_of_its_step():
    rng = np.random.default_rng(0)
    levels = [jnp.asarray(rng.standard_normal((2, 3, 8)), jnp.float32) for _ in "va"]
    patches = [jnp.asarray(rng.standard_normal((3, 2, 4)), jnp.float32) for _ in "vava"]
    of = Outputs(*patches[:2], *levels), Targets(*patches[2:])
    made = task(RAMPS, "contrast.weight=0.5")
    _, terms = made.score(*of)
    loss, more = made.score(*of, step=jnp.int32(4))
    expected = 0.8 * terms["loss_video"] + terms["loss_audio"] + 0.5 * 0.5 * terms["loss_contrast"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(more["factor_video"]) == pytest.approx(0.8) and "factor_video" not in terms
    assert made.changes_with_step and not task().changes_with_step


@pytest.mark.nightly
def test_gradients_are_of_the_step_s_weights_also_where_a_batch_is_compared_over_microbatches():
    shared = ("objectives.terms=uniformity", "accumulate=2", "contrast.cached=True")
    made = task("contrast.weight=1.0", RAMPS, *shared, clips=4)
    plain = task("contrast.weight=0.25", "target.video_weight=0.85", *shared, clips=4)  # as it is at step 3
    graphdef, params = split(fresh(made))
    mesh = mesh_lib.make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])

    def run(one):
        compute = jax.jit(
            lambda params, of, step: loss_and_grads(
                one, graphdef, params, of, jax.random.key(1), mesh, step=step
            ),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        return compute(params, batch(4), jnp.int32(3))

    ((here, _), ours), ((there, _), expected) = run(made), run(plain)
    assert float(here) == pytest.approx(float(there), rel=1e-5)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
