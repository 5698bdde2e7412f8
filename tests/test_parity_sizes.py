"""Parity on fixtures of other sizes, made here by the plain PyTorch model; targets and losses written anew."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from avemo_jax import parity
from avemo_jax.convert.torch_model import Classifier, PretrainingModel
from tests.golden_weights import golden_weights

pytestmark = pytest.mark.slow
PRETRAINING = {
    "one skip, four frames, wide sound": {
        "config": {
            "dim": 48,
            "heads": 3,
            "depth": 3,
            "ddim": 32,
            "dheads": 2,
            "ddepth": 2,
            "fdepth": 1,
            "skip": [2],
            "frames": 4,
            "img": 48,
            "audio": [32, 64],
            "batch": 2,
        },
        "engine": {
            "normlize_target": True,
            "normlize_target_audio": False,
            "use_frame_diff_as_target": True,
            "frame_diff_group_size": 2,
            "target_diff_weight": 0.25,
            "loss_weight": 0.1,
            "temperature": 0.2,
        },
    },
    "shallow skips out of order of depth, deep fusion": {
        "config": {
            "dim": 64,
            "heads": 2,
            "depth": 5,
            "ddim": 24,
            "dheads": 4,
            "ddepth": 4,
            "fdepth": 3,
            "skip": [0, 1, 3],
            "frames": 2,
            "img": 32,
            "audio": [64, 16],
            "batch": 5,
        },
        "engine": {
            "normlize_target": False,
            "normlize_target_audio": True,
            "use_frame_diff_as_target": False,
            "target_diff_weight": None,
            "loss_weight": 0.0025,
            "temperature": 0.07,
        },
    },
}
FINE_TUNING = {
    "three classes": {"classes": 3},
    "regression": {"classes": 2, "task": "regression"},
    "regression through tanh": {"classes": 4, "task": "regression", "head_act": "tanh"},
}  # fmt: skip


def draw(model, salt):
    """The model with weights from the formula; its state as arrays."""
    state = golden_weights({key: tuple(value.shape) for key, value in model.state_dict().items()}, salt)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return state


def inputs(config, rng):
    video = rng.standard_normal((config["batch"], 3, config["frames"], config["img"], config["img"]))
    audio = rng.standard_normal((config["batch"], 1, *config["audio"]))
    return {"video": video.astype(np.float32), "audio": audio.astype(np.float32)}


def write(folder, info, weights, arrays, model):
    (folder / "x_info.json").write_text(json.dumps(info))
    save_file(weights, folder / "x_weights.safetensors")
    np.savez(folder / "x_io.npz", **{name: np.asarray(array) for name, array in arrays.items()})
    grads = {
        key: value.grad.numpy().copy() for key, value in model.named_parameters() if value.grad is not None
    }
    save_file(grads, folder / "x_grads.safetensors")
    return str(folder / "x")


def standardised(patches, axis):
    return (patches - patches.mean(axis, keepdims=True)) / (patches.std(axis, keepdims=True, ddof=1) + 1e-6)


def video_target(video, engine):
    """[B, 3, T, H, W] → [B, N, 1536]."""
    mean, std = (
        np.array(v, np.float32).reshape(1, 3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    b, c, t, h, w = video.shape
    x = (video * std + mean).reshape(b, c, t // 2, 2, h // 16, 16, w // 16, 16)
    x = np.einsum("bctphqwr->bthwpqrc", x).reshape(b, -1, 512, 3)
    if engine["normlize_target"]:
        x = standardised(x, 2)
    if engine["use_frame_diff_as_target"]:
        x = x.reshape(b, t // 2, -1, 2, 256, 3).transpose(0, 1, 3, 2, 4, 5).reshape(b, t, -1, 256, 3).copy()
        for frame in range(t):
            first = frame - frame % engine["frame_diff_group_size"]
            if frame != first:
                x[:, frame] -= x[:, first]
        x = x.reshape(b, t // 2, 2, -1, 256, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, -1, 1536)


def audio_target(audio, engine):
    b, _, t, f = audio.shape
    x = audio.reshape(b, t // 16, 16, f // 16, 16).transpose(0, 1, 3, 2, 4).reshape(b, -1, 256)
    return standardised(x, 2) if engine["normlize_target_audio"] else x


def masks(count, tokens, rng):
    hidden = max(1, int(0.7 * tokens))
    return np.stack([rng.permutation(tokens) < hidden for _ in range(count)])


def pretraining_fixture(info, folder):
    config, engine = info["config"], info["engine"]
    rng = np.random.default_rng(3)
    model = PretrainingModel(
        dim=config["dim"], heads=config["heads"], depth=config["depth"], fusion_depth=config["fdepth"],
        decoder_dim=config["ddim"], decoder_heads=config["dheads"], decoder_depth=config["ddepth"],
        skip_layers=tuple(config["skip"]),
    )  # fmt: skip
    weights, arrays = draw(model, "sizes:"), inputs(config, rng)
    arrays["mask_video"] = masks(config["batch"], config["frames"] // 2 * (config["img"] // 16) ** 2, rng)
    arrays["mask_audio"] = masks(config["batch"], config["audio"][0] // 16 * config["audio"][1] // 16, rng)
    for kind, target in (("video", video_target), ("audio", audio_target)):
        whole = target(arrays[kind], engine)
        arrays[f"target_{kind}"] = whole[arrays[f"mask_{kind}"]].reshape(len(whole), -1, whole.shape[-1])
    out = model(*(torch.from_numpy(arrays[n]) for n in ("video", "audio", "mask_video", "mask_audio")))
    wanted = [torch.from_numpy(arrays[f"target_{kind}"]) for kind in ("video", "audio")]
    errors = (out.video_prediction - wanted[0]) ** 2
    weight = engine.get("target_diff_weight")
    loss_video = errors.mean()
    if weight is not None:
        loss_video = (1 - weight) * errors[..., :768].mean() + weight * errors[..., 768:].mean()
    loss_audio = F.mse_loss(out.audio_prediction, wanted[1])
    contrast, logits = torch.zeros(()), []
    for video, audio in zip(out.video_levels, out.audio_levels, strict=True):
        similarity = F.normalize(video, eps=0) @ F.normalize(audio, eps=0).T / engine.get("temperature", 0.07)
        match = torch.arange(len(video))
        contrast = contrast + 0.5 * (
            F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)
        )
        logits.append(similarity.detach().numpy())
    total = loss_video + loss_audio + engine["loss_weight"] * contrast
    total.backward()
    arrays |= {"pred_video": out.video_prediction.detach(), "pred_audio": out.audio_prediction.detach()}
    arrays |= {
        "loss_video": loss_video.detach(),
        "loss_audio": loss_audio.detach(),
        "loss_total": total.detach(),
    }
    arrays |= {"logits_per_video": np.stack(logits), "loss_hcmcl": contrast.detach()}
    return write(folder, info, weights, arrays, model)


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_fixtures_of_other_sizes_pass(name, tmp_path):
    rows, _ = parity.run(pretraining_fixture(PRETRAINING[name], tmp_path))
    assert len(rows) > 60
    assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_fixtures_of_other_sizes_pass(name, tmp_path):
    extra = FINE_TUNING[name]
    config = {
        "dim": 48,
        "heads": 3,
        "depth": 3,
        "fdepth": 1,
        "frames": 4,
        "img": 32,
        "audio": [32, 48],
        "batch": 3,
    }
    config |= extra
    rng = np.random.default_rng(4)
    model = Classifier(
        dim=48,
        heads=3,
        depth=3,
        fusion_depth=1,
        classes=extra["classes"],
        head_activation=extra.get("head_act", ""),
    )
    weights, arrays = draw(model, "sizes:"), inputs(config, rng)
    outputs, feature = model(*(torch.from_numpy(arrays[n]) for n in ("video", "audio")))
    if extra.get("task") == "regression":
        arrays["target"] = rng.standard_normal(outputs.shape).astype(np.float32)
        loss = F.mse_loss(outputs, torch.from_numpy(arrays["target"]))
    else:
        arrays["target"] = rng.integers(0, extra["classes"], len(outputs))
        loss = F.cross_entropy(outputs, torch.from_numpy(arrays["target"]))
    loss.backward()
    arrays |= {"logits": outputs.detach(), "feature_fc_norm": feature.detach(), "loss": loss.detach()}
    rows, _ = parity.run(write(tmp_path, {"config": config}, weights, arrays, model))
    assert {"logits", "feature_fc_norm", "loss"} <= {row.name for row in rows}
    assert [row for row in rows if not row.ok] == []
