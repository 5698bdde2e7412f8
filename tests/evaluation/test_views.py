"""Views of a clip, merged as the reference's recorded evaluation merges them."""

import json
from pathlib import Path

import numpy as np
import pytest

from avemo_jax.evaluation import metrics
from avemo_jax.evaluation.outcomes import scores_of
from avemo_jax.evaluation.views import Merger, probabilities
from input_pipeline.targets import Target

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
VALUES = Target("values", ("pleasure", "arousal", "dominance"))


def merged(case, target):
    """The recorded outputs, one view of all clips at a time, as `Viewer` adds them."""
    merger = Merger(target, case["segments"] * case["crops"])
    place = np.array(case["rows_seg_crop_clip"])
    for view in {tuple(row) for row in place[:, :2].tolist()}:
        rows = (place[:, :2] == view).all(1)
        merger.add(place[rows, 2], np.array(case["outputs"])[rows])
    return merger.merged(range(case["n_videos"]))


@pytest.mark.parametrize("case", GOLDEN["view_merge"], ids=lambda case: f"{case['n_videos']}_clips")
def test_probabilities_of_all_views_are_averaged_as_the_reference_s(case):
    target = Target("class", ("emotion",), tuple(map(str, range(case["classes"]))))
    read, predicted = merged(case, target)
    assert read.tolist() == list(range(case["n_videos"]))
    assert dict(enumerate(predicted.argmax(-1))) == {int(k[4:]): v for k, v in case["preds"].items()}
    scores = scores_of(target, predicted, np.array(case["labels"]))
    assert scores["war"] == pytest.approx(case["war"]) and 100 * scores["war"] == pytest.approx(case["top1"])
    assert scores["wf1"] == pytest.approx(case["weighted_f1"])
    confusion = metrics.confusion_matrix(case["labels"], predicted.argmax(-1), case["classes"])
    seen = confusion.any(0) | confusion.any(1)
    np.testing.assert_array_equal(confusion[np.ix_(seen, seen)], case["confusion"])
    assert metrics.uar(confusion, absent="nan") == pytest.approx(case["uar"], nan_ok=True)


@pytest.mark.parametrize(
    "case", GOLDEN["view_merge_regression"], ids=lambda case: f"{case['n_videos']}_clips"
)
def test_raw_outputs_of_all_views_are_averaged_for_values(case):
    target = Target("values", tuple(map(str, range(case["classes"]))))
    _, predicted = merged(case, target)
    for name, values in case["preds"].items():
        np.testing.assert_allclose(predicted[int(name[4:])], values, rtol=1e-6)
    scores = scores_of(target, predicted, np.array(case["labels"]))
    for name in ("mae", "mse", "rmse", "pcc", "ccc"):
        mean, each = case["metrics"][name]
        assert scores[name] == pytest.approx(mean, rel=1e-4)
        np.testing.assert_allclose([scores[f"{name}_{value}"] for value in target.names], each, rtol=1e-4)


def test_a_clip_that_lacks_a_view_is_left_out_and_order_is_that_of_the_question():
    merger = Merger(VALUES, 2)
    merger.add(np.array([4, 7, -1]), np.ones((3, 3)))
    merger.add(np.array([7, -1]), np.zeros((2, 3)))
    read, predicted = merger.merged([7, 4])
    assert read.tolist() == [7] and predicted.tolist() == [[0.5, 0.5, 0.5]]
    assert merger.merged([4])[1].shape == (0, 3)


def test_several_classes_a_clip_have_a_probability_each():
    several = Target("multi_label", ("votes",), ("a", "b", "c"))
    np.testing.assert_allclose(probabilities(np.zeros((1, 3)), several), 0.5)
    one = probabilities(np.array([[0.0, 1.0, 300.0]]), Target("class", ("x",), ("a", "b", "c")))
    assert one.sum() == pytest.approx(1) and np.isfinite(one).all()
