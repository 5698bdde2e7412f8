"""What the devices of a compiled program say to each other: how much, how often, over which network.

A collective's payload is the whole array: the result of an all-gather or all-reduce, the operand of a
reduce-scatter. What it is for is said by `purposes`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from avemo_jax.planning.hlo import ArrayType, Executed, Instruction, Program
from avemo_jax.planning.purposes import Around, Stored, purpose_of

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
    "collective-broadcast",
)  # fmt: skip


@dataclasses.dataclass
class Collective:
    """All executions in one step that are alike; bytes are those of one device, all executions together."""

    kind: str
    purpose: str
    network: str  # "ici" inside a slice, "dcn" between slices
    group: int  # devices that take part in one
    reach: tuple[int, ...]  # chips along each dimension of the torus that a group stretches over
    overlapped: bool  # whether the program computes while it runs
    bytes: int = 0
    count: float = 0  # a fraction where some branches that are drawn have it
    counted: bool = True  # False: in a loop whose iterations depend on the data, counted as one


def collectives(
    program: Program, parameters: Sequence[Stored], coordinates: Sequence[tuple[int, ...]]
) -> list[Collective]:
    """Every collective of a program, alike ones added up, the largest first.

    Args:
      program: what was compiled.
      parameters: of the model, to know their arrays again.
      coordinates: where each device of a slice stands, in the order of the program's device numbers.
    """
    found: dict[tuple, Collective] = {}
    totals: dict[tuple, tuple[Fraction | int, Fraction | int]] = {}  # bytes, times
    seen: set[tuple] = set()
    executed = list(program.executed())
    # Between slices the compiler flattens, joins and cuts what it sends, so less is left to know arrays by.
    cut = any(one.instruction.opcode == "send" for one in executed)
    for one in executed:
        instruction = one.instruction
        kind, asynchronous = _kind(one)
        if not kind:
            continue
        if one.place.fusion is not None and kind != "reduce-scatter":
            # A collective spread over several fusions, each with a copy of it, computes meanwhile.
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            spread = (one.place.owner, kind, channel and channel[1])
            if spread in seen:
                continue
            seen.add(spread)
            asynchronous = True
        network = "dcn" if instruction.opcode == "send" else "ici"
        group, reach = _group(instruction, coordinates) if network == "ici" else (_slices(instruction), ())
        alike: set[tuple] = set()
        for array, purpose in _parts(one, kind, program, parameters, cut):
            key = (kind, purpose, network, group, reach, asynchronous, one.place.counted)
            found.setdefault(
                key, Collective(kind, purpose, network, group, reach, asynchronous, counted=one.place.counted)
            )
            size, count = totals.get(key, (0, 0))
            totals[key] = size + one.times * array.bytes, count + (0 if key in alike else one.times)
            alike.add(key)
    for key, (size, count) in totals.items():
        found[key].bytes = round(size)
        found[key].count = int(count) if count.denominator == 1 else round(float(count), 2)
    return sorted(found.values(), key=lambda row: -row.bytes)


def _kind(one: Executed) -> tuple[str, bool]:
    """("all-gather", whether it is an asynchronous pair), or ("", False) for what is no collective."""
    opcode = one.instruction.opcode
    transfer = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.instruction.attributes)
    if opcode == "send" and transfer:
        return transfer[1].lower().replace("_", "-"), True
    kind = opcode.removesuffix("-start")
    if kind not in KINDS:
        return "", False
    if kind == "all-reduce" and "all-reduce-scatter" in one.computation.name:
        kind = "reduce-scatter"
    return kind, opcode.endswith("-start")


def _parts(
    one: Executed, kind: str, program: Program, parameters: Sequence[Stored], cut: bool
) -> Iterator[tuple[ArrayType, str]]:
    """The arrays that one collective moves, each with what it is for."""
    instruction, computation = one.instruction, one.computation
    sources = [computation[name] for name in instruction.operands if name in computation]
    if instruction.opcode == "send":
        sources = sources[:1]
    owner = program.computations[one.place.owner]
    uses = list(owner.descendants(one.place.fusion or instruction))
    for place, source in enumerate(sources):
        if kind in ("reduce-scatter", "collective-permute") or instruction.opcode == "send":
            array = source.arrays[0]
        elif len(instruction.arrays) >= 2 * len(sources):  # a start: (operands, results)
            array = instruction.arrays[len(sources) + place]
        else:
            array = instruction.arrays[place]
        own_name = instruction.op_name if len(sources) == 1 else ""  # one of several would stand for all
        # Before it is sent to another slice, what belongs together is laid end to end, piece by piece.
        made_of = list(computation.ancestors(source, steps=8 if cut else 3))
        if source.opcode == "parameter" and one.place.fusion is not None:
            made_of += owner.ancestors(owner[one.place.fusion.operands[int(source.literal)]])
        around = Around(own_name, one.place.loop, made_of, uses, cut)
        yield array, purpose_of(kind, array, around, parameters)


def _group(instruction: Instruction, coordinates: Sequence[tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
    """(devices in a group, chips along each dimension that the first group stretches over)."""
    members = first_group(instruction.attributes) or list(range(len(coordinates)))
    places = [coordinates[member] for member in members if member < len(coordinates)]
    return len(members), tuple(len(set(axis)) for axis in zip(*places, strict=True))


def first_group(attributes: str) -> list[int]:
    """The device numbers of a collective's first group, in any of the ways in which the compiler writes groups."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    if pairs:
        return [int(pairs[1]), int(pairs[2])]
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return [int(number) for number in listed[1].split(",")]
    counted = re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
    if counted:
        return _numbers(counted[3]).reshape(int(counted[1]), int(counted[2]))[0].tolist()
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?)\))? \{([^}]*)\}",
        attributes,
    )
    if not named:
        return []
    sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
    count = math.prod(sizes.values())
    order = _numbers(named[2]) if named[2] else np.arange(count)
    # An axis may be split: 'x':(before)size names the part of x after `before`.
    used = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", named[3])
    shape, chosen = [], []
    for axis, size in sizes.items():
        parts = [(int(before or 1), int(part or size)) for name, before, part in used if name == axis]
        before, part = parts[0] if parts else (1, 1)
        shape += [before, part, size // before // part]
        chosen.append(len(shape) - 2)
    grid = order.reshape(shape)
    index = tuple(slice(None) if axis in chosen else 0 for axis in range(grid.ndim))
    return grid[index].reshape(-1).tolist()


def _numbers(text: str) -> np.ndarray:
    """`[4,2]T(1,0)`: 0 … 7 in that shape, transposed, flat."""
    sizes, order = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()  # type: ignore[union-attr]  # by the callers
    grid = np.arange(math.prod(map(int, sizes.split(",")))).reshape([int(size) for size in sizes.split(",")])
    return (grid.transpose([int(axis) for axis in order.split(",")]) if order else grid).reshape(-1)


def _slices(instruction: Instruction) -> int:
    """Slices that take part in a transfer over the data centre's network."""
    target = re.search(r'_xla_megascale_target="\{([\d,]+)\}', instruction.attributes)
    return len(target[1].split(",")) if target else 2
