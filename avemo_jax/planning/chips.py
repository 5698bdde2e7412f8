"""TPU generations and topology names: what a chip can do, and how a name is read. No JAX here.

Figures are of Google's public pages https://cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, as read in 2026:
peak bf16, HBM bandwidth, inter-chip (ICI) and data centre (DCN) bandwidth. Where a page gives ICI bandwidth for
both directions together, half is taken: what a chip sends. v5e's DCN figure is its pod's, 6.4 Tb/s, over 256 chips.
v4's page names no network figures: six links of 50 GB/s each way are from Jouppi et al. 2023 (TPU v4), and its
DCN bandwidth is not published, so v5e's stands in for it.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from avemo_jax.errors import UserError

_GIB = 2**30


class Generation(NamedTuple):
    """One kind of chip; rates are per chip and second."""

    name: str
    flops: float  # bf16 FLOP
    hbm_bytes: float
    ici_bytes: float  # sent over all links together
    dcn_bytes: float  # sent between slices
    dimensions: int  # of the torus that its chips form
    hbm_limit: int  # bytes of one device that a program may use; as its compiler says when it runs out (libtpu 0.0.52)
    flops_per_cycle: int  # of one device's matrix units; with `flops` it gives the clock
    devices_per_chip: int = 1
    largest: int = 0  # chips along an axis of the largest slice that the compiler takes; 0 is no limit
    chip_config: str = ""  # the compiler's name for the way of using a chip that JAX uses

    @property
    def clock_hz(self) -> float:
        return self.flops / self.devices_per_chip / self.flops_per_cycle


GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation(
            "v4", 275e12, 1200e9, 300e9, 25e9 / 8, 3, int(30.75 * _GIB), 2**18, chip_config="megacore"
        ),
        Generation("v5e", 197e12, 819e9, 200e9, 25e9 / 8, 2, int(15.75 * _GIB), 2**17, largest=16),
        Generation("v5p", 459e12, 2765e9, 600e9, 50e9 / 8, 3, int(95.73 * _GIB), 2**18),
        Generation("v6e", 918e12, 1638e9, 400e9, 100e9 / 8, 2, int(31.24 * _GIB), 2**19, largest=16),
        Generation(
            "tpu7x", 2307e12, 7380e9, 600e9, 100e9 / 8, 3, int(94.74 * _GIB), 2**19, devices_per_chip=2
        ),
    )
}
HOP_S = 1e-6  # of one collective, over one link: Austin et al. 2025, How to Scale Your Model


class Topology(NamedTuple):
    """So many slices of chips in a grid; or CPU devices, to try a layout without a TPU's compiler."""

    name: str  # as the compiler takes it
    shape: tuple[int, ...]
    slices: int
    generation: Generation | None  # None is CPU

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        return self.chips * (self.generation.devices_per_chip if self.generation else 1)

    @property
    def title(self) -> str:
        return self.name if self.slices == 1 else f"{self.slices} slices of {self.name}"


def parse_topology(name: str, slices: int = 1) -> Topology:
    """`v5e:16x16`, `v5p:4x4x4`, `cpu:8`.

    Raises:
      UserError: no such generation, a grid of the wrong number of axes, or one that its pods do not have.
    """
    kind, _, grid = name.partition(":")
    if slices < 1:
        raise UserError(f"--slices is {slices}: there is at least one slice")
    if kind != "cpu" and kind not in GENERATIONS:
        known = ", ".join(GENERATIONS)
        raise UserError(
            f"no chip '{kind}' in --topology {name}: there are {known} and cpu, written as v5e:16x16, v5p:4x4x4, cpu:8"
        )
    generation = GENERATIONS.get(kind)
    axes = generation.dimensions if generation else 1
    if not re.fullmatch("x".join([r"[1-9]\d*"] * axes), grid):
        example = {1: "cpu:8", 2: f"{kind}:4x4", 3: f"{kind}:4x4x4"}[axes]
        raise UserError(f"--topology {name}: {kind} chips lie in {axes} dimension(s), as in {example}")
    shape = tuple(int(size) for size in grid.split("x"))
    if generation and generation.largest and max(shape) > generation.largest:
        whole = "x".join([str(generation.largest)] * axes)
        count = max(2, math.prod(shape) // generation.largest**axes)
        raise UserError(
            f"--topology {name}: one slice of {kind} ends at {whole}; more chips are several slices, as in "
            f"--topology {kind}:{whole} --slices {count}"
        )
    if not generation and slices > 1:
        raise UserError("--slices needs a TPU topology: CPU devices have no slices")
    return Topology(name, shape, slices, generation)
