"""Transformer blocks whose tokens attend within small windows of their grid: AudioMAE's local decoder.

After Swin Transformer V2 (Liu et al. 2022) in the variant that timm calls CR: cosines of queries and keys over a
learned temperature τ of each head, a bias that a small network computes from log-spaced distances, and norms at the
end of each branch. Every second block shifts the windows by half of one along time, where a clip goes on, and not along
frequency, as the public code does (Huang et al. 2022). XLA computes all of it: a window is far below what the other
kernels are for.

Sizes: B clips, T × F token grid, N = T · F tokens, W windows, A tokens in a window, C width, H heads, D head dimension.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from avemo_jax.frontend import AnyArray
from avemo_jax.models.layers import HeadsOut, LayerNorm, Linear, Mlp, glorot, remat
from avemo_jax.sharding import divided_by_clips

_HIDDEN = 384  # units of the network that computes the bias
_APART = -100.0  # added to the logits of tokens that are not to see each other; theirs, and not −∞
_LEAST_TAU = 0.01


def fitted(window: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """The window that is used on a grid: along an axis that is shorter than it, all of the axis."""
    return tuple(min(size, tokens) for size, tokens in zip(window, grid, strict=True))


def dividing(window: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """The largest window, up to this one, that covers the grid without a rest."""
    return tuple(
        max(size for size in range(1, most + 1) if tokens % size == 0)
        for most, tokens in zip(window, grid, strict=True)
    )


class WindowAttention(nnx.Module):
    """Attention among the tokens of each window by itself: [B, W, A, C] → [B, W, A, C].

    Keys have a bias too: among cosines it is not without effect. The bias's network has none at its end, where it would
    be.
    """

    def __init__(self, dim: int, heads: int, window: tuple[int, ...], *, rngs: nnx.Rngs):
        head_dim = dim // heads
        self.qkv = nnx.Param(glorot(1)(rngs.params(), (dim, 3, heads, head_dim)))
        self.qkv_bias = nnx.Param(jnp.zeros((3, heads, head_dim)))
        self.tau = nnx.Param(jnp.ones(heads))
        self.meta = nnx.Dict(
            fc1=Linear(2, _HIDDEN, init=glorot(1), rngs=rngs),
            fc2=Linear(_HIDDEN, heads, init=glorot(1), bias_init=None, rngs=rngs),
        )
        self.out = HeadsOut(heads, head_dim, dim, init=glorot, rngs=rngs)
        self.window = window

    def __call__(self, x: Array, apart: Array) -> Array:
        """`apart` float32 [W, A, A] is added to the logits."""
        windows = x.shape[:2]
        qkv = jnp.einsum("bwnc,cshd->sbwnhd", x, self.qkv.astype(x.dtype))
        query, key, value = qkv + self.qkv_bias.astype(x.dtype)[:, None, None, None]
        cosines = jnp.einsum(
            "bwnhd,bwmhd->bwhnm", _unit(query), _unit(key), preferred_element_type=jnp.float32
        )
        logits = cosines / jnp.maximum(self.tau[...], _LEAST_TAU)[:, None, None]
        logits = logits + self.bias() + apart[:, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        seen = jnp.einsum("bwhnm,bwmhd->bwnhd", weights, value)
        return self.out(seen.reshape(-1, *seen.shape[2:])).reshape(*windows, *x.shape[2:])

    def bias(self) -> Array:
        """What a query's and a key's places in a window add to their logit, float32 [H, A, A]."""
        hidden = jax.nn.relu(self.meta["fc1"](jnp.asarray(_distances(self.window))))
        return jnp.moveaxis(self.meta["fc2"](hidden), -1, 0)


class WindowBlock(nnx.Module):
    """x + norm(attention x), then x + norm(MLP x)."""

    def __init__(self, dim: int, heads: int, window: tuple[int, ...], *, gelu: str = "erf", rngs: nnx.Rngs):
        self.attn = WindowAttention(dim, heads, window, rngs=rngs)
        self.norm1 = LayerNorm(dim)
        self.mlp = Mlp(dim, gelu=gelu, rngs=rngs)
        self.norm2 = LayerNorm(dim)

    def __call__(self, x: Array, grid: tuple[int, ...], shifted: Array | bool) -> Array:
        """[B, N, C] in raster order of `grid` → the same; `shifted` is a boolean, which may be traced."""
        x = divided_by_clips(x)
        x = x + self.norm1(self._attended(x, grid, shifted))
        return x + self.norm2(self.mlp(x))

    def _attended(self, x: Array, grid: tuple[int, ...], shifted: Array | bool) -> Array:
        window = self.attn.window
        shift = _shift(window, grid)
        # A select between two static layouts: with a shift that is traced, rolling would be a gather.
        x = x.reshape(len(x), *grid, -1)
        x = jnp.where(shifted, jnp.roll(x, -shift, axis=1), x)
        apart = jnp.where(shifted, jnp.asarray(_apart(window, grid)), 0.0)
        x = _joined(self.attn(_cut(x, window), apart), window, grid)
        return jnp.where(shifted, jnp.roll(x, shift, axis=1), x).reshape(len(x), -1, x.shape[-1])


def run_windows(blocks: nnx.Module, x: Array, grid: tuple[int, ...], depth: int, remat_policy: str) -> Array:
    """[B, N, C] through a stack of `depth` blocks, of which the second, fourth, … are shifted."""

    def layer(x, inputs):
        block, shifted = inputs
        return block(x, grid, shifted), None

    return jax.lax.scan(remat(layer, remat_policy), x, (blocks, jnp.arange(depth) % 2 == 1))[0]


def _unit(x: Array) -> Array:
    """Length 1 over the last axis; what is shorter than 1e-6 stays so, and has a gradient."""
    wide = x.astype(jnp.float32)
    squares = jnp.sum(wide * wide, -1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))).astype(x.dtype)


def _shift(window: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """Tokens along time; none where one window is all of it."""
    return window[0] // 2 if grid[0] > window[0] else 0


def _cut(x: AnyArray, window: tuple[int, ...]) -> AnyArray:
    """[B, T, F, …] → [B, W, A, …]; windows, and the tokens of each, in raster order."""
    batch, times, bands, *rest = x.shape
    x = x.reshape(batch, times // window[0], window[0], bands // window[1], window[1], *rest)
    return x.swapaxes(2, 3).reshape(batch, -1, window[0] * window[1], *rest)


def _joined(x: Array, window: tuple[int, ...], grid: tuple[int, ...]) -> Array:
    """Inverse of `_cut`: [B, W, A, C] → [B, T, F, C]."""
    x = x.reshape(len(x), grid[0] // window[0], grid[1] // window[1], *window, -1)
    return x.swapaxes(2, 3).reshape(len(x), *grid, -1)


@functools.cache
def _distances(window: tuple[int, ...]) -> np.ndarray:
    """From each token of a window to each other, per axis: sign(d) · log(1 + |d|), float32 [A, A, 2]."""
    places = np.indices(window).reshape(2, -1)
    apart = np.moveaxis(places[:, :, None] - places[:, None, :], 0, -1)
    return (np.sign(apart) * np.log1p(np.abs(apart))).astype(np.float32)


@functools.cache
def _apart(window: tuple[int, ...], grid: tuple[int, ...]) -> np.ndarray:
    """float32 [W, A, A] of shifted windows, which wrap around: the clip's last moments do not see its first ones."""
    times = np.arange(grid[0])
    wrapped = np.broadcast_to((times >= grid[0] - _shift(window, grid))[:, None], grid)
    by_window = _cut(wrapped[None], window)[0]
    return np.where(by_window[:, :, None] != by_window[:, None, :], np.float32(_APART), np.float32(0))
