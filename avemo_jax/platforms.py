"""Presets of XLA flags and environment for each kind of machine: one table, and how it meets the environment.

What the environment says wins, flag by flag. `AVEMO_PLATFORM` names a preset, `none` takes no preset, and without
it the machine is looked at. XLA ends a process that is given a flag it does not know, so a row stays here only
while the tested jaxlib or libtpu takes it. Needs Python alone: launchers use it where there is no JAX.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

VARIABLE = "AVEMO_PLATFORM"
AUTO, NONE = "auto", "none"


class Setting(NamedTuple):
    """One row: a flag inside a variable, or a variable of its own."""

    preset: str
    variable: str
    flag: str  # empty: the variable itself
    value: str
    why: str  # and who says so


SETTINGS = (
    Setting(
        "cpu", "XLA_FLAGS", "--xla_cpu_collective_call_terminate_timeout_seconds", "600",
        "devices that share a core may meet later than XLA's 40 s, after which it aborts (XLA, debug_options_flags.cc)",
    ),
    Setting(
        "gpu", "XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler", "true",
        "exchanges while it computes (JAX, GPU performance tips; set in NVIDIA's JAX images)",
    ),
    Setting(
        "gpu", "XLA_PYTHON_CLIENT_MEM_FRACTION", "", "0.9",
        "JAX takes 0.75 of a GPU's memory, which nothing else here needs (NVIDIA JAX Toolbox, GPU performance)",
    ),
    Setting(
        "tpu-v6e", "LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib", "98304",
        "more on-chip memory for one operation (MaxText for dense models, AXLearn for v6e)",
    ),
    # TPUs of other kinds have no rows. What MaxText and AXLearn list for them (latency hiding, asynchronous collectives
    # and their fusion, overlapped data parallel reductions) is libtpu 0.0.52's default: with those flags it makes the
    # same programs, to the byte, for v5e, one slice and two. On v6e it refuses the fusion of all-gathers.
)  # fmt: skip
PRESETS = ("cpu", "gpu", "tpu", "tpu-v6e")


def choose(environment: Mapping[str, str], default: str = AUTO) -> str:
    """The preset that `AVEMO_PLATFORM` names, or `default`; `auto` becomes that of this machine, or `none`.

    Raises:
      ValueError: there is no such preset, with those that there are.
    """
    name = environment.get(VARIABLE) or default
    if name == AUTO:
        name = _look(environment)
        name = (
            of_tpu(environment.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]) if name == "tpu" else name
        )
        return name if name in PRESETS else NONE
    if name != NONE and name not in PRESETS:
        raise ValueError(f"no platform preset '{name}': there are {', '.join((*PRESETS, AUTO, NONE))}")
    return name


def of_tpu(generation: str) -> str:
    """The preset of a kind of TPU, as v6e."""
    return f"tpu-{generation}" if f"tpu-{generation}" in PRESETS else "tpu"


def settings(preset: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a preset as they are to be set; flags and variables of the environment stay as they are."""
    found: dict[str, str] = {}
    for row in SETTINGS:
        if row.preset != preset:
            continue
        before = found.get(row.variable, environment.get(row.variable, ""))
        if not row.flag:
            found[row.variable] = before or row.value
        elif row.flag in {word.partition("=")[0] for word in before.split()}:
            found[row.variable] = before
        else:
            found[row.variable] = f"{before} {row.flag}={row.value}".strip()
    return found


def apply() -> str:
    """Sets this process's variables, which JAX reads when it first looks for devices; returns what to say of it.

    Raises:
      ValueError: `AVEMO_PLATFORM` names no preset.
    """
    preset = choose(os.environ)
    os.environ.update(settings(preset, os.environ))
    return describe(preset, os.environ)


def describe(preset: str, environment: Mapping[str, str]) -> str:
    """One line: the preset and the variables that it concerns, with their values."""
    variables = dict.fromkeys(row.variable for row in SETTINGS)
    shown = [f"{name}='{environment[name]}'" for name in variables if environment.get(name)]
    return f"platform {preset}: {' '.join(shown) or 'nothing set'} ({VARIABLE}={NONE} takes no preset)"


def _look(environment: Mapping[str, str]) -> str:
    """`cpu`, `gpu` or `tpu`: what JAX will find here, or is told to take."""
    named = environment.get("JAX_PLATFORMS", "").split(",")[0]
    if named:
        return {"cuda": "gpu", "rocm": "gpu"}.get(named, named)
    if Path("/dev/nvidiactl").exists():
        return "gpu"
    devices = [*Path("/dev").glob("accel*"), *Path("/dev").glob("vfio/[0-9]*")]
    if devices and importlib.util.find_spec("libtpu"):
        return "tpu"
    return "cpu"
