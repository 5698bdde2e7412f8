"""What Google calls its TPUs where, and how many hosts a topology has."""

from __future__ import annotations

import math
import re
from typing import NamedTuple


class Kind(NamedTuple):
    """A TPU generation."""

    gke: str  # the node label cloud.google.com/gke-tpu-accelerator
    vm: str  # the first part of gcloud's --accelerator-type; empty: not in the Cloud TPU API
    counted: int  # in its second part, for each chip: v4 and v5p count cores
    runtime: str  # gcloud's --runtime-version
    dimensions: int  # of a topology
    chips_per_host: int = 4  # where a slice has several hosts


# From "Plan TPUs in GKE", "TPU software versions" and `gcloud compute tpus queued-resources create --help`.
KINDS = {
    "v4": Kind("tpu-v4-podslice", "v4", 2, "tpu-ubuntu2204-base", 3),
    "v5e": Kind("tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite", 2),
    "v5p": Kind("tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5", 3),
    "v6e": Kind("tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e", 2),
    "tpu7x": Kind("tpu7x", "", 1, "", 3),
}


class Slice(NamedTuple):
    """A slice of a pod."""

    kind: Kind
    topology: str  # 4x4
    chips: int

    @property
    def chips_per_host(self) -> int:
        return min(self.kind.chips_per_host, self.chips)

    @property
    def accelerator_type(self) -> str:
        """As gcloud calls it. Of several topologies with the same chips, Google then takes its default."""
        return f"{self.kind.vm}-{self.chips * self.kind.counted}"

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host


def parse(text: str) -> Slice:
    """`v5e:4x4`, as `avemo plan --topology` takes it.

    Raises:
      ValueError: it is not one, with what is.
    """
    name, _, topology = text.partition(":")
    if name not in KINDS:
        raise ValueError(f"'{text}': there are {', '.join(KINDS)}, as in v5e:4x4")
    kind = KINDS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", topology) or topology.count("x") + 1 != kind.dimensions:
        raise ValueError(
            f"'{text}': a topology of {name} has {kind.dimensions} sides, as in {_example(name, kind)}"
        )
    chips = math.prod(map(int, topology.split("x")))
    if chips > kind.chips_per_host and chips % kind.chips_per_host:
        raise ValueError(f"'{text}': {chips} chips are not whole hosts of {kind.chips_per_host}")
    return Slice(kind, topology, chips)


def _example(name: str, kind: Kind) -> str:
    return f"{name}:{'x'.join(['4'] * kind.dimensions)}"
