"""The linear probe learns what is there, and looks at no test row while it chooses."""

from dataclasses import replace

import numpy as np
import pytest

from avemo_jax.evaluation import metrics, probes, protocols
from avemo_jax.evaluation.extraction import Source
from avemo_jax.evaluation.heads import linear, scaling
from avemo_jax.evaluation.heads.examples import centre_views
from avemo_jax.evaluation.judging import judge


def _case(seed=0, speakers=5, per_speaker=18, width=40, signal=1.0):
    rng = np.random.default_rng(seed)
    count = speakers * per_speaker
    label = np.arange(count) % 3
    speaker = np.repeat([f"p{i}" for i in range(speakers)], per_speaker)
    features = rng.standard_normal((count, width)) + signal * rng.standard_normal((3, width))[label]
    features += np.repeat(rng.standard_normal((speakers, width)), per_speaker, axis=0)
    empty = np.array([""] * count)
    number = np.arange(count)
    clips = protocols.LabelledClips(
        number, np.array([f"c{i:03d}" for i in number]), speaker, empty, empty, label, ("a", "b", "c")
    )
    return features.astype(np.float32), clips, protocols.make_splits("leave_one_speaker_out", clips)


def _probe(features, labels, plan, head="linear"):
    return probes.probe(features, centre_views(labels, 3), plan.splits, head)


def _uar(features, clips, plan):
    confusion = np.zeros((3, 3), int)
    for split, result in zip(plan.splits, _probe(features, clips.label, plan), strict=True):
        confusion += metrics.confusion_matrix(clips.label[split.test], result.predicted.argmax(-1), 3)
    return metrics.uar(confusion)


def test_a_probe_reads_a_signal_across_speakers_and_finds_nothing_in_noise():
    assert _uar(*_case()) > 0.8
    assert _uar(*_case(signal=0.0)) < 0.5


def test_what_is_chosen_does_not_depend_on_the_test_clips_at_all():
    features, clips, plan = _case(signal=0.3)
    split = plan.splits[0]
    spoilt_features, spoilt_labels = features.copy(), clips.label.copy()
    spoilt_features[split.test] = 1e6
    spoilt_labels[split.test] = 0
    one = protocols.Splits("one", (split,), 0, True, "")
    (clean,) = _probe(features, clips.label, one)
    (spoilt,) = _probe(spoilt_features, spoilt_labels, one)
    assert clean.value == spoilt.value
    assert clean.inner == spoilt.inner
    assert clean.converged and spoilt.converged


def test_probabilities_of_each_test_clip_add_up_to_one():
    features, clips, plan = _case()
    for split, result in zip(plan.splits, _probe(features, clips.label, plan), strict=True):
        assert result.predicted.shape == (len(split.test), 3)
        np.testing.assert_allclose(result.predicted.sum(-1), 1, atol=1e-5)
        assert result.setting == "inverse_penalty" and result.value in linear.INVERSE_PENALTIES


def test_standardising_uses_training_rows_only_and_silences_constant_columns():
    features = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 9.0]], np.float32)
    scaled = scaling.standardise(features, np.array([0, 1]))
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [98, 0]])


def test_features_scaled_by_any_factor_give_the_same_predictions():
    features, clips, plan = _case(signal=0.5)
    scale = np.geomspace(1e-4, 1e4, features.shape[1]).astype(np.float32)
    assert abs(_uar(features, clips, plan) - _uar(features * scale, clips, plan)) < 0.02


@pytest.mark.parametrize("width", [7, 50])
def test_principal_axes_keep_every_inner_product(width):
    rows = np.random.default_rng(0).standard_normal((20, width))
    axes, squares = scaling.principal_axes(rows)
    assert axes.shape == (width, min(20, width))
    np.testing.assert_allclose((rows @ axes) @ (rows @ axes).T, rows @ rows.T, atol=1e-9)
    np.testing.assert_allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=1e-9)
    np.testing.assert_allclose(np.square(rows @ axes).mean(0), squares, atol=1e-9)


def test_splits_solved_together_and_one_by_one_give_the_same_predictions(monkeypatch):
    features, clips, plan = _case(signal=0.5)
    together = _probe(features, clips.label, plan)
    monkeypatch.setattr(linear, "_MEMORY", 1)  # a program a split, on shared inputs
    parts = _probe(features, clips.label, plan)
    monkeypatch.setattr(linear, "_MOST_RATIO", 0)  # each split on its own axes
    alone = _probe(features, clips.label, plan)
    for one, two, three in zip(together, parts, alone, strict=True):
        np.testing.assert_allclose(one.predicted, two.predicted, atol=3e-3)
        np.testing.assert_allclose(one.predicted, three.predicted, atol=3e-3)
        assert one.value == two.value == three.value


@pytest.mark.parametrize(
    ("protocol", "head"),
    [("speaker_folds", "linear"), ("within_speakers", "linear"), ("speaker_folds", "ridge")],
)
def test_folds_dealt_by_several_seeds_are_fitted_at_once_and_score_as_a_probe_of_each(protocol, head):
    features, clips, _ = _case(signal=0.3)
    if head == "ridge":
        values = (clips.label + 0.1 * features[:, 0])[:, None].astype(np.float32)
        clips = replace(clips, numbers=("rating",), values=values)

    def row(*seeds):
        dealt = {"dealings": len(seeds), "need_classes": not clips.numbers}
        splits = protocols.make_splits(protocol, clips, folds=3, seeds=seeds, **dealt)
        return judge(Source("cat4", "checkpoint", 0, "as_recorded"), features, clips, splits, head)[0].row

    together, alone = row(0, 1, 2), [row(0), row(1), row(2)]
    assert [one["split_hash"] for one in together["repeats"]] == [one["split_hash"] for one in alone]
    assert len({one["split_hash"] for one in (together, *alone)}) == 4 and together["n"] == len(clips)
    for score in ("uar", "war", "wf1") if head == "linear" else ("ccc", "pcc", "mae"):
        each = [one[score] for one in alone]
        np.testing.assert_allclose([one[score] for one in together["repeats"]], each, atol=1e-6)
        assert together[score] == pytest.approx(np.mean(each))
        assert together[f"repeat_{score}_std"] == pytest.approx(np.std(each, ddof=1)) and np.ptp(each) > 0
    np.testing.assert_allclose(together["ci95"], np.mean([one["ci95"] for one in alone], axis=0), atol=1e-6)
    folds = [fold for one in alone for fold in one["folds"]]
    assert [fold["n"] for fold in together["folds"]] == [fold["n"] for fold in folds]


def test_a_clip_far_from_all_others_does_not_blur_the_splits_that_test_it():
    features, clips, plan = _case(signal=0.5)
    expected = _probe(features, clips.label, plan)
    far = features.copy()
    far[plan.splits[0].test[0]] *= 1e6
    found = _probe(far, clips.label, plan)
    np.testing.assert_allclose(found[0].predicted[1:], expected[0].predicted[1:], atol=3e-3)
