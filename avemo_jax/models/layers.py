"""The blocks that every model here is made of, as small nnx modules that hold parameters only.

Sizes: B clips, N tokens, M context tokens, C width, H heads, D head dimension. Projections keep their head
axes apart ([C, 3, H, D] rather than [C, 3C]), so that splitting queries, keys and values never cuts across a
sharded axis. `dtype` is that of matrix products and activations; parameters, normalisation and softmax stay
in float32. Pre-norm transformer blocks as in ViT (Dosovitskiy et al. 2021), without a key bias as in BEiT
(Bao et al. 2022).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn import initializers

from avemo_jax.models.attention import PLAIN, Choice, attend
from avemo_jax.sharding import divided_by_clips

EPSILON = 1e-6  # of every layer norm


def torch_uniform(fan_in: int):
    """PyTorch's default for linear and convolution layers: uniform ± 1/√fan_in, weight and bias alike."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def glorot(in_axes: int):
    """Glorot-uniform for a kernel whose first `in_axes` axes are inputs and whose other axes are outputs."""

    def init(key, shape, dtype=jnp.float32):
        fan_in, fan_out = np.prod(shape[:in_axes]), np.prod(shape[in_axes:])
        bound = float(np.sqrt(6.0 / (fan_in + fan_out)))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def truncated_normal(std: float, limit: float):
    """Normal with standard deviation `std`, cut at ± `limit` (absolute), not rescaled."""
    return lambda key, shape, dtype=jnp.float32: (
        std * jax.random.truncated_normal(key, -limit / std, limit / std, shape, dtype)
    )


class LayerNorm(nnx.Module):
    """Layer norm over the last axis in float32, ε = 1e-6, biased variance.

    With `paths` it has a scale and a bias for each of so many ways through the same layer [paths, C], and is told
    which way this is.
    """

    def __init__(self, dim: int, paths: int = 0):
        self.scale = nnx.Param(jnp.ones((paths, dim) if paths else dim))
        self.bias = nnx.Param(jnp.zeros((paths, dim) if paths else dim))

    def __call__(self, x: Array, path: int | None = None) -> Array:
        scale, bias = self.scale[...], self.bias[...]
        if scale.ndim == 2:
            scale, bias = scale[path], bias[path]
        normal = standardised(x)
        return (normal * scale + bias).astype(x.dtype)


def standardised(x: Array) -> Array:
    """Mean 0 and variance 1 over the last axis (ε = 1e-6), float32: a layer norm without parameters."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + EPSILON)


class Linear(nnx.Module):
    """[…, in] → […, out]."""

    def __init__(self, in_dim: int, out_dim: int, *, init, bias_init=initializers.zeros, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (in_dim, out_dim)))
        self.bias = None if bias_init is None else nnx.Param(bias_init(rngs.params(), (out_dim,)))

    def __call__(self, x: Array) -> Array:
        y = x @ self.kernel.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


class HeadsOut(nnx.Module):
    """Heads back to the width: [B, N, H, D] → [B, N, C]."""

    def __init__(self, heads: int, head_dim: int, dim: int, *, init, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(2)(rngs.params(), (heads, head_dim, dim)))
        self.bias = nnx.Param(jnp.zeros(dim))

    def __call__(self, x: Array) -> Array:
        return jnp.einsum("bnhd,hdc->bnc", x, self.kernel.astype(x.dtype)) + self.bias.astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention; bias on queries and values only."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        bias: bool = True,
        attention: Choice = PLAIN,
        init=glorot,
        rngs: nnx.Rngs,
    ):
        head_dim = dim // heads
        self.qkv = nnx.Param(init(1)(rngs.params(), (dim, 3, heads, head_dim)))
        self.q_bias = nnx.Param(jnp.zeros((heads, head_dim))) if bias else None
        self.v_bias = nnx.Param(jnp.zeros((heads, head_dim))) if bias else None
        self.out = HeadsOut(heads, head_dim, dim, init=init, rngs=rngs)
        self.attention = attention

    def __call__(self, x: Array) -> Array:
        query, key, value = jnp.einsum("bnc,cshd->sbnhd", x, self.qkv.astype(x.dtype))
        query, value = _scaled(_biased(query, self.q_bias)), _biased(value, self.v_bias)
        return self.out(attend(query, key, value, self.attention))


class CrossAttention(nnx.Module):
    """Queries from a stream [B, N, C], keys and values from a context [B, M, context_dim]."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        context_dim: int,
        bias: bool = True,
        attention: Choice = PLAIN,
        init=glorot,
        rngs: nnx.Rngs,
    ):
        head_dim = dim // heads
        self.q = nnx.Param(init(1)(rngs.params(), (dim, heads, head_dim)))
        self.kv = nnx.Param(init(1)(rngs.params(), (context_dim, 2, heads, head_dim)))
        self.q_bias = nnx.Param(jnp.zeros((heads, head_dim))) if bias else None
        self.v_bias = nnx.Param(jnp.zeros((heads, head_dim))) if bias else None
        self.out = HeadsOut(heads, head_dim, dim, init=init, rngs=rngs)
        self.attention = attention

    def __call__(self, x: Array, context: Array) -> Array:
        query = jnp.einsum("bnc,chd->bnhd", x, self.q.astype(x.dtype))
        key, value = jnp.einsum("bmc,cshd->sbmhd", context, self.kv.astype(x.dtype))
        query, value = _scaled(_biased(query, self.q_bias)), _biased(value, self.v_bias)
        return self.out(attend(query, key, value, self.attention))


