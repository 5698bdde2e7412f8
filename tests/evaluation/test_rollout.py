"""Attention rollout against the networks written out in NumPy, head by head."""

import jax
import numpy as np
import pytest
from scipy.special import erf, softmax

from avemo_jax import frontend
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation import rollout
from avemo_jax.evaluation.extraction import random_networks
from avemo_jax.models.positions import audio_positions, resized, video_positions
from tests.evaluation.synthetic import TINY


def _norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def _attend(query, key, value, out):
    """Each head by itself: (what comes out [N, C], mean weights [N, M]); query, key, value [N, H, D]."""
    total, weights = np.zeros((len(query), out["kernel"].shape[-1])), 0
    for head in range(query.shape[1]):
        own = softmax(query[:, head] @ key[:, head].T / np.sqrt(query.shape[-1]), -1)
        total += own @ value[:, head] @ out["kernel"][head]
        weights = weights + own / query.shape[1]
    return total + out["bias"], weights


def _self(x, p):
    h = _norm(x, p["norm1"])
    query, key, value = (np.einsum("nc,chd->nhd", h, p["attn"]["qkv"][:, i]) for i in range(3))
    attended, weights = _attend(
        query + p["attn"]["q_bias"], key, value + p["attn"]["v_bias"], p["attn"]["out"]
    )
    x = x + attended
    h = _norm(x, p["norm2"]) @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
    h = h * (1 + erf(h / np.sqrt(2))) / 2
    return x + h @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"], weights


def _cross(x, context, p):
    a, h, c = p["cross_attn"], _norm(x, p["cross_norm"]), _norm(context, p["context_norm"])
    query = np.einsum("nc,chd->nhd", h, a["q"]) + a["q_bias"]
    key, value = (np.einsum("nc,chd->nhd", c, a["kv"][:, i]) for i in range(2))
    attended, weights = _attend(query, key, value + a["v_bias"], a["out"])
    after, own = _self(x + attended, p)
    return after, weights, own


def _layer(p, number):
    return jax.tree.map(lambda leaf: np.asarray(leaf[number], np.float64), p)


def _encode(patches, p, depth, positions):
    x = patches @ p["patch_embed"]["kernel"] + p["patch_embed"]["bias"]
    x = x + positions.table(len(patches), x.shape[-1])
    flow = np.eye(len(x))
    for number in range(depth):
        x, weights = _self(x, _layer(p["blocks"], number))
        flow = (0.5 * weights + 0.5 * np.eye(len(x))) @ flow
    return _norm(x, p["norm"]), flow


@pytest.fixture(scope="module", params=[32, 48])
def case(request):
    """As trained, and with larger frames."""
    config = load_config("hicmae:demo", [*TINY, "model.fusion_depth=2"])
    (network,) = random_networks(config, [3])
    side = request.param
    resized(config.model, {"image_size": side}, "interpolated")
    rng = np.random.default_rng(0)
    # Trained weights attend to some tokens more than to others; drawn ones hardly.
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) * 2 + 0.05 * rng.normal(size=leaf.shape), network.params
    )
    batch = {
        "video": rng.integers(0, 255, (2, 4, side, side, 3)).astype(np.uint8),
        "waveform": rng.integers(-9000, 9000, (2, 10480)).astype(np.int16),
        "waveform_length": np.full(2, 10480, np.int32),
        "waveform_mean": np.zeros(2, np.float32),
    }
    return config, jax.tree.map(lambda leaf: leaf.astype(np.float32), params), batch


def test_relevance_is_that_of_the_networks_written_out(case):
    config, params, batch = case
    found = rollout.relevance(config, params, batch)
    clip = frontend.to_clip(batch, mels=config.model.mel_bins)
    for row in range(2):
        video = np.asarray(frontend.patchify_video(clip.video)[row], np.float64)
        audio = np.asarray(frontend.patchify_audio(clip.audio)[row], np.float64)
        video, flow_video = _encode(video, params["video"], config.model.depth, video_positions(config.model))
        audio, flow_audio = _encode(audio, params["audio"], config.model.depth, audio_positions(config.model))
        np.testing.assert_allclose(found.video[row], flow_video.mean(0), atol=2e-5)
        np.testing.assert_allclose(found.audio[row], flow_audio.mean(0), atol=2e-5)
        n, m = len(video), len(audio)
        flow = np.block([[flow_video, np.zeros((n, m))], [np.zeros((m, n)), flow_audio]])
        for number in range(config.model.fusion_depth):
            blocks = [_layer(params["fusion"][f"{stream}_blocks"], number) for stream in ("video", "audio")]
            (video, from_audio, own_video), (audio, from_video, own_audio) = (
                _cross(video, audio, blocks[0]),
                _cross(audio, video, blocks[1]),
            )
            crossed = np.block([[np.zeros((n, n)), from_audio], [from_video, np.zeros((m, m))]])
            own = np.block([[own_video, np.zeros((n, m))], [np.zeros((m, n)), own_audio]])
            for weights in (crossed, own):
                flow = (0.5 * weights + 0.5 * np.eye(n + m)) @ flow
        mean = (flow[:n].mean(0) + flow[n:].mean(0)) / 2
        np.testing.assert_allclose(found.fused[row], mean, atol=2e-5)
        assert np.ptp(found.video[row]) > 1e-3  # it is no uniform attention that agrees


def test_all_relevance_comes_from_some_token(case):
    config, params, batch = case
    for part in rollout.relevance(config, params, batch):
        assert (np.asarray(part) >= 0).all()
        np.testing.assert_allclose(np.asarray(part).sum(-1), 1, atol=1e-5)


def test_layers_that_attend_to_themselves_pass_tokens_on_as_they_are():
    eye = np.broadcast_to(np.eye(5, dtype=np.float32), (3, 1, 5, 5))
    np.testing.assert_array_equal(rollout.rollout(eye)[0], np.eye(5))


def test_another_method_s_run_is_refused():
    with pytest.raises(UserError, match="follows HiCMAE's two encoders .* a run of video_mae"):
        rollout.check_model(load_config("video_mae:demo"))
