"""Contrast between modalities: matching clips are pulled together, others pushed apart.

Everything here is over the whole batch, on whatever mesh it lies, or over groups of it; large ones are compared a
chunk at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.errors import UserError

KINDS = ("infonce", "siglip")
DIRECTIONS = ("both", "forward", "backward")  # who looks for whom
NEGATIVES = ("global", "local")
_WEIGHTS = {"both": (0.5, 0.5), "forward": (1.0, 0.0), "backward": (0.0, 1.0)}
_NEVER = -1e9  # a logit without any weight in a softmax; finite, for the gradient's sake


class _Marks(NamedTuple):
    """What says which clips are compared, int32 [groups, clips] each; None, or (), where it makes no difference."""

    within: Array | None  # compared are clips of the same number
    same: tuple[Array, ...]  # of another one in each, and not of negative ones; but each with itself,
    place: Array | None  # which this tells

    def taking_part(self) -> Array | None:
        """float32 [groups, clips], 1 or 0."""
        if not self.same:
            return None
        return jnp.all(jnp.stack(self.same) >= 0, axis=0).astype(jnp.float32)


_ALL = _Marks(None, (), None)


def options(config: ConfigDict) -> dict[str, Any]:
    """What `config.contrast` says of how clips are compared, as `hierarchical_contrast` takes it.

    Raises:
      UserError: values that say nothing, or do not go with `config.accumulate`.
    """
    contrast = config.contrast
    _check_names(contrast.kind, contrast.direction, contrast.negatives)
    if not contrast.temperature > 0:
        raise UserError(f"contrast.temperature is {contrast.temperature}, not above 0")
    if contrast.get("bias", 0.0) and (
        contrast.kind != "siglip" or config.model.get("learned_temperature", 0.0)
    ):
        raise UserError(
            f"contrast.bias is {contrast.bias}: it is SigLIP's at a fixed temperature; with a learned one it is "
            "model.learned_bias"
        )
    if contrast.within and config.accumulate > 1 and not contrast.cached:
        raise UserError(
            f"contrast.within is {contrast.within}, and accumulate={config.accumulate} parts the clips of a group: set "
            "contrast.cached=True, which compares the whole batch"
        )
    return {name: contrast[name] for name in ("kind", "direction", "negatives", "group_size", "chunk")}


class _Measure(NamedTuple):
    """How two vectors are compared and what is made of all similarities."""

    temperature: Array | float
    bias: Array | float  # of SigLIP
    kind: str
    direction: str


def hierarchical_contrast(
    video_levels: Array,
    audio_levels: Array,
    *,
    temperature: Array | float,
    negatives: str = "global",
    group_size: int = 0,
    chunk: int = 0,
    kind: str = "infonce",
    direction: str = "both",
    bias: Array | float = 0.0,
    within: Array | None = None,
    same: Array | Sequence[Array] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Contrast of two modalities, summed over levels: HiCMAE's hierarchical cross-modal one by default.

    Args:
      video_levels: float32 [levels, B, C], one vector a clip and level, not normalised.
      audio_levels: likewise.
      temperature: divides the cosine similarities; a number or, where it is learned, a scalar.
      negatives: "global" takes all other clips of the batch; "local" those of the same `group_size`
        consecutive clips, as a data-parallel reference that gathers nothing does.
      group_size: clips a group, for "local".
      chunk: with more clips a group than this, every video is compared with at most so many sounds at a time
        and the similarities are made again for the gradient: the same loss in little memory. 0 is off.
      kind: "infonce" (van den Oord et al. 2018): a softmax over all candidates; "siglip" (Zhai et al. 2023): each
        pair by itself is the same clip or not, the sum over candidates, the mean over clips.
      direction: of InfoNCE: "forward", each video looks for its sound; "backward", each sound for its video; or the
        mean of both. SigLIP has no direction.
      bias: added to SigLIP's logits.
      within: int32 [B]; only clips of the same number are each other's negatives (a speaker's own other clips).
      same: int32 [B], or several; clips of the same number in one are no negatives of each other (they have the same
        text), and those with a negative one (that lack a text or a stream) take no part. None of them in a batch: the
        loss is 0.

    Returns:
      The loss, and `loss_contrast` with `contrast_accuracy`, the share of clips whose own sound is the
      nearest at the deepest level.

    Raises:
      UserError: an unknown kind, direction or kind of negatives, a batch that does not cut into groups, or groups of
        one clip.
    """
    _check_names(kind, direction, negatives)
    if not video_levels.shape[0]:
        return jnp.zeros(()), {}
    measure = _Measure(temperature, bias, kind, direction)
    with jax.named_scope("contrast"):  # the name by which a compiled program's collectives are told apart
        levels = [video_levels, audio_levels]
        numbers = None if same is None else jnp.atleast_2d(jnp.asarray(same))
        if numbers is not None:  # what takes no part may be zeros, which have no direction
            levels = [jnp.where((numbers < 0).any(0)[:, None], 1.0, x) for x in levels]
        video, audio = (_directions(x, negatives, group_size) for x in levels)
        shape = video.shape[1:3]
        own = None if within is None else within.reshape(shape)
        marks = _ALL._replace(within=own)
        if numbers is not None:
            place = jnp.broadcast_to(jnp.arange(shape[1]), shape)
            marks = _Marks(own, tuple(each.reshape(shape) for each in numbers), place)
        if 0 < chunk < shape[1]:
            loss, accuracy = _in_chunks(video, audio, marks, measure, chunk)
        else:
            loss, accuracy = _at_once(video, audio, marks, measure)
    return loss, {"loss_contrast": loss, "contrast_accuracy": accuracy}