def _biased(x: Array, bias: nnx.Param | None) -> Array:
    return x if bias is None else x + bias.astype(x.dtype)


def _scaled(query: Array) -> Array:
    return query * query.shape[-1] ** -0.5


GELUS = ("erf", "tanh")  # the exact one, and the approximation that is Flax's default


class Mlp(nnx.Module):
    """Two linear layers with a GELU between them, hidden width 4C."""

    def __init__(self, dim: int, *, gelu: str = "erf", init=glorot, rngs: nnx.Rngs):
        self.fc1 = Linear(dim, 4 * dim, init=init(1), rngs=rngs)
        self.fc2 = Linear(4 * dim, dim, init=init(1), rngs=rngs)
        self.gelu = gelu

    def __call__(self, x: Array) -> Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=self.gelu == "tanh"))


class DropPath:
    """Stochastic depth (Huang et al. 2016): a residual branch is dropped for a whole clip, or scaled up.

    Every branch of every layer has its own draw per clip; `keys` are per clip, so that a draw does not depend
    on the row a clip has in its batch.
    """

    def __init__(self, rate: Array | float, keys: Array | None):
        self.rate, self.keys, self.branch = rate, keys, 0

    def __call__(self, residual: Array) -> Array:
        if self.keys is None:
            return residual
        keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, self.branch)
        self.branch += 1
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate))(keys)
        scale = jnp.where(keep, 1.0 / (1.0 - self.rate), 0.0).astype(residual.dtype)
        return residual * scale[:, None, None]


NO_DROP = DropPath(0.0, None)


