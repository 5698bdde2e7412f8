"""Named vectors from tokens, and the plain statistics beside them."""

import numpy as np
import pytest

from avemo_jax.batch import Features
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation import baselines, features

MODEL = load_config(
    "hicmae:demo",
    ["model.dim=8", "model.heads=2", "model.depth=3", "model.skip_layers=0,1,2", "model.image_size=96"],
).model


def _tokens(batch=2, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((3, batch, 8 * 6 * 6, 8)).astype(np.float32)
    audio = rng.standard_normal((3, batch, 16 * 8, 8)).astype(np.float32)
    return Features(video, audio, video[0] + 1, audio[0] - 1)


def _pool(tokens, *wanted, params=None):
    return features.pool(tokens, features.layer_weights(params or {}, MODEL), wanted, MODEL)


def test_cat4_is_the_four_pooled_vectors_one_behind_the_other():
    vectors = _pool(_tokens(), "cat4", "video", "audio", "fused_video", "fused_audio")
    four = [vectors[name] for name in ("video", "audio", "fused_video", "fused_audio")]
    np.testing.assert_array_equal(vectors["cat4"], np.concatenate(four, -1))


def test_without_learned_weights_a_stream_is_the_plain_mean_of_its_layers():
    tokens = _tokens()
    vectors = _pool(tokens, "video", "audio_layer_1")
    np.testing.assert_allclose(vectors["video"], tokens.video_layers.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(vectors["audio_layer_1"], tokens.audio_layers[1].mean(1), atol=1e-6)


def test_a_classifier_s_learned_layer_weights_are_used():
    tokens = _tokens()
    params = {"video_layer_weights": np.array([0.0, 50.0, 0.0]), "audio_layer_weights": np.zeros(3)}
    vectors = _pool(tokens, "video", "video_layer_1", params=params)
    np.testing.assert_allclose(vectors["video"], vectors["video_layer_1"], atol=1e-6)


def test_audio_rows_keep_frequency_and_average_time():
    tokens = _tokens()
    rows = np.asarray(_pool(tokens, "audio_rows")["audio_rows"]).reshape(2, 8, 8)
    for row in range(8):  # token number = 8 * time + row
        np.testing.assert_allclose(rows[:, row], tokens.audio_layers[-1][:, row::8].mean(1), atol=1e-6)


def test_video_cells_average_time_and_neighbouring_places():
    tokens = _tokens()
    cells = np.asarray(_pool(tokens, "video_cells")["video_cells"]).reshape(2, 4, 4, 8)
    places = tokens.video_layers[-1].reshape(2, 8, 6, 6, 8).mean(1)
    np.testing.assert_allclose(cells[:, 0, 3], places[:, 0:2, 4:6].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(cells[:, 1, 1], places[:, 1:3, 1:3].mean((1, 2)), atol=1e-6)


def test_spans_are_rows_and_cells_of_each_quarter_of_the_clip():
    tokens = _tokens()
    vectors = _pool(tokens, "audio_spans", "video_spans", "audio_rows", "video_cells")
    heard = np.asarray(vectors["audio_spans"]).reshape(2, 4, 8, 8)
    times = tokens.audio_layers[-1].reshape(2, 16, 8, 8)
    np.testing.assert_allclose(heard[:, 1], times[:, 4:8].mean(1), atol=1e-6)
    np.testing.assert_allclose(heard.mean(1).reshape(2, -1), vectors["audio_rows"], atol=1e-6)
    seen = np.asarray(vectors["video_spans"]).reshape(2, 4, 4, 4, 8)
    places = tokens.video_layers[-1].reshape(2, 8, 6, 6, 8)
    np.testing.assert_allclose(seen[:, 3, 0, 3], places[:, 6:8, 0:2, 4:6].mean((1, 2, 3)), atol=1e-6)


def test_groups_of_features_expand_and_repeats_are_dropped():
    assert features.select("cat4,layers,cat4", MODEL) == ("cat4", *features.names(MODEL)[10:])
    assert features.select("default", MODEL) == features.default(MODEL)
    assert features.select("all", MODEL) == features.names(MODEL)


@pytest.mark.parametrize("text", ["cat5", "video_layer_3", "", ","])
def test_unknown_or_missing_feature_names_are_refused(text):
    with pytest.raises(UserError, match="--features"):
        features.select(text, MODEL)


def _batch(length, loud=0.1):
    rng = np.random.default_rng(0)
    wave = np.zeros((1, 41200), np.int16)
    wave[0, :length] = rng.standard_normal(length) * loud * 32767
    return {
        "video": rng.integers(0, 256, (1, 4, 32, 48, 3), dtype=np.uint8),
        "waveform": wave,
        "waveform_length": np.array([length], np.int32),
        "waveform_mean": np.zeros(1, np.float32),
    }


def test_statistics_of_a_short_clip_do_not_see_its_padding():
    short = baselines.statistics(_batch(16000), 128)["log_mel"]
    full = baselines.statistics(_batch(41200), 128)["log_mel"]
    assert np.abs(short[:, :128] - full[:, :128]).mean() < 0.05
    assert np.abs(short[:, 128:] - full[:, 128:]).mean() < 0.05


def test_statistics_of_spans_are_of_quarters_of_the_sound_without_its_padding():
    spans = baselines.statistics(_batch(41200), 128)["log_mel_spans"].reshape(4, 2, 128)
    whole = baselines.statistics(_batch(41200), 128)["log_mel"].reshape(2, 128)
    means, deviations = spans[:, 0], spans[:, 1]
    np.testing.assert_allclose(means.mean(0), whole[0], atol=0.02)  # neighbours may share a frame
    np.testing.assert_allclose((deviations**2).mean(0) + means.var(0), whole[1] ** 2, atol=0.05)
    short = baselines.statistics(_batch(16000), 128)["log_mel_spans"].reshape(4, 2, 128)
    assert np.abs(short - spans).mean() < 0.1


def test_statistics_are_mel_bands_and_a_16_by_16_grey_picture():
    batch = _batch(41200)
    vectors = baselines.statistics(batch, 128)
    assert {name: vector.shape for name, vector in vectors.items()} == {
        "log_mel": (1, 256),
        "log_mel_spans": (1, 1024),
        "pixels": (1, 512),
        "log_mel+pixels": (1, 768),
    }
    grey = batch["video"][0] / 255 @ np.array([0.299, 0.587, 0.114])
    cells = grey.reshape(4, 16, 2, 16, 3).mean((2, 4)).reshape(4, 256)
    expected = np.concatenate([cells.mean(0), cells.std(0)])
    np.testing.assert_allclose(vectors["pixels"][0], expected, atol=1e-6)
    both = np.concatenate([vectors["log_mel"], vectors["pixels"]], -1)
    np.testing.assert_array_equal(vectors["log_mel+pixels"], both)
