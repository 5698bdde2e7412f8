"""The device mesh and the two tables that say how parameters and batches are laid out on it.

`PARAMETER_RULES` maps a parameter's path to the mesh axes of its dimensions, `BATCH_RULES` does so for batch
fields. The optimiser's moments carry their parameter's path at the end of their own, so the same table
places them. Not here: anything that moves data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avemo_jax.errors import UserError
from avemo_jax.sharding import CLIP_AXES

ROWS = CLIP_AXES
AXES = (*ROWS, "tensor")

# Pattern of the path's end → mesh axis of each dimension. `...` stands for the leading axes of stacked layers,
# which are never divided. `fsdp` divides widths (C), `tensor` divides heads (H) and hidden units. What no row
# matches is the same on every device: norms, small biases, tokens, counters. First match wins.
PARAMETER_RULES = (
    (r"attn/qkv", (..., "fsdp", None, "tensor", None)),  # [C, 3, H, Dh]
    (r"cross_attn/q", (..., "fsdp", "tensor", None)),  # [C, H, Dh]
    (r"cross_attn/kv", (..., "fsdp", None, "tensor", None)),  # [C, 2, H, Dh]
    (r"(cross_)?attn/[qv]_bias", (..., "tensor", None)),  # [H, Dh]
    (r"attn/qkv_bias", (..., None, "tensor", None)),  # [3, H, Dh]
    (r"attn/tau", (..., "tensor")),  # [H]
    (r"attn/meta/fc1/kernel", (..., None, "tensor")),  # [2, hidden]
    (r"attn/meta/fc1/bias", (..., "tensor")),  # [hidden]
    (r"attn/meta/fc2/kernel", (..., "tensor", None)),  # [hidden, H]
    (r"(cross_)?attn/out/kernel", (..., "tensor", None, "fsdp")),  # [H, Dh, C]
    (r"mlp/fc1/kernel", (..., "fsdp", "tensor")),  # [C, 4C]
    (r"mlp/fc1/bias", (..., "tensor")),  # [4C]
    (r"mlp/fc2/kernel", (..., "tensor", "fsdp")),  # [4C, C]
    (r"patch_embed/kernel", (None, "fsdp")),  # [P, C]
    (r"(\w+_decoder/embed|embed/\w+)/kernel", ("fsdp", None)),  # [C, D]
    (r"head(/\w+)?/kernel", ("fsdp", None)),  # [D, patch] or [4C, K]
)

# Field → mesh axes, in the same way: clips are divided, everything inside a clip stays together.
BATCH_RULES = ((r"[^/]+", (ROWS, ...)),)

Rules = tuple[tuple[str, tuple[Any, ...]], ...]


class Placement(NamedTuple):
    """One row of the printable table: where an array of this path lies."""

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    note: str  # empty, or why a rule's axis was not used


def make_mesh(sizes: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh` (one size an axis, at most one of them -1 for "the rest") on all devices.

    Slices of a TPU, which only the data centre's network joins, are told apart by `replica` alone.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or `replica` does not to the slices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    wanted = {axis: int(sizes[axis]) for axis in AXES}
    written = ", ".join(f"mesh.{axis}={size}" for axis, size in wanted.items())
    if any(size == 0 or size < -1 for size in wanted.values()) or list(wanted.values()).count(-1) > 1:
        raise UserError(f"{written}: sizes are positive, and at most one of them is -1 (the rest)")
    known = int(np.prod([size for size in wanted.values() if size != -1]))
    if -1 in wanted.values() and count % known == 0:
        wanted = {axis: count // known if size == -1 else size for axis, size in wanted.items()}
    if int(np.prod(list(wanted.values()))) != count:
        raise UserError(f"{written} does not fit {count} devices: the sizes must multiply to {count}")
    slices = slice_count(devices)
    if wanted["replica"] % slices:
        raise UserError(
            f"{written} on {slices} slices: make mesh.replica {slices} or a multiple of it, so that only that axis "
            "crosses the slow network between slices"
        )
    # Physical axes may be split: without that, a mesh of 8 × 8 on a torus of 4 × 4 × 4 chips is refused.
    inside = (wanted["replica"] // slices, *(wanted[axis] for axis in AXES[1:]))
    if slices == 1:
        placed = mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True)
    else:
        placed = mesh_utils.create_hybrid_device_mesh(
            inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    # Auto axes: the compiler propagates shardings from the two tables; a mesh's default are explicit ones.
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_count(devices: Sequence[jax.Device]) -> int:
    """How many TPU slices these devices belong to; 1 where the platform knows no slices."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def describe(mesh: Mesh) -> str:
    """The devices in words: how many of which kind, how they are divided, and over how many processes."""
    first = mesh.devices.flat[0]
    divided = [f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1]
    processes = len({device.process_index for device in mesh.devices.flat})
    parts = [f"{mesh.size} × {first.device_kind} ({first.platform})", *divided]
    return ", ".join([*parts, f"{processes} processes"] if processes > 1 else parts)


