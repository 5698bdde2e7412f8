"""How long a step takes, as a model: what is computed, what is moved and what is said, over what a chip can do.

Assumptions, which the report repeats (`ASSUMPTIONS`): they make this a prediction to choose between layouts by, not a
measurement.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from avemo_jax.planning.chips import HOP_S, Generation
from avemo_jax.planning.collectives import Collective
from avemo_jax.planning.facts import Facts

EFFICIENCY = 0.5  # share of peak FLOP/s that matrix products reach, where the compiler estimates no cycles

ASSUMPTIONS = (
    "on the device: the compiler's own cycle estimate of every operation, one after the other, at the clock that "
    f"peak FLOP/s imply (without one: the longer of products at {EFFICIENCY:.0%} of peak and memory traffic at full "
    "bandwidth)",
    "collectives inside a slice: ring algorithms over all links of the dimensions that a group spans, at full "
    f"bandwidth, plus {HOP_S * 1e6:.0f} µs a hop; a torus that does not wrap around takes up to twice that",
    "collectives between slices: the full network bandwidth of every chip",
    "those that the compiled program runs beside computation are hidden as far as there is computation; others are "
    "not",
    "a step is the mean one where mask.choices draws its ratios; of other branches of a program all run",
    "hosts keep up; loops that depend on the data (drawing Beta numbers) run once",
)


class Prediction(NamedTuple):
    """Seconds of one step, and what follows from them."""

    compute_s: float  # matrix products at peak
    memory_s: float  # memory traffic at full bandwidth
    bound_s: float  # the longer of the two: the roofline
    device_s: float  # the device without its collectives
    exposed_s: float  # collectives that nothing hides
    hidden_s: float  # collectives beside computation
    step_s: float
    clips_per_s: float
    intensity: float  # FLOP a byte
    utilisation: float  # model FLOPs over peak, "MFU"


def predict(facts: Facts, generation: Generation) -> Prediction:
    """The model's answer for a program that fits."""
    per_device = 1 / facts.devices_per_chip
    compute = facts.flops / (generation.flops * per_device)
    memory = facts.hbm_bytes / (generation.hbm_bytes * per_device)
    device = facts.cycles / generation.clock_hz if facts.cycles else max(compute / EFFICIENCY, memory)
    exposed = sum(seconds(row, generation) for row in facts.collectives if not row.overlapped)
    beside = sum(seconds(row, generation) for row in facts.collectives if row.overlapped)
    step = device + exposed + max(0.0, beside - device)
    return Prediction(
        compute_s=compute,
        memory_s=memory,
        bound_s=max(compute, memory),
        device_s=device,
        exposed_s=exposed + max(0.0, beside - device),
        hidden_s=min(beside, device),
        step_s=step,
        clips_per_s=facts.batch_size / step,
        intensity=facts.flops / max(facts.hbm_bytes, 1),
        utilisation=facts.model_flops / (facts.chips * generation.flops * step),
    )


def seconds(row: Collective, generation: Generation) -> float:
    """All executions of one kind of collective in a step, nothing else running."""
    share = (row.group - 1) / max(row.group, 1)
    passes = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(row.kind, share)
    load = row.bytes * generation.devices_per_chip  # the devices of a chip share its links
    if row.network == "dcn":
        return passes * load / generation.dcn_bytes
    spanned = [size for size in row.reach if size > 1]
    if not spanned:  # between the devices of one chip
        return 0.0
    bandwidth = generation.ici_bytes * len(spanned) / generation.dimensions
    hops = sum(math.ceil(size / 2) for size in spanned) * (2 if row.kind == "all-reduce" else 1)
    return passes * load / bandwidth + row.count * hops * HOP_S