def pairwise_contrast(
    vectors: Mapping[str, Array],
    pairs: Sequence[tuple[str, str]] = (),
    weights: Sequence[Array | float] = (),
    same: Mapping[str, Array] | None = None,
    **options,
) -> tuple[Array, dict[str, Array]]:
    """The contrast of several modalities, two at a time, added up.

    Args:
      vectors: by modality, float32 [B, C], one a clip.
      pairs: which; all of them where none is named.
      weights: of each pair; 1 where none is given.
      same: by modality that not every clip has one of its own of, int32 [B]: `hierarchical_contrast`'s `same` for every
        pair with it; a pair of two such modalities is of the clips that have both.
      options: of `hierarchical_contrast`.

    Returns:
      The loss, and for each pair, unweighted, `loss_contrast_A_B` and `contrast_accuracy_A_B`.
    """
    names, same = list(vectors), same or {}
    total, terms = jnp.zeros(()), dict[str, Array]()
    chosen = list(pairs) or [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    for (one, other), weight in zip(chosen, weights or [1.0] * len(chosen), strict=True):
        own = [same[name] for name in (one, other) if name in same]
        loss, found = hierarchical_contrast(
            vectors[one][None], vectors[other][None], same=own or None, **options
        )
        total += weight * loss
        terms |= {f"{name}_{one}_{other}": value for name, value in found.items()}
    return total, terms


def contrast_logits(
    video_levels: Array, audio_levels: Array, temperature: float, negatives: str, group_size: int
) -> Array:
    """Cosine similarities over the temperature: [levels, groups, clips of video, clips of audio]."""
    video, audio = (_directions(x, negatives, group_size) for x in (video_levels, audio_levels))
    return _logits(video, audio, _Measure(temperature, 0.0, "infonce", "both"))


def _check_names(kind: str, direction: str, negatives: str) -> None:
    for name, value, known in (
        ("kind", kind, KINDS),
        ("direction", direction, DIRECTIONS),
        ("negatives", negatives, NEGATIVES),
    ):
        if value not in known:
            raise UserError(f"contrast.{name} is '{value}', not one of {', '.join(known)}")


def _at_once(video: Array, audio: Array, marks: _Marks, measure: _Measure) -> tuple[Array, Array]:
    """(loss, accuracy) from all similarities of a group, [levels, groups, size, size]."""
    logits, counted = _logits(video, audio, measure, marks, marks), marks.taking_part()
    match = jnp.arange(logits.shape[-1])
    nearest = _mean(logits[-1].argmax(-1) == match, counted)
    if measure.kind == "siglip":
        pairs = jax.nn.softplus(logits).sum(-1) - logits[..., match, match]
        return _mean(pairs, counted).sum(), nearest
    forward, backward = _WEIGHTS[measure.direction]
    rows = -jax.nn.log_softmax(logits, axis=-1)[..., match, match]
    columns = -jax.nn.log_softmax(logits, axis=-2)[..., match, match]
    if measure.direction == "both":
        return 0.5 * _mean(rows + columns, counted).sum(), nearest
    return _mean(forward * rows + backward * columns, counted).sum(), nearest


def _in_chunks(
    video: Array, audio: Array, marks: _Marks, measure: _Measure, most: int
) -> tuple[Array, Array]:
    """The same from [levels, groups, size, chunk] similarities at a time.

    A chunk takes every k-th sound, so that where clips are divided over devices every device holds an equal
    part of each chunk: only a chunk is ever gathered. All videos are there in each, so a chunk's columns are
    complete, and of its rows the log-sum-exp (SigLIP: the sum) is kept.
    """
    levels, groups, size, dim = audio.shape
    chunk = _chunk_size(size, most)
    chunks = audio.reshape(levels, groups, chunk, size // chunk, dim).transpose(3, 0, 1, 2, 4)
    others = jax.tree.map(lambda of: of.reshape(groups, chunk, size // chunk).transpose(2, 0, 1), marks)

    @jax.checkpoint
    def compare(part: tuple[Array, _Marks]) -> tuple[Array, Array, Array, Array]:
        logits = _logits(video, part[0], measure, marks, part[1])
        deepest = jax.lax.stop_gradient(logits[-1])
        if measure.kind == "siglip":
            in_rows = jax.nn.softplus(logits).sum(-1)
            in_columns = jnp.zeros(())
        else:
            in_rows, in_columns = (jax.nn.logsumexp(logits, axis=axis) for axis in (-1, -2))
        return in_rows, in_columns, deepest.max(-1), deepest.argmax(-1)

    in_rows, in_columns, nearest, place = jax.lax.map(compare, (chunks, others))
    match, counted = jnp.sum(video * audio, axis=-1) / measure.temperature, marks.taking_part()
    if measure.kind == "siglip":
        loss = _mean(in_rows.sum(0) - match - measure.bias, counted).sum()
    else:
        forward, backward = _WEIGHTS[measure.direction]
        loss = forward * _mean(jax.nn.logsumexp(in_rows, axis=0) - match, counted).sum()
        columns = jnp.moveaxis(in_columns, 0, -1).reshape(match.shape)
        loss += backward * _mean(columns - match, counted).sum()
    best = nearest.argmax(0)  # the chunk with the nearest sound, [groups, size]
    found = jnp.take_along_axis(place, best[None], axis=0)[0] * (size // chunk) + best
    return loss, _mean(found == jnp.arange(size), counted)


def _mean(values: Array, counted: Array | None) -> Array:
    """The mean over the last two axes, groups and clips; of the clips that count, float32 [groups, clips], alone."""
    if counted is None:
        return jnp.mean(values, axis=(-2, -1))
    return jnp.sum(values * counted, axis=(-2, -1)) / jnp.maximum(counted.sum(), 1.0)


def _chunk_size(size: int, most: int) -> int:
    """The divisor of `size` to use: up to `most`, even parts for as many devices as can be, then the largest.

    Devices come in powers of two, so the power of two in it says for how many devices it cuts evenly.
    """
    divisors = [n for n in range(1, most + 1) if size % n == 0]
    return max(divisors, key=lambda n: (n & -n, n))


def _directions(levels: Array, negatives: str, group_size: int) -> Array:
    """Unit vectors by group: [levels, B, C] → [levels, groups, clips a group, C]."""
    count, batch, dim = levels.shape
    if negatives == "global":
        group_size = batch
    if group_size < 1 or batch % group_size:
        raise UserError(f"contrast.group_size {group_size} does not divide the batch of {batch} clips")
    if group_size < 2:
        raise UserError(
            f"a clip would be contrasted with itself alone: of {batch} clips that are looked at together groups of "
            f"{group_size} are compared; see batch_size, accumulate, contrast.cached, negatives and group_size"
        )
    return (levels / jnp.linalg.norm(levels, axis=-1, keepdims=True)).reshape(count, -1, group_size, dim)


def _logits(
    video: Array,
    audio: Array,
    measure: _Measure,
    own: _Marks = _ALL,
    others: _Marks = _ALL,
) -> Array:
    """[levels, groups, videos, sounds]; pairs of clips that are not to be compared have no weight."""
    similarity = jnp.einsum("lgic,lgjc->lgij", video, audio, precision=jax.lax.Precision.HIGHEST)
    logits = similarity / measure.temperature
    if measure.kind == "siglip":
        logits = logits + measure.bias
    if own.within is not None and others.within is not None:
        logits = jnp.where(own.within[:, :, None] == others.within[:, None, :], logits, _NEVER)
    if own.place is not None and others.place is not None:
        compared = own.place[:, :, None] == others.place[:, None, :]
        mine, theirs = jnp.stack(own.same)[..., None], jnp.stack(others.same)[:, :, None]
        compared |= jnp.all((mine >= 0) & (theirs >= 0) & (mine != theirs), axis=0)
        logits = jnp.where(compared, logits, _NEVER)
    return logits
