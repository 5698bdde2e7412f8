"""A plan: one config on one topology, compiled as asked, then with other batches and, if it must be, other layouts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.config import apply_override
from avemo_jax.errors import UserError
from avemo_jax.planning import search
from avemo_jax.planning.chips import Generation, Topology, parse_topology
from avemo_jax.planning.facts import Facts, whole
from avemo_jax.planning.jobs import compile_step
from avemo_jax.planning.roofline import Prediction, predict

# Chips → grid, of slices that can be had; more than 256 chips are several slices.
_GRIDS: dict[int, dict[int, str]] = {
    2: {4: "2x2", 8: "2x4", 64: "8x8", 256: "16x16"},
    3: {4: "2x2x1", 8: "2x2x2", 64: "4x4x4", 256: "4x8x8"},
}
SCALES = (4, 8, 64, 256, 1024)
Say = Callable[[str], None]


@dataclasses.dataclass
class Sized:
    """One compiled size with its prediction (None where it does not fit, or on CPU devices)."""

    facts: Facts
    prediction: Prediction | None
    changes: tuple[str, ...] = ()  # to the config, as command-line words


@dataclasses.dataclass
class Plan:
    """Everything that is reported."""

    name: str  # of the config
    topology: Topology
    asked: Sized
    largest: Sized | None = None  # the largest batch that fits, if it was looked for
    instead: list[Sized] = dataclasses.field(
        default_factory=list
    )  # layouts that fit where the asked one does not
    scaling: list[tuple[Topology, Sized]] = dataclasses.field(default_factory=list)
    searched: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)  # what was chosen for the reader


def make_plan(
    name: str,
    config: ConfigDict,
    overrides: Sequence[str],
    topology: Topology,
    *,
    batch_per_chip: int = 0,
    look_for_batch: bool = True,
    scaling: bool = False,
    program: Path | None = None,
    say: Say = print,
) -> Plan:
    """Compiles what has to be compiled; a minute or so each time.

    Args:
      name: of the config, for the report.
      config: resolved.
      overrides: what the user has set in it; other values may be chosen here, with a note.
      topology: where it is to run.
      batch_per_chip: clips; 0 takes the config's batch.
      look_for_batch: also search for the largest batch that fits, or for a layout that does.
      scaling: also compile for 4 to 1,024 chips of this generation.
      program: a file for the text of the program that was asked for.
      say: prints a line of progress.
    """
    generation = topology.generation
    if scaling and generation is None:
        raise UserError("--scaling needs a TPU topology: its figures are those of a generation's networks")
    config, notes = _fitted(config, overrides, topology, batch_per_chip)
    asked = _compile(config, topology, say, program)
    plan = Plan(name, topology, _sized(asked, generation), notes=notes)
    if generation and look_for_batch:
        plan.searched = True
        limit = generation.hbm_limit

        unit = _smallest_batch(config, asked.parts)

        def with_changes(changes: tuple[str, ...]) -> Facts | None:
            return _unless_refused(_changed(config, changes), topology, say)

        best = search.largest_batch(
            asked, unit, limit, lambda size: with_changes((f"batch_size={size * unit}",))
        )
        if best is not None:
            plan.largest = _sized(best, generation, (f"batch_size={best.batch_size}",))
        if not asked.fits:
            say("it does not fit: trying other layouts")
            found = search.first_that_fit(config, asked, limit, with_changes)
            plan.instead = [_sized(one.facts, generation, one.changes) for one in found]
    if scaling:
        plan.scaling = _scaling(config, asked, topology, say)
    return plan


def _scaling(config: ConfigDict, asked: Facts, topology: Topology, say: Say) -> list[tuple[Topology, Sized]]:
    """The same clips a chip on every scale; `fsdp` shrinks where there are fewer chips than it divides over."""
    generation = topology.generation
    assert generation  # checked before anything was compiled
    rows = []
    for chips in SCALES:
        grid = _GRIDS[generation.dimensions][min(chips, 256)]
        place = parse_topology(f"{generation.name}:{grid}", max(1, chips // 256))
        devices = place.devices // place.slices
        if devices < asked.mesh["tensor"]:
            say(f"scaling leaves out {place.title}: fewer devices than mesh.tensor {asked.mesh['tensor']}")
            continue
        fsdp = min(asked.mesh["fsdp"], devices // asked.mesh["tensor"])
        changes = (
            f"mesh.replica={place.slices}",
            "mesh.data=-1",
            f"mesh.fsdp={fsdp}",
            f"batch_size={round(asked.batch_per_chip * place.chips)}",
        )
        if place == topology and _changed(config, changes).mesh == config.mesh:
            rows.append((place, _sized(asked, generation)))
            continue
        if facts := _unless_refused(_changed(config, changes), place, say):
            rows.append((place, _sized(facts, generation, changes)))
    return rows


def _fitted(
    config: ConfigDict, overrides: Sequence[str], topology: Topology, batch_per_chip: int
) -> tuple[ConfigDict, list[str]]:
    """The config with what the topology decides, unless the user has set it; and a note for each choice."""
    given = {override.partition("=")[0] for override in overrides}
    notes = []
    if topology.slices > 1 and "mesh.replica" not in given:
        config = _changed(config, (f"mesh.replica={topology.slices}",))
        notes.append(f"mesh.replica={topology.slices}: the axis between slices; give it to `avemo train` too")
    tensor = config.mesh.tensor if config.mesh.tensor > 0 else 1
    parts = max(1, topology.devices // tensor)  # a mesh that does not fit is refused where it is made
    if batch_per_chip:
        config = _changed(config, (f"batch_size={batch_per_chip * topology.chips}",))
    elif config.batch_size % (unit := _smallest_batch(config, parts)) and "batch_size" not in given:
        size = -(-config.batch_size // unit) * unit
        notes.append(
            f"batch_size={size}: the config's {config.batch_size} clips cannot be divided over {parts} devices"
            + ("" if unit == parts else " with its accumulate and contrast.group_size")
        )
        config = _changed(config, (f"batch_size={size}",))
    return config, notes


def _smallest_batch(config: ConfigDict, parts: int) -> int:
    """Clips that every batch is a multiple of: for the parts of the mesh, microbatches and the contrast's groups."""
    count, contrast = max(1, config.accumulate), config.get("contrast")
    if not contrast or contrast.negatives != "local":
        return count * parts
    group = max(1, contrast.group_size)
    return math.lcm(count * parts, group) if contrast.cached else count * math.lcm(parts, group)


