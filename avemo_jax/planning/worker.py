"""The process that compiles: reads a job from standard input, writes its facts to a file. See `jobs`, which starts it.

The step is the one that `avemo train` would run, made by the same functions from the same config; only its
devices are described instead of present. The compiler may abort the process, which is why it is one of its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from avemo_jax.config import from_json
from avemo_jax.errors import UserError
from avemo_jax.files import write_file
from avemo_jax.models import compute_dtype
from avemo_jax.models.attention import check_platform
from avemo_jax.planning.chips import Topology, parse_topology
from avemo_jax.planning.collectives import collectives
from avemo_jax.planning.costs import costs
from avemo_jax.planning.facts import Facts, Memory
from avemo_jax.planning.flops import traced_flops
from avemo_jax.planning.hlo import Program
from avemo_jax.planning.purposes import Stored
from avemo_jax.tasks import make_task, token_teacher
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import state as state_lib
from avemo_jax.training.gradients import check_microbatches
from avemo_jax.training.optimizer import make_optimizer
from avemo_jax.training.schedules import schedules_of
from avemo_jax.training.step import Given, make_step

_LARGE = 2**20  # bytes from which a replicated array is worth a word


def main(argv: Sequence[str]) -> int:
    """`python -m avemo_jax.planning.worker RESULT_FILE < JOB`."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    job = json.load(sys.stdin)
    try:
        topology = parse_topology(job["topology"], job["slices"])
        result = examine(from_json(job["config"]), topology, job["program"]).to_json()
    except UserError as error:
        result = json.dumps({"error": str(error)})
    Path(argv[0]).write_text(result)
    return 0


def examine(config: ConfigDict, topology: Topology, program: str = "") -> Facts:
    """Compiles the train step of `config` for the topology and counts what came out.

    `program` is a file for the compiled text.
    """
    devices = target_devices(topology)
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    check_platform(config, devices[0].platform)
    with config.unlocked():
        config.dtype = compute_dtype(config, devices[0].platform).name
    traced, state = trace_step(config, mesh)
    plain = trace_step(as_written(config), mesh)[0]

    began = time.monotonic()
    compiled, text, refusal = None, "", ""
    try:
        compiled, text = _compile(traced, topology)
    except jax.errors.JaxRuntimeError as error:
        refusal = str(error).strip().splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in refusal:
            raise UserError(f"the compiler refused this step: {refusal}") from error

    batch, shares = make_task(config).batch_shapes(), mesh_lib.data_shares(mesh)
    parts = mesh_lib.rows_divisor(mesh)
    facts = Facts(
        chips=topology.chips,
        devices_per_chip=topology.devices // topology.chips,
        hosts=len(shares),
        mesh=dict(mesh.shape),
        dtype=config.dtype,
        remat=config.remat,
        batch_size=config.batch_size,
        parts=parts,
        model_flops=traced_flops(plain.jaxpr),
        parameter_bytes=_whole_bytes(state.params),
        parameter_shard_bytes=_shard_bytes(state.params),
        optimizer_bytes=_whole_bytes(state.opt_state),
        optimizer_shard_bytes=_shard_bytes(state.opt_state),
        replicated=_replicated(state, mesh),
        placements=mesh_lib.format_placements(mesh_lib.placements(state.params, mesh), mesh),
        clip_bytes=sum(_bytes(field) for field in batch.values()) // config.batch_size,
        host_clips=config.batch_size // parts * len(next(iter(shares.values()))),
        compile_s=time.monotonic() - began,
        fits=compiled is not None,
        refusal=refusal,
        needed_bytes=needed_bytes(refusal),
    )
    if compiled is not None:
        _read(facts, compiled, Program(text), state, mesh)
        if program:
            write_file(program, text)
    return facts


