"""What one execution of a compiled program costs one device: matrix products, memory traffic, estimated cycles.

Counted from the program's text with loops multiplied out. Matrix products are `dot` and, as the TPU writes them,
`convolution`; a multiplication and an addition are two FLOPs, and what is not a matrix product is not counted.
The text does not say what is inside a kernel: those of attention are counted from their shapes.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from avemo_jax.planning.hlo import ArrayType, Computation, Instruction, Program

# What moves no bytes of its own: names for values, control, the ends of asynchronous pairs.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "copy-done", "slice-done", "async-done", "async-update", "all-gather-done", "all-reduce-done", "partition-id",
    "collective-permute-done", "send-done", "recv-done", "opt-barrier", "replica-id", "iota",
}  # fmt: skip
_RENAMES = ("bitcast", "copy", "reshape", "transpose", "convert")

# The kernels of JAX's splash attention by their names: matrix products of [queries, keys] that each computes, and
# cycles for each of these places on v5e, from the length of the compiler's schedule (benchmarks/attention.py).
_KERNELS = {"splash_mha_fwd": (2, 0.0091), "splash_mha_dkv": (5, 0.0188)}


class Costs(NamedTuple):
    """Of one execution on one device; the mean of them where branches are drawn."""

    flops: int  # of matrix products
    hbm_bytes: int  # read from and written to the main memory, tiles padded as the TPU stores them
    cycles: int  # the compiler's own estimate, summed; 0 where it gives none
    data_dependent_loops: int  # loops counted as one iteration


def costs(program: Program) -> Costs:
    """Counts a whole program."""
    flops: Fraction | int = 0
    traffic: Fraction | int = 0
    cycles: Fraction | int = 0
    loops = 0
    for one in program.executed():
        instruction, computation = one.instruction, one.computation
        if instruction.opcode in ("dot", "convolution"):
            flops += one.times * product_flops(instruction, computation)
        inside = kernel_costs(instruction, computation)
        flops, cycles = flops + one.times * inside[0], cycles + one.times * inside[1]
        if one.place.fusion is None:
            traffic += one.times * moved_bytes(instruction, computation, program)
            estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
            cycles += one.times * int(estimate[1]) if estimate else 0
            if instruction.opcode == "while" and program.trip_count(instruction, computation) is None:
                loops += 1
    return Costs(round(flops), round(traffic), round(cycles), loops)


def product_flops(instruction: Instruction, computation: Computation) -> int:
    """FLOPs of a `dot` or `convolution`: twice its multiplications, those with padding zeros left out."""
    left, right = (computation[name].arrays[0].shape for name in instruction.operands[:2])
    result = instruction.arrays[0]
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2 * result.size * math.prod(left[axis] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        return 0
    inputs, kernel, outputs = labels[1], labels[2], labels[3]
    products = left[inputs.index("b")] * right[kernel.index("i")] * right[kernel.index("o")]
    for size in re.findall(r"batch_group_count=(\d+)", instruction.attributes):
        products //= int(size)
    window = _window(instruction.attributes, sum(label.isdigit() for label in inputs))
    for axis, settings in enumerate(window):
        label = str(axis)
        products *= _positions(left[inputs.index(label)], result.shape[outputs.index(label)], *settings)
    return 2 * products


def kernel_costs(instruction: Instruction, computation: Computation) -> tuple[int, int]:
    """(FLOPs of matrix products, cycles) of a kernel of attention; of anything else (0, 0)."""
    kernel = next((name for name in _KERNELS if instruction.name.startswith(name)), "")
    if not kernel or instruction.opcode != "custom-call":
        return 0, 0
    products, cycles = _KERNELS[kernel]
    operands = [computation[name].arrays[0] for name in instruction.operands]
    # [B, H, N, D] and [B, H, M, D], without B where a chip has one clip; the tables before them hold integers.
    query, key = [of.shape for of in operands if len(of.shape) >= 3 and "f" in of.dtype][:2]
    places = math.prod(query[:-1]) * key[-2]
    return 2 * products * places * query[-1], round(cycles * places)


def moved_bytes(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Bytes of the main memory that an instruction reads and writes; a slice counts as what it takes."""
    opcode = instruction.opcode
    operands = [computation[name].arrays for name in instruction.operands if name in computation]
    if opcode == "async-update" and len(operands) > 1:
        return _gathered_bytes(instruction, operands[1:])
    if opcode in _FREE or (opcode == "async-start" and not operands):
        return 0
    if opcode in ("copy-start", "slice-start", "dynamic-slice", "slice", "async-start"):
        moved = instruction.arrays[:1] if opcode != "async-start" else instruction.arrays[-1:]
        source = operands[0][:1]
        sizes = [array for array in moved if array.in_hbm]
        return _bytes(sizes) + (moved[0].padded_bytes if moved and source and source[0].in_hbm else 0)
    if opcode == "dynamic-update-slice":
        return 2 * _bytes(a for a in operands[1] if instruction.arrays[0].in_hbm)
    if opcode != "fusion":
        return _bytes(instruction.arrays) + sum(map(_bytes, operands))
    inner = program.called(instruction)
    if inner is None:
        return _bytes(instruction.arrays) + sum(map(_bytes, operands))
    read = sum(
        _read_bytes(inner, place, arrays)
        for place, arrays in enumerate(operands)
        if place in inner.parameters
    )
    return read + _written_bytes(inner, instruction)


