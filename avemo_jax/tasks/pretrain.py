"""Pretraining: masked audio-visual autoencoding + contrastive alignment."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import augmentation, frontend, masking, models
from avemo_jax.batch import Batch, Clip, Masks, Outputs, Targets
from avemo_jax.errors import UserError
from avemo_jax.models.encoders import fold_keys
from avemo_jax.objectives.contrastive import hierarchical_contrast
from avemo_jax.objectives.reconstruction import masked_reconstruction
from avemo_jax.tasks import clips
from avemo_jax.tasks.pictures import reconstruction_grid

Embeddings = tuple[Array, Array]  # of video and audio, float32 [B, copies, levels, C]


class Pretrain:
    """The task of `config.task = "pretrain"`; see `avemo_jax.tasks.Task`."""

    def __init__(self, config: ConfigDict):
        if config.mask.repeats < 1:
            raise UserError(f"mask.repeats is {config.mask.repeats}: every clip needs at least one mask")
        self.config = config
        model = config.model
        self.video_grid = frontend.video_grid(model.frames, model.image_size)
        self.audio_grid = frontend.audio_grid(model.audio_frames, model.mel_bins)

    def init_model(self, key: Array) -> nnx.Module:
        return models.build(self.config, key)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return clips.batch_shapes(self.config)

    def loss(self, model: nnx.Module, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        return self.score(*self._predict(model, batch, key))

    @property
    def compares_whole_batch(self) -> bool:
        """Whether microbatches are to be contrasted as one batch; the three functions below are then asked."""
        return self.config.contrast.cached

    def embeddings(self, model: nnx.Module, batch: Batch, key: Array) -> Embeddings:
        """What these clips are compared by."""
        return self._compared_by(self._predict(model, batch, key)[0])

    def comparison(self, embeddings: Embeddings) -> tuple[Array, dict[str, Array]]:
        """λ Σ L_contrast of all clips of a batch, and its terms."""
        contrast = self.config.contrast
        align = functools.partial(
            hierarchical_contrast,
            temperature=contrast.temperature,
            negatives=contrast.negatives,
            group_size=contrast.group_size,
            chunk=contrast.chunk,
        )
        # Copies of a clip are not each other's negatives: the first copies are contrasted, then the second, …
        apart = (jnp.moveaxis(levels, (0, 1, 2), (2, 0, 1)) for levels in embeddings)
        loss, terms = jax.tree.map(jnp.mean, jax.vmap(align)(*apart))
        return contrast.weight * loss, terms

    def pulled_loss(
        self, model: nnx.Module, batch: Batch, key: Array, pull: Embeddings
    ) -> tuple[Array, dict[str, Array]]:
        """The loss without its comparison, whose gradient comes in by ⟨embeddings, pull⟩, and its terms."""
        outputs, targets = self._predict(model, batch, key)
        loss, terms = self._reconstruction(outputs, targets)
        pulled = optax.tree.vdot(self._compared_by(outputs), pull)
        return loss + pulled - jax.lax.stop_gradient(pulled), terms

    def view(self, batch: Batch, keys: Array) -> tuple[Clip, Masks]:
        """The batch as the model sees it in this step: normalised, its volume varied, masked."""
        gain = augmentation.volume_gain(fold_keys(keys, 0)) if self.config.data.audio_gain else None
        masks = masking.hicmae_masks(
            fold_keys(keys, 1),
            self.video_grid,
            self.audio_grid,
            video_ratio=self.config.mask.video_ratio,
            audio_ratio=self.config.mask.audio_ratio,
        )
        return clips.seen(batch, self.config, gain), masks

    def targets(self, clip: Clip, masks: Masks) -> Targets:
        """What the masked patches should be; no gradient flows into it."""
        target = self.config.target
        return frontend.reconstruction_targets(
            clip,
            masks,
            normalize_video=target.normalize_video,
            normalize_audio=target.normalize_audio,
            frame_difference=target.frame_difference,
            frame_group=target.frame_group,
        )

    def score(self, outputs: Outputs, targets: Targets) -> tuple[Array, dict[str, Array]]:
        """The loss L_video + L_audio + λ Σ L_contrast (Sun et al. 2024) and its terms."""
        reconstruction, metrics = self._reconstruction(outputs, targets)
        alignment, more = self.comparison(self._compared_by(outputs))
        return reconstruction + alignment, metrics | more

    def figures(self, model: nnx.Module, batch: Batch, key: Array) -> dict[str, np.ndarray]:
        """Input, what is left of it, and the reconstruction of up to four clips, frames and log-mel."""
        clip, masks = self.view(batch, clips.clip_keys(key, batch))
        grid = reconstruction_grid(
            clip, masks, _see(model, clip, masks), self.video_grid, self.audio_grid, self.config.target
        )
        return {"reconstruction": grid}

    def _predict(self, model: nnx.Module, batch: Batch, key: Array) -> tuple[Outputs, Targets]:
        batch = clips.cut(batch, self.config)  # once for all copies
        batch, keys = clips.repeated(batch, clips.clip_keys(key, batch), self.config.mask.repeats)
        clip, masks = self.view(batch, keys)
        drop_keys = fold_keys(keys, 2) if self.config.model.drop_path else None
        return model(clip, masks, drop_keys), self.targets(clip, masks)

    def _reconstruction(self, outputs: Outputs, targets: Targets) -> tuple[Array, dict[str, Array]]:
        return masked_reconstruction(outputs, targets, difference_weight=self.config.target.difference_weight)

    def _compared_by(self, outputs: Outputs) -> Embeddings:
        def by_clip(levels: Array) -> Array:
            count, clips_and_copies, dim = levels.shape
            copies = self.config.mask.repeats
            return jnp.moveaxis(levels.reshape(count, clips_and_copies // copies, copies, dim), 0, 2)

        return by_clip(outputs.video_levels), by_clip(outputs.audio_levels)


@jax.jit  # compiled once a run: op by op, a picture took longer than many steps
def _see(model: nnx.Module, clip: Clip, masks: Masks) -> Outputs:
    return model(clip, masks)