class Block(nnx.Module):
    """x + attention(norm x), then x + MLP(norm x). `layer_scale` > 0 multiplies each branch by a learned γ; with
    `paths` the norms, and only they, have parameters of their own for each of so many ways through the block."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        bias: bool = True,
        layer_scale: float = 0.0,
        paths: int = 0,
        gelu: str = "erf",
        attention: Choice = PLAIN,
        init=glorot,
        rngs: nnx.Rngs,
    ):
        self.norm1 = LayerNorm(dim, paths)
        self.attn = SelfAttention(dim, heads, bias=bias, attention=attention, init=init, rngs=rngs)
        self.norm2 = LayerNorm(dim, paths)
        self.mlp = Mlp(dim, gelu=gelu, init=init, rngs=rngs)
        self.gamma_1 = nnx.Param(jnp.full(dim, layer_scale)) if layer_scale else None
        self.gamma_2 = nnx.Param(jnp.full(dim, layer_scale)) if layer_scale else None

    def __call__(self, x: Array, drop_path: DropPath = NO_DROP, path: int | None = None) -> Array:
        x = divided_by_clips(x)
        x = x + drop_path(_gated(self.attn(self.norm1(x, path)), self.gamma_1))
        return x + drop_path(_gated(self.mlp(self.norm2(x, path)), self.gamma_2))


class CrossBlock(Block):
    """A `Block` that looks at a context first: x + cross-attention(norm x, norm context), then as `Block`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        context_dim: int,
        bias: bool = True,
        layer_scale: float = 0.0,
        attention: Choice = PLAIN,
        init=glorot,
        rngs: nnx.Rngs,
    ):
        shared = {"bias": bias, "attention": attention, "init": init, "rngs": rngs}
        super().__init__(dim, heads, layer_scale=layer_scale, **shared)
        self.cross_norm = LayerNorm(dim)
        self.context_norm = LayerNorm(context_dim)
        self.cross_attn = CrossAttention(dim, heads, context_dim=context_dim, **shared)
        self.gamma_0 = nnx.Param(jnp.full(dim, layer_scale)) if layer_scale else None

    def __call__(  # type: ignore[override]  # it needs a context as well
        self, x: Array, context: Array, drop_path: DropPath = NO_DROP
    ) -> Array:
        x, context = divided_by_clips(x), divided_by_clips(context)
        attended = self.cross_attn(self.cross_norm(x), self.context_norm(context))
        x = x + drop_path(_gated(attended, self.gamma_0))
        return super().__call__(x, drop_path)


def _gated(branch: Array, gamma: nnx.Param | None) -> Array:
    return branch if gamma is None else branch * gamma.astype(branch.dtype)


def stacked(make, depth: int, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` modules `make(rngs=…)` as one whose parameters have a leading layer axis, for `lax.scan`."""
    keys = jax.random.split(rngs.params(), depth)
    return nnx.vmap(lambda key: make(rngs=nnx.Rngs(params=key)))(keys)


def remat(body, policy: str):
    """A scan body under a named rematerialisation policy.

    "none" keeps all activations; "dots" keeps the results of weight products and recomputes the rest;
    "full" keeps only each layer's input.
    """
    policies = {
        "none": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": jax.checkpoint_policies.nothing_saveable,
    }
    if policies[policy] is None:
        return body
    return jax.checkpoint(body, policy=policies[policy], prevent_cse=False)


def drop_path_rates(rate: float, depth: int) -> Array:
    """Linear from 0 to `rate` over a stack, both ends included, in float32: [depth]."""
    return jnp.linspace(0.0, rate, depth, dtype=jnp.float32)


@functools.cache
def position_table(tokens: int, dim: int) -> np.ndarray:
    """Fixed sine-cosine table over the flattened token index: float32 [tokens, dim] (Vaswani et al. 2017).

    Channel j has the angle p / 10000^(2⌊j/2⌋/dim): sine where j is even, cosine where it is odd. Made in
    float64; never stored in a checkpoint.
    """
    channel = np.arange(dim)
    angle = np.arange(tokens)[:, None] / np.power(10000.0, 2 * (channel // 2) / dim)
    return np.where(channel % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


@functools.cache
def grid_position_table(grid: tuple[int, ...], dim: int) -> np.ndarray:
    """Fixed sine-cosine table over the axes of a grid, in raster order: float32 [tokens, dim] (MAE, He et al. 2022).

    Two axes have half of the channels each. Of three axes time has half, height and width a quarter each (as in
    V-JEPA, Bardes et al. 2024). Of an axis' D channels the first half is sin(p · ω), the second cos(p · ω), with
    ω = 10000^(−2j/D).
    """
    shares = [dim // 2, dim // 2] if len(grid) == 2 else [dim // 2, dim // 4, dim // 4]
    parts = []
    for places, share in zip(np.indices(grid).reshape(len(grid), -1), shares, strict=True):
        angle = places[:, None] * 10000.0 ** (-np.arange(share // 2) / (share / 2))
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=1).astype(np.float32)


POSITIONS = ("flat", "grid")


def positions_of(kind: str, grid: tuple[int, ...], dim: int) -> np.ndarray:
    """The table of a kind in `POSITIONS`, [tokens, dim]: over the flattened token index, or over the grid's axes."""
    return position_table(int(np.prod(grid)), dim) if kind == "flat" else grid_position_table(grid, dim)
