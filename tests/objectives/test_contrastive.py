"""Contrast beside an independent NumPy version."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.special import logsumexp

from avemo_jax.errors import UserError
from avemo_jax.objectives.contrastive import _chunk_size, hierarchical_contrast, pairwise_contrast
from avemo_jax.training import mesh as mesh_lib

RNG = np.random.default_rng(0)
VIDEO, AUDIO = (RNG.standard_normal((3, 8, 5)).astype(np.float32) for _ in range(2))


def numpy_contrast(video, audio, temperature):
    total = 0.0
    for v, a in zip(video.astype(np.float64), audio.astype(np.float64), strict=True):
        v, a = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, a))
        logits = v @ a.T / temperature
        rows = logsumexp(logits, axis=1) - np.diag(logits)
        columns = logsumexp(logits, axis=0) - np.diag(logits)
        total += 0.5 * (rows.mean() + columns.mean())
    return total


def test_global_negatives_are_the_whole_batch():
    loss, metrics = hierarchical_contrast(VIDEO, AUDIO, temperature=0.07)
    assert float(loss) == pytest.approx(numpy_contrast(VIDEO, AUDIO, 0.07), rel=1e-5)
    assert float(metrics["loss_contrast"]) == float(loss)


def test_local_negatives_are_the_mean_over_groups_of_neighbours():
    loss, _ = hierarchical_contrast(VIDEO, AUDIO, temperature=0.1, negatives="local", group_size=4)
    halves = [numpy_contrast(VIDEO[:, rows], AUDIO[:, rows], 0.1) for rows in (slice(0, 4), slice(4, 8))]
    assert float(loss) == pytest.approx(np.mean(halves), rel=1e-5)


def test_matching_pairs_are_found_when_the_modalities_agree():
    _, metrics = hierarchical_contrast(VIDEO, VIDEO, temperature=0.07)
    assert float(metrics["contrast_accuracy"]) == 1.0


def numpy_siglip(first, second, temperature, bias, same):
    """The definition (Zhai et al. 2023), pair by pair; only pairs of the same group are pairs at all."""
    total = 0.0
    for one, v in enumerate(np.float64(first)):
        for other, a in enumerate(np.float64(second)):
            if same[one] == same[other]:
                sign = 1 if one == other else -1
                logit = v @ a / np.linalg.norm(v) / np.linalg.norm(a) / temperature + bias
                total += np.log1p(np.exp(-sign * logit))
    return total / len(first)


def numpy_within(first, second, temperature, same):
    """(forward, backward) InfoNCE over the clips of one's own group."""
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in np.float64([first, second]))
    logits = first @ second.T / temperature
    forward = [logsumexp(logits[i, same == same[i]]) - logits[i, i] for i in range(len(logits))]
    backward = [logsumexp(logits[same == same[i], i]) - logits[i, i] for i in range(len(logits))]
    return np.mean(forward), np.mean(backward)


