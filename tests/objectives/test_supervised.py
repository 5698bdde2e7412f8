"""Losses beside PyTorch's and the reference's recorded ones, on random input."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avemo_jax.objectives import supervised

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED = json.loads((GOLDEN / "metrics.json").read_text())["regression"]
RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((7, 5)).astype(np.float32)
CLASSES = RNG.integers(0, 5, 7)
SHARES = RNG.dirichlet(np.ones(5), 7).astype(np.float32)
SEVERAL = (RNG.random((7, 5)) < 0.4).astype(np.float32)
WEIGHTS = np.array([0.5, 2, 1, 0.1, 3], np.float32)


def t(array):
    return torch.tensor(array)


def test_cross_entropy_of_classes_shares_and_weights_is_pytorch_s():
    cases = [
        (CLASSES, {}, {}),
        (CLASSES, {"smoothing": 0.1}, {"label_smoothing": 0.1}),
        (CLASSES, {"class_weights": WEIGHTS}, {"weight": t(WEIGHTS)}),
        (SHARES, {}, {}),
    ]
    for target, ours, theirs in cases:
        expected = F.cross_entropy(t(LOGITS), t(target), **theirs)
        assert float(supervised.cross_entropy(LOGITS, jnp.asarray(target), **ours)) == pytest.approx(
            float(expected), rel=1e-5
        )


def test_the_soft_target_loss_is_the_reference_s():
    arrays = np.load(GOLDEN / "finetune_tiny_io.npz")
    recorded = json.loads((GOLDEN / "finetune_tiny_info.json").read_text())["other_losses"]
    loss = supervised.cross_entropy(arrays["logits"], jnp.asarray(arrays["soft_target_lam0p37_smooth0p1"]))
    assert float(loss) == pytest.approx(recorded["loss_soft_target"], rel=1e-6)


def test_kl_and_binary_cross_entropy_are_pytorch_s():
    hard = SHARES * (SHARES > 0.2)
    hard /= hard.sum(-1, keepdims=True)  # some shares are nothing
    for target in (SHARES, hard):
        expected = F.kl_div(F.log_softmax(t(LOGITS), -1), t(target), reduction="batchmean")
        assert float(supervised.kl_divergence(LOGITS, target)) == pytest.approx(float(expected), rel=1e-5)
    gradient = jax.grad(lambda logits: supervised.kl_divergence(logits, hard))(jnp.asarray(LOGITS))
    assert np.isfinite(gradient).all()
    expected = F.binary_cross_entropy_with_logits(t(LOGITS), t(SEVERAL), pos_weight=t(WEIGHTS))
    found = supervised.binary_cross_entropy(LOGITS, SEVERAL, class_weights=WEIGHTS)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "theirs"), [("mse", F.mse_loss), ("l1", F.l1_loss), ("smooth_l1", F.smooth_l1_loss)]
)
def test_errors_of_values_are_pytorch_s(name, theirs):
    other = 3 * RNG.standard_normal(LOGITS.shape).astype(np.float32)
    found = supervised.VALUE_LOSSES[name](LOGITS, other)
    assert float(found) == pytest.approx(float(theirs(t(LOGITS), t(other))), rel=1e-5)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{len(case['pred'])}_clips")
def test_losses_of_agreement_are_the_reference_s(case):
    pred, target = (jnp.asarray(case[name], jnp.float32) for name in ("pred", "target"))
    for name in ("ccc", "pcc"):
        recorded = case.get(f"{name}_loss")
        if recorded is not None and np.isfinite(recorded):
            assert float(supervised.VALUE_LOSSES[name](pred, target)) == pytest.approx(recorded, abs=2e-5)


def test_weights_and_priors_follow_the_counts_of_the_classes():
    weights = np.asarray(supervised.balanced_weights((10, 30, 0)))
    assert weights[0] * 10 == pytest.approx(weights[1] * 30) and weights[2] == 0
    assert weights[0] * 10 + weights[1] * 30 == pytest.approx(40 * 2 / 3)
    priors = np.exp(np.asarray(supervised.log_priors((10, 30, 0))))
    assert priors.sum() == pytest.approx(1) and priors[1] == pytest.approx(3 * priors[0]) and priors[2] > 0


def test_with_logits_adjusted_by_priors_a_constant_answer_learns_the_balanced_one():
    """Menon et al. 2021: the loss is least where the unadjusted logits are those of balanced classes."""
    counts, labels = (30.0, 10.0), jnp.asarray([0] * 30 + [1] * 10)
    loss = lambda bias: supervised.cross_entropy(  # noqa: E731
        jnp.broadcast_to(bias, (40, 2)) + supervised.log_priors(counts), labels
    )
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(2)), 0, atol=1e-6)


def test_raters_outputs_are_learnt_from_the_choices_that_they_made():
    logits = RNG.standard_normal((4, 3 * 5)).astype(np.float32)  # of three raters
    choices = RNG.integers(0, 5, (4, 3))
    made = np.array([[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]], bool)
    target = (np.eye(5)[choices] * made[..., None]).astype(np.float32)
    each = logits.reshape(4, 3, 5)
    logs = each - np.log(np.exp(each).sum(-1, keepdims=True))
    expected = -np.mean([logs[b, r, choices[b, r]] for b, r in zip(*np.nonzero(made), strict=True)])
    assert float(supervised.rater_cross_entropy(logits, target)) == pytest.approx(expected, rel=1e-5)
    gradient = np.asarray(jax.grad(supervised.rater_cross_entropy)(jnp.asarray(logits), target)).reshape(
        4, 3, 5
    )
    assert not gradient[~made].any() and gradient[made].any(-1).all()
    expected = F.cross_entropy(t(each[made]), t(choices[made]), weight=t(WEIGHTS))
    found = supervised.rater_cross_entropy(logits, target, class_weights=WEIGHTS)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_penalty_is_paid_for_classes_together_that_hardly_ever_are():
    present = (RNG.random((30, 4)) < 0.5).astype(np.float64)
    present[:, 3] = 0  # no clip has it
    counts = [sum(row[i] * row[j] for row in present) for i in range(4) for j in range(4)]
    unlikely = np.asarray(supervised.unlikely_together(counts))
    for i in range(4):
        for j in range(4):
            both = np.sum(present[:, i] * present[:, j])
            given = [both / max(present[:, k].sum(), 1e-12) for k in (i, j)]
            assert unlikely[i, j] == pytest.approx(0 if i == j else 1 - np.mean(given), abs=1e-6)
    chances = RNG.random((6, 4)).astype(np.float32)
    expected = np.mean(
        [row[i] * row[j] * unlikely[i, j] for row in chances for i in range(4) for j in range(4) if i != j]
    )
    assert float(supervised.co_occurrence_penalty(chances, unlikely)) == pytest.approx(expected, rel=1e-5)
