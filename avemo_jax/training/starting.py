"""Where a new run's parameters come from when not from chance: parts of another run's checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax import paths
from avemo_jax.models.params import Params
from avemo_jax.training import checkpoint_files as files
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.workdir import CONFIG

# Of clips: parameters do not show them.
_SHAPES = {"frames": "video", "image_size": "video", "audio_frames": "audio", "mel_bins": "audio"}
Tree = TypeVar("Tree")
_RESIZING = "resize_positions"


def handed_on(shapes: Params, config: ConfigDict, parts: Sequence[str], say: Callable[[str], None]) -> Params:
    """What the checkpoint `config.init.checkpoint` hands on to a model of these shapes, as NumPy arrays.

    Args:
      parts: names at the top of the tree, as `video`; none stands for all of it. All of each part must be there.
      say: told what was taken, what is fresh, and what else differs.

    Raises:
      UserError: no checkpoint, or its arrays have other names or shapes.
    """
    source = config.init.checkpoint
    made_with, loaded, step = files.load_params(source, say=say)
    parts = tuple(parts) or tuple(shapes)
    given = {part: loaded[part] for part in parts if part in loaded}
    files.check_same_arrays(
        files.describe(given),
        files.describe({part: shapes[part] for part in parts}),
        source,
        advice="Set the config's model to the sizes that the checkpoint was made with (init.checkpoint)",
    )
    rest = ", ".join(sorted(name for name in shapes if name not in parts))
    say(f"{', '.join(parts)} from {source}, step {step}{f'; fresh: {rest}' if rest else ''}")
    rules = {
        modality: config.get("model", {}).get(_RESIZING, {}).get(modality) for modality in ("video", "audio")
    }
    for name, modality in _SHAPES.items():
        theirs, ours = (of.get("model", {}).get(name) for of in (made_with, config))
        if theirs != ours:
            say(
                f"note: it was trained with model.{name}={theirs}, this run has {ours}: positions of {modality} are "
                f"{rules[modality] or 'regenerated'} (model.{_RESIZING}.{modality})"
            )
    return given


def remember_sizes(config: ConfigDict, workdir: Path) -> None:
    """Fills in what `model.resize_positions` leaves open of the size that the weights were trained at: as this run was
    begun, or else from `init.checkpoint`.

    Raises:
      UserError: there is no such checkpoint.
    """
    resizing = config.get("model", {}).get(_RESIZING, {})
    rules = {resizing.get(modality, "regenerated") for modality in ("video", "audio")}
    if not config.init.checkpoint or rules == {"regenerated"}:
        return
    try:
        with paths.plain_errors(workdir):
            begun = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        known = begun["model"][_RESIZING]
    except (OSError, ValueError, KeyError):
        trained = files.newest_config(config.init.checkpoint)["model"]
        known = {name: trained.get(_RESIZING, {}).get(name) or trained[name] for name in _SHAPES}
    with config.unlocked():
        for name in _SHAPES:
            resizing[name] = resizing[name] or known[name]


def placed(tree: Tree, mesh: Mesh) -> Tree:
    """A tree of parameters, or of what else the table of the mesh places, on the host, the same in all processes → on
    the mesh."""
    return jax.tree.map(_placed, tree, mesh_lib.shardings(tree, mesh))


def _placed(array: Any, where: jax.sharding.NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])
