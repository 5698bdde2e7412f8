"""What is said of a fine-tuned run's predictions on clips as they are and on changed ones."""

import numpy as np
import pytest

from avemo_jax.evaluation.outcomes import main_scores, scores_of
from avemo_jax.tasks import robustness
from input_pipeline.targets import Target
from tests.evaluation.test_outcomes import COUNT, SPEAKERS, case

NO_DONOR = np.full(COUNT, -1)


@pytest.mark.parametrize("rule", ["class", "distribution", "multi_label", "values"])
def test_the_change_is_that_of_the_first_score_and_its_interval_draws_speakers_for_both(rule):
    target, clean, truth = case(rule, 0.3)
    score, rng = main_scores(target)[0], np.random.default_rng(0)
    changed = 0.5 * clean + 0.5 * rng.permutation(clean)
    row = robustness._judged(target, robustness._Part(SPEAKERS, truth, clean, changed, NO_DONOR), "noise")
    before, after = (scores_of(target, outputs, truth)[score] for outputs in (clean, changed))
    assert row["score"] == score and row[score] == after
    assert row["change"] == pytest.approx(after - before, abs=1e-9)
    low, high = row["change_ci95"]
    assert low < row["change"] < high
    drawn = []
    for speakers in rng.integers(8, size=(800, 8)):
        rows = np.concatenate([np.arange(15 * one, 15 * one + 15) for one in speakers])
        before, after = (scores_of(target, outputs[rows], truth[rows])[score] for outputs in (clean, changed))
        drawn.append(after - before)
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.2 * (high - low))


def test_where_speakers_are_the_classes_one_drawn_twice_counts_twice():
    names = tuple(f"s{number}" for number in range(9))
    speaker = np.repeat(np.arange(9), 20)
    hit = np.tile(np.arange(20), 9) < np.repeat(range(4, 21, 2), 20)
    clean, changed = (np.eye(9)[guess] for guess in (speaker, np.where(hit, speaker, (speaker + 1) % 9)))
    part = robustness._Part(np.array(names)[speaker], speaker, clean, changed, np.full(180, -1))
    row = robustness._judged(Target("class", ("speaker",), names), part, "noise")
    drawn = np.random.default_rng(1).choice(np.arange(4, 21, 2) / 20 - 1, (4000, 9)).mean(1)
    assert row["change"] == pytest.approx(-0.4)
    assert row["change_ci95"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    assert row["ci95"] == pytest.approx([1 + bound for bound in row["change_ci95"]])
