"""Configs: found by path or name, built from common values, overridden strictly, written as JSON.

Not here: what an experiment is. That is in `configs/`, one file each, with `get_config(arg)`.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from input_pipeline import own_files
from input_pipeline.errors import DataError, in_one_line

_PACKAGE = Path(__file__).resolve().parent
# The wheel's copy, made when it was built, or else the checkout's own folder. In this order: what lies beside an
# installed package is anybody's.
_ROOTS = (_PACKAGE / "_configs", _PACKAGE.parent / "configs")


def load_config(name: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The resolved, locked config of `FILE[:arg]`, with `key.path=value` overrides applied.

    Raises:
      UserError: no such file, one that fails, an argument that the file does not know, an unknown key (with the
        nearest valid one) or a value of the wrong type.
    """
    file, _, argument = name.partition(":")
    path = find_config(file)
    spec = importlib.util.spec_from_file_location(f"avemo_config_{path.stem}", path)
    assert spec and spec.loader  # a .py file always has them
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except UserError as error:
        raise UserError(f"config '{name}': {error}") from error
    except DataError:
        raise
    except Exception as error:  # anybody's code
        raise UserError(f"config file {path} cannot be used: {in_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(f"config file {path} cannot be used: get_config gives a {kind}, not a ConfigDict")
    config.lock()
    for override in overrides:
        apply_override(config, override)
    _place_own_files(config)
    return config


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets one value, `key.path=value`.

    Raises:
      UserError: an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    key, _, text = override.partition("=")
    keys = list(keys_of(config))
    if key not in keys:
        inside = [k for k in keys if k.startswith(key + ".")]
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.4) or keys[:1]
        hint = f"it has the keys {', '.join(inside)}" if inside else f"the nearest valid key is '{near[0]}'"
        raise UserError(f"config has no value '{key}' (from --config.{override}): {hint}")
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = _parse(key, text, node[leaf])


