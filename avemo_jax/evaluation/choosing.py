"""Which of a fine-tuning run's weights are its result: those of the best look, or the last ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from avemo_jax import paths
from avemo_jax.config import from_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation.outcomes import MAIN_SCORES, lower_is_better
from avemo_jax.models.params import Params
from avemo_jax.training.checkpoint_files import BEST, FOLDER, load_params, step_name
from avemo_jax.training.watching import LOOKS, best_of, read_looks
from avemo_jax.training.workdir import CONFIG

DEVELOPMENT, LAST, TEST = "development", "last", "test"
MEAN = "mean_score"  # of several heads, what their common weights are chosen by
# How choices are called that test clips had a say in.
LEGACY = "legacy: best on the test clips"
LEGACY_LAST = "legacy: last, ended by the test clips"


def choices(config: ConfigDict, workdir: Path) -> list[tuple[str, Path]]:
    """(how they were chosen, checkpoint) of the weights to test, the chosen ones first."""
    ended = config.select.by == TEST and config.select.get("patience", 0)
    last = (LEGACY_LAST if ended else LAST, workdir)
    if config.select.by == LAST:
        return [last]
    prefix, score = config.select.by, score_of(config)
    step = best_of(read_looks(workdir / LOOKS), f"{prefix}_{score}", -1.0 if lower_is_better(score) else 1.0)
    if step is None:
        raise UserError(f"{workdir / LOOKS}: no look has a {prefix}_{score} to choose by")
    name = LEGACY if config.select.by == TEST else "best on the development clips"
    return [(name, workdir / BEST / FOLDER / step_name(step)), last]


def score_of(config: ConfigDict) -> str:
    """What is chosen by: `select.score`, or else the first score of `data.target`; the mean of several heads, which
    have no such key."""
    return config.select.get("score", MEAN) or MAIN_SCORES[config.data.target][0]


def result_of(checkpoint: str | Path) -> tuple[Path, str]:
    """The checkpoint that `load_params` is to take, and how it was chosen: of a fine-tuning run's work directory the
    weights that the run chose; all else is what it is, and chosen by nobody ("")."""
    folder = paths.absolute(checkpoint)
    try:
        with paths.plain_errors(folder):
            config = from_json((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return folder, ""
    if config.get("task") not in ("finetune", "several") or not read_looks(folder / LOOKS):
        return folder, ""
    selection, chosen = choices(config, folder)[0]
    return chosen, selection


def load_result(
    checkpoint: str | Path, *, say: Callable[[str], None] = print
) -> tuple[ConfigDict, Params, int, str]:
    """(config, parameters, step, how the weights were chosen) of `result_of`; see `load_params`."""
    chosen, selection = result_of(checkpoint)
    return *load_params(chosen, say=say), selection
