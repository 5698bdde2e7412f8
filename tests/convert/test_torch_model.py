"""The plain PyTorch model against numbers recorded from the reference, without any JAX in between, and its
vectors of a clip against our evaluation's.
"""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict

from avemo_jax import batch
from avemo_jax.convert import torch_model
from avemo_jax.evaluation import features
from tests.golden_weights import GOLDEN, golden_weights, registered_shapes


class Fixture:
    """A recorded run: its settings, arrays, gradients, and the model with the recorded weights."""

    def __init__(self, name):
        self.info = json.loads((GOLDEN / f"{name}_info.json").read_text())
        self.io = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / f"{name}_io.npz").items()}
        self.gradients = safetensors.numpy.load_file(GOLDEN / f"{name}_grads.safetensors")
        sizes = self.info["config"]
        shared = {
            "dim": sizes["dim"],
            "heads": sizes["heads"],
            "depth": sizes["depth"],
            "fusion_depth": sizes["fdepth"],
        }
        if "ddim" in sizes:
            self.model = torch_model.PretrainingModel(
                decoder_dim=sizes["ddim"],
                decoder_heads=sizes["dheads"],
                decoder_depth=sizes["ddepth"],
                skip_layers=tuple(sizes["skip"]),
                **shared,
            )
        else:
            self.model = torch_model.Classifier(classes=sizes["classes"], **shared)
        shapes = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        weights = golden_weights(shapes, sizes["salt"])
        self.model.load_state_dict(
            {name: torch.from_numpy(value) for name, value in weights.items()}, strict=True
        )

    def predict(self):
        masks = self.io["mask_video"].bool(), self.io["mask_audio"].bool()
        return self.model(self.io["video"], self.io["audio"], *masks)

    def assert_near(self, value, name):
        expected = self.io[name]
        assert value.shape == expected.shape
        difference = (value - expected).abs().max().item()
        assert difference <= 2e-5 * max(1.0, expected.abs().max().item()), name

    def assert_gradients(self):
        parameters = dict(self.model.named_parameters())
        assert parameters.keys() == self.gradients.keys()
        for name, expected in self.gradients.items():
            noise = self.info["grad_fp64"][name]["max_abs_fp32_minus_fp64"]
            difference = np.abs(parameters[name].grad.numpy() - expected).max()
            assert difference <= 8 * noise + 2e-6 * np.abs(expected).max(), name


@pytest.fixture(scope="module")
def pretraining():
    return Fixture("pretrain_tiny")


@pytest.fixture(scope="module")
def classifier():
    return Fixture("finetune_tiny")


def test_predictions_and_contrast_are_the_recorded_ones(pretraining):
    with torch.no_grad():
        predictions = pretraining.predict()
    pretraining.assert_near(predictions.video_prediction, "pred_video")
    pretraining.assert_near(predictions.audio_prediction, "pred_audio")
    pretraining.assert_near(predictions.contrast_logits(), "logits_per_video")


def test_every_gradient_of_the_pretraining_loss_is_the_recorded_one(pretraining):
    predictions = pretraining.predict()
    match = torch.arange(len(pretraining.io["video"]))
    contrast = sum(
        (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2
        for logits in predictions.contrast_logits()
    )
    video = F.mse_loss(predictions.video_prediction, pretraining.io["target_video"])
    audio = F.mse_loss(predictions.audio_prediction, pretraining.io["target_audio"])
    loss = video + audio + 0.0025 * contrast
    assert loss.item() == pytest.approx(pretraining.io["loss_total"].item(), rel=1e-6)
    pretraining.model.zero_grad()
    loss.backward()
    pretraining.assert_gradients()


def test_logits_feature_and_every_gradient_of_the_classifier_are_the_recorded_ones(classifier):
    logits, feature = classifier.model(classifier.io["video"], classifier.io["audio"])
    classifier.assert_near(logits.detach(), "logits")
    classifier.assert_near(feature.detach(), "feature_fc_norm")
    loss = F.cross_entropy(logits, classifier.io["target"])
    assert loss.item() == pytest.approx(classifier.io["loss"].item(), rel=1e-6)
    classifier.model.zero_grad()
    loss.backward()
    classifier.assert_gradients()


@pytest.mark.parametrize(
    ("table", "sizes"),
    [
        ("pretrain_dim384", {"dim": 384, "heads": 6, "decoder_dim": 192, "decoder_heads": 3}),
        ("pretrain_dim512", {}),
        ("finetune_dim256", {"dim": 256, "heads": 4}),
        ("finetune_dim384", {"dim": 384, "heads": 6}),
        ("finetune_dim512", {}),
    ],
)
def test_its_state_dict_has_the_registered_names_shapes_and_order(table, sizes):
    make = torch_model.PretrainingModel if table.startswith("pretrain") else torch_model.Classifier
    with torch.device("meta"):
        model = make(**sizes)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert list(shapes.items()) == list(registered_shapes(table).items())


def test_the_position_table_has_the_recorded_spot_values():
    table = torch_model.position_table(torch.zeros(1, 800, 512))[0]
    expected = torch.tensor([0.8415, 0.5403, 0.8219, 0.5697, 0.8020, 0.5974])
    torch.testing.assert_close(table[1, :6], expected, atol=5e-5, rtol=0)
    torch.testing.assert_close(table[799, -2:], torch.tensor([0.0827, 0.9966]), atol=5e-5, rtol=0)


@pytest.mark.parametrize("side", [2, 3, 4, 6, 10])
def test_vectors_of_a_clip_are_those_of_the_evaluation(side):
    rng = np.random.default_rng(side)
    video = rng.standard_normal((3, 2, 2 * side * side, 8)).astype(np.float32)
    audio = rng.standard_normal((3, 2, 4 * 2, 8)).astype(np.float32)
    sizes = {"frames": 4, "image_size": 16 * side, "audio_frames": 64, "mel_bins": 32, "depth": 3}
    tokens = batch.Features(video, audio, video[0] + 1, audio[0] - 1)
    learnt = rng.standard_normal((2, 3)).astype(np.float32)
    expected = features.pool(tokens, tuple(learnt), ("cat4", "audio_rows", "video_cells"), ConfigDict(sizes))
    theirs = torch_model.Features(
        *(list(map(torch.from_numpy, layers)) for layers in (video, audio)),
        *map(torch.from_numpy, tokens[2:]),
    )
    found = {
        "cat4": torch_model.pooled(theirs, tuple(map(torch.from_numpy, learnt))),
        "audio_rows": torch_model.audio_rows(theirs, 2),
        "video_cells": torch_model.video_cells(theirs, side, side),
    }
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-6)


def test_a_number_of_skips_that_does_not_fit_the_decoder_is_refused():
    with pytest.raises(ValueError, match="take 3 skips"):
        torch_model.PretrainingModel(skip_layers=(3, 6))


def test_the_file_needs_nothing_but_torch():
    tree = ast.parse(Path(torch_model.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} == {"__future__", "functools", "math", "typing", "torch"}
