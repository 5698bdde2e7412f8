"""What is known of one compiled step: the answer of the process that compiled it. Plain values, no JAX."""

from __future__ import annotations

import dataclasses
import json

from avemo_jax.planning.collectives import Collective
from avemo_jax.planning.purposes import OTHER, SCALAR


@dataclasses.dataclass
class Memory:
    """Bytes of one device."""

    arguments: int  # state and batch
    outputs: int
    aliased: int  # of the outputs: in the place of arguments that were given away
    temporaries: int
    code: int
    peak: int  # the most in use at any time


@dataclasses.dataclass
class Facts:
    """One config on one topology."""

    # What was compiled
    chips: int
    devices_per_chip: int
    hosts: int
    mesh: dict[str, int]
    dtype: str
    remat: str
    batch_size: int
    parts: int  # into which the batch is divided
    # What it needs, whether or not it fits
    model_flops: int  # of the whole mesh, with nothing computed twice
    parameter_bytes: int
    parameter_shard_bytes: int  # on one device
    optimizer_bytes: int
    optimizer_shard_bytes: int
    replicated: list[
        str
    ]  # large arrays of the state that every device holds whole although the mesh divides weights
    placements: str  # the table of the parameters' places
    clip_bytes: int  # that a host sends for a clip
    host_clips: int  # that a host reads for a step
    compile_s: float
    # What the compiler made of it
    fits: bool
    refusal: str = ""  # the compiler's words
    needed_bytes: int = 0  # what it said was needed, where it does not fit
    memory: Memory | None = None
    flops: int = 0  # of one device, with loops multiplied out
    hbm_bytes: int = 0
    cycles: int = 0
    data_dependent_loops: int = 0
    collectives: list[Collective] = dataclasses.field(default_factory=list)

    @property
    def batch_per_chip(self) -> float:
        return whole(self.batch_size / self.chips)

    @property
    def state_shard_bytes(self) -> int:
        return self.parameter_shard_bytes + self.optimizer_shard_bytes

    @property
    def peak_bytes(self) -> int:
        """Of one device; what the compiler said was needed, where it does not fit."""
        return self.memory.peak if self.memory else self.needed_bytes

    @property
    def unexplained(self) -> list[Collective]:
        """Collectives that are neither parameters, gradients, contrast nor single numbers."""
        return [row for row in self.collectives if row.purpose == OTHER]

    @property
    def unexplained_share(self) -> float:
        total = sum(row.bytes for row in self.collectives if row.purpose != SCALAR)
        return sum(row.bytes for row in self.unexplained) / total if total else 0.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Facts:
        values = json.loads(text)
        memory, rows = values.pop("memory"), values.pop("collectives")
        rows = [Collective(**{**row, "reach": tuple(row["reach"])}) for row in rows]
        return cls(**values, memory=Memory(**memory) if memory else None, collectives=rows)


def whole(value: float) -> float:
    """12.0 as 12, so that it prints as one."""
    return int(value) if value == int(value) else value
