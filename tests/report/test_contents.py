"""How numbers are chosen and written, and how clips are told apart."""

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from avemo_jax.config import load_config
from avemo_jax.report import contents, embedding, numbers
from avemo_jax.report.clips import MOST_GROUPS, NOTHING, OTHERS, Card, draw, groupings
from avemo_jax.report.embedding import place
from input_pipeline.record import classes_of


@pytest.mark.parametrize(
    "written, expected",
    [
        (numbers.percent(0.67641), "67.6"),
        (numbers.percent(None), "–"),
        (numbers.interval((0.647, 0.7071)), "[64.7, 70.7]"),
        (numbers.value(0.97754), "0.9775"),
        (numbers.value(10.3945), "10.39"),
        (numbers.value(8e-05), "8.00e-05"),
        (numbers.value(0.0006), "6.00e-04"),
        (numbers.value(0), "0"),
        (numbers.value(950), "950"),
        (numbers.value(float("nan")), "–"),
        (numbers.count(30400), "30,400"),
        (numbers.duration(3.21), "3.2 s"),
        (numbers.duration(75.2), "1 min 15 s"),
        (numbers.duration(4000), "1 h 06 min"),
        (numbers.moment("2026-11-24T18:29:59Z"), "2026-11-24 18:29 UTC"),
        (numbers.moment(None), "–"),
        (numbers.metric(0.09375, "contrast_accuracy"), "9.4 %"),
        (numbers.metric(0.09375, "contrast_accuracy_video_text"), "9.4 %"),
        (numbers.metric(0.5, "loss"), "0.5000"),
        (numbers.metric(0.5, "development_uar"), "50.0 %"),
        (numbers.title("development_uar"), "UAR of the development clips"),
        (numbers.title("test_macro_f1"), "Macro f1 of the test clips"),
        (numbers.recall_of("development_mafw_recall_sad"), ("development_mafw", "sad")),
        (numbers.whose("development_mafw"), "the development clips of mafw"),
    ],
)
def test_numbers_are_written_the_same_way_everywhere(written, expected):
    assert written == expected


def test_long_curves_are_thinned_without_changing_a_row_and_keep_the_last():
    rows = [{"step": step} for step in range(1, 10_002)]
    thinned = contents.thin(rows)
    assert len(thinned) <= contents.MOST_POINTS + 1 and thinned[-1] is rows[-1] and thinned[0] is rows[0]
    assert all(row in (rows[row["step"] - 1],) for row in thinned)
    assert contents.thin(rows[:300]) == rows[:300] and contents.thin([]) == []
    looked = [row | ({"development_uar": 0.5} if row["step"] in (77, 5003) else {}) for row in rows]
    kept = contents.thin(looked)
    assert [row["step"] for row in kept if "development_uar" in row] == [77, 5003]
    assert len(kept) <= contents.MOST_POINTS + 3


def test_curves_are_the_loss_its_terms_and_how_it_was_trained_but_no_bookkeeping():
    row = dict.fromkeys(("step", "rollbacks", "grad_norm", "agreement", "loss_video", "loss", "step_s"), 1.0)
    assert contents.curve_keys([row, {"loss_text": None}]) == ["loss", "loss_video", "agreement", "grad_norm"]


def test_configs_are_compared_key_by_key():
    runs = [{"config": {"a": {"b": 1, "c": 2}}}, {"config": {"a": {"b": 1, "c": 3}, "d": 4}}]
    assert contents.differing(runs) == ["a.c", "d"]


def run_of(name, config, **overrides):
    whole = load_config(config, [f"{key}={value}" for key, value in overrides.items()]).to_dict()
    return {"name": name, "task": whole["task"], "config": whole}


def test_what_errors_are_of_follows_from_each_runs_task_and_target():
    patches = run_of("a", "hicmae:demo")
    latents = run_of("b", "mjepa:demo")
    raw = run_of("c", "av_mae:demo")
    tuned = run_of("d", "finetune/crema_d:demo")
    standardised = "mean squared, of patches that were hidden, each standardised."
    assert contents.errors_in_words([patches]) == f"Errors are {standardised}"
    assert (
        contents.errors_in_words([latents])
        == "Errors are mean absolute, of a teacher's tokens of what was hidden."
    )
    assert contents.errors_in_words([raw]) == "Errors are mean squared, of patches that were hidden."
    assert contents.errors_in_words([tuned]) == ""
    assert contents.errors_in_words([patches, tuned]) == f"Errors of a are {standardised}"
    begun = {"name": "e", "task": None, "config": {}}
    assert contents.errors_in_words([begun]) == "" and contents.is_pictured(begun)
    assert [contents.is_pictured(run) for run in (patches, latents, raw, tuned)] == [True, False, True, True]
    assert [contents.is_standardised(run) for run in (patches, raw)] == [True, False]


def test_chance_of_matching_pairs_is_said_where_each_is_compared_with_the_whole_batch():
    asked = {"batch_size": 32, "contrast.negatives": "global"}
    assert contents.by_chance(run_of("a", "hicmae:demo", **asked)) == "By chance 1 of 32."
    for other in ({"contrast.within": "speaker"}, {"contrast.negatives": "local"}, {"accumulate": 2}):
        assert contents.by_chance(run_of("a", "hicmae:demo", **{**asked, **other})) == ""