def find_config(name: str) -> Path:
    """The file that a config name stands for: a path, `pretrain/hicmae`, or just `hicmae`."""
    for candidate in (Path(name), Path(f"{name}.py")):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.resolve()
    root = configs_root()
    found = [root / f"{name}.py"] if (root / f"{name}.py").is_file() else sorted(root.glob(f"*/{name}.py"))
    if len(found) == 1:
        return found[0]
    known = sorted(str(p.relative_to(root).with_suffix("")) for p in root.glob("*/*.py"))
    if found:
        choices = ", ".join(str(p.relative_to(root).with_suffix("")) for p in found)
        raise UserError(f"config name '{name}' is ambiguous: {choices}; give the folder too")
    near = difflib.get_close_matches(name, [*known, *(k.split("/")[-1] for k in known)], n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
    raise UserError(f"no config '{name}' (neither a .py file nor a name): {hint}")


def configs_root() -> Path:
    """The folder that config names are looked up in."""
    for root in _ROOTS:
        if root.is_dir():
            return root
    raise UserError(f"no configs folder beside {_PACKAGE}: install avemo_jax again")


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text, keys sorted: what `config.json` and the golden dumps hold."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote; lists come back as tuples."""
    config = ConfigDict(_tuples(json.loads(text)), convert_dict=True)
    config.lock()
    return config


def keys_of(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Every leaf's dotted path."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def run_defaults() -> ConfigDict:
    """The part of a config that is the same for every task and method; HiCMAE's optimiser values."""
    return ConfigDict(
        {
            "task": "",
            "method": "",
            "size": "",
            "seed": 0,
            "batch_size": 160,  # clips of the whole mesh
            "epochs": 0,
            "total_steps": 0,  # where it is not 0 it wins over epochs
            "dtype": "auto",  # bfloat16 on TPU and GPU, float32 on CPU
            "remat": "none",  # none, dots or full
            # Who computes attention: xla, pallas (TPU), cudnn (GPU), or auto: pallas on TPU, else xla; over at least so
            # many queries and keys, shorter ones being XLA's. docs/train.md has what was measured.
            "attention": {"kernel": "auto", "min_tokens": 512},
            "accumulate": 1,  # microbatches that a batch is computed in, one after the other
            # A run to begin with the parameters of: its work directory, or one checkpoint of it. Of a pretraining run
            # fine-tuning takes the encoders and their fusion.
            "init": {"checkpoint": ""},
            "ema": {"decay": 0.0},  # of a moving average of the weights, which is then evaluated; 0 is off
            "mesh": {"replica": 1, "data": -1, "fsdp": 1, "tensor": 1},
            "data": {
                "path": "",  # a folder that `avemo prepare` made
                "paths": (),  # or several, one run over all of them
                "weights": (),  # how often each of them comes; empty takes every clip as often as any other
                "balance": "",  # corpus, speaker, gender or label_NAME: each of these as often as any other
                "per_group": 1,  # clips of such a speaker, … that come together, so that a batch holds several
                "split": "",  # one split of it; empty takes every clip
                "frame_stride": 4,
                "crop": "none",
                "device_crop": (),  # (height, width) of stored frames: the device cuts and resizes them, not the hosts
                "flip": False,
                "audio_gain": False,
                "workers": 1,
                "prefetch": 2,  # batches a worker holds ready
                "max_unreadable_share": 0.01,
                "allow_missing": False,  # clips without picture, or without sound, are used too
            },
            "optimizer": {
                "learning_rate": 3e-4,  # for 256 clips; scaled linearly with the batch
                "min_learning_rate": 1e-5,
                "warmup_share": 0.05,  # of all steps
                "weight_decay": 0.05,
                "weight_decay_end": 0.05,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "clip_norm": 0.0,  # 0 is off
                "layer_decay": 1.0,  # 1 is off
                "decay_audio_mask_token": False,
            },
            "checkpoint": {
                "every_steps": 1000,
                "keep": 3,  # the newest; and the newest good one, where all of these are amid skipped steps
                "asynchronous": True,
            },
            "log": {"every_steps": 10, "samples_every_steps": 1000, "tensorboard": False, "wandb": False},
            "guard": {"max_bad_steps": 10},
            "profile": {
                "steps": 0,  # so many are traced; 0 is off
                "after": 10,  # the first so many of this start
            },
        }
    )


def pretrain_defaults() -> dict[str, ConfigDict]:
    """The sections of a pretraining config beside its model; HiCMAE's values."""
    return {
        "mask": ConfigDict(
            {
                "video": "tube",  # or random, time, blocks
                "audio": "random",  # or time, frequency, time_frequency, blocks
                "video_ratio": 0.9,
                "audio_ratio": 0.8,
                # Pairs of a video's and an audio's ratio, of which each step draws one; empty: always the two above.
                "choices": (),
                # Moments hidden in the picture are heard, and the other way round; only video_ratio then has a say.
                "complementary": False,
                "blocks": 4,  # how many boxes `blocks` hides
                "strip_share": 0.7,  # of a ratio, that `time_frequency` hides of the steps and of the bands
                "decoded": 1.0,  # share of the hidden tokens that are predicted (dual masking)
                # Masks that each clip of a batch is learnt from; decoded once, it costs the host nothing more.
                "repeats": 1,
            }
        ),
        "target": ConfigDict(
            {
                # patches; latents, tokens of a teacher, the moving average of the model or a frozen one; or both
                "kind": "patches",
                "teacher": "",  # a pretrained run, whose encoder is the frozen one
                "standardize_video": False,  # of the picture as the network sees it, not of pixels from 0 to 1
                "normalize_video": True,
                "normalize_audio": True,
                "per_colour": True,  # each colour of a tubelet is normalised by itself
                "frame_difference": True,
                "frame_group": 2,
                "difference_weight": -1.0,  # negative: one plain error over frames and differences
                "error": "mse",  # or l1, smooth_l1
                "video_weight": 1.0,
                "audio_weight": 1.0,
                "cross_weight": 1.0,  # of what one modality predicts of the other
                "latent_weight": 1.0,  # of a teacher's tokens beside patches (kind=both), times the modality's own
            }
        ),
        "contrast": ConfigDict(
            {
                "weight": 0.0025,  # 0: clips are not compared
                "kind": "infonce",  # or siglip
                "direction": "both",  # or forward: a video looks for its sound; backward
                "temperature": 0.07,
                "bias": 0.0,  # added to SigLIP's logits; model.learned_bias, where the temperature is learned
                "negatives": "global",
                "group_size": 40,
                "within": "",  # speaker, gender or label_NAME: only clips of the same one are each other's negatives
                "cached": False,  # with accumulate: over the whole batch, not each microbatch (GradCache)
                "chunk": 2048,  # larger groups are compared so many clips at a time; 0 is all at once
            }
        ),
        "objectives": ConfigDict(
            {
                # Further terms of the loss: names in avemo_jax/objectives, or Python files (docs/extend.md); and what
                # each weighs, 1 where none is given.
                "terms": (),
                "weights": (),
                # Weights that change over the steps: (term, factor until `from`, factor from `to` on, from, to). Terms
                # are video, audio, cross, contrast, latents (beside patches), difference (where it has a weight), and
                # the further ones.
                "ramps": (),
                "ramp": "linear",  # or cosine
            }
        ),
    }


def stream_pretraining(
    method: str,
    size: str,
    sizes: tuple[int, int, int, int, int],
    *,
    modalities: tuple[str, ...] = ("video", "audio"),
    joint_depth: int = 0,
) -> ConfigDict:
    """A pretraining config of `avemo_jax.models.streams`, a masked autoencoder of separate encoders and decoders.

    Args:
      sizes: encoder width, heads and depth (`joint_depth` of it joint layers), decoder width and heads.
    """
    dim, heads, depth, decoder_dim, decoder_heads = sizes
    config = run_defaults()
    config.task, config.method, config.size, config.assembly = "pretrain", method, size, "autoencoder"
    config.model = ConfigDict(
        {
            "modalities": modalities,
            "dim": dim,
            "heads": heads,
            "depth": depth - joint_depth,  # of each modality by itself
            "joint_depth": joint_depth,  # further layers, over the tokens of both
            "weights": "separate",  # or shared: both modalities go through the same layers
            "joint_alone": False,  # each modality goes through the joint layers by itself too
            "joint_norms": False,  # which have norms of their own for each of the three ways
            "modality_tokens": False,
            "registers": 0,
            "positions": "flat",  # over the token index; or grid: over time, height, width or frequency
            "drop_path": 0.0,
            "gelu": "erf",  # or tanh, its approximation
            "decoder": "separate",  # or shared, or joint: one sequence of both
            "decoder_dim": decoder_dim,
            "decoder_heads": decoder_heads,
            "decoder_depth": 4,
            "decoder_window": (),  # of tokens along time and frequency that the sound's decoder attends in; () for all
            "decoder_own_entry": False,  # a projection and a mask token for each modality
            "decoder_embed_bias": True,
            "decoder_modality_tokens": False,
            "contrast_layers": (),  # of each modality alone, that are compared (HiCMAE's contrast); (): the last
            **learned_contrast(),
            "frames": 16,
            "image_size": 160,
            "audio_frames": 256,
            "mel_bins": 128,
        }
    )
    config.update(pretrain_defaults())
    config.contrast.weight = 0.0
    config.data.crop = "multi_scale"
    return config


def learned_contrast() -> dict[str, float]:
    """Of a pretraining config's model: what is learned about comparing."""
    return {
        "learned_temperature": 0.0,  # of the contrast, at the start; 0: contrast.temperature as it is
        "learned_bias": 0.0,  # SigLIP's, at the start; it is learned where the temperature is
    }


def demo_sized(config: ConfigDict) -> ConfigDict:
    """A pretraining config with what every method's demo has: small frames, small batches and two masks a clip, which
    learns most from 30,400 clips (docs/results.md)."""
    config.batch_size, config.epochs, config.total_steps = 16, 0, 1900
    config.mask.repeats = 2
    config.model.image_size = 96
    config.contrast.group_size = 16
    config.optimizer.learning_rate, config.optimizer.min_learning_rate = 9.6e-3, 1.6e-4
    return config


def text_alignment(pretraining: ConfigDict) -> ConfigDict:
    """A second stage after a pretraining config: its encoder (`init.checkpoint`), aligned with descriptions.

    Raises:
      UserError: a config of another task.
    """
    if pretraining.task != "pretrain":
        raise UserError(f"texts are aligned after pretraining, and its task is {pretraining.task}")
    config = pretraining.copy_and_resolve_references()
    with config.unlocked():
        config.task = "align_text"
        for section in ("mask", "target"):  # whole clips are seen, and nothing is predicted
            del config[section]
        for name in ("terms", "weights"):  # what is left are ramps, whose terms are the pairs
            del config.objectives[name]
        predicting = ("decoder", "teacher_layers", "crosses", "contrast_layers")
        for name in [name for name in config.model if name.startswith(predicting)]:
            del config.model[name]
        for name, value in learned_contrast().items():
            config.model[name] = config.model.get(name, value)
        config.ema.decay = 0.0  # which was the teacher's, where there is one
        config.model.shared_dim = 256
        config.model.text_dim = 384  # of the tower's vectors
        config.text = ConfigDict(
            {
                "path": "",  # a folder of `avemo describe --tower`, or an .npz with clip_id and embedding
                "clips": "described",  # or all: clips without a text are then compared where no text is needed
                "tower_digest": "",  # filled in: who made the vectors
            }
        )
        contrast = config.contrast
        del contrast["weight"]
        # Of video, audio, joint (tokens that saw both) and text; and what each pair counts, 1 where none is given.
        modalities = config.model.get("modalities", ("video", "audio"))
        contrast.pairs, contrast.weights = tuple(f"{name}-text" for name in modalities), ()
        contrast.kind, contrast.direction, contrast.temperature = "infonce", "both", 0.07
        config.data.audio_gain = False  # a description may say how loud it is
        config.epochs = 20
        if config.size == "demo":
            config.epochs, config.total_steps, config.batch_size = 0, 300, 32
            config.optimizer.learning_rate, config.optimizer.min_learning_rate = 3e-3, 1e-4
    return config


def resize_positions() -> ConfigDict:
    """How a model with weights from clips of another size makes its position tables (`models.positions`), by modality:
    regenerated, interpolated or extended; and that size, which is filled in from `init.checkpoint` where it is 0."""
    return ConfigDict(
        {
            "video": "regenerated",
            "audio": "regenerated",
            "frames": 0,
            "image_size": 0,
            "audio_frames": 0,
            "mel_bins": 0,
        }
    )


def parse_argument(arg: str, sizes: Iterable[str], variants: Iterable[str]) -> tuple[str, bool]:
    """`"base"` → ("base", False); `"base,reference"` → ("base", True).

    Raises:
      UserError: a size or variant that the file does not have.
    """
    size, _, variant = arg.partition(",")
    for word, known, kind in ((size, tuple(sizes), "size"), (variant, ("", *variants), "variant")):
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            hint = (
                f"did you mean '{near[0]}'?"
                if near and near[0]
                else f"there are {', '.join(filter(None, known)) or 'none'}"
            )
            raise UserError(f"no {kind} '{word}': {hint}")
    return size, bool(variant)


def _place_own_files(config: ConfigDict) -> None:
    """Files of one's own get their whole paths: a run is also looked at from other folders."""

    def placed(name: str) -> str:
        if not isinstance(name, str):
            raise UserError(f"{name!r} is no name, of what there is or of a file of your own")
        return str(Path(name).absolute()) if name.endswith(own_files.ENDING) else name

    if "assembly" in config:
        config.assembly = placed(config.assembly)
    for node, key in ((config.get("objectives"), "terms"), (config, "scores")):
        if node is not None and key in node:
            node[key] = tuple(map(placed, node[key]))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _parse(key: str, text: str, old: Any) -> Any:
    """`text` as a value of the type of `old`."""
    kind = type(old)
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false") else text)
    except (ValueError, SyntaxError):
        value = text
    if kind is tuple:
        items = _items(value, old)
        if items is not None:
            return items
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    takes = " or ".join(sorted({type(item).__name__ for item in old})) if kind is tuple else ""
    raise UserError(
        f"config key '{key}' takes a {kind.__name__}{f' of {takes}' if takes else ''} (now {old!r}), got '{text}'"
    )


def _items(value: Any, old: tuple) -> tuple | None:
    """A tuple of the types in `old`, any where it is empty; None where `value` is none. Nothing at all is an empty one,
    a word or a number one of it alone, words stand between commas, and ints are floats where these are."""
    kinds = set(map(type, old))
    if isinstance(value, str) and (not value or not old or str in kinds):
        value = [item for item in value.split(",") if item]
    elif type(value) in (int, float):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return None
    items = tuple(float(item) if type(item) is int and float in kinds else item for item in value)
    return items if all(not old or type(item) in kinds for item in items) else None