def target_devices(topology: Topology) -> list[Any]:
    """The devices of a topology: descriptions of a TPU's, or this process's fake CPU devices."""
    if topology.generation is None:
        return jax.devices("cpu")[: topology.devices]
    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.generation.chip_config:
        options["chip_config_name"] = topology.generation.chip_config
    if any(size == 1 for size in topology.shape[:2]):  # less than the four chips of a host
        options["chips_per_host_bounds"] = (*(min(size, 2) for size in topology.shape[:2]), 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--topology {topology.name}: the compiler does not know it: {reason}") from error


def trace_step(config: ConfigDict, mesh: Mesh) -> tuple[Any, state_lib.TrainState]:
    """The traced step and the shapes of its state, as `training.loop.train` makes them."""
    token_teacher.remember(config)
    task = make_task(config)
    init_key, _ = state_lib.run_keys(config.seed)
    graphdef, params = state_lib.abstract_params(task, init_key)
    schedules = schedules_of(config, total_steps=1)  # arguments of the step: of what value is the same to it
    optimizer = make_optimizer(config, params, schedules)
    state = state_lib.with_shardings(
        state_lib.abstract_state(params, optimizer, average=config.ema.decay > 0), mesh
    )
    batch: Any = task.batch_shapes()
    teacher = getattr(task, "frozen_teacher", None)
    given = Given(np.zeros(2, np.uint32), schedules, teacher and teacher.shapes)
    step = make_step(task, graphdef, state, batch, given, mesh)
    return step.trace(state, batch, given), state


def needed_bytes(refusal: str) -> int:
    """What the compiler says a program needs, from its words on the memory it does not have."""
    found = re.search(r"\(([\d.]+)([KMG])\) exceeds", refusal) or re.search(
        r"Used ([\d.]+)([KMG]) of", refusal
    )
    return int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]]) if found else 0


def stored_parameters(params: Any, mesh: Mesh) -> list[Stored]:
    """Each parameter's shape and that of one device's part."""
    return [
        Stored(row.shape, NamedSharding(mesh, row.spec).shard_shape(row.shape))
        for row in mesh_lib.placements(params, mesh)
    ]


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone, however that ended: a compile may take minutes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _compile(traced: Any, topology: Topology) -> tuple[Any, str]:
    """The executable, and the program's text."""
    if topology.generation is None:
        # Only layouts are of interest, and optimising would take most of the time.
        compiled = traced.lower().compile(compiler_options={"xla_backend_optimization_level": 0})
        return compiled, compiled.as_text()
    # The compiler's own text: JAX's reader refuses what the compiler makes for SparseCores, of v5p for instance.
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = traced.lower().compile(compiler_options=options)
        written = sorted(Path(folder).glob("*.jit_step.*after_codegen.txt"))
        return compiled, written[0].read_text() if written else compiled.as_text()


def _read(facts: Facts, compiled: Any, program: Program, state: state_lib.TrainState, mesh: Mesh) -> None:
    """Adds what the compiled program tells."""
    sizes = compiled.memory_analysis()
    peak = sizes.peak_memory_in_bytes
    if mesh.devices.flat[0].platform == "cpu":  # whose peak leaves temporaries out
        peak = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
        peak += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    facts.memory = Memory(
        arguments=sizes.argument_size_in_bytes,
        outputs=sizes.output_size_in_bytes,
        aliased=sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
        peak=peak,
    )
    facts.flops, facts.hbm_bytes, facts.cycles, facts.data_dependent_loops = costs(program)
    slices = mesh_lib.slice_count(list(mesh.devices.flat))
    one_slice = list(mesh.devices.flat)[
        : mesh.size // slices
    ]  # `replica`, the first axis, tells slices apart
    places = [tuple(getattr(device, "coords", (device.id,))) for device in one_slice]
    facts.collectives = collectives(program, stored_parameters(state.params, mesh), places)


def _whole_bytes(tree: Any) -> int:
    return sum(map(_bytes, jax.tree.leaves(tree)))


def _shard_bytes(tree: Any) -> int:
    """What one device holds of it."""
    parts = (leaf.update(shape=leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))
    return sum(map(_bytes, parts))


def _replicated(state: state_lib.TrainState, mesh: Mesh) -> list[str]:
    """Large arrays that are whole on every device although weights are to be divided."""
    if mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return []
    return [
        path
        for path, leaf in mesh_lib.named_leaves(state)
        if _bytes(leaf) >= _LARGE and leaf.sharding.is_fully_replicated
    ]


def as_written(config: ConfigDict) -> ConfigDict:
    """The same step with nothing computed twice and nothing inside kernels.

    Microbatches that are contrasted as one batch encode it twice: without them the gradients are the same.

    Raises:
      UserError: they cannot be cut.
    """
    plain = config.copy_and_resolve_references()
    contrast = plain.get("contrast")
    with plain.unlocked():
        plain.remat, plain.attention.kernel = "none", "xla"
        if contrast and contrast.get("cached", False):
            check_microbatches(plain.batch_size, plain.accumulate, devices=1)
            plain.accumulate = 1
    return plain


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
