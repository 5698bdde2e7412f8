"""Pretraining: what was hidden of a clip is predicted, and its picture and sound are told from others'.

A method is a config: its model, how clips are masked, what is predicted, how modalities are compared and what else
the loss has are values of `config.model`, `mask`, `target`, `contrast` and `objectives`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Batch, Clip, Masks, Outputs, Targets
from avemo_jax.config import pretrain_defaults
from avemo_jax.errors import UserError
from avemo_jax.models.contrast_scale import temperature_and_bias
from avemo_jax.models.encoders import Encodes, fold_keys
from avemo_jax.models.jepa import LatentPredictor
from avemo_jax.models.windows import dividing, fitted
from avemo_jax.objectives import contrastive
from avemo_jax.objectives.reconstruction import clip_weights, masked_reconstruction
from avemo_jax.tasks import clips, token_teacher
from avemo_jax.tasks.pictures import reconstruction_grid
from avemo_jax.tasks.weighing import Weighing

# Of video and audio, float32 [B, copies, levels, C]; what a model learns about comparing, [B, copies, 2] or None; and
# 1.0 for clips that have both streams, else 0.0, [B, copies], or None for all; and the number of their group,
# likewise. All are float32: a tree with a gradient, which is 0 for the last two.
Embeddings = tuple[Array, Array, Array | None, Array | None, Array | None]
_RATIOS = np.uint32(0xFFFFFFFE)  # no clip's place: which of the ratios a step has
TARGETS = ("patches", "latents", "both")
_PREDICTIONS = (
    "video_prediction",
    "audio_prediction",
    "video_from_audio",
    "audio_from_video",
)  # of `Outputs`


class Pretrain:
    """The task of `config.task = "pretrain"`; see `avemo_jax.tasks.Task`."""

    def __init__(self, config: ConfigDict):
        self.config = config = _filled(config)
        if config.mask.repeats < 1:
            raise UserError(f"mask.repeats is {config.mask.repeats}: every clip needs at least one mask")
        if config.target.kind not in TARGETS:
            raise UserError(f"target.kind is '{config.target.kind}', not one of {', '.join(TARGETS)}")
        _check_numbers(config)
        if config.target.teacher and not self._predicts_latents:
            raise UserError("target.teacher is learnt from with target.kind=latents or both")
        if "teacher_layers" in config.model and config.target.kind != "latents":
            raise UserError(f"target.kind is '{config.target.kind}', and {config.method} predicts latents")
        if self.learns_from_average and not config.ema.decay > 0:
            raise UserError(
                f"target.kind={config.target.kind} learns from a moving average: ema.decay must be above 0, or "
                "target.teacher a run"
            )
        self.frozen_teacher = token_teacher.FrozenTeacher(config) if config.target.teacher else None
        model = config.model
        # Both, whatever the method looks at: pictures show both.
        self.video_grid = frontend.video_grid(model.frames, model.image_size)
        self.audio_grid = frontend.audio_grid(model.audio_frames, model.mel_bins)
        self.grids = frontend.token_grids(model)
        if config.contrast.weight and (len(self.grids) < 2 or "teacher_layers" in config.model):
            raise UserError(
                f"contrast.weight is {config.contrast.weight}, and {config.method} gives no pair of vectors to compare"
            )
        if config.mask.complementary and (len(self.grids) < 2 or config.mask.choices):
            raise UserError("mask.complementary needs both modalities, and knows no mask.choices")
        if window := tuple(model.get("decoder_window", ())):
            _check_windows(config, window, self.audio_grid)
        own = [*self.grids, *(["cross"] if model.get("crosses", False) else [])]
        own += ["latents"] if config.target.kind == "both" else []
        own += ["difference"] if config.target.difference_weight >= 0 and "video" in self.grids else []
        self.weighing = Weighing(config.objectives, [*own, *(["contrast"] if config.contrast.weight else [])])

    def init_model(self, key: Array) -> nnx.Module:
        return models.build(self.config, key)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return clips.batch_shapes(self.config)

    @property
    def learns_from_average(self) -> bool:
        """Whether `loss` is to be given the moving average of the model as `teacher`."""
        return self._predicts_latents and not self.config.target.teacher

    @property
    def _predicts_latents(self) -> bool:
        return self.config.target.kind != "patches"

    @property
    def changes_with_step(self) -> bool:
        """Whether `loss`, `comparison` and `pulled_loss` are to be given the `step`."""
        return bool(self.weighing.ramps)

    def loss(
        self,
        model: nnx.Module,
        batch: Batch,
        key: Array,
        teacher: nnx.Module | None = None,
        step: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        def scored(choice: int) -> tuple[Array, dict[str, Array]]:
            return self.score(*self._predict(model, batch, key, teacher, choice), step)

        return self._at_some_ratio(scored, key)

    def before_cutting(self, batch: Batch) -> Batch:
        """The batch with what microbatches of it cannot tell: what a clip counts where others lack a stream."""
        if not self.config.data.get("allow_missing", False):
            return batch
        return batch | {"clip_weights": clip_weights(*clips.streams(batch))}

    @property
    def compares_whole_batch(self) -> bool:
        """Whether microbatches are to be contrasted as one batch; the three functions below are then asked."""
        return self.config.contrast.cached and bool(self.config.contrast.weight)

    def embeddings(
        self, model: nnx.Module, batch: Batch, key: Array, teacher: nnx.Module | None = None
    ) -> Embeddings:
        """What these clips are compared by."""
        return self._at_some_ratio(
            lambda choice: self.compared_by(*self._predict(model, batch, key, teacher, choice)), key
        )

    def compared_by(self, outputs: Outputs, targets: Targets) -> Embeddings:
        """What clips are compared by, of a model's outputs."""
        copies = self.config.mask.repeats

        def by_clip(levels: Array | None) -> Array:
            if levels is None:
                raise UserError(
                    f"contrast.weight is {self.config.contrast.weight}, and {self.config.method} gives no pair of "
                    "vectors to compare"
                )
            count, clips_and_copies, dim = levels.shape
            return jnp.moveaxis(levels.reshape(count, clips_and_copies // copies, copies, dim), 0, 2)

        scale = None if outputs.scale is None else outputs.scale.reshape(-1, copies, 2)
        complete, group = (
            None if of is None else of.reshape(-1, copies).astype(jnp.float32)
            for of in (targets.complete, targets.group)
        )
        return by_clip(outputs.video_levels), by_clip(outputs.audio_levels), scale, complete, group

    def comparison(self, embeddings: Embeddings, step: Array | None = None) -> tuple[Array, dict[str, Array]]:
        """λ Σ L_contrast of all clips of a batch, and its terms."""
        contrast = self.config.contrast
        video, audio, scale, complete, group = embeddings
        temperature, bias = temperature_and_bias(scale, contrast)
        options = contrastive.options(self.config)
        options["within"] = None if group is None else jax.lax.stop_gradient(group[:, 0]).astype(jnp.int32)
        # Copies of a clip are not each other's negatives: the first copies are contrasted, then the second, …
        video, audio = (jnp.moveaxis(levels, (0, 1, 2), (2, 0, 1)) for levels in (video, audio))
        # What lacks a stream takes no part.
        same = None if complete is None else jnp.where(complete.T > 0, jnp.arange(len(complete)), -1)

        def compared(video: Array, audio: Array, same: Array | None) -> tuple[Array, dict[str, Array]]:
            return contrastive.hierarchical_contrast(
                video, audio, temperature=temperature, bias=bias, same=same, **options
            )

        loss, terms = jax.tree.map(jnp.mean, jax.vmap(compared)(video, audio, same))
        if scale is not None:
            terms |= {"contrast_temperature": temperature}
        return contrast.weight * self.weighing.factors(step).get("contrast", 1.0) * loss, terms

    def pulled_loss(
        self,
        model: nnx.Module,
        batch: Batch,
        key: Array,
        pull: Embeddings,
        teacher: nnx.Module | None = None,
        step: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss without its comparison, whose gradient comes in by ⟨embeddings, pull⟩, and its terms."""

        def pulled(choice: int) -> tuple[Array, dict[str, Array]]:
            outputs, targets = self._predict(model, batch, key, teacher, choice)
            loss, terms = self._beside_contrast(outputs, targets, step)
            along = optax.tree.vdot(self.compared_by(outputs, targets), pull)
            return loss + along - jax.lax.stop_gradient(along), terms

        return self._at_some_ratio(pulled, key)

    def view(self, batch: Batch, keys: Array, choice: int = -1) -> tuple[Clip, Masks]:
        """The batch as the model sees it in this step: normalised, its volume varied, masked; `choice` is a place in
        `mask.choices`, −1 the ratios that are not a choice."""
        clip = clips.seen(batch, self.config, clips.gain(self.config, keys))
        return clip, self._masks(fold_keys(keys, 1), choice)

    def first_copies(self, batch: Batch, key: Array, choice: int) -> tuple[Clip, Masks]:
        """The batch as the step of this key, with its `choice`, sees it: of each clip the first of its copies."""
        repeats, batch = self.config.mask.repeats, clips.cut(batch, self.config)
        copies, keys = clips.repeated(batch, clips.clip_keys(key, batch), repeats)
        return jax.tree.map(lambda field: field[::repeats], self.view(copies, keys, choice))

    def choice(self, key: Array) -> Array | int:
        """The choice for `view` in the step of this key; a plain number where nothing is drawn."""
        count = len(self.config.mask.choices)
        if count < 2:
            return count - 1
        return jax.random.randint(jax.random.fold_in(key, _RATIOS), (), 0, count)

    def targets(self, clip: Clip, masks: Masks, teacher: nnx.Module | None = None) -> Targets:
        """What was hidden should be; no gradient flows into it."""
        target = self.config.target
        if target.kind == "latents":
            return self._latents(teacher, clip, masks)
        patches = frontend.reconstruction_targets(
            clip,
            masks,
            standardize_video=target.standardize_video,
            normalize_video=target.normalize_video,
            normalize_audio=target.normalize_audio,
            frame_difference=target.frame_difference,
            frame_group=target.frame_group,
            per_colour=target.per_colour,
        )
        if target.kind == "patches":
            return patches
        beside = self._latents(teacher, clip, masks)
        return patches._replace(video_latents=beside.video, audio_latents=beside.audio)

    def score(
        self, outputs: Outputs, targets: Targets, step: Array | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """The loss L_video + L_audio + λ Σ L_contrast (Sun et al. 2024), of what the method has, and further terms; and
        each of them. Without a step there are no ramps."""
        loss, metrics = self._beside_contrast(outputs, targets, step)
        if not self.config.contrast.weight:
            return loss, metrics
        alignment, more = self.comparison(self.compared_by(outputs, targets), step)
        return loss + alignment, metrics | more

    def figures(self, model: nnx.Module, batch: Batch, key: Array) -> dict[str, np.ndarray]:
        """Input, what is left of it, and the reconstruction of up to four clips, frames and log-mel."""
        if self.config.target.kind == "latents":
            return {}  # what it predicts is not a picture
        clip, masks, outputs = _pictured(self, int(self.choice(key)), model, batch, key)
        outputs, _ = self._apart(outputs)
        grid = reconstruction_grid(clip, masks, outputs, self.video_grid, self.audio_grid, self.config.target)
        return {"reconstruction": grid}

    def _latents(self, teacher: nnx.Module | None, clip: Clip, masks: Masks) -> Targets:
        if self.frozen_teacher is None and isinstance(teacher, LatentPredictor):
            return teacher.latents(clip, masks)
        layers = self.config.model.get("teacher_layers", 1)
        return token_teacher.latents(cast(Encodes, teacher), clip, masks, layers)

    def _apart(self, outputs: Outputs) -> tuple[Outputs, Outputs | None]:
        """What is predicted of patches, and of a teacher's tokens where both are."""
        if self.config.target.kind != "both":
            return outputs, None
        predicted = {name: getattr(outputs, name) for name in _PREDICTIONS}
        latent = self.config.model.target_dim
        patches, latents = (
            {name: of if of is None else of[..., part] for name, of in predicted.items()}
            for part in (slice(None, -latent), slice(-latent, None))
        )
        return outputs._replace(**patches), Outputs(**latents, video_levels=None, audio_levels=None)

    def _masks(self, keys: Array, choice: int) -> Masks:
        mask = self.config.mask
        ratios = dict(zip(("video", "audio"), (mask.video_ratio, mask.audio_ratio), strict=True))
        if choice >= 0:
            ratios = dict(zip(ratios, mask.choices[choice], strict=True))
        if mask.complementary:
            masks = masking.complementary_masks(keys, self.video_grid, self.audio_grid, ratios["video"])
        else:
            masks = masking.independent_masks(
                keys,
                {name: (mask[name], grid, ratios[name]) for name, grid in self.grids.items()},
                blocks=mask.blocks,
                strip_share=mask.strip_share,
            )
        if mask.decoded == 1:
            return masks
        parts = (
            of and masking.decoded_part(fold_keys(keys, 2 + which), of, mask.decoded)
            for which, of in enumerate(masks)
        )
        return Masks(*parts)

    def _at_some_ratio(self, compute: Callable[[int], tuple], key: Array):
        """`compute(choice)` for the choice of this step: a program has a branch for each, since shapes differ."""
        drawn = self.choice(key)
        if isinstance(drawn, int):
            return compute(drawn)
        count = len(self.config.mask.choices)
        with jax.named_scope("drawn_choice"):  # the name by which plans know that branches run equally often
            return jax.lax.switch(drawn, [functools.partial(compute, choice) for choice in range(count)])

    def _predict(
        self, model: nnx.Module, batch: Batch, key: Array, teacher: nnx.Module | None, choice: int
    ) -> tuple[Outputs, Targets]:
        lacking = self.config.data.get("allow_missing", False)
        if lacking:  # asked of frames as `before_cutting` has them
            seen, heard = clips.streams(batch)
            batch = batch | {"video_there": seen, "audio_there": heard}
        batch = clips.cut(batch, self.config)  # once for all copies
        batch, keys = clips.repeated(batch, clips.clip_keys(key, batch), self.config.mask.repeats)
        clip, masks = self.view(batch, keys, choice)
        targets = self.targets(clip, masks, teacher)
        if lacking:
            targets = targets._replace(
                video_there=batch["video_there"],
                audio_there=batch["audio_there"],
                clip_weights=batch.get("clip_weights"),
            )
        if self.config.contrast.within:
            targets = targets._replace(group=batch[clips.GROUP])
        return model(clip, masks, clips.drop_keys(self.config, keys)), targets

    def _beside_contrast(
        self, outputs: Outputs, targets: Targets, step: Array | None
    ) -> tuple[Array, dict[str, Array]]:
        """Reconstruction and the further terms."""
        target, factors = self.config.target, self.weighing.factors(step)
        weights = {
            f"{name}_weight": target[f"{name}_weight"] * factors.get(name, 1.0)
            for name in ("video", "audio", "cross")
        }
        patches, latents = self._apart(outputs)
        loss, metrics = masked_reconstruction(
            patches,
            targets,
            difference_weight=target.difference_weight,
            difference_factor=factors.get("difference", 1.0),
            error=target.error,
            **weights,
        )
        if latents is not None:
            wanted = targets._replace(video=targets.video_latents, audio=targets.audio_latents)
            beside, more = masked_reconstruction(latents, wanted, error=target.error, **weights)
            loss += target.latent_weight * factors.get("latents", 1.0) * beside
            metrics |= {f"{name}_latents": value for name, value in more.items()}
        further, more = self.weighing.further(outputs, targets, self.config.mask.repeats, factors)
        changing = {f"factor_{name}": factor for name, factor in factors.items()}
        return loss + further, metrics | more | changing


def _check_numbers(config: ConfigDict) -> None:
    """Values of which some make no loss at all, or one of NaN that would be blamed on the clips."""
    mask, target, contrast = config.mask, config.target, config.contrast
    for pair in mask.choices:
        if (
            not isinstance(pair, tuple)
            or len(pair) != 2
            or not all(isinstance(r, (int, float)) for r in pair)
        ):
            raise UserError(
                f"mask.choices is {mask.choices}: it takes pairs of a video's and a sound's ratio, such as "
                "((0.6,0.6),(0.9,0.9))"
            )
    if not 0 < mask.decoded <= 1:
        raise UserError(
            f"mask.decoded is {mask.decoded}, not a share of the hidden tokens above 0 and up to 1"
        )
    if mask.blocks < 1:
        raise UserError(f"mask.blocks is {mask.blocks}: at least one box is hidden")
    if not 0 <= mask.strip_share <= 1:
        raise UserError(f"mask.strip_share is {mask.strip_share}, not a share of the ratio from 0 to 1")
    if target.frame_group < 1:
        raise UserError(f"target.frame_group is {target.frame_group}: groups have at least one frame")
    if target.difference_weight >= 0:
        of_pairs = target.kind != "latents" and target.frame_difference and target.frame_group == 2
        if not of_pairs or target.difference_weight > 1:
            raise UserError(
                f"target.difference_weight is {target.difference_weight}: it is the share, up to 1, that differences "
                "have beside frames, and needs patches as target, frame_difference=True and frame_group=2"
            )
    if contrast.within and not contrast.weight:
        raise UserError(f"contrast.within is {contrast.within}, and contrast.weight 0: nothing is contrasted")
    if contrast.weight:
        contrastive.options(config)  # which says what is wrong with them
    elif config.model.get("learned_temperature", 0.0):
        raise UserError("model.learned_temperature is learned by comparing clips, and contrast.weight is 0")


def _check_windows(config: ConfigDict, window: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """Not where models are built: who only encodes is free to do so with sound of any length."""
    said = f"model.decoder_window is {window}"
    if len(window) != 2 or not all(isinstance(size, int) and size > 0 for size in window):
        raise UserError(f"{said}, not two numbers of tokens, along time and frequency, or () for all")
    if config.mask.decoded < 1:
        raise UserError(f"{said} and needs all tokens: mask.decoded must be 1, not {config.mask.decoded}")
    if (whole := dividing(window, grid)) != fitted(window, grid):
        sizes = f"model.audio_frames {config.model.audio_frames}, model.mel_bins {config.model.mel_bins}"
        raise UserError(
            f"{said} and leaves a rest of {grid[0]} × {grid[1]} tokens of sound ({sizes}): take {whole}, or () to "
            "attend to all"
        )


def _filled(config: ConfigDict) -> ConfigDict:
    """The config with values for what a run of an earlier version, or a recorded one, does not say."""
    known = pretrain_defaults()
    if all(name in config and set(section) <= set(config[name]) for name, section in known.items()):
        return config
    full = config.copy_and_resolve_references()
    with full.unlocked():
        for name, section in known.items():
            section.update(config.get(name, {}))
            full[name] = section
    return full


# Run seldom, so compiled without optimisation: on a CPU that takes seconds instead of half a minute.
@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options={"xla_backend_optimization_level": 0})
def _pictured(
    task: Pretrain, choice: int, model: nnx.Module, batch: Batch, key: Array
) -> tuple[Clip, Masks, Outputs]:
    clip, masks = task.first_copies(batch, key, choice)
    return clip, masks, model(clip, masks)
