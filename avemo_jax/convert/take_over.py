"""Parameters for a config's model out of a state dict: all of them, or what pretraining hands on."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import models
from avemo_jax.convert import hicmae
from avemo_jax.models.params import Params, split


def take_over(state: Mapping[str, np.ndarray], config: ConfigDict, source: str) -> tuple[Params, list[str]]:
    """Strictly; only pretraining weights for a classifier leave something over, as in the reference, and what the
    reference has not begins afresh.

    Args:
      state: arrays by the reference's names.
      config: of the model that the parameters are for.
      source: where the weights come from, for the message.

    Returns:
      The parameters on the host, and the names of the parts that are freshly initialised from `config.seed`.

    Raises:
      UserError: names or shapes that do not fit, or a config of another method.
    """

    hicmae.check_method(config)

    def initial():
        return split(models.build(config, jax.random.key(config.seed)))[1]

    expected = jax.eval_shape(initial)
    if config.task != "finetune" or hicmae.task_of(state) != "pretrain":
        wanted = hicmae.their_part(expected)
    else:
        wanted, state = hicmae.shared_part(expected), hicmae.shared_keys(state)
    params = hicmae.from_reference(state, wanted, source)
    fresh = [part for part in expected if part not in params]
    if not fresh:
        return params, []
    made = jax.jit(lambda: {part: initial()[part] for part in fresh})()
    return params | jax.tree.map(np.asarray, made), fresh
