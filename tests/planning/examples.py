"""Facts as a compile gives them, with round numbers."""

from __future__ import annotations

import re
from pathlib import Path

from avemo_jax.planning.collectives import Collective
from avemo_jax.planning.facts import Facts, Memory

GIB = 2**30


def gradients(**changes) -> Collective:
    """One all-reduce of 200 MB over a 16 × 16 slice that nothing hides."""
    row = {"kind": "all-reduce", "purpose": "gradients", "network": "ici", "group": 256, "reach": (16, 16, 1),
           "overlapped": False, "bytes": 200_000_000, "count": 10}  # fmt: skip
    return Collective(**{**row, **changes})


def facts(**changes) -> Facts:
    """256 chips with 8 clips each: 2 TF and 40 GB of traffic a chip, 6 GiB at the peak."""
    values = {
        "chips": 256, "devices_per_chip": 1, "hosts": 64,
        "mesh": {"replica": 1, "data": 256, "fsdp": 1, "tensor": 1},
        "dtype": "bfloat16", "remat": "none", "batch_size": 2048, "parts": 256, "model_flops": 500 * 10**12,
        "parameter_bytes": GIB, "parameter_shard_bytes": GIB,
        "optimizer_bytes": 2 * GIB, "optimizer_shard_bytes": 2 * GIB,
        "placements": "mesh data 256\nvideo/norm/scale  (512,)  replicated", "replicated": [],
        "clip_bytes": 1_310_720, "host_clips": 32, "compile_s": 40.0, "fits": True,
        "memory": Memory(3 * GIB, 3 * GIB, 3 * GIB, 3 * GIB, 0, 6 * GIB),
        "flops": 2 * 10**12, "hbm_bytes": 40 * 10**9, "cycles": 0, "collectives": [gradients()],
    }  # fmt: skip
    return Facts(**{**values, **changes})


def refused(**changes) -> Facts:
    """The same, with a batch that does not fit."""
    words = "RESOURCE_EXHAUSTED: Ran out of memory on HBM: 20.00G exceeds 15.75G"
    values = {"fits": False, "memory": None, "flops": 0, "hbm_bytes": 0, "collectives": [], "refusal": words}
    return facts(**{**values, "needed_bytes": 20 * GIB, **changes})


def published() -> dict[str, list[str]]:
    """The plans in docs/methods.md for a v5e:16x16: the cells of each config's row."""
    page = (Path(__file__).parents[2] / "docs/methods.md").read_text().partition("## On a pod")[2]
    return {
        config: cells.split(" | ")
        for config, cells in re.findall(r"^\| `(\S+)` \| (.+) \|$", page, re.MULTILINE)
    }
