"""Named vectors of a clip, pooled from a network's tokens.

  cat4             the fine-tuning model's clip vector: the next four, one behind the other [4C]
  video, audio     token means of each encoder's layers, mixed by the layer weights (equal before
                   fine-tuning) [C]
  fused_video, fused_audio   token means after the fusion [C]; fused: both, one behind the other [2C]
  audio_rows       last audio layer averaged over time only: a vector a frequency row [mel bins / 16 · C]
  video_cells      last video layer averaged over time only, on at most 4 × 4 cells of the picture [16 · C]
  audio_spans, video_spans   the last two of each quarter of the clip, one behind the other: what was said when
  video_layer_K, audio_layer_K   token mean of layer K (from 0), after the encoder's final norm [C]

Heads that learn what to pool take more than a vector, of G streams with T layers or tokens each [G, T, C]:
  video_layers, audio_layers, layers (G = 2)   token means of all layers, after the final norm
  video_tokens, audio_tokens, fused_tokens     tokens of the last layer, or of both streams after the fusion; float16

A method that looks at one modality only, or never at both together, has those of what it has; where nothing is fused,
`cat2` is video and audio, one behind the other. Without a norm between, layers of a method with joint layers that a
modality also goes through alone count on: they are its last ones.

A mean over all tokens hides most of what a masked autoencoder learns, so the two structured ones matter.
Not here: which clips, and what is then learnt from the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.batch import Features
from avemo_jax.errors import UserError
from avemo_jax.models.hicmae import mixed_layers
from avemo_jax.models.streams import fuses, layer_count

LAYERS = ("video_layers", "audio_layers", "layers")
TOKENS = ("video_tokens", "audio_tokens", "fused_tokens")
MODALITIES = ("audio", "video", "fused")
_STRUCTURED = {"audio": "audio_rows", "video": "video_cells"}
_SPANS = {"audio": "audio_spans", "video": "video_spans"}
_MOST_SPANS = 4
_MOST_CELLS = 4  # a side; finer grids make base-sized vectors of 50,000 numbers for a few hundred clips


def default(model: ConfigDict) -> tuple[str, ...]:
    """The vectors that are looked at where nothing else is said."""
    seen = _modalities(model)
    joined = ("cat4",) if fuses(model) else ("cat2",) if len(seen) == 2 else ()
    fused = ("fused_video", "fused_audio") if fuses(model) else ()
    return (*joined, *seen, *fused, *(name for of, name in _STRUCTURED.items() if of in seen))


def names(model: ConfigDict) -> tuple[str, ...]:
    """Every vector that a model of `config.model` gives."""
    layers = [f"{of}_layer_{layer}" for of in _modalities(model) for layer in range(layer_count(model))]
    spans = [name for of, name in _SPANS.items() if of in _modalities(model)]
    return (*default(model), *(["fused"] if fuses(model) else []), *spans, *layers)


def sequences(model: ConfigDict) -> tuple[str, ...]:
    """Those of `LAYERS` and `TOKENS` that it gives."""
    seen = _modalities(model)
    known = [f"{of}_{what}" for what in ("layers", "tokens") for of in seen]
    known += ["layers"] if len(seen) == 2 else []
    known += ["fused_tokens"] if fuses(model) else []
    return tuple(name for name in (*LAYERS, *TOKENS) if name in known)


def kind(name: str) -> str:
    """`vector`, `layers` or `tokens`."""
    return "layers" if name in LAYERS else "tokens" if name in TOKENS else "vector"


def modality(name: str) -> str:
    """What a feature sees, `audio`, `video` or, both of them, `fused`; plain statistics included."""
    if name.startswith(("audio", "log_mel")) and name != "log_mel+pixels":
        return "audio"
    return "video" if name.startswith(("video", "pixels")) else "fused"


def bytes_of_tokens(name: str, model: ConfigDict) -> int:
    """What one clip's tokens take."""
    video = int(np.prod(frontend.video_grid(model.frames, model.image_size)))
    audio = int(np.prod(frontend.audio_grid(model.audio_frames, model.mel_bins)))
    count = {"video_tokens": video, "audio_tokens": audio, "fused_tokens": video + audio}[name]
    return 2 * count * model.dim


def select(text: str, model: ConfigDict) -> tuple[str, ...]:
    """Feature names from a comma-separated list; `default`, `layers` and `all` stand for groups.

    Raises:
      UserError: a name that this model does not have.
    """
    known = names(model)
    layers = [name for name in known if "_layer_" in name]
    groups = {"default": default(model), "layers": tuple(layers), "all": known}
    chosen: list[str] = []
    for word in filter(None, text.split(",")):
        if word not in groups and word not in known:
            whole = ", ".join(name for name in known if name not in layers)
            raise UserError(
                f"--features: no feature '{word}'; there are {whole}, {layers[0]} … {layers[-1]}, and the groups "
                f"{', '.join(groups)}"
            )
        chosen += [name for name in groups.get(word, (word,)) if name not in chosen]
    if not chosen:
        raise UserError("--features is empty; leave it out for the default ones")
    return tuple(chosen)


