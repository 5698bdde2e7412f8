"""The encoder of another run, which stays as it is, as what a student learns to predict of the tokens it does not see.

Its method may be any, its width and depth too; only what it looks at has to be cut into the student's tokens. Not here:
a teacher that is the moving average of its student (`training.gradients`), and teachers of outputs (`tasks.lessons`).
"""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
from flax import nnx
from ml_collections import ConfigDict

from avemo_jax import frontend, models
from avemo_jax.batch import Clip, Masks, Targets
from avemo_jax.config import from_json
from avemo_jax.errors import UserError
from avemo_jax.models.encoders import Encodes
from avemo_jax.models.jepa import hidden_latents
from avemo_jax.models.params import Params, split
from avemo_jax.models.streams import layer_count
from avemo_jax.training import checkpoint_files as files


def remember(config: ConfigDict) -> None:
    """Fills in which checkpoint of `target.teacher` is the config's frozen teacher, where it has one, and as
    `model.target_dim` how wide its tokens are: a run that goes on has the same, or is refused.

    Raises:
      UserError: `target.teacher` has no checkpoint.
    """
    if config.get("target", {}).get("teacher"):
        with config.unlocked():
            config.target.teacher = str(files.newest(config.target.teacher))
            config.model.target_dim = _config_of(config.target.teacher).model.dim


def _config_of(source: str) -> ConfigDict:
    return from_json(json.dumps(files.newest_config(source)))


class FrozenTeacher:
    """See above. `graphdef` and `shapes` are its model's, as `split` gives them.

    Raises:
      UserError: `target.teacher` has no checkpoint, or looks at other tokens than a model of `config` does.
    """

    def __init__(self, config: ConfigDict):
        self._source = config.target.teacher
        theirs = _config_of(self._source)
        ours, known = frontend.token_grids(config.model), frontend.token_grids(theirs.model)
        for name, grid in ours.items():
            if known.get(name) != grid:
                has = (
                    f"cuts {name} into {known[name]} tokens" if name in known else f"does not look at {name}"
                )
                raise UserError(f"target.teacher: {self._source} {has}, and this run into {grid}")
        with theirs.unlocked():
            theirs.dtype, theirs.attention = config.dtype, config.attention
        self._modalities, self._count = tuple(ours), config.model.get("teacher_layers", 1)
        if self._count > layer_count(theirs.model):
            raise UserError(
                f"model.teacher_layers is {self._count}, and {self._source} has {layer_count(theirs.model)}"
            )
        self.graphdef, self.shapes = split(nnx.eval_shape(lambda: models.build(theirs, jax.random.key(0))))

    def load(self, say: Callable[[str], None] = print) -> Params:
        """Its parameters, as NumPy arrays.

        Raises:
          UserError: its checkpoint is gone, or damaged.
        """
        _, params, step = files.load_params(self._source, say=say)
        say(f"frozen teacher: {self._source}, step {step}")
        return params

    def latents(self, teacher: Encodes, clip: Clip, masks: Masks) -> Targets:
        """What the teacher makes of the hidden tokens when it sees whole clips: the mean of its last
        `model.teacher_layers` layers after their norm, each standardised over the channels; float32 [B, N masked, C],
        without a gradient."""
        seen = teacher.encode(clip)._asdict()
        found = {
            name: hidden_latents(seen[f"{name}_layers"][-self._count :], mask)
            for name in self._modalities
            if (mask := getattr(masks, name)) is not None
        }
        return Targets(found.get("video"), found.get("audio"))
