"""A teacher of hidden tokens: an encoder that sees whole clips, and what it makes of tokens a student does not see.

It is the encoder of another run, which stays as it is: its method may be any, its width and depth too; only what it
looks at has to be cut into the student's tokens. Or it is the moving average of its student, which `training.gradients`
gives; how wide its tokens are is all that is known of it here. Not here: teachers of outputs (`tasks.lessons`).
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
    """Fills in which checkpoint of `target.teacher` is the config's frozen teacher, where it has one, as
    `model.target_dim` how wide the tokens of its teacher are, and as `model.target_patches` whether the model predicts
    patches beside them: a run that goes on has the same, or is refused.

    Raises:
      UserError: `target.teacher` has no checkpoint.
    """
    target = config.get("target", {})
    if target.get("kind", "patches") == "patches":
        return
    model = config.model
    with config.unlocked():
        if target.teacher:
            target.teacher = str(files.newest(target.teacher))
            model.target_dim = _config_of(target.teacher).model.dim
        elif "teacher_layers" not in model:  # else it predicts nothing but latents, as wide as its own
            model.target_dim = model.dim
        if target.kind == "both":
            model.target_patches = True


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
        layers = config.model.get("teacher_layers", 1)
        if layers > layer_count(theirs.model):
            raise UserError(
                f"model.teacher_layers is {layers}, and {self._source} has {layer_count(theirs.model)}"
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


def latents(teacher: Encodes, clip: Clip, masks: Masks, layers: int) -> Targets:
    """What a teacher makes of the hidden tokens when it sees whole clips: the mean of its last layers after their norm,
    each standardised over the channels; float32 [B, N masked, C], without a gradient."""
    seen = teacher.encode(clip)._asdict()
    found = {
        name: hidden_latents(seen[f"{name}_layers"][-layers:], mask)
        for name, mask in masks._asdict().items()
        if mask is not None
    }
    return Targets(found.get("video"), found.get("audio"))
