"""Scores of each kind of target with their intervals, on predictions whose quality is known."""

import json

import numpy as np
import pytest
from sklearn.metrics import recall_score

from avemo_jax.evaluation.intervals import bootstrap, bootstrap_scores
from avemo_jax.evaluation.metrics import classification_scores, confusion_matrix
from avemo_jax.evaluation.outcome_files import ROWS, plain, step_of, table
from avemo_jax.evaluation.outcomes import (
    MAIN_SCORES,
    judged,
    lower_is_better,
    main_scores,
    recalls,
    score_names,
    scores_of,
)
from input_pipeline.targets import RULES, Target

CLASSES = ("a", "b", "c", "d")
RNG = np.random.default_rng(0)
COUNT = 120
SPEAKERS = np.repeat([f"s{i}" for i in range(8)], 15)


def case(rule, noise):
    """(target, predictions, truth): right but for so much noise."""
    if rule == "values":
        truth = RNG.standard_normal((COUNT, 2)).astype(np.float32)
        return Target(rule, ("x", "y")), truth + noise * RNG.standard_normal(truth.shape), truth
    further = {"raters": {"raters": ("r", "s")}, "affect": {"centres": ((0.0, 1.0),) * 4}}.get(rule, {})
    target, labels = Target(rule, ("votes",), CLASSES, **further), RNG.integers(0, 4, COUNT)
    shares = RNG.dirichlet(np.ones(4), COUNT)
    guess = RNG.dirichlet(np.ones(4), COUNT)
    if target.is_class:
        return target, (1 - noise) * np.eye(4)[labels] + noise * guess, labels
    truth = shares if target.kind == "distribution" else (shares > 0.25).astype(float)
    return target, (1 - noise) * truth + noise * guess, truth


@pytest.mark.parametrize("rule", RULES)
def test_better_predictions_score_better_and_intervals_hold_the_score(rule):
    good, bad = (judged(*case(rule, noise), SPEAKERS) for noise in (0.05, 0.95))
    assert MAIN_SCORES[rule] == main_scores(case(rule, 0.5)[0])
    assert good["n"] == COUNT and good["speakers"] == 8
    assert good["ci_unit"] == "speaker" and good["ci_groups"] == 8
    for place, name in enumerate(main_scores(case(rule, 0.5)[0])):
        worse = name in ("js", "kl", "mae", "rmse")
        assert (good[name] < bad[name]) if worse else (good[name] > bad[name]), name
        for row in (good, bad):
            low, high = row["ci95" if place == 0 else f"{name}_ci95"]
            assert low <= row[name] <= high and (low < high or row[name] == 1)
    json.dumps(plain(good), allow_nan=False)


@pytest.mark.parametrize("rule", ["class", "distribution", "multi_label", "values"])
def test_of_every_score_it_is_known_which_way_is_better(rule):
    good, bad = (scores_of(*case(rule, noise)) for noise in (0.05, 0.95))
    for name in good:  # those of each value too
        assert (good[name] < bad[name]) == lower_is_better(name), name


@pytest.mark.parametrize("rule", RULES)
def test_it_is_known_which_scores_the_targets_of_clips_define(rule):
    target, predicted, truth = case(rule, 0.5)
    every, alike = score_names(target, truth), score_names(target, truth[:1].repeat(3, axis=0))
    assert every == list(scores_of(target, predicted, truth))
    undefined = {"values": {"pcc", "pcc_x", "pcc_y"}}.get(rule, {"auc"})
    assert set(every) - set(alike) == undefined


def test_recalls_are_scikit_learn_s():
    for rule in ("class", "distribution", "multi_label"):
        target, predicted, truth = case(rule, 0.9)
        found = recalls(target, predicted, truth)
        if rule == "multi_label":
            expected = recall_score(truth > 0.5, predicted >= 0.5, average=None)
        else:
            classes = truth if rule == "class" else truth.argmax(-1)
            expected = recall_score(classes, predicted.argmax(-1), average=None)
        assert tuple(found) == CLASSES and list(found.values()) == pytest.approx(expected.tolist())
    without = recalls(Target("class", ("x",), CLASSES), np.eye(4)[:2], np.arange(2))
    assert without["a"] == 1 and np.isnan(without["d"]) and not recalls(*case("values", 0.5))


def test_the_interval_of_any_score_is_that_of_the_confusion_matrices():
    labels, guesses = RNG.integers(0, 4, COUNT), RNG.integers(0, 4, COUNT)
    by_matrix = bootstrap(labels, guesses, SPEAKERS, 4, draws=4000)

    def measure(rows):
        return classification_scores(confusion_matrix(labels[rows], guesses[rows], 4))

    by_rows = bootstrap_scores(measure, SPEAKERS, draws=4000)
    for name in ("uar", "war", "wf1"):
        np.testing.assert_allclose(by_rows.bounds[name], by_matrix.bounds[name], atol=0.012)


def test_with_one_speaker_clips_are_resampled_and_what_is_no_number_is_left_out():
    found = bootstrap_scores(lambda rows: {"x": float("nan"), "y": rows.mean()}, np.full(30, "s"), draws=100)
    assert found.unit == "clip" and found.groups == 30
    assert np.isnan(found.bounds["x"]).all() and found.bounds["y"][0] < 14.5 < found.bounds["y"][1]


@pytest.mark.parametrize("label", ["emotion", "speaker"])
def test_a_table_says_nothing_of_new_speakers_where_speakers_are_what_is_told(label):
    target, predicted, truth = case("class", 0.5)
    facts = {"label": label, "target": "class", "split": "within_speakers", "fold": "1", "split_hash": "f00d"}
    facts |= {
        "selection": "last",
        "step": 1,
        "modalities": "video",
        "speaker_disjoint": False,
        "unreadable": 0,
    }
    text = table(target, [facts | judged(target, predicted, truth, SPEAKERS)], {})
    assert ("nothing is said about new speakers" in text) == (label == "emotion")


def test_the_step_of_a_class_s_own_row_is_that_of_its_model(tmp_path):
    (tmp_path / ROWS).write_text('[{"selection": "last", "modalities": "audio", "step": 6}]')
    for more in ({}, {"class": "a"}):  # of several classes a clip a suite has a row for each
        assert step_of(tmp_path, {"selection": "last", "modalities": "audio", **more}) == 6
    assert step_of(tmp_path, {"selection": "best", "modalities": "audio"}) is None
