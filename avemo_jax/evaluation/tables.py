"""Features of every clip of a prepared folder as rows of a table.

A row is a window of a clip: the one in its middle, or each of those that cover it. It has the pooled vectors of
`features.py` and on request grids of tokens, with the times that they are at. docs/features.md describes the columns.
Not here: how vectors are pooled (features), and files (table_files).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict, FrozenConfigDict

from avemo_jax import frontend, models
from avemo_jax.batch import Batch, Features
from avemo_jax.errors import UserError
from avemo_jax.evaluation import features
from avemo_jax.evaluation.cache import data_digest
from avemo_jax.models.encoders import Encodes
from avemo_jax.models.params import Params, flatten, merge, split
from avemo_jax.models.streams import fuses
from avemo_jax.training.mesh import BATCH_RULES, make_mesh, replicated, rows_divisor, shardings
from input_pipeline.audio import HOP, SAMPLE_RATE
from input_pipeline.examples import TIMES, Cut
from input_pipeline.loader import eval_batches
from input_pipeline.records import open_records
from input_pipeline.sampling import pretrain_frames

TOKENS = ("last", "fused")  # of the encoders' last layers, or after the fusion
WINDOWS = ("centre", "all")
Columns = dict[str, Any]


@dataclass(frozen=True)
class TableOptions:
    """features: names out of `features.names`. tokens: of `TOKENS`. windows: one of `WINDOWS`. split: of the folder,
    "" for all. half: float16. workers: processes that decode, 0 for none beside this one."""

    features: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    windows: str = "centre"
    split: str = ""
    half: bool = False
    batch_size: int = 32
    workers: int = 0


class Window(NamedTuple):
    """A row to be: a clip by its index in what was opened, the window's number in it, and its first frame; of a clip
    without pictures its first sample."""

    clip: int
    number: int
    start: int


class Table:
    """The rows of a prepared folder, to be computed in any parts.

    clips: how many; windows: of all of them, in the folder's order.

    Raises:
      DataError: no such folder or split.
      UserError: tokens that this model does not have.
    """

    def __init__(self, config: ConfigDict, params: Params, data: str, options: TableOptions):
        if "fused" in options.tokens and not fuses(config.model):
            raise UserError(f"--tokens fused: {config.method} has no tokens that saw both modalities")
        self._config, self._params, self._options = config, params, options
        self._data, self._records = data, open_records(data, options.split)
        self._known = list(self._records.known())
        self._splits = [name for name, count in self._records.splits.items() for _ in range(count)]
        self._mesh = make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
        self.clips = len(self._records)
        self.windows = self._cover()

    def identity(self) -> str:
        """SHA-256 of the weights, the clips and all that changes a row: of equal ones the rows are equal."""
        digest = hashlib.sha256()
        for path, array in flatten(self._params).items():
            digest.update(f"{path} {array.shape} {array.dtype}".encode() + np.asarray(array).tobytes())
        model, data, options = self._config.model, self._config.data, self._options
        chosen = (options.features, options.tokens, options.windows, options.split, options.half)
        cut = (data.frame_stride, data.crop, models.compute_dtype(self._config).name)
        facts = (model.to_dict(), cut, data_digest(self._data), chosen, self._records.clip_ids, self.windows)
        return hashlib.sha256(digest.digest() + json.dumps(facts).encode()).hexdigest()

    def rows(self, windows: Sequence[Window]) -> Iterator[Columns]:
        """Columns of a batch of rows at a time, in order; clips that cannot be read have none.

        Raises:
          UserError: the network gives values that are not finite.
        """
        divisor = rows_divisor(self._mesh)
        size = -(-self._options.batch_size // divisor) * divisor
        graphdef, _ = split(jax.eval_shape(partial(models.build, self._config), jax.random.key(0)))
        options, model = self._options, FrozenConfigDict(self._config.model)
        params = jax.device_put(self._params, replicated(self._mesh))
        for number, batch in enumerate(self._batches(windows, size)):
            valid = batch["valid"]
            fields = {name: batch[name] for name in ("video", "waveform", "waveform_length", "waveform_mean")}
            on_device = jax.device_put(fields, shardings(fields, self._mesh, BATCH_RULES))
            values = _encode(
                params,
                on_device,
                graphdef=graphdef,
                wanted=options.features,
                tokens=options.tokens,
                model=model,
            )
            here = windows[number * size : number * size + size]
            here = [window for window, whole in zip(here, valid.tolist(), strict=False) if whole]
            columns = self._facts(here)
            columns |= {name: batch[name][valid] for name in TIMES}
            columns["audio_s"] = (batch["waveform_length"][valid] / SAMPLE_RATE).astype(np.float32)
            if options.tokens:
                columns |= self._token_times(columns, here)
            for name, array in values.items():
                kept = np.asarray(array)[valid]
                if not np.isfinite(kept).all():
                    raise UserError(f"{name} is not finite; the checkpoint may come from a run that diverged")
                columns[name] = kept.astype(np.float16 if options.half else np.float32)
            yield columns

    def _cover(self) -> list[Window]:
        model, data = self._config.model, self._config.data
        cut = Cut(model.frames, model.image_size, model.audio_frames, data.frame_stride, data.crop)
        windows = []
        counts = zip(self._records.frame_counts, self._records.sample_counts, strict=True)
        for clip, (frames, samples) in enumerate(counts):
            every = self._options.windows == "all"
            starts = cut.cover(frames, samples) if every else [cut.middle(frames, samples)]
            windows += [Window(clip, number, start) for number, start in enumerate(starts)]
        return windows

    def _batches(self, windows: Sequence[Window], size: int) -> Iterator[dict[str, np.ndarray]]:
        model, data = self._config.model, self._config.data
        return eval_batches(
            self._records.path.as_posix(),
            frames=model.frames,
            image_size=model.image_size,
            audio_frames=model.audio_frames,
            batch_size=size,
            frame_stride=data.frame_stride,
            crop=data.crop,
            positions=[self._records.first_position + window.clip for window in windows],
            starts=[window.start for window in windows],
            workers=self._options.workers,
        )

    def _facts(self, windows: Sequence[Window]) -> Columns:
        known = [self._known[window.clip] for window in windows]
        return {
            "clip_id": [self._records.clip_ids[window.clip] for window in windows],
            "window": np.array([window.number for window in windows], np.int32),
            "speaker": [speaker for speaker, _ in known],
            "split": [self._splits[window.clip] for window in windows],
            "labels": [json.dumps(labels, ensure_ascii=False) for _, labels in known],
        }

    def _token_times(self, columns: Columns, windows: Sequence[Window]) -> Columns:
        """The middle of what each row of a token grid has seen, seconds into the clip, float32 [rows, time]."""
        model, stride = self._config.model, self._config.data.frame_stride
        audios = frontend.audio_grid(model.audio_frames, model.mel_bins)[0]
        sound = frontend.PATCH * HOP / SAMPLE_RATE * (np.arange(audios) + 0.5)
        counts = self._records.frame_counts
        taken = [  # of a short clip some frames are repeated
            pretrain_frames(counts[window.clip], window.start, model.frames, stride) - window.start
            for window in windows
        ]
        frame = (
            np.reshape(taken, (len(windows), model.frames // frontend.TUBELET, frontend.TUBELET)).mean(-1)
            / stride
        )
        video = columns["video_start_s"][:, None] + columns["frame_s"][:, None] * frame
        audio = columns["audio_start_s"][:, None] + sound
        times = {"video_token_s": video.astype(np.float32), "audio_token_s": audio.astype(np.float32)}
        return {name: times[name] for name in times if name.split("_")[0] in frontend.token_grids(model)}


@partial(jax.jit, static_argnames=("graphdef", "wanted", "tokens", "model"))
def _encode(
    params: Params,
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    wanted: tuple[str, ...],
    tokens: tuple[str, ...],
    model: FrozenConfigDict,
) -> dict[str, Array]:
    clip = frontend.to_clip(batch, mels=model.mel_bins)
    found = cast(Encodes, merge(graphdef, params)).encode(clip)
    pooled = features.pool(found, features.layer_weights(params, model), wanted, model)
    return pooled | _grids(found, tokens, model)


def _grids(found: Features, tokens: tuple[str, ...], model: ConfigDict) -> dict[str, Array]:
    """[B, time, height, width, C] of video, [B, time, frequency, C] of audio."""
    grids = {
        "video": frontend.video_grid(model.frames, model.image_size),
        "audio": frontend.audio_grid(model.audio_frames, model.mel_bins),
    }
    streams: dict[str, Array | None] = {}
    if "last" in tokens:
        streams |= {
            f"{name}_tokens": None if of is None else of[-1]
            for name, of in (("video", found.video_layers), ("audio", found.audio_layers))
        }
    if "fused" in tokens:
        streams |= {"fused_video_tokens": found.fused_video, "fused_audio_tokens": found.fused_audio}
    return {
        name: values.astype(jnp.float32).reshape(
            len(values), *grids["video" if "video" in name else "audio"], -1
        )
        for name, values in streams.items()
        if values is not None
    }
