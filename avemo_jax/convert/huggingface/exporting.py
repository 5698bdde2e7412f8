"""From a checkpoint to its folder: reads the run, writes, compares, and fills in the card."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from avemo_jax.convert.hicmae import StateDict, check_method
from avemo_jax.convert.huggingface import folder
from avemo_jax.convert.huggingface.card import Stored, check_license, write_card
from avemo_jax.convert.huggingface.facts import gather
from avemo_jax.convert.huggingface.verify import check_installed, verify
from avemo_jax.convert.verify import Difference
from avemo_jax.errors import UserError
from avemo_jax.evaluation.choosing import result_of
from avemo_jax.training.checkpoint_files import load_params
from input_pipeline import blazeface
from input_pipeline.errors import DataError, StoreFailed
from input_pipeline.mixtures import folders_of
from input_pipeline.prepare import read_options
from input_pipeline.storing import ClipOptions


class Exported(NamedTuple):
    """What was written. preparation: where it is known from how clips are prepared, or why it is not known; selection:
    how the weights were chosen among those of a fine-tuning run; decision: what was fitted on development clips."""

    state: StateDict
    step: int
    replaced: bool
    preparation: str
    selection: str
    decision: Mapping[str, Any] | None


def export(
    checkpoint: str,
    out: Path,
    *,
    license_name: str = "unknown",
    compare: Callable[[Sequence[Difference]], None] | None = None,
    clip: Path | None = None,
    count_flops: Callable[[ConfigDict], int] | None = None,
) -> Exported:
    """Writes the folder `out` of a checkpoint.

    Args:
      checkpoint: a work directory, its checkpoints folder or one step's folder; of a fine-tuning run's work directory
        the weights that the run chose are taken.
      license_name: of the weights, as the Hub calls it.
      compare: given the differences from the JAX model; raises to keep nothing. None does without a comparison.
      clip: a media file to compare on; None makes one.
      count_flops: a config → FLOPs of a step, for the card of weights that were trained in the run; a UserError leaves
        them out.

    Raises:
      UserError: bad input, a place that must not be written to, or a folder that transformers cannot load.
    """
    check_license(license_name)
    if compare:
        check_installed()
    out = out.resolve()
    replaced = folder.check_place(out)
    chosen, selection = result_of(checkpoint)
    config, params, step = load_params(chosen)
    check_method(config)
    state, facts = folder.weights(params, config), gather(chosen, config, step)
    if count_flops and facts.stepping_s is not None:
        with contextlib.suppress(UserError):  # such as a teacher that is gone
            facts = replace(facts, flops=count_flops(config) * step)
    decision = facts.decision
    stored, preparation = _stored(config)
    if compare and stored.options.crop == "face":
        blazeface.check_installed()

    def card(part: Path) -> str:
        verified = None
        if compare:
            verified = verify(part, config, params, stored.options, clip, decision)
            compare(verified.differences)
        parameters = sum(array.size for array in state.values())
        return write_card(config, facts, stored, parameters, license_name, verified)

    folder.write_folder(out, config, stored.options, state, step, card, decision)
    return Exported(state, step, replaced, preparation, selection, decision)


def _stored(config: ConfigDict) -> tuple[Stored, str]:
    """How the training clips were stored, else the defaults; and where it is known from, or why not.

    Raises:
      StoreFailed: it is known to a store that does not answer now.
    """
    try:
        paths = folders_of(config.data)
        if not any(paths):
            raise DataError("the run names no data")
        options = [read_options(path) for path in paths]
    except StoreFailed:
        raise
    except DataError as error:
        return Stored(ClipOptions(), known=False), f"by default values ({error})"
    first, where = options[0], ", ".join(paths)
    if all(folder.prepare_options(one) == folder.prepare_options(first) for one in options):
        return Stored(first, known=True), f"as in {where}"
    why = f"({where} were prepared in different ways)"
    if any(one.crop != first.crop for one in options):
        return Stored(ClipOptions(), known=False), f"by default values {why}"
    return Stored(ClipOptions(crop=first.crop), known=False), f"by default values but for the crop {why}"