def pool(
    features: Features, layer_weights: tuple[jax.Array, jax.Array], wanted: Sequence[str], model: ConfigDict
) -> dict[str, jax.Array]:
    """The wanted features of B clips: vectors float32 [B, D], layers float32 and tokens float16 [B, G, T, C].

    Args:
      features: tokens of whole clips.
      layer_weights: of video and audio [L], before the softmax; constant where nothing was learnt.
      wanted: names out of `names(model)` and `sequences(model)`.
      model: `config.model`, for the token grids.
    """
    vectors: dict[str, jax.Array] = {}
    streams = {"video": features.video_layers, "audio": features.audio_layers}
    weights = dict(zip(streams, layer_weights, strict=True))
    layers = {name: of for name, of in streams.items() if of is not None}
    for name, of in layers.items():
        means = of.astype(jnp.float32).mean(2)
        vectors[name] = mixed_layers(of, weights[name])
        vectors |= {f"{name}_layer_{layer}": means[layer] for layer in range(len(means))}
        vectors[f"{name}_layers"] = means.swapaxes(0, 1)[:, None]
        vectors[f"{name}_tokens"] = of[-1].astype(jnp.float16)[:, None]
    if "audio" in layers:
        rows = _audio_rows(layers["audio"][-1], model)
        vectors |= {"audio_rows": _over_time(rows, 1), "audio_spans": _over_time(rows, _MOST_SPANS)}
    if "video" in layers:
        cells = _video_cells(layers["video"][-1], model)
        vectors |= {"video_cells": _over_time(cells, 1), "video_spans": _over_time(cells, _MOST_SPANS)}
    if len(layers) == 2:
        vectors["cat2"] = jnp.concatenate([vectors["video"], vectors["audio"]], axis=-1)
        vectors["layers"] = jnp.concatenate([vectors["video_layers"], vectors["audio_layers"]], axis=1)
    if features.fused_video is not None and features.fused_audio is not None:
        fused = {"fused_video": features.fused_video, "fused_audio": features.fused_audio}
        vectors |= {name: tokens.astype(jnp.float32).mean(1) for name, tokens in fused.items()}
        vectors["fused"] = jnp.concatenate([vectors[name] for name in fused], axis=-1)
        vectors["fused_tokens"] = jnp.concatenate(list(fused.values()), axis=1).astype(jnp.float16)[:, None]
        vectors["cat4"] = jnp.concatenate([vectors["cat2"], vectors["fused"]], axis=-1)
    return {name: vectors[name] for name in wanted}


def layer_weights(params: dict, model: ConfigDict) -> tuple[jax.Array, jax.Array]:
    """A classifier's learned layer weights of video and audio, or equal ones for other models: two [L]."""
    equal = jnp.zeros(layer_count(model))
    return params.get("video_layer_weights", equal), params.get("audio_layer_weights", equal)


def _modalities(model: ConfigDict) -> tuple[str, ...]:
    return tuple(model.get("modalities", ("video", "audio")))


def _audio_rows(tokens: jax.Array, model: ConfigDict) -> jax.Array:
    """[B, times, rows, C]"""
    grid = frontend.audio_grid(model.audio_frames, model.mel_bins)
    return tokens.astype(jnp.float32).reshape(tokens.shape[0], *grid, -1)


def _video_cells(tokens: jax.Array, model: ConfigDict) -> jax.Array:
    """[B, times, cells, cells, C]"""
    times, height, width = frontend.video_grid(model.frames, model.image_size)
    kept = tokens.astype(jnp.float32).reshape(tokens.shape[0], times, height, width, -1)
    across, down = _averaging(width, _MOST_CELLS), _averaging(height, _MOST_CELLS)
    return jnp.einsum("ih,jw,bthwc->btijc", down, across, kept, precision=jax.lax.Precision.HIGHEST)


def _over_time(kept: jax.Array, most: int) -> jax.Array:
    """[B, times, …] → the means over at most so many spans of time, [B, D]."""
    spans = _averaging(kept.shape[1], most)
    means = jnp.einsum("st,bt...->bs...", spans, kept, precision=jax.lax.Precision.HIGHEST)
    return means.reshape(kept.shape[0], -1)


def _averaging(size: int, most: int) -> np.ndarray:
    """[parts, size], at most so many parts: row i averages what part i touches (parts overlap where they must)."""
    parts = min(size, most)
    matrix = np.zeros((parts, size), np.float32)
    for part in range(parts):
        first, last = part * size // parts, -(-(part + 1) * size // parts)
        matrix[part, first:last] = 1 / (last - first)
    return matrix
