"""The text of a compiled program, as instructions that can be counted.

`Program(text)` reads what `compiled.as_text()` gives; `executed()` walks it from the entry and says how often each
instruction runs in one execution: a loop's body once an iteration, which XLA's own cost analysis does not. Nothing
here knows what is counted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_DRAWN = re.compile(r"\bdrawn_choice\)*(/cond)?$")  # the scope of `tasks.pretrain`, then what JAX appends


def is_drawn(name: str) -> bool:
    """Whether a conditional's path of names says that each of its branches is drawn equally often."""
    return bool(_DRAWN.search(name))


class ArrayType(NamedTuple):
    """One array: its element type, its sizes, and its layout as the compiler writes it."""

    dtype: str
    shape: tuple[int, ...]
    layout: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What its elements take, without padding."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype) if self.dtype in _BITS else int(digits[0]) if digits else 0
        return self.size * (bits or 0) // 8

    @property
    def padded_bytes(self) -> int:
        """What it takes in a TPU's memory, where the two minor dimensions fill whole tiles; else `bytes`."""
        order, _, tiles = self.layout.partition(":")
        tile = re.match(r"T\((\d+),(\d+)\)", tiles)
        minor = [int(axis) for axis in order.split(",") if axis][:2]
        if not tile or len(minor) < 2 or not self.size:
            return self.bytes
        padded = list(self.shape)
        for axis, step in zip(minor, (int(tile[2]), int(tile[1])), strict=True):
            padded[axis] = -(-padded[axis] // step) * step
        return self.bytes * math.prod(padded) // self.size

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in the main memory, not in one of a chip's faster ones."""
        return not re.search(r"S\([1-9]", self.layout)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[ArrayType, ...]  # of its result, a tuple's in order
    operands: tuple[str, ...]  # names, in the same computation
    literal: str  # what stands between the parentheses
    attributes: str  # what comes after them
    is_root: bool

    def attribute(self, name: str) -> str:
        """`name=%target` or `name=word`; empty where there is none."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    @property
    def op_name(self) -> str:
        """The path of the JAX operation that it comes from: `jit(step)/jvp()/while/body/dot_general`."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


class Computation(dict[str, Instruction]):
    """Instructions by name, in the order of the text."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    @functools.cached_property
    def root(self) -> Instruction:
        return next((one for one in self.values() if one.is_root), next(reversed(self.values())))

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        return {int(one.literal): one for one in self.values() if one.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        found: dict[str, list[Instruction]] = {name: [] for name in self}
        for one in self.values():
            for operand in one.operands:
                found.get(operand, []).append(one)
        return found

    def ancestors(self, instruction: Instruction, steps: int = 3) -> Iterator[Instruction]:
        """An instruction, then what it was made of, so many steps back, the nearest first."""
        return self._near(
            instruction, lambda one: [self[name] for name in one.operands if name in self], steps
        )

    def descendants(self, instruction: Instruction) -> Iterator[Instruction]:
        """An instruction, then what is made of it, three steps on, the nearest first."""
        return self._near(instruction, lambda one: self.users[one.name], steps=3)

    def _near(
        self, instruction: Instruction, neighbours: Callable[[Instruction], list[Instruction]], steps: int
    ) -> Iterator[Instruction]:
        level, seen = [instruction], {instruction.name}
        for _ in range(steps + 1):
            yield from level
            level = [near for one in level for near in neighbours(one) if near.name not in seen]
            level = list({near.name: near for near in level}.values())
            seen.update(near.name for near in level)


class Place(NamedTuple):
    """Where an instruction stands in the execution."""

    owner: str  # the computation that is scheduled: that of the fusion, for what was fused
    times: Fraction | int = 1  # runs in one execution of the program; of branches that are drawn, in the mean
    counted: bool = True  # False inside a loop whose number of iterations depends on the data: counted as one
    loop: str = ""  # the name of the innermost loop around it: `jit(step)/jvp(contrast)/while`
    fusion: Instruction | None = None


class Executed(NamedTuple):
    """An instruction, the computation that it is in, and where that runs."""

    instruction: Instruction
    computation: Computation
    place: Place

    @property
    def times(self) -> Fraction | int:
        return self.place.times


class Program:
    """A compiled module; `computations` by name."""

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation | None = None
        for line in _whole_lines(text):
            if current is None:
                if line.endswith("{") and (line.startswith("%") or line.startswith("ENTRY")):
                    current = Computation(_NAME.search(line)[1])  # type: ignore[index]  # its name starts the line
                    self.computations[current.name] = current
                    if line.startswith("ENTRY"):
                        self.entry = current.name
            elif line.startswith("}"):
                current = None
            else:
                instruction = _parse(line)
                if instruction:
                    current[instruction.name] = instruction

    def called(self, instruction: Instruction) -> Computation | None:
        """The computation of a fusion, or of a call inside one."""
        return self.computations.get(instruction.attribute("calls") or instruction.attribute("to_apply"))

    def executed(self) -> Iterator[Executed]:
        """Every instruction that runs, those inside fusions too; of a conditional all branches.

        Those of one that is drawn run a part of the times each. Of others nobody knows how often: all count whole.
        """
        yield from self._walk(Place(self.entry))

    def trip_count(self, loop: Instruction, computation: Computation) -> int | None:
        """Iterations of a `while`, or None where they depend on the data."""
        known = re.search(r'known_trip_count\D*"?n"?\D*(\d+)', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute("condition")]
        test = condition.root
        if test.opcode == "fusion" and (inner := self.called(test)):
            return self._bound(inner.root, inner, loop, computation, outer=(condition, test))
        return self._bound(test, condition, loop, computation)

    def _bound(self, test, condition, loop, computation, outer=None) -> int | None:
        """The constant that the loop's counter is compared with, less the counter's start."""
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        counter, bound = (_through(name, condition, outer) for name in test.operands)
        if bound is None or bound.opcode != "constant" or counter is None:
            return None
        place = re.search(r"index=(\d+)", counter.attributes)
        initial = computation.get(loop.operands[0])
        if not place or initial is None:
            return None
        start = None
        if initial.opcode == "tuple":
            start = _through(initial.operands[int(place[1])], computation, None)
        first = int(start.literal) if start is not None and start.opcode == "constant" else 0
        return int(bound.literal) - first

    def _walk(self, place: Place) -> Iterator[Executed]:
        computation = self.computations[place.owner]
        for one in computation.values():
            yield Executed(one, computation, place)
            if one.opcode == "while":
                trips = self.trip_count(one, computation)
                times, counted = place.times * (trips or 1), place.counted and trips is not None
                yield from self._walk(Place(one.attribute("body"), times, counted, one.op_name))
            elif one.opcode == "fusion":
                yield from self._fused(one, place._replace(fusion=one))
            else:
                targets, times = self._targets(one), place.times
                if one.opcode == "conditional" and is_drawn(one.op_name):
                    times = Fraction(times, len(targets))
                for target in targets:
                    yield from self._walk(place._replace(owner=target, times=times))

    def _fused(self, fusion: Instruction, place: Place) -> Iterator[Executed]:
        inner = self.called(fusion)
        if inner is None:
            return
        for one in inner.values():
            yield Executed(one, inner, place)
            if one.opcode in ("fusion", "call"):
                yield from self._fused(one, place)

    @staticmethod
    def _targets(one: Instruction) -> list[str]:
        """The computations that a conditional, a call or an asynchronous start runs."""
        if one.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", one.attributes)
            named = [one.attribute(key) for key in ("true_computation", "false_computation")]
            return [*(_NAME.findall(branches[1]) if branches else []), *filter(None, named)]
        if one.opcode in ("call", "async-start"):
            return [one.attribute("to_apply") or one.attribute("calls")]
        return []


def _whole_lines(text: str) -> Iterator[str]:
    """The lines of a text; an instruction that was broken inside its attributes, as a kernel's are, is one line."""
    pending = ""
    for line in text.splitlines():
        pending = f"{pending} {line.strip()}" if pending else line
        if pending.startswith(" ") and pending.count("{") > pending.count("}"):
            continue
        yield pending
        pending = ""


def _through(name: str, computation: Computation, outer) -> Instruction | None:
    """What a name stands for, through copies and bitcasts, and out of a fusion by its parameters."""
    one = computation.get(name)
    while one is not None and one.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        one = computation.get(one.operands[0])
    if one is not None and one.opcode == "parameter" and outer is not None:
        around, fusion = outer
        return _through(fusion.operands[int(one.literal)], around, None)
    return one


def _parse(line: str) -> Instruction | None:
    text = line.strip()
    is_root = text.startswith("ROOT ")
    text = text.removeprefix("ROOT ")
    name, equals, rest = text.partition(" = ")
    if not equals or not name.startswith("%"):
        return None
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = _closing(rest, opened)
    inside = rest[opened + 1 : closed]
    return Instruction(
        name=name[1:],
        opcode=rest[:opened],
        arrays=array_types(kind),
        operands=tuple(_NAME.findall(inside)),
        literal=inside,
        attributes=rest[closed + 1 :],
        is_root=is_root,
    )


def array_types(text: str) -> tuple[ArrayType, ...]:
    """`(f32[2,3]{1,0}, s32[])` → its arrays."""
    return tuple(
        ArrayType(dtype, tuple(int(size) for size in sizes.split(",") if size), layout)
        for dtype, sizes, layout in _ARRAY.findall(text)
    )


def _closing(text: str, opened: int) -> int:
    """Where the parenthesis at `opened` is closed."""
    depth = 0
    for place in range(opened, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")