def _gathered_bytes(instruction: Instruction, operands: list[tuple[ArrayType, ...]]) -> int:
    """Of a gather that a SparseCore does: its operands and result stand at the update, between start and done."""
    result = instruction.arrays[sum(map(len, operands)) :][:1]
    return 2 * _bytes(result) + sum(map(_bytes, operands[1:]))


def _read_bytes(inner: Computation, place: int, arrays: tuple[ArrayType, ...]) -> int:
    """What a fusion reads of one operand: the slices that it takes, or all of it."""
    if not any(array.in_hbm for array in arrays):
        return 0
    parameter, taken = inner.parameters[place], 0
    for user in _users(inner, parameter):
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            taken += user.arrays[0].padded_bytes
        elif user.opcode == "dynamic-update-slice" and _origin(inner, user.operands[0]) is parameter:
            continue  # overwritten in place
        else:
            return _bytes(arrays)
    return min(taken, _bytes(arrays))


def _written_bytes(inner: Computation, fusion: Instruction) -> int:
    """What a fusion writes: of an array that it updates in place, the update."""
    root = inner.root
    results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(results) != len(fusion.arrays):
        return _bytes(fusion.arrays)
    total = 0
    for result, array in zip(results, fusion.arrays, strict=True):
        made = _origin(inner, result.name)
        if made.opcode == "dynamic-update-slice":
            total += inner[made.operands[1]].arrays[0].padded_bytes if array.in_hbm else 0
        elif made.opcode != "parameter":
            total += _bytes([array])
    return total


def _users(inner: Computation, instruction: Instruction) -> list[Instruction]:
    """Who uses a value, seen through what only renames it."""
    found = []
    for user in inner.users[instruction.name]:
        found += _users(inner, user) if user.opcode == "bitcast" else [user]
    return found


def _origin(inner: Computation, name: str) -> Instruction:
    """What a value was before it was renamed."""
    one = inner[name]
    while (
        one.opcode in _RENAMES and one.operands[0] in inner and not one.is_root
    ) or one.opcode == "bitcast":
        one = inner[one.operands[0]]
    return one


def _bytes(arrays) -> int:
    return sum(array.padded_bytes for array in arrays if array.in_hbm)


def _window(attributes: str, axes: int) -> list[tuple[int, int, int, int, int, int]]:
    """(size, stride, pad low, pad high, dilation of the input, of the kernel) of each spatial axis."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(part.split("=") for part in text[1].split()) if text else {}

    def numbers(name: str, default: str) -> list[str]:
        return settings[name].split("x") if name in settings else [default] * axes

    columns = zip(
        numbers("size", "1"), numbers("stride", "1"), numbers("pad", "0_0"),
        numbers("lhs_dilate", "1"), numbers("rhs_dilate", "1"), strict=True,
    )  # fmt: skip
    return [
        (int(size), int(stride), *(int(side) for side in pad.split("_")), int(left), int(right))  # type: ignore[misc]
        for size, stride, pad, left, right in columns
    ]


def _positions(size: int, out: int, kernel: int, stride: int, low: int, high: int, dilate: int, spread: int):
    """How many (output, kernel) places of one axis meet an element of the input."""
    del high  # said by the output's size
    places = np.arange(out)[:, None] * stride + np.arange(kernel) * spread - low
    return int(np.sum((places >= 0) & (places % dilate == 0) & (places // dilate < size)))
