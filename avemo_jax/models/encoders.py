"""Patches → tokens: one modality's encoder, and the fusion of two streams.

Sizes: B clips, N tokens, P numbers in a patch, C width, L layers, F fusion layers.
"""

from __future__ import annotations

from typing import Protocol, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from avemo_jax.batch import Clip, Features
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.layers import (
    Block,
    CrossBlock,
    DropPath,
    LayerNorm,
    Linear,
    drop_path_rates,
    glorot,
    position_table,
    remat,
    stacked,
    torch_uniform,
)
from avemo_jax.models.positions import Positions


class Encodes(Protocol):
    """What every model can do, whatever it was trained for."""

    def encode(self, clip: Clip, keys: Array | None = None) -> Features:
        """Features of whole, unmasked clips; `keys`, one a clip, turn drop path on."""


def take_tokens(tokens: Array, index: Array) -> Array:
    """Each clip's own selection of tokens: [B, N, C], [B, K] → [B, K, C]."""
    return jnp.take_along_axis(tokens, index[:, :, None], axis=1)


class Encoder(nnx.Module):
    """Linear patch embedding + fixed positions + transformer blocks + one norm that serves every layer."""

    def __init__(
        self,
        *,
        patch_dim: int,
        dim: int,
        heads: int,
        depth: int,
        drop_path: float = 0.0,
        remat_policy: str = "none",
        attention: Choice = PLAIN,
        init=glorot,
        positions: Positions | None = None,
        rngs: nnx.Rngs,
    ):
        uniform = torch_uniform(patch_dim)
        self.patch_embed = Linear(patch_dim, dim, init=uniform, bias_init=uniform, rngs=rngs)
        self.blocks = stacked(
            lambda rngs: Block(dim, heads, attention=attention, init=init, rngs=rngs), depth, rngs
        )
        self.norm = LayerNorm(dim)
        self.depth, self.drop_path, self.remat_policy = depth, drop_path, remat_policy
        self.position_table = positions or position_table

    def __call__(self, patches: Array, visible: Array | None = None, keys: Array | None = None) -> Array:
        """The raw output of every layer: [B, N, P] → [L, B, N visible, C].

        Args:
          patches: [B, N, P]; their dtype is that of the computation.
          visible: int32 [B, N visible], the tokens to keep; None keeps all.
          keys: one key a clip for drop path; None turns it off.
        """
        positions = jnp.asarray(
            self.position_table(patches.shape[1], self.norm.scale.shape[-1]), patches.dtype
        )
        if visible is None:
            tokens = self.patch_embed(patches) + positions
        else:
            tokens = self.patch_embed(take_tokens(patches, visible)) + positions[visible]

        return run_layers(
            self.blocks, tokens, drop_path_rates(self.drop_path, self.depth), keys, self.remat_policy
        )


def run_layers(
    blocks: nnx.Module,
    tokens: Array,
    rates: Array,
    keys: Array | None,
    remat_policy: str,
    path: int | None = None,
    first: int = 0,
) -> Array:
    """The output of each of a stack of blocks: [B, N, C] → [L, B, N, C].

    Args:
      blocks: `stacked` ones.
      rates: of drop path, [L].
      keys: one key a clip for drop path; None turns it off.
      path: which of the blocks' norms are used, where they have several.
      first: the number of the stack's first layer; layers of different numbers draw differently.
    """

    def layer(x, inputs):
        block, rate, index = inputs
        x = block(x, DropPath(rate, fold_keys(keys, index)), path)
        return x, x

    inputs = (blocks, rates, first + jnp.arange(len(rates)))
    return jax.lax.scan(remat(layer, remat_policy), tokens, inputs)[1]


class Fusion(nnx.Module):
    """Cross-modal blocks with separate weights for the two streams.

    In each layer both streams read the other's state from before that layer (a parallel update).
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        depth: int,
        drop_path: float = 0.0,
        remat_policy: str = "none",
        attention: Choice = PLAIN,
        rngs: nnx.Rngs,
    ):
        def make(rngs):
            return CrossBlock(dim, heads, context_dim=dim, attention=attention, rngs=rngs)

        self.video_blocks = stacked(make, depth, rngs)
        self.audio_blocks = stacked(make, depth, rngs)
        self.video_norm = LayerNorm(dim)
        self.audio_norm = LayerNorm(dim)
        self.depth, self.drop_path, self.remat_policy = depth, drop_path, remat_policy

    def __call__(self, video: Array, audio: Array, keys: Array | None = None) -> tuple[Array, Array]:
        """[B, N video, C], [B, N audio, C] → the same shapes, fused and normed."""

        def layer(streams, inputs):
            video, audio = streams
            (video_block, audio_block), rate, index = inputs
            return (
                video_block(video, audio, DropPath(rate, fold_keys(keys, 2 * index))),
                audio_block(audio, video, DropPath(rate, fold_keys(keys, 2 * index + 1))),
            ), None

        blocks = (self.video_blocks, self.audio_blocks)
        inputs = (blocks, drop_path_rates(self.drop_path, self.depth), jnp.arange(self.depth))
        (video, audio), _ = jax.lax.scan(remat(layer, self.remat_policy), (video, audio), inputs)
        return self.video_norm(video), self.audio_norm(audio)


@overload
def fold_keys(keys: Array, data: Array | int) -> Array: ...
@overload
def fold_keys(keys: None, data: Array | int) -> None: ...
def fold_keys(keys: Array | None, data: Array | int) -> Array | None:
    """Each clip's key folded with `data`; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, data)
