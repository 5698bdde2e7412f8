"""The heads of a run on several folders: what each predicts, and its share of the model's outputs.

The heads are linear and side by side in one matrix, so a head with the encoder under it is a model like any that
`avemo finetune` makes. Not here: what they learn (several), and from which clips (lessons).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ml_collections import ConfigDict

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation.choosing import MEAN
from avemo_jax.models.params import Params
from avemo_jax.tasks.finetune import LOSSES
from input_pipeline.errors import DataError
from input_pipeline.mixtures import folders_of
from input_pipeline.targets import Target, target_of

_OF_BATCHES = ("ccc", "pcc")  # losses that say nothing of a single clip
_OWN = (  # a head's own keys, in a single run of `data` and `views`
    *(
        "label",
        "target",
        "classes",
        "threshold",
        "centres",
        "protocol",
        "fold",
        "fold_by",
        "test_split",
        "folds",
    ),
    *("development", "pool"),
)
_SINGLE = ("task", "heads", "distill")  # what a run of one head has otherwise


@dataclass(frozen=True)
class Head:
    """One folder's: which `columns` of the outputs [B, K] are its own, and how they are learnt."""

    name: str
    target: Target
    columns: slice
    loss: str  # a name of `objectives.supervised`
    smoothing: float
    weight: float
    teacher: str


def heads_of(config: ConfigDict) -> tuple[Head, ...]:
    """The heads in the order of the folders.

    Raises:
      UserError: targets, losses or sizes that do not go together.
    """
    found, first, wrong = [], 0, []
    for name in config.data.heads:
        section = config.heads[name]
        try:
            target = target_of(section)
        except DataError as error:
            raise UserError(f"heads.{name}: {of_head(str(error), name)}") from error
        if target is None:
            raise UserError(
                f"heads.{name} needs labels: set heads.{name}.label, and heads.{name}.classes for classes"
            )
        known = [kind for kind in LOSSES[target.rule] if kind not in _OF_BATCHES]
        if target.raters or section.loss not in known:
            wrong.append(f"heads.{name}.loss={section.loss} is none for its target: {', '.join(known)}")
        if section.weight < 0:
            wrong.append(f"heads.{name}.weight={section.weight} is below 0")
        columns = slice(first, first + len(target.names))
        smoothing = section.label_smoothing if target.is_class else 0.0
        found.append(Head(name, target, columns, section.loss, smoothing, section.weight, section.teacher))
        first = columns.stop
    if first != config.model.classes:
        wrong.append(f"model.classes is {config.model.classes}, and the heads have {first} outputs together")
    if not 0 <= config.distill.weight <= 1 or config.distill.temperature <= 0:
        wrong.append(
            f"distill.weight={config.distill.weight} must lie in 0 … 1 and distill.temperature="
            f"{config.distill.temperature} above 0"
        )
    if config.mix.modalities not in ("video", "both"):
        wrong.append(f"mix.modalities is '{config.mix.modalities}', not video or both")
    if wrong:
        raise UserError("config does not make a fine-tuning task: " + "; ".join(wrong))
    return tuple(found)


def of_head(text: str, name: str) -> str:
    """What is said of the keys of a run of one head, of this head's: `data.label` → `heads.NAME.label`."""
    return re.sub(rf"(?<![\w./])(?:data|views)\.({'|'.join(_OWN)})\b", rf"heads.{name}.\1", text)


def single_configs(config: ConfigDict, heads: tuple[Head, ...]) -> list[ConfigDict]:
    """For each head the config that a run of it alone on its folder would have.

    Raises:
      UserError: not as many folders as heads.
    """
    folders = folders_of(config.data)
    if len(folders) != len(heads):
        names = ", ".join(head.name for head in heads)
        raise UserError(
            f"data.paths names {len(folders)} folders for {len(heads)} heads: give one for each of {names}, in "
            "this order"
        )
    made = []
    for head, folder in zip(heads, folders, strict=True):
        own = config.heads[head.name]
        single = load_config(f"finetune/recipe:{config.size}")
        with single.unlocked():
            for key, value in config.items():
                if key not in (*_SINGLE, "data"):
                    single[key] = (
                        value.copy_and_resolve_references() if isinstance(value, ConfigDict) else value
                    )
            for section in (config.data, own):
                single.data.update({key: section[key] for key in section if key in single.data})
            single.data.update(path=folder, paths=(), weights=(), balance="", per_group=1)
            single.select = ConfigDict({**config.select, "score": MEAN})
            single.loss.kind, single.loss.label_smoothing = own.loss, own.label_smoothing
            single.model.classes, single.views.pool = len(head.target.names), own.pool
        made.append(single)
    return made


def single_params(params: Params, head: Head) -> Params:
    """The parameters of one head's model, of those of all; arrays are not copied."""
    return {**params, "head": {name: array[..., head.columns] for name, array in params["head"].items()}}