NOBODY, SPEAKERS = np.zeros(8, np.int32), np.array([3, 3, 1, 1, 3, 0, 1, 3], np.int32)


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("same", [NOBODY, SPEAKERS], ids=["all", "of their own speaker"])
def test_each_direction_of_infonce_is_its_own_softmax(same, chunk):
    forward, backward = np.sum(
        [numpy_within(v, a, 0.2, same) for v, a in zip(VIDEO, AUDIO, strict=True)], axis=0
    )
    assert abs(forward - backward) > 0.01
    wanted = {"forward": forward, "backward": backward, "both": (forward + backward) / 2}
    for direction, expected in wanted.items():
        options = {"within": same} if same.any() else {}
        loss, _ = hierarchical_contrast(
            VIDEO, AUDIO, temperature=0.2, direction=direction, chunk=chunk, **options
        )
        assert float(loss) == pytest.approx(expected, rel=1e-5), direction


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("same", [NOBODY, SPEAKERS], ids=["all", "of their own speaker"])
def test_siglip_judges_every_pair_by_itself(same, chunk):
    expected = sum(numpy_siglip(v, a, 0.3, -2.0, same) for v, a in zip(VIDEO, AUDIO, strict=True))
    options = {"within": same} if same.any() else {}
    loss, _ = hierarchical_contrast(
        VIDEO, AUDIO, temperature=0.3, bias=-2.0, kind="siglip", chunk=chunk, **options
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_a_learned_temperature_and_bias_have_gradients_which_differences_confirm(kind):
    def loss(temperature, bias, chunk=0):
        return hierarchical_contrast(
            VIDEO, AUDIO, temperature=temperature, bias=bias, kind=kind, chunk=chunk
        )[0]

    slopes = jax.grad(loss, argnums=(0, 1))(0.5, -1.0)
    chunked = jax.grad(lambda t, b: loss(t, b, chunk=4), argnums=(0, 1))(0.5, -1.0)
    np.testing.assert_allclose(chunked, slopes, rtol=1e-5, atol=1e-6)
    by_hand = (float(loss(0.505, -1.0)) - float(loss(0.495, -1.0))) / 0.01
    assert float(slopes[0]) == pytest.approx(by_hand, rel=1e-2)
    by_hand = (float(loss(0.5, -0.99)) - float(loss(0.5, -1.01))) / 0.02
    assert float(slopes[1]) == pytest.approx(by_hand, rel=1e-2, abs=1e-6)
    assert (abs(float(slopes[1])) > 0.01) == (kind == "siglip")


def test_several_modalities_are_compared_two_at_a_time():
    vectors = {"video": VIDEO[0], "audio": AUDIO[0], "text": VIDEO[1]}
    pairs = [("video", "audio"), ("video", "text"), ("audio", "text")]
    each = [numpy_contrast(vectors[a][None], vectors[b][None], 0.1) for a, b in pairs]
    loss, terms = pairwise_contrast(vectors, temperature=0.1)
    assert float(loss) == pytest.approx(sum(each), rel=1e-5)
    assert float(terms["loss_contrast_video_text"]) == pytest.approx(each[1], rel=1e-5)
    loss, terms = pairwise_contrast(vectors, pairs[2:], temperature=0.1)
    assert float(loss) == pytest.approx(each[2], rel=1e-5)
    assert set(terms) == {"loss_contrast_audio_text", "contrast_accuracy_audio_text"}


@pytest.mark.parametrize(
    "options",
    [
        {"negatives": "local", "group_size": 3},
        {"negatives": "near"},
        {"kind": "triplet"},
        {"direction": "left"},
    ],
)
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(UserError, match="contrast"):
        hierarchical_contrast(VIDEO, AUDIO, temperature=0.07, **options)


def loss_and_gradients(devices, chunk, **options):
    """((loss, metrics), gradients) of 96 clips whose modalities agree a little, divided over so many devices."""
    video = np.random.default_rng(1).standard_normal((3, 96, 16)).astype(np.float32)
    audio = video + 3 * np.random.default_rng(2).standard_normal(video.shape).astype(np.float32)
    mesh = mesh_lib.make_mesh(
        {"replica": 1, "data": -1, "fsdp": min(2, devices), "tensor": 1}, jax.devices()[:devices]
    )
    by_clip = NamedSharding(mesh, P(None, mesh_lib.ROWS))

    def loss(video, audio):
        return hierarchical_contrast(video, audio, temperature=0.07, chunk=chunk, **options)

    placed = [jax.device_put(x, by_clip) for x in (video, audio)]
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*placed)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negatives": "local", "group_size": 48},
        {"kind": "siglip", "bias": -5.0},
        {"direction": "backward", "within": np.arange(96, dtype=np.int32) // 7},
    ],
    ids=["global", "local", "siglip", "within groups"],
)
def test_in_chunks_the_loss_and_its_gradient_are_those_of_all_at_once(devices, options):
    (loss, metrics), gradients = loss_and_gradients(devices, chunk=0, **options)
    (chunked, chunked_metrics), chunked_gradients = loss_and_gradients(devices, chunk=16, **options)
    assert 0 < float(metrics["contrast_accuracy"]) < 1
    assert float(chunked) == pytest.approx(float(loss), rel=1e-5)
    assert float(chunked_metrics["contrast_accuracy"]) == float(metrics["contrast_accuracy"])
    for ours, expected in zip(chunked_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5 * float(np.abs(expected).max()))


def test_in_chunks_no_device_ever_holds_all_similarities_or_all_clips():
    def temporaries(chunk):
        mesh = mesh_lib.make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
        by_clip = NamedSharding(mesh, P(None, mesh_lib.ROWS))
        struct = jax.ShapeDtypeStruct((3, 4096, 128), np.float32, sharding=by_clip)
        loss = lambda v, a: hierarchical_contrast(v, a, temperature=0.07, chunk=chunk)[0]  # noqa: E731
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(struct, struct).compile()
        assert ("f32[3,4096," in compiled.as_text()) == (chunk == 0)
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(chunk=256) < 0.2 * temporaries(chunk=0)


