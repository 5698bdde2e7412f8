"""Heads over frozen features: each fits every split of a protocol under every setting of its own grid.

  linear        logistic regression, all fits as one program

`examples` says what all of them take and give; `probes` chooses among the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from avemo_jax.evaluation.heads import linear
from avemo_jax.evaluation.heads.examples import Examples, Scored
from avemo_jax.evaluation.protocols import Split


class Head(NamedTuple):
    """How a head is fitted."""

    fit: Callable[[np.ndarray, Examples, Sequence[Split]], list[Scored]]


HEADS = {"linear": Head(linear.fit)}
