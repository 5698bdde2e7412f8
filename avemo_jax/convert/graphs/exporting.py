"""From a checkpoint to its graph's file: reads the run, writes, and keeps only what computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from avemo_jax.convert import hicmae
from avemo_jax.convert.graphs import about, onnx_file, stablehlo_file, verify
from avemo_jax.convert.hicmae import StateDict
from avemo_jax.convert.huggingface.facts import decision_of
from avemo_jax.convert.huggingface.folder import weights
from avemo_jax.convert.verify import Difference
from avemo_jax.convert.weight_files import write_whole
from avemo_jax.evaluation.choosing import result_of
from avemo_jax.files import write_file
from avemo_jax.training.checkpoint_files import load_params


class Exported(NamedTuple):
    """What was written, the graph's file first, each with whether it replaced another; and how the weights were chosen
    among those of a fine-tuning run."""

    state: StateDict
    step: int
    files: dict[Path, bool]
    selection: str


def export(
    checkpoint: str, form: str, out: Path, compare: Callable[[Sequence[Difference]], None]
) -> Exported:
    """Writes the file `out`, and beside a StableHLO `out`.json with what an ONNX file has in its metadata.

    Args:
      checkpoint: as `load_params` takes it; of a fine-tuning run's work directory the weights that the run chose.
      form: onnx or stablehlo.
      out: replaced if it is there, as is `out`.json; neither before both are whole.
      compare: given the differences from our model; raises to keep nothing.

    Raises:
      UserError: a missing package, bad input, or a graph that cannot be run.
    """
    if form == "onnx":
        onnx_file.check_installed()
    chosen, selection = result_of(checkpoint)
    config, params, step = load_params(chosen)
    hicmae.check_method(config)
    state = weights(params, config)
    about.check_size(form, state)
    inputs = onnx_file.INPUTS if form == "onnx" else stablehlo_file.INPUTS
    known = about.describe(config, step, inputs, decision_of(chosen, step))
    files = [out, out.with_name(f"{out.name}.json")] if form == "stablehlo" else [out]
    replaced = {path: path.exists() for path in files}

    def write(part: Path) -> None:
        if form == "onnx":
            onnx_file.write(part, hicmae.to_reference(params), config, known)
        else:
            stablehlo_file.write(part, params, config)

    def keep(part: Path) -> None:
        compare(verify.verify(part, form, config, params))
        for beside in files[1:]:
            write_file(beside, json.dumps(known, indent=2, ensure_ascii=False) + "\n")

    write_whole(out, state, write, keep)
    return Exported(state, step, replaced, selection)