@pytest.mark.parametrize(
    "size, most, chosen",
    [
        (32768, 2048, 2048),
        (40960, 2048, 2048),
        (9216, 2048, 1024),
        (9472, 2048, 256),
        (2049, 2048, 683),
        (4098, 2048, 1366),
    ],
)
def test_a_chunk_divides_the_batch_and_is_even_for_many_devices(size, most, chosen):
    assert _chunk_size(size, most) == chosen
    assert size % chosen == 0 and chosen <= most


TEXTS = np.array([4, 4, -1, 0, 2, -1, 4, 7], np.int32)  # three clips with one text, two without any


def numpy_same(first, second, temperature, same, kind, bias=0.0, also=None):
    """(forward, backward) InfoNCE, or SigLIP twice: over clips with a text, against other texts and one's own; with
    `also`, texts of the other kind, over clips with both, against those that share neither."""
    numbers = np.stack([same, same if also is None else also])
    there = np.flatnonzero((numbers >= 0).all(0))
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in np.float64([first, second]))
    logits = first @ second.T / temperature + bias
    forward, backward, pairs = [], [], []
    for i in there:
        others = [j for j in there if j == i or (numbers[:, j] != numbers[:, i]).all()]
        forward.append(logsumexp(logits[i, others]) - logits[i, i])
        backward.append(logsumexp(logits[others, i]) - logits[i, i])
        pairs.append(sum(np.log1p(np.exp(logits[i, j] * (-1 if j == i else 1))) for j in others))
    return (np.mean(forward), np.mean(backward)) if kind == "infonce" else (np.mean(pairs), np.mean(pairs))


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_clips_without_a_text_take_no_part_and_those_with_the_same_are_no_negatives(kind, chunk):
    options = {"temperature": 0.2, "kind": kind, "chunk": chunk, "bias": -1.0 if kind == "siglip" else 0.0}
    forward, backward = numpy_same(VIDEO[0], AUDIO[0], 0.2, TEXTS, kind, options["bias"])
    wanted = {"forward": forward, "backward": backward, "both": (forward + backward) / 2}

    def loss(video, audio, direction="both", **more):
        return hierarchical_contrast(
            video[None], audio[None], direction=direction, same=TEXTS, **options, **more
        )[0]

    for direction, expected in wanted.items():
        assert float(loss(VIDEO[0], AUDIO[0], direction)) == pytest.approx(expected, rel=1e-5), direction
    slopes = jax.grad(loss, argnums=(0, 1))(VIDEO[0], AUDIO[0])
    for slope in slopes:
        assert (
            np.isfinite(slope).all()
            and not np.any(slope[TEXTS < 0])
            and np.all(np.any(slope[TEXTS >= 0], axis=1))
        )
    nobody = hierarchical_contrast(VIDEO, AUDIO, same=np.full(8, -1), **options)
    assert float(nobody[0]) == 0 and float(nobody[1]["contrast_accuracy"]) == 0


def test_pairs_have_weights_and_a_modality_that_few_clips_have_counts_for_those_alone():
    vectors = {"video": VIDEO[0], "audio": AUDIO[0], "text": VIDEO[1]}
    pairs = [("video", "audio"), ("video", "text"), ("text", "audio")]
    plain = numpy_contrast(VIDEO[:1], AUDIO[:1], 0.1)
    texts = [np.mean(numpy_same(vectors[a], vectors[b], 0.1, TEXTS, "infonce")) for a, b in pairs[1:]]
    loss, terms = pairwise_contrast(
        vectors, pairs, weights=(0.5, 2.0, 3.0), same={"text": TEXTS}, temperature=0.1
    )
    assert float(loss) == pytest.approx(0.5 * plain + 2 * texts[0] + 3 * texts[1], rel=1e-5)
    assert float(terms["loss_contrast_text_audio"]) == pytest.approx(texts[1], rel=1e-5)


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_a_pair_of_two_modalities_that_few_clips_have_is_of_the_clips_that_have_both(kind, chunk):
    # Clip 3 has a text alone, 2 and 5 have a tag; 4 and 6 share one, and 6 a text with two others.
    tags = np.array([1, 1, 0, -1, 2, 3, 2, 5], np.int32)
    vectors = {"text": VIDEO[0], "tags": AUDIO[0]}
    loss, _ = pairwise_contrast(
        vectors, same={"text": TEXTS, "tags": tags}, temperature=0.2, kind=kind, chunk=chunk
    )
    expected = np.mean(numpy_same(VIDEO[0], AUDIO[0], 0.2, TEXTS, kind, also=tags))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    one_way = np.mean(numpy_same(VIDEO[0], AUDIO[0], 0.2, TEXTS, kind))
    assert abs(one_way - expected) > 0.01
