"""Tasks: what one run optimises = a model + objectives + how to look at it. Nothing about how it is run."""

from __future__ import annotations

from typing import Protocol

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from avemo_jax.batch import Batch
from avemo_jax.errors import UserError
from avemo_jax.tasks.finetune import Finetune
from avemo_jax.tasks.pretrain import Pretrain


class Task(Protocol):
    """What the training loop knows of a task."""

    config: ConfigDict

    def init_model(self, key: jax.Array) -> nnx.Module:
        """The freshly initialised model."""

    def loss(self, model: nnx.Module, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """A scalar to minimise and scalar metrics; pure, so that it can be traced.

        `key` is the step's. Draws that belong to a clip fold in its `position`, never its row, which depends
        on how many hosts read the data.
        """

    def figures(self, model: nnx.Module, batch: Batch, key: jax.Array) -> dict[str, np.ndarray]:
        """Pictures of what the model does, uint8 [H, W, 3] by name; may be empty."""

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the global batch."""


def make_task(config: ConfigDict) -> Task:
    """The task that `config.task` names."""
    tasks: dict[str, type[Pretrain] | type[Finetune]] = {"pretrain": Pretrain, "finetune": Finetune}
    if config.task not in tasks:
        raise UserError(f"config.task is '{config.task}': there are {', '.join(tasks)}")
    return tasks[config.task](config)
