"""Heads over frozen features: each fits every split of a protocol under every setting of its own grid.

  linear          logistic regression on standardised features, all fits as one program   vectors
  linear_centred  the same on features that keep their scales beside each other           vectors
  ridge           least squares, in closed form; of numbers too                           vectors
  knn             the nearest training clips by cosine; of numbers too                    vectors
  layer_mix       a learned mean of layers, then linear                                   layers
  attentive       a learned query attends to tokens, then linear                          tokens

`examples` says what all of them take and give; `probes` chooses among the settings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from avemo_jax.errors import UserError
from avemo_jax.evaluation.heads import linear, neighbours, pooled, ridge
from avemo_jax.evaluation.heads.examples import Scored


class Head(NamedTuple):
    """How a head is fitted (features [R, …], `Examples`, splits), the kind of features that it takes (see
    `features.kind`), whether it can predict numbers, and whether it is trained step by step: `fit` then takes `steps`,
    too."""

    fit: Callable[..., list[Scored]]
    takes: str
    numbers: bool = False
    by_steps: bool = False


HEADS = {
    "linear": Head(linear.fit, "vector"),
    "linear_centred": Head(partial(linear.fit, centred=True), "vector"),
    "ridge": Head(ridge.fit, "vector", numbers=True),
    "knn": Head(neighbours.fit, "vector", numbers=True),
    "layer_mix": Head(partial(pooled.fit, attentive=False), "layers", by_steps=True),
    "attentive": Head(partial(pooled.fit, attentive=True), "tokens", by_steps=True),
}

USUAL, USUAL_OF_NUMBERS = "linear", "ridge"


def select(text: str) -> tuple[str, ...]:
    """Names of heads from a comma-separated list.

    Raises:
      UserError: an unknown one, or none.
    """
    chosen = tuple(dict.fromkeys(filter(None, text.split(","))))
    unknown = [name for name in chosen if name not in HEADS]
    if unknown or not chosen:
        what = f"no head '{unknown[0]}'" if unknown else "it is empty"
        raise UserError(f"--head: {what}; there are {', '.join(HEADS)}")
    return chosen


def of_numbers(chosen: tuple[str, ...]) -> tuple[str, ...]:
    """The same heads.

    Raises:
      UserError: one of them only tells classes apart.
    """
    unfit = [name for name in chosen if not HEADS[name].numbers]
    if unfit:
        fit = ", ".join(name for name, head in HEADS.items() if head.numbers)
        raise UserError(f"--head: {unfit[0]} tells classes apart, the label is a number; there are {fit}")
    return chosen