def placements(tree: Any, mesh: Mesh, rules: Rules = PARAMETER_RULES) -> list[Placement]:
    """Where each array of a tree (of arrays or shapes) lies, one row a leaf, in tree order."""
    return [_place(path, leaf.shape, mesh, rules) for path, leaf in named_leaves(tree)]


def shardings(tree: Any, mesh: Mesh, rules: Rules = PARAMETER_RULES) -> Any:
    """The same tree with a NamedSharding for each leaf."""
    rows = placements(tree, mesh, rules)
    return jax.tree.unflatten(jax.tree.structure(tree), [NamedSharding(mesh, row.spec) for row in rows])


def batch_shardings(shapes: Any, mesh: Mesh) -> Any:
    """Shardings of a global batch; every field's first dimension is its clips.

    Raises:
      UserError: the batch cannot be divided equally.
    """
    parts = rows_divisor(mesh)
    for path, leaf in named_leaves(shapes):
        if leaf.shape[0] % parts:
            sizes = " × ".join(f"mesh.{axis} {mesh.shape[axis]}" for axis in ROWS)
            raise UserError(
                f"batch_size {leaf.shape[0]} cannot be divided over {parts} devices ({sizes}; field '{path}'): "
                f"take a multiple of {parts}"
            )
    return shardings(shapes, mesh, BATCH_RULES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_everywhere(value: np.ndarray, mesh: Mesh) -> jax.Array:
    """A host array, the same in all processes, whole on every device; asks no other process for anything."""
    return jax.make_array_from_callback(value.shape, replicated(mesh), lambda index: value[index])


def rows_divisor(mesh: Mesh) -> int:
    """Into how many parts the clips of a batch are divided."""
    return int(np.prod([mesh.shape[axis] for axis in ROWS]))


def data_share(mesh: Mesh) -> tuple[tuple[int, ...], int]:
    """Which parts of each global batch this process must read, ascending, and of how many; see `data_shares`.

    A process's chips are neighbours, but their parts need not be: a mesh's axes may wind through a slice.
    """
    return data_shares(mesh)[jax.process_index()], rows_divisor(mesh)


def data_shares(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """Which parts of each global batch every process must read; equal shares.

    Processes whose devices differ only along `tensor` read the same clips.

    Raises:
      UserError: two processes would share some of their clips but not all.
    """
    owners: dict[int, set[int]] = {}  # process → parts of the batch that its devices hold
    for index, device in np.ndenumerate(mesh.devices):
        row = np.ravel_multi_index(index[: len(ROWS)], mesh.devices.shape[: len(ROWS)])
        owners.setdefault(device.process_index, set()).add(int(row))
    shares = {process: tuple(sorted(rows)) for process, rows in owners.items()}
    groups = set(shares.values())
    if sum(map(len, groups)) != rows_divisor(mesh) or len({len(group) for group in groups}) != 1:
        raise UserError(
            f"mesh {dict(mesh.shape)} divides the batch unevenly between processes: "
            "make mesh.tensor divide, or be a multiple of, the devices of one process"
        )
    return shares


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """`[("video/blocks/attn/qkv", leaf), …]` in tree order; list places and field names are path parts too."""
    paths_and_leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in paths_and_leaves]


def format_placements(rows: Sequence[Placement], mesh: Mesh) -> str:
    """The placements as an aligned text table, with the mesh in the first line."""
    lines = ["mesh " + " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())]
    width = max((len(row.path) for row in rows), default=0)
    for path, shape, spec, note in rows:
        axes = ", ".join("-" if axis is None else str(axis) for axis in spec) or "replicated"
        lines.append(f"{path:<{width}}  {shape!s:<22} {axes}{f'  ({note})' if note else ''}")
    return "\n".join(lines)


def _place(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> Placement:
    axes = next((axes for pattern, axes in rules if re.search(rf"(^|/)({pattern})$", path)), ())
    if not shape or not axes:
        return Placement(path, shape, PartitionSpec(), "")
    if ... in axes:
        gap = axes.index(...)
        axes = (*axes[:gap], *(None,) * (len(shape) - len(axes) + 1), *axes[gap + 1 :])
    if len(axes) != len(shape):
        return Placement(path, shape, PartitionSpec(), f"the rule for it is for {len(axes)} dimensions")
    spec, notes = [], []
    for size, axis in zip(shape, axes, strict=True):
        parts = 1 if axis is None else int(np.prod([mesh.shape[name] for name in np.atleast_1d(axis)]))
        if size % parts:
            notes.append(f"{size} is not divisible by {axis} {parts}")
        spec.append(None if size % parts else axis)
    return Placement(path, shape, PartitionSpec(*spec), "; ".join(notes))
