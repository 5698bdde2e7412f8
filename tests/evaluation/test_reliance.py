"""Reliance on a modality, from scores by hand."""

import pytest

from avemo_jax.evaluation.reliance import with_reliance


def test_reliance_is_the_share_of_the_score_that_another_clip_s_stream_costs():
    def rows(score, clean, *swapped):
        names = ("swapped_audio", "swapped_video")
        others = [
            {"corruption": n, score: v, "change": v - clean} for n, v in zip(names, swapped, strict=True)
        ]
        return [
            {**row, "score": score} for row in ({"corruption": "none", score: clean, "change": 0}, *others)
        ]

    first, *swapped = with_reliance(rows("uar", 0.8, 0.2, 0.9))
    assert "reliance" not in first and [row["reliance"] for row in swapped] == pytest.approx([0.75, -0.125])
    for nothing in (rows("mae", 0.8, 0.9, 1.0), rows("ccc", -0.1, 0.0, 0.1)):
        assert with_reliance(nothing) == nothing
