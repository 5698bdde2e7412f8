"""Distillation: against SciPy's divergences, and what must hold at every temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from avemo_jax.objectives.distillation import DISTILLATION, softened

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 2, (2, 5, 4))


def told(kind):
    """What a teacher with these logits tells, before it is softened."""
    return {
        "class": special.softmax(TEACHER, -1),
        "distribution": special.softmax(TEACHER, -1),
        "multi_label": special.expit(TEACHER),
        "values": TEACHER,
    }[kind]


def expected(kind, temperature):
    student, teacher = STUDENT / temperature, TEACHER / temperature
    if kind == "values":
        return np.square(STUDENT - TEACHER).mean(-1)
    if kind == "multi_label":
        of, to = special.expit(teacher), special.expit(student)
        return temperature**2 * (special.rel_entr(of, to) + special.rel_entr(1 - of, 1 - to)).mean(-1)
    return temperature**2 * special.rel_entr(special.softmax(teacher, -1), special.softmax(student, -1)).sum(
        -1
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("kind", list(DISTILLATION))
def test_each_clip_s_distance_is_scipy_s(kind, temperature):
    taught = softened(told(kind), kind, temperature)
    found = DISTILLATION[kind](jnp.asarray(STUDENT), jnp.asarray(taught), temperature)
    np.testing.assert_allclose(found, expected(kind, temperature), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", list(DISTILLATION))
def test_a_student_that_says_the_same_has_nothing_to_learn(kind, temperature):
    taught = jnp.asarray(softened(told(kind), kind, temperature))
    distance = lambda outputs: DISTILLATION[kind](outputs, taught, temperature).sum()  # noqa: E731
    value, slope = jax.value_and_grad(distance)(jnp.asarray(TEACHER))
    assert abs(float(value)) < 1e-5 and float(jnp.abs(slope).max()) < 1e-5


def test_values_are_no_logits():
    """Both raised by the same is no difference to a softmax."""
    raised = jnp.asarray(TEACHER) + 1.0
    assert DISTILLATION["values"](raised, jnp.asarray(TEACHER), 1.0) == pytest.approx(np.ones(5), abs=1e-5)


@pytest.mark.parametrize("kind", ["class", "multi_label"])
def test_certainty_is_learnt_without_infinities(kind):
    taught = softened(np.eye(4)[:3], kind, 2.0)
    np.testing.assert_array_equal(taught, np.eye(4)[:3])
    value, slope = jax.value_and_grad(lambda x: DISTILLATION[kind](x, jnp.asarray(taught), 2.0).sum())(
        jnp.zeros((3, 4))
    )
    assert np.isfinite(value) and np.isfinite(slope).all() and float(value) > 0
