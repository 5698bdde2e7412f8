"""Attention by XLA beside attention by the TPU's kernel, as the TPU's compiler makes both; no TPU is needed.

    python benchmarks/attention.py --config hicmae:base [--topology v5e:1x1] [--clips 16] [--json FILE]

For every attention of a config, forward and backward alone: temporaries, traffic of the main memory and cycles, and
kernel over XLA. Cycles of XLA's operations are the compiler's estimates; those of a kernel are the length of its
schedule, which the compiler writes to a folder when asked, times the steps of its grid. Waiting for memory is in
neither. The whole train step is compared by `avemo plan --config.attention.kernel=xla` and `=pallas`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from avemo_jax.config import load_config
from avemo_jax.planning import jobs
from avemo_jax.planning.chips import parse_topology


class Shape(NamedTuple):
    """One attention of a model: how often a step runs it, and its sizes."""

    name: str
    layers: int
    tokens: int
    keys: int
    heads: int
    head_dim: int


class Measured(NamedTuple):
    """Forward and backward of one attention on one chip."""

    temporaries: int  # bytes
    traffic: int  # bytes of the main memory
    ms: float


def shapes(config) -> Iterator[Shape]:
    """Every attention of a training step, the long ones first."""
    from avemo_jax import frontend

    model = config.model
    times, height, width = frontend.video_grid(model.frames, model.image_size)
    bands = frontend.audio_grid(model.audio_frames, model.mel_bins)
    all_video, all_audio = times * height * width, bands[0] * bands[1]
    video, audio = all_video, all_audio
    if config.task == "pretrain":
        video -= times * int(config.mask.video_ratio * height * width)
        audio -= int(config.mask.audio_ratio * all_audio)
        heads, depth = model.decoder_heads, model.decoder_depth
        for name, tokens, seen in (("video", all_video, video), ("audio", all_audio, audio)):
            sizes = (heads, model.decoder_dim // heads)
            yield Shape(f"{name} decoder", depth, tokens, tokens, *sizes)
            yield Shape(f"{name} decoder to encoder", depth - 1, tokens, seen, *sizes)
    sizes = (model.heads, model.dim // model.heads)
    yield Shape("video encoder", model.depth + model.fusion_depth, video, video, *sizes)
    yield Shape("audio encoder", model.depth + model.fusion_depth, audio, audio, *sizes)
    yield Shape("fusion, video to audio", model.fusion_depth, video, audio, *sizes)
    yield Shape("fusion, audio to video", model.fusion_depth, audio, video, *sizes)


def measure(shape: Shape, kernel: str, topology: str, clips: int) -> Measured:
    """Compiles it in a process of its own, which writes the schedules of its kernels beside its answer."""
    with tempfile.TemporaryDirectory() as folder:
        job = json.dumps({"shape": shape, "kernel": kernel, "topology": topology, "clips": clips})
        dump = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        done = subprocess.run(
            [sys.executable, __file__, "--worker", job],
            env={**jobs.environment(parse_topology(topology)), "LIBTPU_INIT_ARGS": dump},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{shape.name} by {kernel}: {jobs.last_words(done.stderr)}")
        answer = json.loads(done.stdout.splitlines()[-1])
        bundles = sum(map(_bundles, Path(folder).glob("*splash_mha_*schedule-analysis_final_bundles.txt")))
    cycles = answer["cycles"] + bundles * answer["steps"]
    return Measured(
        answer["temporaries"], answer["traffic"], cycles / parse_topology(topology).generation.clock_hz * 1e3
    )


def compile_one(shape: Shape, kernel: str, topology: str, clips: int) -> dict[str, int]:
    """What the compiled program tells; `steps` are those of its kernels' grids."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from avemo_jax.models import attention
    from avemo_jax.planning.costs import costs, kernel_costs
    from avemo_jax.planning.hlo import Program
    from avemo_jax.planning.worker import target_devices

    place = SingleDeviceSharding(target_devices(parse_topology(topology))[0])

    def struct(tokens: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (clips, tokens, shape.heads, shape.head_dim), jnp.bfloat16, sharding=place
        )

    def both(query, key, value, gradient):
        out, pull = jax.vjp({"xla": attention.plain, "pallas": attention.pallas}[kernel], query, key, value)
        return out, pull(gradient)

    arguments = [struct(count) for count in (shape.tokens, shape.keys, shape.keys, shape.tokens)]
    compiled = jax.jit(both).lower(*arguments).compile()
    program = Program(compiled.as_text())
    found = costs(program)
    inside = sum(kernel_costs(one.instruction, one.computation)[1] for one in program.executed())
    rows, (columns, block) = attention.query_rows(shape.tokens), attention.key_blocks(shape.keys)
    steps = clips * shape.heads * (rows // attention.QUERIES) * (columns // block)
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    return {
        "temporaries": temporaries,
        "traffic": found.hbm_bytes,
        "cycles": found.cycles - inside,
        "steps": steps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="hicmae:base")
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--clips", type=int, default=16, help="of a chip")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        job = json.loads(args.worker)
        print(json.dumps(compile_one(Shape(*job.pop("shape")), **job)))
        return 0
    jobs.check_compiler(parse_topology(args.topology))
    title = (
        f"{args.config} on {args.topology}, {args.clips} clips, bfloat16, forward and backward of one layer"
    )
    print(f"{title}\n{'':24}{'':>17}  temporaries, MB    traffic, MB         ms", flush=True)
    rows = []
    for shape in shapes(load_config(args.config)):
        xla, kernel = (measure(shape, name, args.topology, args.clips) for name in ("xla", "pallas"))
        sizes = f"{shape.heads} × {shape.tokens} × {shape.keys}"
        pairs = [  # a short attention by XLA has no temporaries in the main memory, and so no ratio
            f"{a / unit:8,.{digits}f} → {b / unit:6,.{digits}f} {f'({b / a:4.2f})' if a else '      '}"
            for a, b, unit, digits in zip(xla, kernel, (1e6, 1e6, 1), (0, 0, 2), strict=True)
        ]
        print(f"{shape.name:24}{sizes:>17}{''.join(pairs)}", flush=True)
        rows.append(shape._asdict() | {"xla": xla._asdict(), "pallas": kernel._asdict()})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def _bundles(path: Path) -> int:
    return int(re.search(r"total scheduled bundles:\s+(\d+)", path.read_text())[1])


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
