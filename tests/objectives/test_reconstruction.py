"""Targets and reconstruction losses beside the numbers recorded from the PyTorch reference."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import frontend, masking
from avemo_jax.batch import Clip, Masks, Outputs
from avemo_jax.objectives.reconstruction import masked_reconstruction
from tests.golden_weights import GOLDEN

INFO = json.loads((GOLDEN / "pretrain_tiny_info.json").read_text())
IO = np.load(GOLDEN / "pretrain_tiny_io.npz")
CLIP = Clip(jnp.asarray(IO["video"].transpose(0, 2, 3, 4, 1)), jnp.asarray(IO["audio"][:, 0]))
MASKS = Masks(masking.from_boolean(IO["mask_video"]), masking.from_boolean(IO["mask_audio"]))
OUTPUTS = Outputs(jnp.asarray(IO["pred_video"]), jnp.asarray(IO["pred_audio"]), None, None)


def targets_for(engine):
    return frontend.reconstruction_targets(
        CLIP,
        MASKS,
        normalize_video=engine["normlize_target"],
        normalize_audio=engine["normlize_target_audio"],
        frame_difference=engine["use_frame_diff_as_target"],
        frame_group=engine["frame_diff_group_size"],
    )


@pytest.mark.parametrize("variant", INFO["engine_variants"])
def test_every_loss_setting_gives_the_recorded_losses(variant):
    recorded = INFO["engine_variants"][variant]
    engine = INFO["engine"] | recorded["settings"]
    targets = targets_for(engine)
    weight = engine["target_diff_weight"]
    loss, metrics = masked_reconstruction(
        OUTPUTS, targets, difference_weight=-1.0 if weight is None else weight
    )
    total = loss + engine["loss_weight"] * recorded["loss_hcmcl"]
    assert float(total) == pytest.approx(recorded["loss_total"], rel=1e-6)
    names = {"loss_video": "loss_video", "loss_org": "loss_video_frame", "loss_diff": "loss_video_difference"}
    for theirs, ours in (names | {"loss_audio": "loss_audio"}).items():
        if theirs in recorded:
            assert float(metrics[ours]) == pytest.approx(recorded[theirs], rel=1e-6)
    if "target_video_0_0_first8" in recorded:
        first = targets.video[0, 0, :8]
        np.testing.assert_allclose(first, recorded["target_video_0_0_first8"], atol=2e-6)
        assert float(jnp.linalg.norm(targets.video)) == pytest.approx(recorded["target_video_l2"], rel=1e-6)
        assert float(jnp.linalg.norm(targets.audio)) == pytest.approx(recorded["target_audio_l2"], rel=1e-6)


def test_patches_come_back_as_the_picture_they_were_cut_from():
    grid = frontend.video_grid(8, 32)
    assert (frontend.unpatchify_video(frontend.patchify_video(CLIP.video), grid) == CLIP.video).all()
    assert (frontend.unpatchify_audio(frontend.patchify_audio(CLIP.audio), (4, 2)) == CLIP.audio).all()