def _probe(run, split_hash, *lines, split="folds"):
    probe = {"run": run, "label": "tone", "manner": "", "split": split, "split_hash": split_hash}
    lines = [{"feature": name, "weights": weights, "uar": uar} for name, weights, uar in lines]
    return {**probe, "scores": ["uar"]}, lines


def compared(*probes):
    """(feature and words, run → numbers and features that are another) of what is compared."""
    tables = {f"scores-{number}": lines for number, (_, lines) in enumerate(probes)}
    asked = [{**probe, "table": name} for (probe, _), name in zip(probes, tables, strict=True)]
    return [
        (
            row["feature"] + row["words"],
            {run: [(line["uar"], other) for line, other in own] for run, own in row["runs"].items()},
        )
        for row in contents.compared({"probes": asked, "tables": tables})
    ]


def test_runs_are_compared_by_the_same_feature_or_another_one_is_named():
    first = _probe("a", "1", ("cat4", "checkpoint", 0.5), ("video", "checkpoint", 0.4))
    other = _probe(
        "b", "1", ("video", "checkpoint", 0.9), ("cat4", "random", 0.3), ("cat4", "checkpoint", 0.6)
    )
    without = _probe("c", "1", ("fused", "checkpoint", 0.7))
    expected = {"a": [(0.5, "")], "b": [(0.6, "")], "c": [(0.7, "fused")]}
    assert compared(first, other, without) == [("cat4", expected)]


def test_runs_are_not_compared_by_other_clips():
    probes = [
        _probe(run, split_hash * 20, ("cat4", "checkpoint", number), split=split)
        for run, split_hash, split, number in (
            ("a", "1", "folds", 0.1),
            ("b", "2", "folds", 0.2),
            ("c", "3", "split", 0.3),
        )
    ]
    assert compared(*probes) == [
        ("cat4, protocol folds, clips and folds 111111111111", {"a": [(0.1, "")]}),
        ("cat4, protocol folds, clips and folds 222222222222", {"b": [(0.2, "")]}),
        ("cat4, protocol split", {"c": [(0.3, "")]}),
    ]
    assert compared(probes[0]) == [("cat4", {"a": [(0.1, "")]})]


def card(position, speaker, **labels):
    return Card(position, f"clip{position}", speaker, "", "train", "", 1.0, labels)


def test_clips_are_told_apart_by_each_label_and_by_speaker():
    cards = [card(0, "s1", face="a"), card(1, "s2", face="b"), card(2, "s1", face="b"), card(3, "s1")]
    face, speaker = groupings(cards)
    assert (face.key, face.names, face.counts) == ("face", ("b", "a", NOTHING), (2, 1, 1))
    assert face.of == (1, 0, 0, 2) and face.values == ("a", "b", "b", NOTHING)
    assert (speaker.key, speaker.names) == ("speaker", ("s1", "s2"))


def test_of_many_values_the_rare_ones_share_a_group_and_keep_their_own_value():
    cards = [card(i, f"s{i % 20:02d}") for i in range(50)]
    (speaker,) = groupings(cards)
    assert len(speaker.names) == MOST_GROUPS and speaker.names[-1] == OTHERS
    assert sum(speaker.counts) == 50 and len(set(speaker.values)) == 20


def test_numbers_and_votes_are_no_classes():
    labels = {"emotion": "ANG", "level": 2, "valence": 0.5, "votes": {"ANG": 3}, "empty": ""}
    assert classes_of(labels) == {"emotion": "ANG", "level": "2"}


def test_clips_are_drawn_the_same_way_every_time_and_never_twice():
    assert draw(1000, 50, seed=1) == draw(1000, 50, seed=1) != draw(1000, 50, seed=2)
    assert len(set(draw(1000, 400, seed=0))) == 400 and draw(3, 400, seed=0) == [0, 1, 2]


def test_on_a_map_clips_with_like_features_are_neighbours():
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(3), 20)
    features = np.eye(3)[kinds] @ rng.normal(size=(3, 40)) * 5 + rng.normal(size=(60, 40))
    features = np.concatenate([features, np.ones((60, 1))], axis=1)  # one that never changes
    places = place(features)
    assert places.shape == (60, 2) and np.abs(places).max() <= 1
    far = np.square(places[:, None] - places[None]).sum(-1) + 9 * np.eye(60)
    assert (kinds[far.argmin(1)] == kinds).mean() > 0.95
    np.testing.assert_array_equal(place(features), places)


def test_without_scikit_learn_a_map_is_its_first_two_principal_components(monkeypatch):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    scaled = (features - features.mean(0)) / features.std(0)
    expected = PCA(2).fit_transform(scaled)
    monkeypatch.setitem(sys.modules, "sklearn", None)  # as where it is not installed
    assert embedding.placed_by() == "PCA"
    places = place(features)
    for axis in (0, 1):
        assert abs(np.corrcoef(places[:, axis], expected[:, axis])[0, 1]) == pytest.approx(1, abs=1e-6)
    assert places.min() == -1 and places.max() == 1
