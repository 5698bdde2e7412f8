"""Tasks: what one run optimises = a model + objectives + how to look at it. Nothing about how it is run."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from avemo_jax.batch import Batch
from avemo_jax.errors import UserError
from avemo_jax.tasks.align_text import AlignText
from avemo_jax.tasks.finetune import Finetune
from avemo_jax.tasks.pretrain import Pretrain
from avemo_jax.tasks.several import Several
from avemo_jax.tasks.token_teacher import FrozenTeacher


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
        """Pictures of what the model does, uint8 [H, W, 3] by name; may be empty. `key` is that of the step whose
        clips these are."""

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the global batch."""


class CutTask(Task, Protocol):
    """A task that has to know more of a batch than each of its microbatches shows (`training.gradients`)."""

    def before_cutting(self, batch: Batch) -> Batch:
        """The batch with further fields, whose first axis is the clips."""


class TaughtTask(Task, Protocol):
    """A task that may learn from the moving average of its own model (`ema.decay`) or from a frozen model, which `loss`
    then takes as `teacher`; so do `embeddings` and `pulled_loss` of one that compares."""

    frozen_teacher: FrozenTeacher | None  # the frozen one

    @property
    def learns_from_average(self) -> bool:
        """Whether it learns from the average."""


class ChangingTask(Task, Protocol):
    """A task whose loss may be another one at every step: `loss` takes the `step`, int32 [], and so do `comparison` and
    `pulled_loss` of one that compares."""

    @property
    def changes_with_step(self) -> bool:
        """Whether it is."""


class ComparingTask(Task, Protocol):
    """A task that compares clips with each other and can do so over microbatches (`training.gradients`)."""

    @property
    def compares_whole_batch(self) -> bool:
        """Whether it is to; False computes every microbatch as a batch of its own."""

    def embeddings(self, model: nnx.Module, batch: Batch, key: jax.Array) -> Any:
        """What clips are compared by: a tree of arrays whose first axis is the clips."""

    def comparison(self, embeddings: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The part of the loss that compares clips, of a whole batch, and its metrics."""

    def pulled_loss(
        self, model: nnx.Module, batch: Batch, key: jax.Array, pull: Any
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The other parts of the loss and their metrics; the gradient of ⟨embeddings, pull⟩ is in it, its value not."""


def make_task(config: ConfigDict) -> Task:
    """The task that `config.task` names."""
    tasks: dict[str, type[Pretrain] | type[Finetune] | type[AlignText]] = {
        "pretrain": Pretrain,
        "align_text": AlignText,
        "finetune": Finetune,
        "several": Several,
    }
    if config.task not in tasks:
        raise UserError(f"config.task is '{config.task}': there are {', '.join(tasks)}")
    return tasks[config.task](config)
