"""What every task on audio-visual clips shares: its batches, their shapes, and each clip's random keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import augmentation, frontend
from avemo_jax.batch import Batch, Clip
from avemo_jax.models.encoders import fold_keys
from avemo_jax.resizing import crop_and_resize
from avemo_jax.tasks.texts import texts_of
from input_pipeline import loader
from input_pipeline.audio import samples_for
from input_pipeline.loader import WHOLE, Loader, Share
from input_pipeline.mixtures import folders_of, open_data
from input_pipeline.orders import numbers_by
from input_pipeline.records import open_records

GROUP = "group"  # a field of batches: the number of each clip's group


def make_loader(
    config: ConfigDict,
    share: Share = WHOLE,
    batch_size: int = 0,
    positions: Sequence[int] | None = None,
    tables: Mapping[str, np.ndarray] | None = None,
) -> Loader:
    """The training batches of the config, this process's share of them; of another size where one is given, of the
    clips at these places alone, and with further fields (see `loader.make_loader`). A config with texts has those of
    its clips in the batches; one that contrasts within groups (`contrast.within`) the number of each clip's."""
    if "text" in config:
        texts = texts_of(config)
        tables = {**texts.fields, **(tables or {})}
        positions = texts.positions if positions is None else positions
    if within := config.get("contrast", {}).get("within", ""):
        tables = {GROUP: _groups(config, within), **(tables or {})}
    return loader.make_loader(
        config.data,
        frames=config.model.frames,
        image_size=config.model.image_size,
        audio_frames=config.model.audio_frames,
        batch_size=batch_size or config.batch_size,
        seed=config.seed,
        share=share,
        max_unreadable_share=config.data.max_unreadable_share,
        positions=positions,
        tables=tables,
    )


def _groups(config: ConfigDict, within: str) -> np.ndarray:
    """int32, the number of each position's group."""
    records = open_data(config.data)
    nobody = np.full(records.first_position, -1, np.int32)
    return np.concatenate([nobody, numbers_by(records, within, "contrast.within")])


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the global batch of `config.batch_size` clips, without labels."""
    count, model = config.batch_size, config.model
    size, whole = model.image_size, config.data.device_crop

    def struct(dtype, *shape):
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    cut = {"box": struct(jnp.int32, 4), "flip": struct(jnp.bool_)} if whole else {}
    return (
        cut
        | {
            "video": struct(jnp.uint8, model.frames, *(whole or (size, size)), 3),
            "waveform": struct(jnp.int16, samples_for(model.audio_frames)),
            "waveform_length": struct(jnp.int32),
            "waveform_mean": struct(jnp.float32),
            "position": struct(jnp.int32),
        }
        | ({GROUP: struct(jnp.int32)} if config.get("contrast", {}).get("within", "") else {})
    )


def cut(batch: Batch, config: ConfigDict) -> Batch:
    """The batch with frames of the model's size: whole ones (`data.device_crop`) are cut and resized here."""
    if "box" not in batch:
        return batch
    rest = {name: field for name, field in batch.items() if name not in ("box", "flip")}
    video = crop_and_resize(batch["video"], batch["box"], batch["flip"], config.model.image_size)
    return {**rest, "video": video}


def seen(batch: Batch, config: ConfigDict, gain: jax.Array | None) -> Clip:
    """The batch as an encoder of `config.model` sees it; `gain` [B] scales each clip's sound."""
    return frontend.to_clip(cut(batch, config), mels=config.model.mel_bins, gain=gain)


def streams(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which clips have a picture, and which have sound, bool [B] each; a stream that is not there is zeros, in frames
    as the host gives them (a clip can be black where `cut` cuts)."""
    return (batch["video"] > 0).any((1, 2, 3, 4)), batch["waveform_length"] > 0


def missing_in_words(config: ConfigDict, parts: Mapping[str, Sequence[int]] | None = None) -> str:
    """How many clips lack picture or sound, and what becomes of them; empty where none does.

    parts: positions by the name of what they are for; None: all clips of the config, for training, in folders whose
      clips.csv tells without reading them.
    """
    folders = [open_records(folder, config.data.split) for folder in folders_of(config.data)]
    if parts is None:
        folders = [folder for folder in folders if folder.sound_s is not None]
    if not folders:
        return ""
    counts = np.concatenate([[of.frame_counts, of.sample_counts] for of in folders], axis=1)
    said = []
    for name, positions in (parts or {"train": range(counts.shape[1])}).items():
        lacking = (counts[:, list(positions)] == 0).sum(1).tolist()
        words = [
            f"{count} without {what}"
            for count, what in zip(lacking, ("picture", "sound"), strict=True)
            if count
        ]
        if words:
            said.append(f"{' and '.join(words)} among {len(positions)} {name} clips")
    if not said:
        return ""
    fate = "they are used with black frames or silence (data.allow_missing)"
    if config.task in ("pretrain", "align_text"):
        fate = "what they have is learnt from (data.allow_missing)"
    if not config.data.get("allow_missing", False):
        fate = "they count as unreadable; data.allow_missing=true uses what they have"
    return f"{', '.join(said)}: {fate}"


def gain(config: ConfigDict, keys: jax.Array) -> jax.Array | None:
    """What each clip's sound is scaled by in a step of training, [B], from its key; None without `data.audio_gain`."""
    return augmentation.volume_gain(fold_keys(keys, 0)) if config.data.audio_gain else None


def drop_keys(config: ConfigDict, keys: jax.Array) -> jax.Array | None:
    """One key a clip for drop path, from its key; None where there is none."""
    return fold_keys(keys, 2) if config.model.drop_path else None


def clip_keys(key: jax.Array, batch: Batch) -> jax.Array:
    """One key a clip, [B], from the step's key and the clip's place in the dataset."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["position"])


def repeated(batch: Batch, keys: jax.Array, repeats: int) -> tuple[Batch, jax.Array]:
    """Every clip `repeats` times, copies side by side, each with a key of its own; B clips → B · repeats.

    A clip that was decoded once is so learnt from under several masks (repeated augmentation, Hoffer et al.
    2020; several masks a clip in video: Feichtenhofer et al. 2022).
    """
    if repeats == 1:
        return batch, keys
    copy = jnp.tile(jnp.arange(repeats), len(keys))
    keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys, repeats, axis=0), copy)
    return jax.tree.map(lambda field: jnp.repeat(field, repeats, axis=0), batch), keys
