"""Where a new run's parameters come from when not from chance: parts of another run's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax.models.params import Params
from avemo_jax.training import checkpoint_files as files
from avemo_jax.training import mesh as mesh_lib

_SHAPES = ("frames", "image_size", "audio_frames", "mel_bins")  # of clips: parameters do not show them


def taken_over(
    fresh: Params, config: ConfigDict, parts: Sequence[str], mesh: Mesh, say: Callable[[str], None]
) -> Params:
    """`fresh`, on the mesh, with the parts of it that the checkpoint `config.init.checkpoint` hands on.

    Args:
      parts: names at the top of the tree, as `video`; none stands for all of it. All of each part must be there.
      say: told what was taken, what is fresh, and what else differs.

    Raises:
      UserError: no checkpoint, or its arrays have other names or shapes.
    """
    source = config.init.checkpoint
    made_with, loaded, step = files.load_params(source, say=say)
    parts = tuple(parts) or tuple(fresh)
    wanted = {part: fresh[part] for part in parts}
    given = {part: loaded[part] for part in parts if part in loaded}
    files.check_same_arrays(
        files.describe(given),
        files.describe(wanted),
        source,
        advice="Set the config's model to the sizes that the checkpoint was made with (init.checkpoint)",
    )
    rest = [name for name in fresh if name not in parts]
    say(
        f"{', '.join(parts)} from {source}, step {step}{'; fresh: ' if rest else ''}{', '.join(sorted(rest))}"
    )
    for name in _SHAPES:
        theirs, ours = made_with.model.get(name), config.model.get(name)
        if theirs != ours:
            say(
                f"note: it was trained with model.{name}={theirs}, this run has {ours}: positions mean other places"
            )
    return fresh | jax.tree.map(_placed, given, mesh_lib.shardings(wanted, mesh))


def _placed(array: Any, where: jax.sharding.NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])
