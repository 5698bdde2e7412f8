"""What votes and labels become, by rule."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from input_pipeline.errors import DataError
from input_pipeline.targets import Target, stratum_of, target_of

CLASSES = ("ANG", "HAP", "NEU")
VOTES = {"ANG": 5, "HAP": 3, "NEU": 2, "SAD": 90}  # of classes that are not asked for nothing is counted


def of(rule, value, classes=CLASSES, **more):
    return Target(rule, ("votes",), classes, **more).of({"votes": value})


def test_plurality_is_the_most_voted_class_and_a_tie_has_none():
    assert of("plurality", VOTES) == 0
    assert of("plurality", {"ANG": 2, "HAP": 2, "NEU": 1}) is None
    assert of("plurality", {"ANG": 0.1 + 0.2, "HAP": 0.3}) is None  # shares of raters, with rounding


def test_a_majority_is_more_than_half_of_the_votes_for_the_classes():
    assert of("majority", VOTES) is None  # five of ten
    assert of("majority", {"ANG": 1, "HAP": 4}) == 1
    assert of("majority", {"ANG": 3 / 7, "HAP": 2 / 7, "NEU": 1 / 7}) is None  # half, but for rounding


def test_a_distribution_is_the_share_of_each_class():
    np.testing.assert_allclose(of("distribution", VOTES), [0.5, 0.3, 0.2], rtol=1e-6)
    assert of("distribution", VOTES).dtype == np.float32


def test_the_all_inclusive_rule_takes_every_class_with_its_share_of_votes():
    assert of("multi_label", VOTES).tolist() == [1, 0, 0]  # 0.3 is less than a third
    assert of("multi_label", {"ANG": 1, "HAP": 1, "NEU": 1}).tolist() == [1, 1, 1]
    assert of("multi_label", VOTES, threshold=0.2).tolist() == [1, 1, 1]
    assert of("multi_label", ["HAP", "NEU"]).tolist() == [0, 1, 1]


@pytest.mark.parametrize("rule", ["plurality", "majority", "distribution", "multi_label"])
@pytest.mark.parametrize("value", [None, "", "ANG", {}, {"SAD": 3}, {"ANG": 0}, {"ANG": -1, "HAP": 3}, 0.5])
def test_what_are_no_votes_for_the_classes_gives_no_target(rule, value):
    assert of(rule, value) is None


def test_a_label_is_its_class_and_values_are_numbers():
    assert of("class", "NEU") == 2 and of("class", "SAD") is None
    values = Target("values", ("valence", "arousal"))
    assert values.of({"valence": 1, "arousal": -0.5}).tolist() == [1, -0.5]
    assert values.of({"valence": 1}) is None and values.of({"valence": 1, "arousal": float("nan")}) is None
    assert values.names == ("valence", "arousal")


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_rules_agree_with_each_other_on_any_votes(counts):
    votes = dict(zip(CLASSES, counts, strict=True))
    shares, plurality, majority = (of(rule, votes) for rule in ("distribution", "plurality", "majority"))
    if shares is None:
        assert sum(counts) == 0 and plurality is None and majority is None
        return
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    if majority is not None:
        assert plurality == majority and shares[majority] > 0.5
    if plurality is not None:
        assert shares.argmax() == plurality
    assert of("multi_label", votes)[shares.argmax()] == 1


def test_every_target_has_a_class_to_be_dealt_by():
    one, many, number = (
        Target("class", ("a",), CLASSES),
        Target("distribution", ("a",), CLASSES),
        Target("values", ("a", "b")),
    )
    assert stratum_of(one, [np.int32(2), np.int32(0)]).tolist() == [2, 0]
    assert stratum_of(many, [np.array([0.2, 0.5, 0.3])]).tolist() == [1]
    assert stratum_of(number, [np.array([v, 0]) for v in (1.0, 2.0, 3.0)]).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rule", "labels", "classes", "hint"),
    [
        ("mode", ("a",), CLASSES, "there are class, plurality"),
        ("class", ("a",), (), "data.classes"),
        ("distribution", ("a", "b"), CLASSES, "one data.label"),
        ("values", ("a",), CLASSES, "takes no data.classes"),
    ],
)
def test_a_rule_without_what_it_needs_is_refused(rule, labels, classes, hint):
    with pytest.raises(DataError, match=hint):
        Target(rule, labels, classes)


def test_each_raters_choice_is_kept_and_all_together_are_shares():
    target = Target("raters", ("ratings",), CLASSES, raters=("ann", "bob", "cem"))
    assert target.outputs == 9 and target.kind == "distribution" and target.empty.shape == (3, 3)
    found = target.of({"ratings": {"ann": "HAP", "cem": "ANG", "dee": "NEU"}})
    np.testing.assert_array_equal(found, [[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(target.summary(found[None]), [[0.5, 0.5, 0]])
    assert target.of({"ratings": {"dee": "NEU"}}) is None  # nobody who is known
    assert target.of({"ratings": {"ann": "SAD"}}) is None
    assert stratum_of(target, [found]).tolist() == [0]
    with pytest.raises(DataError, match=r"raters needs data.raters"):
        Target("raters", ("ratings",), CLASSES)
    with pytest.raises(DataError, match=r"class takes no data.raters"):
        Target("class", ("emotion",), CLASSES, raters=("ann",))


def test_valence_and_arousal_become_a_distribution_by_each_classs_gaussian():
    centres = ((-0.5, 0.6, 0.3), (0.8, 0.5, 0.4), (0.0, 0.0, 0.2))
    target = Target("affect", ("valence", "arousal"), CLASSES, centres=centres)
    assert target.kind == "distribution" and target.outputs == 3
    place = np.array([0.3, 0.2])
    density = [stats.multivariate_normal(mean, deviation**2).pdf(place) for *mean, deviation in centres]
    found = target.of({"valence": 0.3, "arousal": 0.2})
    np.testing.assert_allclose(found, np.array(density) / np.sum(density), rtol=1e-5)
    far = target.of({"valence": 1e4, "arousal": -1e4})
    assert np.isfinite(far).all() and far.sum() == pytest.approx(1)
    assert target.of({"valence": 0.3}) is None


def test_centres_come_from_the_config_in_the_order_of_the_classes():
    data = SimpleNamespace(
        label="valence,arousal",
        target="affect",
        classes=("ANG", "HAP"),
        centres=("HAP:.8:.5:.4", "ANG:-.5:.6:.3"),
    )
    assert target_of(data).centres == ((-0.5, 0.6, 0.3), (0.8, 0.5, 0.4))
    for centres, hint in (
        (("ANG:-.5:.6:.3",), "nothing for HAP"),
        (("ANG:x:.6:.3", "HAP:0:0:1"), "'ANG:x:.6:.3' is not"),
        (("ANG:0:.3", "HAP:0:1"), "means of valence, arousal and a deviation"),
        (("ANG:0:0:0", "HAP:0:0:1"), "not above 0"),
        ((), "needs in data.centres"),
    ):
        data.centres = centres
        with pytest.raises(DataError, match=hint):
            target_of(data)


def test_classes_with_centres_may_be_numbers():
    centres = ("2:.5:.5:.3", "1:0:0:.3")
    data = SimpleNamespace(label="valence,arousal", target="affect", classes=(1, 2), centres=centres)
    target = target_of(data)
    assert target.classes == ("1", "2") and target.centres == ((0, 0, 0.3), (0.5, 0.5, 0.3))
    data.centres = ("1:0:0:.3",)
    with pytest.raises(DataError, match="nothing for 2"):
        target_of(data)
