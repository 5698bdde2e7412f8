"""Frozen features of every clip: at its centre view or a random one, for several networks at a time.

Clips are divided over all devices; parameters are whole on each. The networks share one pass over the data,
because decoding costs more than a forward pass. Sound can be had as recorded or at equal loudness, and either
modality can be missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict, FrozenConfigDict

from avemo_jax import augmentation, frontend, models
from avemo_jax.batch import Batch
from avemo_jax.evaluation import baselines, features
from avemo_jax.models.encoders import Encodes
from avemo_jax.models.params import Params, merge, split
from avemo_jax.training.mesh import BATCH_RULES, make_mesh, replicated, rows_divisor, shardings
from input_pipeline.loader import eval_batches
from input_pipeline.progress import Progress
from input_pipeline.records import Records, open_records

LOUDNESS = ("as_recorded", "normalised")
MISSING = ("none", "audio", "video")
_TARGET_RMS = 0.05  # of full scale, -26 dB: the usual level of a normalised speech corpus


class Source(NamedTuple):
    """Where a feature matrix comes from. `weights` is `checkpoint`, `random` or `none` (plain statistics);
    `seed` the one its weights were drawn or trained with, 0 without weights. `missing` is the modality that the
    clips went without, or `none`."""

    feature: str
    weights: str
    seed: int
    loudness: str
    missing: str = "none"


class Network(NamedTuple):
    """Parameters of the config's model, and what they are called in results."""

    weights: str
    seed: int
    params: Params


def random_networks(config: ConfigDict, seeds: Sequence[int]) -> list[Network]:
    """The config's model as it is before training, once for each seed."""
    frozen = FrozenConfigDict(config)
    return [Network("random", seed, _draw(jax.random.key(seed), config=frozen)) for seed in seeds]


def sources(
    networks: Sequence[Network],
    wanted: Sequence[str],
    loudness: Sequence[str] = LOUDNESS[:1],
    missing: Sequence[str] = MISSING[:1],
) -> list[Source]:
    """Everything that `extract` gives."""
    found = [
        Source(name, network.weights, network.seed, level, lost)
        for network, name in itertools.product(networks, wanted)
        for level, lost in itertools.product(loudness, missing)
    ]
    found += [
        Source(name, "none", 0, level, lost)
        for name, level, lost in itertools.product(baselines.NAMES, loudness, missing)
    ]
    return [source for source in found if _says_something(source)]


