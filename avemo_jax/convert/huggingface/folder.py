"""What lies in a Hugging Face folder, and writing it: whole or not at all, and never over what is not ours.

The folder is made beside its place and renamed. `manifest.json`, written last, lists every file with its
checksum: a folder is replaced only while it is exactly what was written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import avemo_jax
from avemo_jax.convert import hicmae
from avemo_jax.convert.hicmae import StateDict
from avemo_jax.convert.huggingface.bundle import flatten
from avemo_jax.convert.weight_files import write_safetensors, writing
from avemo_jax.errors import UserError
from avemo_jax.models.params import Params
from avemo_jax.models.positions import in_words
from avemo_jax.training import manifest
from input_pipeline.errors import DataError
from input_pipeline.mixtures import folders_of
from input_pipeline.prepare import read_options
from input_pipeline.storing import EITHER, ClipOptions
from input_pipeline.targets import Target, target_of

MODEL_TYPE = "avemo_hicmae"  # as in files/configuration_hicmae.py, which cannot be read without transformers
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, CARD = "model.safetensors", "README.md"

_CODE = ("configuration_hicmae", "modeling_hicmae", "feature_extraction_avemo")
_CODE_OF = {"pretrain": _CODE, "finetune": (*_CODE, "pipeline_avemo")}
_CONFIG_CLASS = "configuration_hicmae.HiCMAEConfig"
_EXTRACTOR = "feature_extraction_avemo.AvemoFeatureExtractor"
_PIPELINES = {
    "audio-visual-emotion": {
        "impl": "pipeline_avemo.AvemoPipeline",
        "pt": ["AutoModelForVideoClassification"],
        "default": {},
        "type": "multimodal",
    }
}
_PROBLEMS = {"values": "regression", "multi_label": "multi_label_classification"}  # transformers' words
_MODELS = {"pretrain": "HiCMAEModel", "finetune": "HiCMAEForVideoClassification"}
_SIZES = ("dim", "heads", "depth", "fusion_depth", "frames", "image_size", "audio_frames", "mel_bins")


def weights(params: Params, config: ConfigDict) -> StateDict:
    """The folder's weights under the reference's names.

    Of a pretraining model without its decoders: nobody needs them for embeddings, and who wants to go on
    pretraining needs the whole file in HiCMAE's own form (`hicmae-pretrain`).
    """
    state = hicmae.to_reference(params)
    return hicmae.shared_keys(state) if config.task == "pretrain" else state


def model_config(config: ConfigDict, decision: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`config.json`; `decision` is what was fitted on development clips (see `evaluation.decisions`)."""
    model = _MODELS[config.task]
    classes = {"AutoConfig": _CONFIG_CLASS, "AutoModel": f"modeling_hicmae.{model}"}
    values: dict[str, Any] = {"model_type": MODEL_TYPE, "architectures": [model], "dtype": "float32"}
    values |= {name: config.model[name] for name in _SIZES}
    if positions := in_words(config.model):
        values["positions"] = positions
    if config.task == "finetune":
        classes["AutoModelForVideoClassification"] = classes["AutoModel"]
        names, raters = output_names(config), config.data.get("raters", ())
        each = [f"{rater}/{name}" for rater in raters for name in names] if raters else names
        values["id2label"] = {str(number): name for number, name in enumerate(each)}
        values["label2id"] = {name: number for number, name in enumerate(each)}
        rule = kind_of(config)
        if rule != "distribution":
            values["problem_type"] = _PROBLEMS.get(rule, "single_label_classification")
        values["custom_pipelines"] = _PIPELINES
        values["head"] = _head(config.model.head_activation, rule, names, decision)
        if raters:
            values["head"] |= {"raters": [str(rater) for rater in raters], "labels": names}
    return {"auto_map": classes, **values}


def rule_of(config: ConfigDict) -> str:
    """What a classifier's outputs are (`targets.RULES`)."""
    return config.data.get("target", "class")


def kind_of(config: ConfigDict) -> str:
    """What is told of a clip: class, distribution, multi_label or values."""
    target = _target(config)
    return target.kind if target else "class"


def _target(config: ConfigDict) -> Target | None:
    with contextlib.suppress(DataError):  # weights from elsewhere may name no classes
        return target_of(config.data)
    return None


def output_names(config: ConfigDict) -> list[str]:
    """The names of what a classifier tells, in order: classes or values."""
    target = _target(config)
    if target and target.outputs == config.model.classes:
        return list(target.names)
    return [
        f"LABEL_{number}" for number in range(config.model.classes)
    ]  # transformers' word for those without a name


