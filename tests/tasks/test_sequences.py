"""The test of windows of long recordings, joined to sequences where a config asks for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from avemo_jax.commands import finetune
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation.outcomes import judged
from avemo_jax.tasks import finetuning
from input_pipeline.targets import Target

TARGET = Target("values", ("valence", "arousal"))
CLIPS = np.array([f"{name}@{start}-{start + 3}" for name in "ab" for start in range(0, 12, 2)])


def config_of(*overrides):
    return load_config(
        "finetune/recipe:demo", ["data.label=valence,arousal", "data.target=values", *overrides]
    )


def outcome_of(noise=0.1):
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((12, 2))
    predicted = truth + noise * rng.standard_normal((12, 2))
    speakers = np.repeat(["a", "b"], 6)
    row = {
        "label": "valence,arousal", "target": "values", "split": "folds", "fold": "1", "split_hash": "0" * 64,
        "selection": "last", "step": 3, "modalities": "audio_video", "speaker_disjoint": True, "unreadable": 0,
        **judged(TARGET, predicted, truth, speakers),
    }  # fmt: skip
    return finetuning.Outcome(row, np.full(12, "1"), CLIPS, speakers, truth, predicted)


def partition_of(clips=CLIPS, target=TARGET):
    known = SimpleNamespace(clip_id=np.array(clips))
    return SimpleNamespace(target=target, clips=known, test=np.arange(len(clips)), left_out={})


def test_a_run_leaves_sequences_and_their_scores_only_when_asked(tmp_path, capsys):
    for rule in ("", "mean"):
        one, folder = outcome_of(), tmp_path / (rule or "none")
        folder.mkdir()
        finetune._report(folder, config_of(f"data.stitch={rule}"), partition_of(), [one])
        said = capsys.readouterr().out
        assert ("2 whole recordings: CCC" in said) == bool(rule) == (folder / "sequences.csv").exists()
        assert ("sequence" in one.row) == bool(rule)
    lines = (folder / "sequences.csv").read_text().splitlines()
    assert lines[0] == "recording,time_s,true_valence,true_arousal,p_valence,p_arousal"
    assert len(lines) == 1 + 2 * 26  # 13 s at 2 Hz each
    assert one.row["sequence"]["ccc"] > 0.9 and set(one.row["sequence"]["each"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("overrides", "partition", "hint"),
    [
        (("data.stitch=sum",), partition_of(), "data.stitch is 'sum', not one of mean, triangle, centre"),
        (("data.stitch=mean",), partition_of(["clip7"]), "clip clip7: data.stitch needs clips"),
        (("data.stitch=mean", "data.stitch_step_s=0.0"), partition_of(), "stitch_step_s is 0.0"),
        (("data.stitch=mean",), partition_of(target=Target("class", ("e",), ("x", "y"))), "joins values"),
    ],
)
def test_what_cannot_be_joined_is_said_before_anything_is_trained(overrides, partition, hint):
    with pytest.raises(UserError, match=hint):
        finetuning.check_stitching(config_of(*overrides), partition)


def test_folds_without_a_score_are_left_out_of_the_mean_over_folds():
    whole, alone = [outcome_of(noise) for noise in (0.1, 0.5)], outcome_of()
    arrays = {name: getattr(alone, name)[:1] for name in ("fold", "clip_id", "speaker", "truth", "predicted")}
    facts = {
        "clips": 1,
        "unreadable": 0,
        **judged(TARGET, arrays["predicted"], arrays["truth"], arrays["speaker"]),
    }
    assert np.isnan(facts["ccc"])  # of one clip
    for one in whole:
        one.row["clips"] = 12
    config, lone = config_of(), finetuning.Outcome(alone.row | facts, **arrays)

    def row_of(*folds):
        return finetuning.pooled(config, partition_of(), [[fold] for fold in folds])[0].row

    row, cccs = row_of(*whole, lone), [one.row["ccc"] for one in whole]
    assert row["n"] == 25 and len(row["folds"]) == 3
    assert row["fold_ccc_mean"] == pytest.approx(np.mean(cccs))
    assert row["fold_ccc_std"] == pytest.approx(np.std(cccs, ddof=1))
    maes = [one.row["mae"] for one in (*whole, lone)]
    assert row["fold_mae_mean"] == pytest.approx(np.mean(maes))
    assert row_of(whole[0], lone)["fold_ccc_std"] is None and row_of(lone)["fold_ccc_mean"] is None
