"""Retrieval against a plain sort, and its edges."""

import numpy as np
import pytest

from avemo_jax.evaluation import retrieval


@pytest.mark.parametrize("clips", [1, 7, 1500])  # the last is more than one block
def test_ranks_are_those_of_a_full_sort_by_cosine_similarity(clips):
    rng = np.random.default_rng(clips)
    video = rng.standard_normal((clips, 12)).astype(np.float32)
    audio = 0.4 * video + rng.standard_normal((clips, 12)).astype(np.float32)
    similarity = (video / np.linalg.norm(video, axis=1, keepdims=True)) @ (
        audio / np.linalg.norm(audio, axis=1, keepdims=True)
    ).T
    order = np.argsort(-similarity, axis=1)
    expected = np.argmax(order == np.arange(clips)[:, None], axis=1) + 1
    found = retrieval.match_ranks(video, audio)
    assert np.mean(found == expected) > 0.999  # rounding may swap near ties
    assert np.abs(found - expected).max() <= 1


def test_matching_pairs_are_found_and_shuffled_ones_are_at_chance():
    rng = np.random.default_rng(0)
    video = rng.standard_normal((200, 16)).astype(np.float32)
    audio = video + 0.1 * rng.standard_normal((200, 16)).astype(np.float32)
    assert retrieval.summary(retrieval.match_ranks(video, audio))["r1"] > 0.95
    shuffled = retrieval.summary(retrieval.match_ranks(np.roll(audio, 1, axis=0), video))
    assert shuffled["r10"] < 0.15 and 60 < shuffled["median_rank"] < 140


def test_vectors_that_are_all_the_same_rank_last_and_not_first():
    same = np.ones((30, 4), np.float32)
    scores = retrieval.summary(retrieval.match_ranks(same, same))
    assert scores["r1"] == scores["r10"] == 0.0 and scores["median_rank"] == 30