def _head(
    activation: str, rule: str, names: Sequence[str], decision: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is done with the outputs: see `files/deciding.py`."""
    head: dict[str, Any] = {"activation": activation, "predicts": rule, "temperature": None}
    if rule == "multi_label":
        head["thresholds"] = None
    if decision:
        head["temperature"] = decision["temperature"]
        head["fitted_on"] = {"development_clips": decision["clips"], "speakers": decision["speakers"]}
        if decision["thresholds"]:
            head["thresholds"] = dict(zip(names, decision["thresholds"], strict=True))
    return head


def preprocessor_config(config: ConfigDict, options: ClipOptions) -> dict[str, Any]:
    """`preprocessor_config.json`."""
    lacking = may_lack(config)
    return {
        "auto_map": {"AutoFeatureExtractor": _EXTRACTOR, "AutoProcessor": _EXTRACTOR},
        "feature_extractor_type": _EXTRACTOR.partition(".")[2],
        **{name: config.model[name] for name in ("frames", "image_size", "audio_frames", "mel_bins")},
        "frame_stride": config.data.frame_stride,
        "crop": config.data.crop,
        **({"segments": config.views.segments} if config.task == "finetune" else {}),
        "prepare": prepare_options(options) | ({"allow_missing": lacking} if lacking != "none" else {}),
    }


def may_lack(config: ConfigDict) -> str:
    """What a file may lack, as in `ClipOptions.allow_missing`: what the folders of a run let their clips lack, where it
    learnt from such clips; of folders that are gone it is not known which, and either is taken."""
    if not config.data.get("allow_missing", False):
        return "none"
    try:
        found = {read_options(path).allow_missing for path in folders_of(config.data)} - {"none"}
    except DataError:
        return EITHER
    return EITHER if len(found) > 1 else next(iter(found), "none")


def prepare_options(options: ClipOptions) -> dict[str, Any]:
    """What the extractor has to know of how clips are stored, and what has to be the same in all folders of a run."""
    names = ["crop", "short_side", "jpeg_quality", "min_s", "max_gap_s"]
    names += ["min_face_share"] if options.crop == "face" else []
    return {name: getattr(options, name) for name in names}


def check_place(out: Path) -> bool:
    """Whether there is a folder to replace.

    Raises:
      UserError: something is there that this command did not write, or that was changed since.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir():
        raise UserError(f"{out} is a file; --format huggingface writes a folder")
    listed = _listed(out)
    if listed is None:
        raise UserError(f"{out} is a folder of something else: choose a new --out")
    strangers = sorted(path.name for path in out.iterdir() if path.name not in listed | {manifest.NAME})
    change = f"also holds {strangers[0]}" if strangers else manifest.find_damage(out)
    if change:
        raise UserError(
            f"{out} {change}: it is not as it was written, and that would be lost; choose a new --out, or delete it"
        )
    return True


def write_folder(
    out: Path,
    config: ConfigDict,
    options: ClipOptions,
    state: StateDict,
    step: int,
    card: Callable[[Path], str],
    decision: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder, or leaves what was there.

    Args:
      out: where; see `check_place`.
      config: the run's.
      options: how clips are stored.
      state: from `weights`.
      step: of the run.
      decision: see `model_config`.
      card: called with the folder when all but the card is in it; returns the card, or raises to keep nothing.
    """
    part, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    replaces = check_place(out)
    about = {"written_by": f"avemo_jax {avemo_jax.__version__}", "step": str(step)}
    texts: Mapping[str, str] = {
        **flatten([f"avemo_jax.convert.huggingface.files.{name}" for name in _CODE_OF[config.task]]),
        CONFIG: _json(model_config(config, decision)),
        PREPROCESSOR: _json(preprocessor_config(config, options)),
    }
    try:
        with writing(out, state):
            part.mkdir(parents=True)
            for name, text in texts.items():
                (part / name).write_text(text, encoding="utf-8")
            write_safetensors(
                part / WEIGHTS, state, {"format": "pt", "names": f"HiCMAE {config.task}"} | about
            )
        written = card(part)
        with writing(out, state):
            (part / CARD).write_text(written, encoding="utf-8")
            manifest.write_manifest(part)
            if replaces:
                out.rename(old)
            part.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for folder in (part, old):
            shutil.rmtree(folder, ignore_errors=True)


def _listed(out: Path) -> set[str] | None:
    """The files that this command wrote there; None when it did not."""
    try:
        ours = json.loads((out / CONFIG).read_bytes())["model_type"] == MODEL_TYPE
        files = set(json.loads((out / manifest.NAME).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return files if ours else None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
