"""Contrast beside an independent NumPy version."""

import numpy as np
import pytest
from scipy.special import logsumexp

from avemo_jax.errors import UserError
from avemo_jax.objectives.contrastive import hierarchical_contrast

RNG = np.random.default_rng(0)
VIDEO, AUDIO = (RNG.standard_normal((3, 8, 5)).astype(np.float32) for _ in range(2))


def numpy_contrast(video, audio, temperature):
    total = 0.0
    for v, a in zip(video.astype(np.float64), audio.astype(np.float64), strict=True):
        v, a = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, a))
        logits = v @ a.T / temperature
        rows = logsumexp(logits, axis=1) - np.diag(logits)
        columns = logsumexp(logits, axis=0) - np.diag(logits)
        total += 0.5 * (rows.mean() + columns.mean())
    return total


def test_global_negatives_are_the_whole_batch():
    loss, metrics = hierarchical_contrast(VIDEO, AUDIO, temperature=0.07)
    assert float(loss) == pytest.approx(numpy_contrast(VIDEO, AUDIO, 0.07), rel=1e-5)
    assert float(metrics["loss_contrast"]) == float(loss)


def test_local_negatives_are_the_mean_over_groups_of_neighbours():
    loss, _ = hierarchical_contrast(VIDEO, AUDIO, temperature=0.1, negatives="local", group_size=4)
    halves = [numpy_contrast(VIDEO[:, rows], AUDIO[:, rows], 0.1) for rows in (slice(0, 4), slice(4, 8))]
    assert float(loss) == pytest.approx(np.mean(halves), rel=1e-5)


def test_matching_pairs_are_found_when_the_modalities_agree():
    _, metrics = hierarchical_contrast(VIDEO, VIDEO, temperature=0.07)
    assert float(metrics["contrast_accuracy"]) == 1.0


@pytest.mark.parametrize("options", [{"negatives": "local", "group_size": 3}, {"negatives": "near"}])
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(UserError, match="contrast"):
        hierarchical_contrast(VIDEO, AUDIO, temperature=0.07, **options)
