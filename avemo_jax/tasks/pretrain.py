"""Pretraining: masked audio-visual autoencoding + contrastive alignment."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Batch, Clip, Masks, Outputs, Targets
from avemo_jax.errors import UserError
from avemo_jax.models.encoders import fold_keys
from avemo_jax.objectives.contrastive import hierarchical_contrast
from avemo_jax.objectives.reconstruction import masked_reconstruction
from avemo_jax.tasks import clips
from avemo_jax.tasks.pictures import reconstruction_grid


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
        batch, keys = clips.repeated(batch, clips.clip_keys(key, batch), self.config.mask.repeats)
        clip, masks = self.view(batch, keys)
        drop_keys = fold_keys(keys, 2) if self.config.model.drop_path else None
        return self.score(model(clip, masks, drop_keys), self.targets(clip, masks))

    def view(self, batch: Batch, keys: Array) -> tuple[Clip, Masks]:
        """The batch as the model sees it in this step: normalised, its volume varied, masked."""
        gain = clips.volume_gain(fold_keys(keys, 0)) if self.config.data.audio_gain else None
        masks = masking.hicmae_masks(
            fold_keys(keys, 1),
            self.video_grid,
            self.audio_grid,
            video_ratio=self.config.mask.video_ratio,
            audio_ratio=self.config.mask.audio_ratio,
        )
        return frontend.to_clip(batch, mels=self.config.model.mel_bins, gain=gain), masks

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
        contrast = self.config.contrast
        reconstruction, metrics = masked_reconstruction(
            outputs, targets, difference_weight=self.config.target.difference_weight
        )
        align = functools.partial(
            hierarchical_contrast,
            temperature=contrast.temperature,
            negatives=contrast.negatives,
            group_size=contrast.group_size,
            chunk=contrast.chunk,
        )
        # Copies of a clip are not each other's negatives: the first copies are contrasted, then the second, …
        repeats = self.config.mask.repeats
        apart = (_copies_apart(x, repeats) for x in (outputs.video_levels, outputs.audio_levels))
        alignment, more = jax.tree.map(jnp.mean, jax.vmap(align)(*apart))
        return reconstruction + contrast.weight * alignment, metrics | more

    def figures(self, model: nnx.Module, batch: Batch, key: Array) -> dict[str, np.ndarray]:
        """Input, what is left of it, and the reconstruction of up to four clips, frames and log-mel."""
        clip, masks = self.view(batch, clips.clip_keys(key, batch))
        grid = reconstruction_grid(
            clip, masks, _predict(model, clip, masks), self.video_grid, self.audio_grid, self.config.target
        )
        return {"reconstruction": grid}


def _copies_apart(levels: Array, repeats: int) -> Array:
    """[levels, B · repeats, C], copies of a clip side by side → [repeats, levels, B, C]."""
    return jnp.moveaxis(levels.reshape(levels.shape[0], -1, repeats, levels.shape[-1]), 2, 0)


@jax.jit  # compiled once a run: op by op, a picture took longer than many steps
def _predict(model: nnx.Module, clip: Clip, masks: Masks) -> Outputs:
    return model(clip, masks)
