"""Compiles in processes of their own: the compiler ends its process instead of raising, and talks a lot."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from avemo_jax import platforms
from avemo_jax.config import to_json
from avemo_jax.errors import UserError
from avemo_jax.planning.chips import Topology
from avemo_jax.planning.facts import Facts

_DEVICES_FLAG = "--xla_force_host_platform_device_count"


def check_compiler(topology: Topology) -> None:
    """Raises a UserError where the topology needs a compiler that is not installed."""
    if topology.generation and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {topology.name} needs the TPU's compiler, the package libtpu: pip install 'avemo_jax[tpu]' "
            "(no TPU is needed); a layout alone can be tried with --topology cpu:8"
        )


def compile_step(config: ConfigDict, topology: Topology, program: Path | None = None) -> Facts:
    """The facts of the train step of `config`, compiled for the topology; `program` gets the compiled text.

    Raises:
      UserError: the config and the topology do not go together, or the compiler gave up.
    """
    job = json.dumps(
        {
            "config": to_json(config),
            "topology": topology.name,
            "slices": topology.slices,
            "program": str(program.absolute()) if program else "",
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "facts.json"
        done = subprocess.run(
            [sys.executable, "-m", "avemo_jax.planning.worker", str(result)],
            input=job,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(topology),
            check=False,
        )
        if not result.exists():
            raise UserError(
                f"the compiler ended with code {done.returncode} on --topology {topology.title}: "
                f"{last_words(done.stderr)}"
            )
        text = result.read_text()
    answer = json.loads(text)
    if "error" in answer:
        raise UserError(answer["error"])
    return Facts.from_json(text)


def environment(topology: Topology) -> dict[str, str]:
    """Of the compiling process: CPU as its own device, the TPU's library as a compiler only."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_DEVICES_FLAG)]
    if topology.generation is None:
        flags.append(f"{_DEVICES_FLAG}={topology.devices}")
    preset = platforms.of_tpu(topology.name.partition(":")[0]) if topology.generation else platforms.NONE
    return {
        **os.environ,
        **platforms.settings(platforms.choose(os.environ, preset), os.environ),  # as the run will have it
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a program that was kept cannot tell all of its facts
        "XLA_FLAGS": " ".join(flags),
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask what TPU this is
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the library's lock is for those who use a TPU
    }


def last_words(stderr: str) -> str:
    """The line of a dead process's output that says why it died."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if re.match(r"F\d{4} |.*(Check failed|Error:)", line)]
    return re.sub(r"^F\d{4} \S+\s+\d+ ", "", (fatal or lines or ["it said nothing"])[-1])
