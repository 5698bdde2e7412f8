"""Trying other sizes: the largest batch that fits, and what to change when the wanted one does not.

Every trial is a compile of a minute or so, so both are frugal: memory grows nearly linearly with the batch, which
says where to look next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from avemo_jax.planning.facts import Facts

TRIALS = 6  # compiles that one search may take
_CLOSE = 0.06  # a search ends when the next larger size tried is at most so much larger


class Variant(NamedTuple):
    """A config with some values changed."""

    changes: tuple[str, ...]  # as they are written on the command line: "remat=full"
    facts: Facts


def largest_batch(
    first: Facts, unit: int, limit: int, compile_batch: Callable[[int], Facts | None]
) -> Facts | None:
    """The facts of the largest batch that fits, within some 6 %; None when not even the smallest does.

    Args:
      first: of some batch, which fits or not.
      unit: clips of the smallest batch there can be; all others are multiples of it.
      limit: bytes of a device.
      compile_batch: compiles with so many times `unit`; None where that is refused, which counts as too large.
    """
    tried = {first.batch_size // unit: first}
    for _ in range(TRIALS):
        size = _next_size(tried, limit)
        if size is None:
            break
        unknown = dataclasses.replace(first, fits=False, memory=None, needed_bytes=0)
        tried[size] = compile_batch(size) or unknown
    fitting = [size for size, facts in tried.items() if facts.fits]
    return tried[max(fitting)] if fitting else None


def _next_size(tried: dict[int, Facts], limit: int) -> int | None:
    """Where to look next, or None when the answer is close enough."""
    low = max((size for size, facts in tried.items() if facts.fits), default=0)
    high = min((size for size, facts in tried.items() if not facts.fits and size > low), default=0)
    if high and high - low <= max(1, _CLOSE * low):
        return None
    guess = _expected_largest(tried, limit)
    if not high:
        # Nothing was too large yet: where memory should end, but far enough for the next trials to be near it.
        return max(low + max(1, round(_CLOSE * low)), _rounded(guess))
    guess = min(max(_rounded(guess), low + 1), high - 1)
    if low and (guess - low < (high - low) / 8 or high - guess < (high - low) / 8):
        guess = (low + high) // 2  # the line was of no help: halve
    return guess if low < guess < high else None


def _expected_largest(tried: dict[int, Facts], limit: int) -> float:
    """The size at which a line through what was seen reaches the limit."""
    points = sorted((size, facts.peak_bytes) for size, facts in tried.items() if facts.peak_bytes)
    if not points:
        return min(tried) / 2
    if len(points) == 1:
        ((size, peak),) = points
        base = min(next(iter(tried.values())).state_shard_bytes, peak // 2)
        points = [(0, base), (size, peak)]
    (x0, y0), (x1, y1) = points[-2:]
    slope = max(1.0, (y1 - y0) / (x1 - x0))
    return x0 + (limit - y0) / slope


def _rounded(guess: float) -> int:
    """Down to a number with few binary digits, as batches are chosen."""
    size = max(1, int(guess))
    step = 1 << max(0, size.bit_length() - 4)
    return size // step * step


def ways_to_fit(config: ConfigDict, facts: Facts, limit: int) -> Iterator[tuple[str, ...]]:
    """Changes to try when a step does not fit, the cheapest in speed first, as command-line words."""
    remat = [f"remat={policy}" for policy in ("dots", "full")]
    stronger = remat[1:] if config.remat == "dots" else [] if config.remat == "full" else remat
    fsdp = _fsdp_size(facts, limit)
    for change in stronger:
        yield (change,)
    if fsdp:
        yield (f"mesh.fsdp={fsdp}",)
        for change in stronger[-1:]:
            yield (f"mesh.fsdp={fsdp}", change)


def _fsdp_size(facts: Facts, limit: int) -> int:
    """A power of two that makes the state's part on a device small; 0 where it is small already."""
    now = facts.mesh["fsdp"]
    state = facts.state_shard_bytes * now
    size = now
    while state / size > limit / 16 and facts.mesh["data"] * now % (2 * size) == 0:
        size *= 2
    return size if size > now else 0


def first_that_fit(
    config: ConfigDict,
    facts: Facts,
    limit: int,
    compile_with: Callable[[tuple[str, ...]], Facts | None],
    enough: int = 2,
) -> list[Variant]:
    """The first `enough` ways to fit that do; `compile_with` gives None for one that is refused."""
    found: list[Variant] = []
    for changes in ways_to_fit(config, facts, limit):
        tried = compile_with(changes)
        if tried and tried.fits:
            found.append(Variant(changes, tried))
        if len(found) == enough:
            break
    return found
