"""Fine-tuning: an encoder with a head on labelled clips, augmented and mixed, against classes, votes or values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import augmentation, frontend, models
from avemo_jax.batch import Batch, Clip
from avemo_jax.errors import UserError
from avemo_jax.models.encoders import fold_keys
from avemo_jax.objectives.supervised import (
    CLASS_LOSSES,
    VALUE_LOSSES,
    balanced_weights,
    co_occurrence_penalty,
    log_priors,
    soft_targets,
    unlikely_together,
)
from avemo_jax.tasks import clips
from avemo_jax.tasks.pictures import input_grid
from input_pipeline.targets import Target, target_of

_WEIGHTS = ("", "balanced")
_BATCH = np.uint32(0xFFFFFFFF)  # no clip's place: the draws of a whole batch
# Which losses a rule of `input_pipeline.targets` can be learnt by.
_CLASS, _VOTES = ("cross_entropy",), ("cross_entropy", "kl")
LOSSES = {
    **dict.fromkeys(("class", "plurality", "majority"), _CLASS),
    "distribution": _VOTES,
    "multi_label": ("binary_cross_entropy",),
    "affect": _VOTES,
    "raters": ("raters",),
    "values": tuple(VALUE_LOSSES),
}


class Finetune:
    """The task of `config.task = "finetune"`; see `avemo_jax.tasks.Task`."""

    handed_on = ("video", "audio", "fusion")  # the parts that `init.checkpoint` gives; the rest begins afresh

    def __init__(self, config: ConfigDict):
        self.config = config
        for key in ("crop_area", "crop_aspect"):
            if len(config.augment[key]) != 2:
                raise UserError(
                    f"augment.{key} is {config.augment[key]}, not two numbers: the least and the most"
                )
        self.check()
        model = config.model
        self.video_grid = frontend.video_grid(model.frames, model.image_size)
        self.audio_grid = frontend.audio_grid(model.audio_frames, model.mel_bins)

    def check(self) -> None:
        """Reads from the config what is to be learnt; raises a UserError where it does not go together."""
        self.target = _checked(self.config)

    def init_model(self, key: Array) -> nnx.Module:
        return models.build(self.config, key)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        empty = self.target.empty
        label = jax.ShapeDtypeStruct((self.config.batch_size, *empty.shape), empty.dtype)
        return clips.batch_shapes(self.config) | {"label": label}

    def loss(self, model: nnx.Module, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        config = self.config
        keys = clips.clip_keys(key, batch)
        clip, target = self.view(batch, keys, key)
        outputs, _ = model(clip, clips.drop_keys(config, keys))
        if config.loss.kind in VALUE_LOSSES:
            return VALUE_LOSSES[config.loss.kind](outputs, target), {
                "mae": jnp.mean(jnp.abs(outputs - target))
            }
        counts, adjusted = config.loss.class_counts, outputs
        if config.loss.logit_adjustment:
            adjusted = outputs + config.loss.logit_adjustment * log_priors(counts)
        weights = balanced_weights(counts) if config.loss.class_weights else None
        loss = CLASS_LOSSES[config.loss.kind](adjusted, target, class_weights=weights)
        terms = {}
        if config.loss.co_occurrence:
            several = self.target.kind == "multi_label"
            chances = jax.nn.sigmoid(outputs) if several else jax.nn.softmax(outputs)
            terms["penalty"] = co_occurrence_penalty(chances, unlikely_together(config.loss.together))
            loss += config.loss.co_occurrence * terms["penalty"]
        if self.target.kind == "multi_label":
            return loss, terms | {"accuracy": jnp.mean((outputs > 0) == (target > 0.5))}
        if self.target.raters:
            right = outputs.reshape(target.shape).argmax(-1) == target.argmax(-1)
            return loss, {"accuracy": jnp.sum(right * target.sum(-1)) / jnp.maximum(target.sum(), 1e-12)}
        return loss, terms | {"accuracy": jnp.mean(outputs.argmax(-1) == target.argmax(-1))}

    def view(self, batch: Batch, keys: Array, key: Array) -> tuple[Clip, Array]:
        """The batch as the model sees it in this step, and what each clip is to be; `key` is the step's."""
        config, model = self.config, self.config.model
        gain = clips.gain(config, keys)
        dropped, augment = config.drop_modality, config.augment
        if dropped.video or dropped.audio:
            batch = augmentation.drop_modalities(batch, fold_keys(keys, 5), **dropped)
        clip = clips.seen(batch, config, gain)
        video = clip.video
        if augment.crop_area[0] < 1 or augment.flip:
            video = augmentation.resized_crop(
                video,
                fold_keys(keys, 3),
                area=augment.crop_area,
                aspect=augment.crop_aspect,
                flip=augment.flip,
            )
        if augment.erase:
            seen, _ = clips.streams(batch)
            video = augmentation.erase(video, fold_keys(keys, 4), seen, probability=augment.erase)
        clip = clip._replace(video=video)
        target = self.targets(batch)
        mixes = config.mix
        if mixes.probability and (mixes.mixup or mixes.cutmix):
            mixing = augmentation.draw_mixing(
                jax.random.fold_in(key, _BATCH),
                model.image_size,
                model.image_size,
                model.audio_frames,
                mixup=mixes.mixup,
                cutmix=mixes.cutmix,
                probability=mixes.probability,
                switch=mixes.switch,
            )
            clip, target = augmentation.mix(clip, target, mixing, sound=mixes.modalities == "both")
        return clip, target

    def targets(self, batch: Batch) -> Array:
        """What clips are to be before they are mixed, float32 [B, …]."""
        target = batch["label"]
        if self.target.is_class:
            smoothing = self.config.loss.label_smoothing
            target = soft_targets(target, self.config.model.classes, smoothing=smoothing)
        return target

    def figures(self, model: nnx.Module, batch: Batch, key: Array) -> dict[str, np.ndarray]:
        """Up to four clips, augmented as the step saw them. Where it mixes they are mixed with each other, as much as
        they were with the partners that they had in the whole batch."""
        clip, _ = jax.jit(self.view)(batch, clips.clip_keys(key, batch), key)
        return {"input": input_grid(clip, self.video_grid, self.audio_grid)}


