"""Nearest clips of other speakers, against brute force."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from avemo_jax.errors import UserError
from avemo_jax.evaluation import nearest


def _clips(count=70, speakers=7, seed=0):
    rng = np.random.default_rng(seed)
    speaker = np.array([f"p{n}" for n in rng.integers(0, speakers, count)])
    speaker[:4] = ""  # nobody knows whose
    return rng.normal(size=(count, 12)).astype(np.float32), speaker


@pytest.mark.parametrize("index", nearest.INDEXES)
def test_the_nearest_of_other_speakers_are_found(index):
    if index == "faiss":
        pytest.importorskip("faiss")
    vectors, speaker = _clips()
    queries = np.array([0, 5, 69, 3, 20])
    rows, similar = nearest.search(vectors, queries, speaker, 6, index)
    every = cosine_similarity(vectors)
    for query, found, how in zip(queries, rows, similar, strict=True):
        others = [
            n for n in range(70) if n != query and (speaker[n] != speaker[query] or speaker[query] == "")
        ]
        best = sorted(others, key=lambda n: -every[query, n])[:6]
        assert found.tolist() == best
        np.testing.assert_allclose(how, every[query, best], atol=1e-5)


def test_an_index_is_kept_and_read_again_for_the_same_features_alone(tmp_path):
    faiss = pytest.importorskip("faiss")
    vectors, speaker = _clips()
    said = []

    def search(vectors):
        return nearest.search(vectors, np.arange(70), speaker, 6, "faiss", tmp_path, said.append)

    first = search(vectors)
    (path,) = tmp_path.iterdir()
    assert faiss.read_index(str(path)).ntotal == 70 and "kept in" in said[-1]
    time = path.stat().st_mtime_ns
    for found, before in zip(search(vectors), first, strict=True):
        np.testing.assert_array_equal(found, before)
    assert path.stat().st_mtime_ns == time and "is that of" in said[-1]
    search(vectors[::-1])
    assert len(list(tmp_path.iterdir())) == 2 and "kept in" in said[-1]
    path.write_bytes(path.read_bytes()[:100])  # damaged: made again
    np.testing.assert_array_equal(search(vectors)[0], first[0])
    assert "kept in" in said[-1] and path.stat().st_size > 100


def test_where_there_are_not_enough_others_places_stay_empty():
    vectors, _ = _clips(6)
    rows, _ = nearest.search(vectors, np.arange(6), np.array(list("aaaaab")), 3)
    assert (rows[:5, 0] == 5).all() and (rows[:5, 1:] == -1).all() and (rows[5] >= 0).all()


def test_agreement_is_counted_over_neighbours_and_chance_over_all_others():
    vectors, speaker = _clips()
    rng = np.random.default_rng(1)
    values = np.array(["", "sad", "joy", "fear"])[rng.integers(0, 4, 70)]
    queries = np.arange(70)
    rows, _ = nearest.search(vectors, queries, speaker, 5)
    found = nearest.agreement(rows, queries, values, speaker)
    same, chances = [], []
    for query in queries:
        if not values[query]:
            continue
        same += [values[n] == values[query] for n in rows[query] if values[n]]
        others = [
            n
            for n in queries
            if n != query and (speaker[n] != speaker[query] or not speaker[query]) and values[n]
        ]
        chances.append(np.mean([values[n] == values[query] for n in others]))
    assert found["n"] == (values != "").sum()
    assert found["precision"] == pytest.approx(np.mean(same)) and found["chance"] == pytest.approx(
        np.mean(chances)
    )
    assert found["precision_ci95"][0] <= found["precision"] <= found["precision_ci95"][1]
    nothing = {"n": 0, "precision": None, "precision_ci95": None, "chance": None}
    assert nearest.agreement(rows, queries, np.full(70, ""), speaker) == nothing
    alone, _ = nearest.search(vectors, queries, np.full(70, "p0"), 5)  # clips of one speaker have no others
    assert nearest.agreement(alone, queries, np.full(70, "joy"), np.full(70, "p0")) == nothing | {"n": 70}


def test_an_unknown_index_is_refused():
    vectors, speaker = _clips(6)
    with pytest.raises(UserError, match="no 'annoy'; there are exact, faiss"):
        nearest.search(vectors, np.arange(6), speaker, 3, "annoy")
