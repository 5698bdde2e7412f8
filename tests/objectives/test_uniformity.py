"""Uniformity beside the same in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.batch import Outputs, Targets
from avemo_jax.errors import UserError
from avemo_jax.objectives import term_of


def test_it_is_the_log_of_the_mean_heat_between_different_clips():
    video, audio = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
    called, term = term_of("uniformity")
    found = term(Outputs(None, None, jnp.asarray(video), jnp.asarray(audio)), Targets(None, None))
    logs = []
    for vectors in (video[-1].astype(np.float64), audio[-1].astype(np.float64)):
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        heats = [
            np.exp(-2 * np.sum((units[i] - units[j]) ** 2)) for i in range(6) for j in range(6) if i != j
        ]
        logs.append(np.log(np.mean(heats)))
    assert called == "uniformity" and float(found) == pytest.approx(np.mean(logs), rel=1e-5)


def test_a_method_without_vectors_of_clips_is_told_so():
    with pytest.raises(UserError, match="this method gives none"):
        term_of("uniformity")[1](Outputs(None, None, None, None), Targets(None, None))
