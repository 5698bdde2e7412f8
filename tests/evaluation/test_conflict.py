"""Modality conflict: the published votes, and models that follow one of both."""

import os
from pathlib import Path

import numpy as np
import pytest

from avemo_jax.evaluation.conflict import conflict
from input_pipeline.corpora import crema_d


def known(voice, face, both=""):
    return {"majority_voice": voice, "majority_face": face, "majority_both": both}


def test_only_clips_in_conflict_count():
    labels = [known("ANG", "SAD", "SAD"), known("ANG", "ANG", "ANG"), {"emotion": "ANG"}, known("HAP", "NEU")]
    found = conflict(labels * 5, ["SAD", "SAD", "ANG", "HAP"] * 5, np.repeat(np.arange(5), 4))
    assert (found["n"], found["face"], found["voice"], found["other"]) == (10, 5, 5, 0)
    assert found["face_share"] == 0.5 and found["ci95"] == [0.5, 0.5] and found["ci_unit"] == "speaker"
    assert found["raters"] == {"voice": 0, "face": 5, "other": 5, "face_share": 1.0}
    assert conflict([known("ANG", "ANG")], ["ANG"], np.array(["a"])) is None


def test_the_raters_of_crema_d_followed_the_face_in_the_published_number_of_clips():
    folder = Path(os.environ.get("AVEMO_REAL_CLIPS", "nowhere")) / "crema-d-labels"
    if not folder.is_dir():
        pytest.skip("AVEMO_REAL_CLIPS has no tables of CREMA-D")
    majorities = crema_d._majorities(folder / "summaryTable.csv")
    names, labels = list(majorities), list(majorities.values())
    speakers = np.array([name[:4] for name in names])
    follows_voice = [one.get("majority_voice", "") for one in labels]
    found = conflict(labels, follows_voice, speakers)
    assert (found["n"], found["voice"], found["face_share"]) == (3023, 3023, 0.0)
    assert (found["raters"]["face"], found["raters"]["voice"]) == (1887, 548)