def _checked(config: ConfigDict) -> Target:
    """The target of the config.

    Raises:
      UserError: a target, loss or mixing that do not go together, or class counts that are needed and missing.
    """
    target = target_of(config.data)
    if target is None:
        raise UserError("fine-tuning needs labels: set data.label, and data.classes for classes")
    kinds, loss, mixes, dropped = LOSSES[target.rule], config.loss, config.mix, config.drop_modality
    wrong = []
    if target.outputs != config.model.classes:
        wrong.append(
            f"model.classes is {config.model.classes}, and data.target={target.rule} has {target.outputs} outputs "
            f"({', '.join(target.names)}{f', for each of {len(target.raters)} raters' if target.raters else ''})"
        )
    if loss.kind not in kinds:
        wrong.append(f"loss.kind={loss.kind} is none for data.target={target.rule}: {', '.join(kinds)}")
    if loss.class_weights not in _WEIGHTS:
        wrong.append(f"loss.class_weights is '{loss.class_weights}', not balanced or empty")
    uses_counts = bool(loss.class_weights or loss.logit_adjustment)
    if uses_counts and target.kind == "values":
        wrong.append("loss.class_weights and loss.logit_adjustment are for classes, and there are none")
    elif uses_counts and len(loss.class_counts) != len(target.names):
        wrong.append(
            f"loss.class_counts has {len(loss.class_counts)} numbers for {len(target.names)} classes: set "
            "data.protocol, which counts them, or give them"
        )
    if loss.co_occurrence and (target.kind not in ("multi_label", "distribution") or target.raters):
        wrong.append(f"loss.co_occurrence is for several classes a clip, and data.target is {target.rule}")
    elif loss.co_occurrence and len(loss.together) != len(target.names) ** 2:
        wrong.append(
            f"loss.together has {len(loss.together)} numbers for {len(target.names)} × {len(target.names)} pairs of "
            "classes: set data.protocol, which counts them, or give them"
        )
    if loss.logit_adjustment and (target.raters or target.kind == "multi_label"):
        wrong.append(f"loss.logit_adjustment is for one class a clip, and data.target is {target.rule}")
    if mixes.modalities not in ("video", "both"):
        wrong.append(f"mix.modalities is '{mixes.modalities}', not video or both")
    if dropped.video < 0 or dropped.audio < 0 or dropped.video + dropped.audio > 1:
        wrong.append(f"drop_modality.video={dropped.video} and .audio={dropped.audio} are no probabilities")
    if wrong:
        raise UserError("config does not make a fine-tuning task: " + "; ".join(wrong))
    return target
