"""Probes that are trained on clips as they are and tested on corrupted ones."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from avemo_jax.cli import main
from avemo_jax.evaluation import probe_robustness
from avemo_jax.evaluation.heads.examples import centre_views
from avemo_jax.evaluation.probes import probe
from avemo_jax.evaluation.protocols import make_splits
from tests.evaluation.synthetic import probe_rows
from tests.evaluation.test_protocols import _clips


def test_heads_are_those_of_clean_clips_whatever_they_are_asked(monkeypatch):
    rng = np.random.default_rng(0)
    clips = _clips(speakers=5, per_speaker=18)
    count = len(clips)
    clean = (rng.normal(size=(3, 10))[clips.label] + rng.normal(size=(count, 10))).astype(np.float32)
    splits = make_splits("leave_one_speaker_out", clips).splits
    tested = np.arange(count)
    changed = {
        ("noise", level): (clean + level * rng.normal(size=clean.shape)).astype(np.float32)
        for level in (0.5, 2.0)
    }
    found = dict(probe_robustness.predictions(clean, changed, tested, clips.label, splits))
    for number, (split, result) in enumerate(
        zip(splits, probe(clean, centre_views(clips.label, 3), splits), strict=True)
    ):
        mean, deviation = clean[split.train].mean(0), clean[split.train].std(0)
        fitted = LogisticRegression(C=result.value, max_iter=5000, tol=1e-8)
        fitted.fit((clean[split.train] - mean) / deviation, clips.label[split.train])
        own = slice(18 * number, 18 * (number + 1))
        for condition, matrix in ((("none", None), clean), *changed.items()):
            expected = fitted.predict((matrix[split.test] - mean) / deviation)
            assert (found[condition][own] == expected).mean() >= 17 / 18  # one may lie on the line
    monkeypatch.setattr(probe_robustness, "_MEMORY", 1)  # one condition after the other
    again = dict(probe_robustness.predictions(clean, changed, tested, clips.label, splits))
    assert all((again[condition] == found[condition]).mean() > 0.98 for condition in found)


@pytest.mark.slow
def test_what_is_seen_is_lost_in_the_dark_and_what_is_heard_is_not(place, tmp_path):
    rows = probe_robustness.rows(
        str(place / "run"),
        str(place / "data"),
        "shade",
        names=("silence", "black", "swapped_video"),
        batch_size=16,
        say=lambda _: None,
    )
    by = {(row["feature"], row["corruption"]): row for row in rows}
    assert len(by) == len(rows) == 5 * 4
    assert [row["corruption"] for row in rows[:4]] == ["none", "silence", "black", "swapped_video"]
    probed = {row["feature"]: row for row in probe_rows(place, tmp_path, "shade")}
    for name in ("cat4", "pixels", "log_mel"):
        clean = by[name, "none"]
        assert clean["uar"] == pytest.approx(probed[name]["uar"], abs=1 / 40) and clean["change"] == 0
        assert clean["kept"] == 1 and clean["split_hash"] == probed[name]["split_hash"]
    assert by["pixels", "black"]["uar"] == pytest.approx(0.5) and by["pixels", "black"]["change"] < -0.4
    assert by["pixels", "silence"]["change"] == 0 == by["log_mel", "black"]["change"]
    swapped, heard = by["pixels", "swapped_video"], by["log_mel", "swapped_video"]
    assert swapped["follows_donor"] > 0.8 > 0.3 > swapped["follows_donor_clean"] and swapped["reliance"] > 0.8
    assert heard["follows_donor"] == heard["follows_donor_clean"] and heard["reliance"] == 0
    low, high = by["pixels", "black"]["change_ci95"]
    assert low <= by["pixels", "black"]["change"] <= high < 0


def test_a_pretrained_run_without_a_label_is_told_what_it_needs(place, tmp_path, capsys):
    words = [
        "--checkpoint",
        place / "run",
        "--data",
        place / "data",
        "--suite",
        "robustness",
        "--out",
        tmp_path / "new",
    ]
    assert main([str(word) for word in ("evaluate", *words)]) == 2
    error = capsys.readouterr().err.strip()
    assert "--label" in error and len(error.splitlines()) == 1 and not (tmp_path / "new").exists()
