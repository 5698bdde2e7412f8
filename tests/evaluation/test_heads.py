"""Every head against an independent fit, and on features that are made so that only it can read them."""

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from avemo_jax.evaluation import probes
from avemo_jax.evaluation.heads import HEADS, linear, neighbours, pooled, ridge, scaling
from avemo_jax.evaluation.heads.examples import Examples, centre_views
from avemo_jax.evaluation.protocols import Split

CLIPS, CLASSES = 90, 3
LABEL = np.arange(CLIPS) % CLASSES


def _split(folds=3):
    """The last third is tested; the others are in inner folds."""
    train, test = np.arange(60), np.arange(60, 90)
    inner = np.full(CLIPS, -1)
    inner[train] = train // 3 % folds
    return Split("one", train, test, inner, "clip")


def _features(*shape, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((CLIPS, *shape))
    return (noise + signal * rng.standard_normal((CLASSES, *shape))[LABEL]).astype(np.float32)


def _parts(split):
    """(training clips, clips predicted) of each inner fold's fit, and of the fit on all."""
    for fold in range(3):
        yield split.train[split.inner[split.train] != fold], np.flatnonzero(split.inner == fold)
    yield split.train, split.test


def test_ridge_is_scikit_learn_s_with_and_without_each_inner_fold():
    features, split = _features(20, signal=0.5), _split()
    (scored,) = ridge.fit(features, centre_views(LABEL, CLASSES), [split])
    inputs = scaling.standardise(features, split.train).astype(np.float64)
    for number, penalty in enumerate(ridge.PENALTIES):
        for train, predicted in _parts(split):
            # The penalty counts for the whole training part, whatever part of it is left out.
            oracle = Ridge(alpha=penalty * len(split.train)).fit(inputs[train], np.eye(3)[LABEL[train]])
            expected = np.maximum(oracle.predict(inputs[predicted]), 0.01)
            expected /= expected.sum(-1, keepdims=True)
            np.testing.assert_allclose(scored.predicted[number, predicted], expected, atol=1e-5)


@pytest.mark.parametrize("head", ["ridge", "knn"])
def test_numbers_are_predicted_as_scikit_learn_does_and_the_setting_has_the_best_ccc(head):
    features, split = _features(20, signal=0.5), _split()
    rng = np.random.default_rng(1)
    numbers = (features[:, :2] @ rng.normal(size=(2, 2)) + rng.normal(size=(CLIPS, 2)) + 3).astype(np.float32)
    examples = centre_views(numbers, 2)
    (scored,) = HEADS[head].fit(features, examples, [split])
    inputs = scaling.standardise(features, split.train).astype(np.float64)
    for number, value in enumerate(scored.values):
        for train, predicted in _parts(split):
            model = Ridge(alpha=value * len(split.train))
            if head == "knn":
                model = KNeighborsRegressor(min(value, len(train)), metric="cosine")
            expected = model.fit(inputs[train], numbers[train]).predict(inputs[predicted])
            np.testing.assert_allclose(scored.predicted[number, predicted], expected, atol=1e-4)
    chosen = probes.choose(scored, examples, split)
    agreement = [_ccc(one[split.train], numbers[split.train]) for one in scored.predicted]
    assert chosen.value == scored.values[np.argmax(agreement)]
    assert chosen.inner["ccc"] == pytest.approx(max(agreement), abs=1e-5)
    on_test = probes.choose(scored, examples, split, on_test=True).predicted
    assert _ccc(on_test, numbers[split.test]) >= _ccc(chosen.predicted, numbers[split.test])


def _ccc(predicted, truth):
    """Lin's, the mean over columns."""
    found = []
    for x, y in zip(predicted.T.astype(float), truth.T.astype(float), strict=True):
        spread = np.cov(x, y)
        found.append(2 * spread[0, 1] / (spread[0, 0] + spread[1, 1] + (x.mean() - y.mean()) ** 2))
    return np.mean(found)


@pytest.mark.parametrize("width", [20, 200])
def test_centred_features_keep_their_scales_and_the_fit_is_scikit_learn_s(width):
    features, split = _features(width, signal=0.5), _split()
    features = features * np.geomspace(0.01, 3, width, dtype=np.float32) + 5
    features[:, 1] = 7  # says nothing, and does not count among the columns that the common scale is of
    (scored,) = HEADS["linear_centred"].fit(features, centre_views(LABEL, CLASSES), [split], (0.01, 1.0))
    training = features[split.train].astype(np.float64)
    inputs = (features - training.mean(0)) / np.sqrt(training.var(0).sum() / (width - 1))
    for number, inverse_penalty in enumerate((0.01, 1.0)):
        for train, predicted in _parts(split):
            oracle = LogisticRegression(C=inverse_penalty, tol=1e-8, max_iter=10_000)
            oracle.fit(inputs[train], LABEL[train])
            np.testing.assert_allclose(
                scored.predicted[number, predicted], oracle.predict_proba(inputs[predicted]), atol=2e-3
            )


def test_neighbours_are_scikit_learn_s_by_cosine():
    features, split = _features(20, signal=0.5), _split()
    (scored,) = neighbours.fit(features, centre_views(LABEL, CLASSES), [split], (7, 1))
    inputs = scaling.standardise(features, split.train)
    for number, count in enumerate((7, 1)):
        for train, predicted in _parts(split):
            oracle = KNeighborsClassifier(count, metric="cosine").fit(inputs[train], LABEL[train])
            votes = oracle.predict_proba(inputs[predicted]) * count
            found = scored.predicted[number, predicted] * (count + 1) - 1 / 3
            np.testing.assert_allclose(found, votes, atol=0.02)  # ties are decided by a thousandth of a vote


def test_a_pooled_head_with_nothing_to_pool_is_the_linear_head():
    features, split = _features(20, signal=0.4), _split()
    examples, grid = centre_views(LABEL, CLASSES), (1e-3, 1e-2)
    (expected,) = linear.fit(features, examples, [split], grid)
    for attentive in (True, False):
        (found,) = pooled.fit(features[:, None, None], examples, [split], grid, attentive=attentive)
        assert found.values == expected.values
        np.testing.assert_allclose(found.predicted, expected.predicted, atol=0.03)


def _marked(items, signal):
    """Tokens that tell the class where a channel, not without noise, says so."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((CLIPS, 1, items, 3))
    telling = rng.random((CLIPS, 1, items)) < 0.5
    tokens[..., 0] += telling
    of_class = signal * rng.standard_normal((CLASSES, 2))
    tokens[..., 1:] += np.where(telling[..., None], of_class[LABEL][:, None, None], 0)
    return tokens.astype(np.float32)


@pytest.mark.parametrize(
    "attentive, features", [(True, _marked(24, 1.2)), (False, _features(1, 3, 4, signal=0.6))]
)
def test_a_pooled_head_finds_the_optimum_that_scipy_finds_of_the_same_loss(attentive, features):
    """Softmax regression on a weighted mean of items, of tokens by a query, of layers by a number each; both from the
    plain mean on, on the training part as it is standardised there."""
    split, inverse_penalty, (items, width) = _split(), 0.02, features.shape[2:]
    (scored,) = pooled.fit(
        features, centre_views(LABEL, CLASSES), [split], (inverse_penalty,), attentive=attentive, steps=5000
    )
    rows, x = split.train, features[:, 0].astype(np.float64)
    of_items = x[rows].std((0, 1))
    mean, deviation = x[rows].mean((0, 1)), np.maximum(x[rows].mean(1).std(0), of_items / np.sqrt(items))
    sharp = 1 / (of_items * np.sqrt(width))
    one_hot, count = np.eye(CLASSES)[LABEL[rows]], width if attentive else items

    def logits(values, clips):
        query, weights, bias = np.split(values, [count, count + width * CLASSES])
        scores = x[clips] @ (query * sharp) if attentive else np.broadcast_to(query, (len(clips), items))
        vector = (special.softmax(scores, -1)[..., None] * x[clips]).sum(1)
        return (vector - mean) / deviation @ weights.reshape(width, CLASSES) + bias

    def loss(values):
        surprise = -(one_hot * special.log_softmax(logits(values, rows), -1)).sum(-1).mean()
        weights = values[count : count + width * CLASSES]
        return surprise + np.square(weights).sum() / (2 * inverse_penalty * len(rows))

    start = np.zeros(count + (width + 1) * CLASSES)
    start[count:] = 1e-3 * np.random.default_rng(0).standard_normal(len(start) - count)
    best = optimize.minimize(loss, start, method="BFGS", options={"maxiter": 500})
    expected = special.softmax(logits(best.x, split.test), -1)
    np.testing.assert_allclose(scored.predicted[0, split.test], expected, atol=0.01)
    plain = np.concatenate([np.zeros(count), best.x[count:]])  # it is not the plain mean
    assert np.abs(special.softmax(logits(plain, split.test), -1) - expected).max() > 0.1


def _accuracy(head, features):
    split = _split()
    (result,) = probes.probe(features, centre_views(LABEL, CLASSES), [split], head)
    return (result.predicted.argmax(-1) == LABEL[split.test]).mean()


def test_layer_mix_finds_the_layer_that_tells_where_the_plain_mean_does_not():
    layers = 6 * _features(1, 12, 8, signal=0)
    layers[:, 0, 9] = _features(8, signal=1.5)
    assert _accuracy("layer_mix", layers) > 0.8
    (mixed,) = probes.probe(layers, centre_views(LABEL, CLASSES), [_split()], "layer_mix")
    assert mixed.shares.shape == (1, 12) and mixed.shares.sum() == pytest.approx(1, abs=1e-5)
    assert mixed.shares[0].argmax() == 9
    assert _accuracy("linear", layers.mean((1, 2))) < 0.6


def test_attention_finds_the_token_that_tells_wherever_it_stands():
    rng = np.random.default_rng(0)
    tokens = 3 * rng.standard_normal((CLIPS, 1, 30, 16)).astype(np.float32)
    marked = _features(16, signal=1.5)
    marked[:, 0] = 25.0  # by what its channel 0 says, and by no place
    tokens[..., 0] = 0
    tokens[np.arange(CLIPS), 0, rng.integers(0, 30, CLIPS)] = marked
    assert _accuracy("attentive", tokens.astype(np.float16)) > 0.8
    assert _accuracy("linear", tokens.mean((1, 2))) < 0.65


@pytest.mark.parametrize("head", HEADS)
def test_views_are_trained_on_and_centre_views_are_predicted(head):
    kind = {"vector": (12,), "layers": (1, 2, 12), "tokens": (1, 3, 12)}[HEADS[head].takes]
    centre, other = _features(*kind, signal=1.5), _features(*kind, signal=1.5, seed=0) + 0.1
    centre[:60] = 0  # what is not to be trained on
    both = np.concatenate([centre, other])
    clip, trains = np.tile(np.arange(CLIPS), 2), np.repeat([False, True], CLIPS)
    split = _split()
    (result,) = probes.probe(both, Examples(clip, trains, LABEL, CLASSES), [split], head)
    assert (result.predicted.argmax(-1) == LABEL[split.test]).mean() > 0.8
