"""A fine-tuned model's outputs for clips: several views of each, merged as HiCMAE merges them.

A view is a segment of the clip in time and a crop in space. The reference squeezes frames to the model's size before it
crops, so its crops are the same pixels; they differ by the random volume that it gives sound in tests too. Here crops
beyond the first are computed only with that volume on (`views.audio_gain`), which is the reference's evaluation.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from avemo_jax import augmentation, frontend, models
from avemo_jax.batch import Batch
from avemo_jax.models.params import Params, merge, split
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.heartbeat import HEARTBEAT
from avemo_jax.training.starting import placed
from input_pipeline.loader import Share, eval_batches
from input_pipeline.mixtures import folders_of
from input_pipeline.targets import Target

HostBatch = dict[str, np.ndarray]
BOTH, VIDEO, AUDIO = "audio_video", "video", "audio"
MODALITIES = (BOTH, VIDEO, AUDIO)
_FEW_BATCHES = 8
_FIELDS = ("video", "waveform", "waveform_length", "waveform_mean", "position")


class Viewer:
    """Computes outputs of one model on one prepared folder; compiled once, for any parameters and by all of a config.

    Args:
      config: resolved, of a fine-tuning task; reads `model`, `data`, `views` and `seed`.
      target: what the outputs mean.
      mesh: where parameters lie; every process calls it with the same clips.
    """

    def __init__(self, config: ConfigDict, target: Target, mesh: Mesh):
        self._config, self._target, self._mesh = config, target, mesh
        divisor = mesh_lib.rows_divisor(mesh)
        self._batch_size = -(-config.views.batch_size // divisor) * divisor
        self._forward = _compiled(FrozenConfigDict(config), mesh)

    def placed(self, params: Params) -> Params:
        """Parameters on the host → on the mesh."""
        return placed(params, self._mesh)

    def merged(
        self,
        params: Params,
        positions: Sequence[int],
        modalities: str = BOTH,
        change: Callable[[HostBatch], HostBatch] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(positions int [M], merged outputs float [M, K]) of the clips that could be read, in the given order.

        Outputs are the mean over views of probabilities (softmax, or of each class by itself for several classes a
        clip), of raw outputs for values.

        Args:
          params: on the mesh.
          positions: of the clips in the folder.
          modalities: `audio_video`, or only one of them: the other is as in a clip that has none.
          change: of what the host has read, such as one of `corruptions`.
        """
        views = self._config.views
        crops = views.crops if views.audio_gain else 1
        merger = Merger(self._target, views.segments * crops)
        for segment in range(views.segments):
            for batch in self._batches(positions, segment):
                HEARTBEAT.moved()
                on_device = self._put(change(batch) if change else batch)
                for crop in range(crops):
                    view = np.int32(segment * crops + crop)
                    outputs, place = self._forward(params, on_device, view, modalities=modalities)
                    merger.add(np.asarray(place), np.asarray(outputs))
        return merger.merged(positions)

    def _batches(self, positions: Sequence[int], segment: int):
        model, data = self._config.model, self._config.data
        few = len(positions) < _FEW_BATCHES * self._batch_size  # read before workers would have started
        return eval_batches(
            folders_of(data)[0],
            frames=model.frames,
            image_size=model.image_size,
            audio_frames=model.audio_frames,
            batch_size=self._batch_size,
            frame_stride=data.frame_stride,
            crop=data.crop,
            view="segment",
            segment=(segment, self._config.views.segments),
            positions=positions,
            allow_missing=data.get("allow_missing", False),
            share=Share(*mesh_lib.data_share(self._mesh)),
            workers=0 if few else data.workers,
            prefetch=data.prefetch,
        )

    def _put(self, batch: HostBatch) -> Batch:
        """On the devices, with position −1 for rows that hold no clip."""
        batch = batch | {"position": np.where(batch["valid"], batch["position"], -1).astype(np.int32)}
        shapes = {
            name: jax.ShapeDtypeStruct((self._batch_size, *batch[name].shape[1:]), batch[name].dtype)
            for name in _FIELDS
        }
        places = mesh_lib.batch_shardings(shapes, self._mesh)
        return {
            name: jax.make_array_from_process_local_data(places[name], batch[name], shapes[name].shape)
            for name in _FIELDS
        }


class Merger:
    """Adds up the views of clips; see `Viewer.merged`."""

    def __init__(self, target: Target, views: int):
        self._target, self._views = target, views
        self._sums: dict[int, np.ndarray] = {}
        self._counts: Counter[int] = Counter()

    def add(self, positions: np.ndarray, outputs: np.ndarray) -> None:
        """One view each of clips int [M] (−1: none), by the model's outputs [M, K]."""
        values = probabilities(np.asarray(outputs, np.float64), self._target)
        for position, value in zip(positions.tolist(), values, strict=True):
            if position >= 0:
                self._sums[position] = self._sums.get(position, 0.0) + value
                self._counts[position] += 1

    def merged(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(int [M], float [M, K]) of those of the clips of which all views were added, in the given order."""
        read = [position for position in positions if self._counts[position] == self._views]
        means = np.array([self._sums[position] / self._views for position in read])
        return np.array(read, np.int64), means.reshape(len(read), len(self._target.names))


def probabilities(outputs: np.ndarray, target: Target) -> np.ndarray:
    """A view's outputs [M, K] as what is averaged: see `Viewer.merged`."""
    if target.kind == "values":
        return outputs
    if target.raters:  # each one's opinion, and then the mean of all
        each = outputs.reshape(len(outputs), len(target.raters), -1)
        raised = np.exp(each - each.max(-1, keepdims=True))
        return (raised / raised.sum(-1, keepdims=True)).mean(1)
    if target.kind == "multi_label":
        return 1 / (1 + np.exp(-outputs))
    shifted = np.exp(outputs - outputs.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@functools.lru_cache(maxsize=8)
def _compiled(config: FrozenConfigDict, mesh: Mesh) -> Callable[..., tuple[Array, Array]]:
    graphdef, _ = split(jax.eval_shape(functools.partial(models.build, config), jax.random.key(0)))
    return jax.jit(
        functools.partial(_outputs, graphdef=graphdef, config=config, mesh=mesh),
        static_argnames="modalities",
        out_shardings=mesh_lib.replicated(mesh),
    )


def _outputs(
    params: Params,
    batch: Batch,
    view: Array,
    *,
    modalities: str,
    graphdef: nnx.GraphDef,
    config: FrozenConfigDict,
    mesh: Mesh,
) -> tuple[Array, Array]:
    position = batch["position"]
    if modalities != BOTH:
        gone = jnp.full(position.shape, True)
        batch = augmentation.without(
            batch, no_video=gone & (modalities == AUDIO), no_audio=gone & (modalities == VIDEO)
        )
    gain = None
    if config.views.audio_gain:
        key = jax.random.fold_in(jax.random.key(config.seed), view)
        gain = augmentation.volume_gain(jax.vmap(jax.random.fold_in, (None, 0))(key, position))
    model: Any = merge(graphdef, params)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        outputs, _ = model(frontend.to_clip(batch, mels=config.model.mel_bins, gain=gain))
    return outputs, position