def extract_folder(
    config: ConfigDict,
    data: str,
    positions: Sequence[int],
    networks: Sequence[Network],
    wanted: Sequence[str],
    loudness: Sequence[str] = LOUDNESS[:1],
    missing: Sequence[str] = MISSING[:1],
    *,
    batch_size: int = 32,
    workers: int = 0,
    view: int | None = None,
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
) -> tuple[np.ndarray, dict[Source, np.ndarray]]:
    """`extract` for the clips at these positions of a prepared folder, in this order; shows its progress.

    Args:
      config: resolved; its frames, sizes, stride and crop are used.
      batch_size: clips in one forward pass, rounded up to a multiple of the devices.
      workers: processes that decode (0: none beside this one).
      view: which random view of each clip; the centre view when None.
      change: of what the host has read, such as one of `corruptions`.

    Clips that cannot be read are not among the positions that come back.
    """
    divisor = rows_divisor(_mesh())
    size = -(-batch_size // divisor) * divisor
    batches = centre_batches(config, data, positions, size, workers, view)
    with Progress(-(-len(positions) // size), "batches", "features") as progress:

        def counted():
            for batch in batches:
                yield change(batch) if change else batch
                progress.advance()

        return extract(config, networks, counted(), wanted, loudness, missing)


def extract_all(
    config: ConfigDict,
    data: str,
    networks: Sequence[Network],
    wanted: Sequence[str],
    split: str = "",
    **options,
) -> tuple[Records, list[int], dict[Source, np.ndarray]]:
    """`extract_folder` for all clips of a prepared folder, or of one split: its records, and which of them, by index,
    the rows are of."""
    records = open_records(data, split)
    first = records.first_position
    every = range(first, first + len(records))
    positions, matrices = extract_folder(config, data, every, networks, wanted, **options)
    return records, (positions - first).tolist(), matrices


def centre_batches(
    config: ConfigDict,
    data: str,
    positions: Sequence[int],
    batch_size: int,
    workers: int = 0,
    view: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Host batches of the centre views of these clips, or of a random one, as the config's model takes them; black
    or silent where a clip lacks picture or sound."""
    model = config.model
    return eval_batches(
        data,
        frames=model.frames,
        image_size=model.image_size,
        audio_frames=model.audio_frames,
        batch_size=batch_size,
        frame_stride=config.data.frame_stride,
        crop=config.data.crop,
        workers=workers,
        positions=positions,
        view="center" if view is None else "random",
        draw=view or 0,
        allow_missing=True,
    )


def extract(
    config: ConfigDict,
    networks: Sequence[Network],
    batches: Iterable[dict[str, np.ndarray]],
    wanted: Sequence[str],
    loudness: Sequence[str],
    missing: Sequence[str] = MISSING[:1],
) -> tuple[np.ndarray, dict[Source, np.ndarray]]:
    """Positions int [N] of the clips read, and for each source its features [N, …] in that order (`features.pool`).

    Args:
      config: resolved; its model's sizes are those of the batches.
      networks: all of that model.
      batches: host batches of one size, a multiple of the devices, with `valid` [B] false for padding.
      wanted: feature names; the plain statistics always come too.
      loudness: one or both of `LOUDNESS`.
      missing: of `MISSING`; without a modality only fused features are taken, since the others do not change or see
        nothing at all.
    """
    mesh = _mesh()
    graphdef, _ = split(jax.eval_shape(partial(models.build, config), jax.random.key(0)))
    placed = [(net, jax.device_put(net.params, replicated(mesh))) for net in networks]

    encode = partial(_encode, graphdef=graphdef, wanted=tuple(wanted), model=FrozenConfigDict(config.model))

    positions: list[np.ndarray] = []
    parts: dict[Source, list[np.ndarray]] = {}
    for batch in batches:
        valid = batch["valid"]
        arrays = {name: batch[name] for name in ("video", "waveform", "waveform_length", "waveform_mean")}
        on_device = jax.device_put(arrays, shardings(arrays, mesh, BATCH_RULES))
        positions.append(batch["position"][valid])
        results = {}
        for level, lost in itertools.product(loudness, missing):
            gain, seen = _gain(on_device, level), _without(on_device, missing=lost)
            for name, values in _measure(seen, gain, mels=config.model.mel_bins).items():
                results[Source(name, "none", 0, level, lost)] = values
            for net, params in placed:
                for name, values in encode(params, seen, gain).items():
                    results[Source(name, net.weights, net.seed, level, lost)] = values
        results = {source: values for source, values in results.items() if _says_something(source)}
        for source, values in results.items():
            parts.setdefault(source, []).append(np.asarray(values)[valid])
    return np.concatenate(positions), {source: np.concatenate(rows) for source, rows in parts.items()}


# Used a few times only, so it is compiled without optimisation: on a CPU that takes seconds instead of a minute.
@partial(jax.jit, static_argnames="config", compiler_options={"xla_backend_optimization_level": 0})
def _draw(key: jax.Array, *, config: FrozenConfigDict) -> Params:
    return split(models.build(config, key))[1]


@partial(jax.jit, static_argnames=("graphdef", "wanted", "model"))
def _encode(
    params: Params,
    batch: Batch,
    gain: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    wanted: tuple[str, ...],
    model: FrozenConfigDict,
) -> dict[str, jax.Array]:
    clip = frontend.to_clip(batch, mels=model.mel_bins, gain=gain)
    weights = features.layer_weights(params, model)
    encoder = cast(Encodes, merge(graphdef, params))
    return features.pool(encoder.encode(clip), weights, wanted, model)


@partial(jax.jit, static_argnames="missing")
def _without(batch: Batch, *, missing: str) -> Batch:
    """The clips without a modality, as a clip that has none is given to the network (`augmentation.without`)."""
    lost = {name: jnp.full(len(batch["video"]), missing == name) for name in MISSING[1:]}
    return augmentation.without(batch, lost["video"], lost["audio"])


def _says_something(source: Source) -> bool:
    return source.missing == "none" or features.modality(source.feature) == "fused"


@partial(jax.jit, static_argnames="mels")
def _measure(batch: Batch, gain: jax.Array, *, mels: int) -> dict[str, jax.Array]:
    return baselines.statistics(batch, mels, gain)


@partial(jax.jit, static_argnames="loudness")
def _gain(batch: Batch, loudness: str) -> jax.Array:
    """Factor [B] for each clip's sound: 1, or what brings its valid samples to the common RMS."""
    length = batch["waveform_length"]
    if loudness == "as_recorded":
        return jnp.ones(length.shape, jnp.float32)
    wave = batch["waveform"].astype(jnp.float32) / 32768 - batch["waveform_mean"][:, None]
    inside = jnp.arange(wave.shape[1]) < length[:, None]
    power = jnp.sum(jnp.square(wave), axis=1, where=inside) / jnp.maximum(length, 1)
    silent = power < 1e-10  # below one step of 16 bit: nothing to bring up
    return jnp.where(silent, 1.0, _TARGET_RMS * jax.lax.rsqrt(jnp.where(silent, 1.0, power)))


def _mesh() -> jax.sharding.Mesh:
    return make_mesh({"replica": 1, "data": -1, "fsdp": 1, "tensor": 1})