def _unless_refused(config: ConfigDict, topology: Topology, say: Say) -> Facts | None:
    """Facts of a size that was not asked for: what is wrong with it is said, and does not end the plan."""
    try:
        return _compile(config, topology, say)
    except UserError as error:
        say(f"  refused: {error}")
        return None


def _compile(config: ConfigDict, topology: Topology, say: Say, program: Path | None = None) -> Facts:
    per_chip = whole(config.batch_size / topology.chips)
    layout = ", ".join(f"{axis} {size}" for axis, size in config.mesh.items() if size != 1)
    say(
        f"compiling for {topology.title}: {per_chip} clips a chip, remat {config.remat}, mesh {layout or 'of one'}"
    )
    facts = compile_step(config, topology, program)
    verdict = "fits" if facts.fits else "does not fit"
    say(f"  {verdict}: {facts.peak_bytes / 2**30:.2f} GiB a device, compiled in {facts.compile_s:.0f} s")
    return facts


def _sized(facts: Facts, generation: Generation | None, changes: tuple[str, ...] = ()) -> Sized:
    return Sized(facts, predict(facts, generation) if facts.fits and generation else None, changes)


def _changed(config: ConfigDict, changes: Sequence[str]) -> ConfigDict:
    other: Any = config.copy_and_resolve_references()
    for change in changes:
        apply_override(other, change)
    return other
