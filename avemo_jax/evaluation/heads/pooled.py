"""Heads that learn what to pool: a linear classifier on a weighted mean of layers or of tokens.

  layer_mix   a softmax over layers, one number a layer (as HiCMAE's classifier)
  attentive   one learned query attends to all tokens (V-JEPA's attentive probe without its projections and MLP)

Both begin as the linear head on the plain mean, standardised by each split's training rows, and are trained with it
by Adam for a fixed number of steps, which often ends before the loss's optimum: an early stop. All splits, inner folds
and penalties are trained side by side on the same batches of rows, where a row counts for those it is a training row
of.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from avemo_jax.evaluation.heads import scaling
from avemo_jax.evaluation.heads.examples import (
    Examples,
    Scored,
    inner_folds,
    predicted_by,
    row_sets,
    softmax,
)
from avemo_jax.evaluation.logistic import penalty_of
from avemo_jax.evaluation.protocols import Split

SETTING = "inverse_penalty"
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # a part of the linear head's
STEPS = 400
_BATCH = 128
_RATE = 0.1  # of Adam, over the square root of the linear layer's width
_QUERY_RATE = 0.02
_MEMORY = 1 << 29  # bytes of what the problems pool from a batch


def fit(
    features: np.ndarray,
    examples: Examples,
    splits: Sequence[Split],
    values: Sequence[float] = INVERSE_PENALTIES,
    *,
    attentive: bool,
    steps: int = STEPS,
) -> list[Scored]:
    """Every split with every inverse penalty, so many steps of Adam.

    features: float16 or float32 [R, G, T, C], finite: of each row, for each of G streams, T layers or tokens.
      The streams' means are put side by side.
    """
    folds, grid = inner_folds(splits), tuple(sorted(values))
    rows, streams, items, width = features.shape
    mean = features.mean(2, dtype=np.float32).reshape(rows, -1)
    each = 4 * _BATCH * (folds + 1) * len(grid) * streams * (3 * width + 4 * items)
    parts = np.array_split(np.arange(len(splits)), min(len(splits), -(-len(splits) * each // _MEMORY)))
    sharpness = _sharpness(
        features[np.isin(examples.clip, np.concatenate([split.train for split in splits]))]
    )
    placed = jnp.asarray(features)
    results = []
    for part in parts:
        chosen = [splits[number] for number in part]
        sets = np.concatenate([row_sets(examples, split, folds) for split in chosen])
        training = [row_sets(examples, split, 0)[0] for split in chosen]
        own = scaling.scales(mean - mean.mean(0), training)
        logits, queries = _train(
            placed,
            jnp.asarray(examples.row_label),
            jnp.asarray(sets),
            jnp.asarray(np.stack([mean[rows].mean(0) for rows in training])),
            # A mean over items that hardly varies may vary when the items are weighted.
            jnp.asarray(np.minimum(np.where(own > 0, own, np.inf), np.sqrt(items) * sharpness)),
            jnp.asarray(sharpness),
            jnp.asarray(grid, jnp.float32),
            jnp.asarray(np.flatnonzero(sets.any(0))),
            classes=examples.classes,
            tested=len(examples.label),
            attentive=attentive,
            steps=steps,
        )
        for place, split in enumerate(chosen):
            solved = np.asarray(logits[:, place * (folds + 1) : (place + 1) * (folds + 1)])
            read = np.take_along_axis(solved, predicted_by(split, folds)[None, None, :, None], axis=1)[:, 0]
            own = softmax(np.asarray(queries[:, (place + 1) * (folds + 1) - 1]))
            shares = None if attentive else own
            results.append(Scored(SETTING, grid, softmax(read), shares=shares))
    return results


def _sharpness(features):
    """1 / standard deviation of each channel over all rows and items [G * C], 0 where it is constant."""
    sums = np.zeros((2, features.shape[1], features.shape[3]))
    for first in range(0, len(features), _BATCH):
        x = features[first : first + _BATCH].astype(np.float32)
        sums += x.sum((0, 2), dtype=np.float64), np.square(x).sum((0, 2), dtype=np.float64)
    mean, power = sums / (features.shape[0] * features.shape[2])
    variance = power - np.square(mean)
    varies = variance > 1e-9 * np.maximum(power, 1e-9)
    return np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0).astype(np.float32).reshape(-1)


@partial(jax.jit, static_argnames=("classes", "tested", "attentive", "steps"))
def _train(
    features,
    labels,
    sets,
    means,
    scales,
    sharpness,
    inverse_penalties,
    pool,
    *,
    classes,
    tested,
    attentive,
    steps,
) -> tuple[jax.Array, jax.Array]:
    """Logits of the first `tested` rows by each problem [C, S, tested, K], and its query [C, S, G, C or T].

    sets: bool [S, R]; means, scales: [P, G * C] of the S / P sets of each split; sharpness: [G * C], the scale at
    which queries see items; pool: rows of any set.
    """
    _, streams, items, width = features.shape
    penalties, problems = len(inverse_penalties), len(inverse_penalties) * len(sets)
    means, scales = (
        jnp.tile(jnp.repeat(of_split, len(sets) // len(of_split), 0), (penalties, 1))
        for of_split in (means, scales)
    )
    counts = jnp.tile(sets.sum(1), penalties)
    penalty = penalty_of(jnp.repeat(inverse_penalties, len(sets)), jnp.maximum(counts, 1), classes)
    params = {
        "query": jnp.zeros((problems, streams, width if attentive else items)),
        "weights": jnp.zeros((problems, streams * width, classes)),
        "bias": jnp.zeros((problems, classes)),
    }

    def logits_of(params, rows):
        """[problems, rows, K]"""
        x = features[rows].astype(jnp.float32)
        if attentive:
            query = params["query"] * sharpness.reshape(streams, width) / np.sqrt(width)
            shares = jax.nn.softmax(jnp.einsum("pgc,ngtc->pngt", query, x), -1)
            pooled = jnp.einsum("pngt,ngtc->pngc", shares, x)
        else:
            pooled = jnp.einsum("pgt,ngtc->pngc", jax.nn.softmax(params["query"], -1), x)
        pooled = (pooled.reshape(problems, len(rows), -1) - means[:, None]) * scales[:, None]
        return jnp.einsum("pnd,pdk->pnk", pooled, params["weights"]) + params["bias"][:, None]

    def loss(params, rows):
        counted = jnp.tile(sets[:, rows], (penalties, 1)).astype(jnp.float32)
        logits = logits_of(params, rows)
        surprise = optax.softmax_cross_entropy_with_integer_labels(
            logits, jnp.broadcast_to(labels[rows], logits.shape[:2])
        )
        fitted = (counted * surprise).sum(1) / jnp.maximum(counted.sum(1), 1)
        return (fitted + penalty / 2 * jnp.square(params["weights"]).sum((1, 2))).sum()

    schedule = {
        "linear": optax.cosine_decay_schedule(_RATE / np.sqrt(streams * width), steps),
        "query": optax.cosine_decay_schedule(_QUERY_RATE, steps),
    }
    optimiser = optax.multi_transform(
        {name: optax.adam(rate) for name, rate in schedule.items()},
        {"query": "query", "weights": "linear", "bias": "linear"},
    )

    def step(carry, key):
        params, state = carry
        rows = pool[jax.random.permutation(key, len(pool))[: min(_BATCH, len(pool))]]
        updates, state = optimiser.update(jax.grad(loss)(params, rows), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), steps)
    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), keys)
    size = min(_BATCH, tested)
    starts = jnp.arange(0, tested, size)
    blocks = jax.lax.map(
        lambda first: logits_of(params, jnp.minimum(first + jnp.arange(size), tested - 1)), starts
    )
    logits = blocks.swapaxes(0, 1).reshape(problems, -1, classes)[:, :tested]
    query = params["query"].reshape(penalties, len(sets), streams, -1)
    return logits.reshape(penalties, len(sets), tested, classes), query
