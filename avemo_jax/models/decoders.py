"""Visible tokens + mask tokens → masked patches, with skip connections from inside the encoder."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from avemo_jax.batch import TokenMask
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.layers import (
    Block,
    CrossBlock,
    LayerNorm,
    Linear,
    glorot,
    position_table,
    remat,
    stacked,
    torch_uniform,
    truncated_normal,
)


class SkipDecoder(nnx.Module):
    """HiCMAE's decoder: a plain block, then blocks that cross-attend to encoder layers, deepest first.

    One bias-free projection C → D serves the fused tokens and every skip. Positions are of the decoder's own
    fixed table.
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        dim: int,
        heads: int,
        depth: int,
        patch_dim: int,
        remat_policy: str = "none",
        attention: Choice = PLAIN,
        rngs: nnx.Rngs,
    ):
        self.embed = Linear(encoder_dim, dim, init=torch_uniform(encoder_dim), bias_init=None, rngs=rngs)
        self.mask_token = nnx.Param(truncated_normal(0.02, 0.02)(rngs.params(), (dim,)))
        self.first_block = Block(dim, heads, attention=attention, rngs=rngs)
        make = functools.partial(CrossBlock, dim, heads, context_dim=dim, attention=attention)
        self.blocks = stacked(make, depth - 1, rngs) if depth > 1 else None
        self.norm = LayerNorm(dim)
        self.head = Linear(dim, patch_dim, init=glorot(1), rngs=rngs)
        self.remat_policy = remat_policy

    def __call__(self, tokens: Array, skips: Array, mask: TokenMask) -> Array:
        """The predicted patches of the masked tokens, in raster order.

        Args:
          tokens: fused visible tokens, [B, N visible, C].
          skips: encoder layers to look at, shallowest first, [depth − 1, B, N visible, C].
          mask: which tokens these are; together they make N.

        Returns:
          [B, N masked, P]
        """
        masked_count = mask.masked.shape[1]
        dim = self.mask_token.shape[0]
        table = jnp.asarray(position_table(mask.visible.shape[1] + masked_count, dim), tokens.dtype)
        seen = table[mask.visible]
        hidden = self.mask_token.astype(tokens.dtype) + table[mask.masked]
        x = jnp.concatenate([self.embed(tokens) + seen, hidden], axis=1)
        contexts = (self.embed(skips) + seen)[::-1]

        def layer(x, inputs):
            block, context = inputs
            return block(x, context), None

        x = remat(lambda x, block: (block(x), None), self.remat_policy)(x, self.first_block)[0]
        if self.blocks is not None:
            x, _ = jax.lax.scan(remat(layer, self.remat_policy), x, (self.blocks, contexts))
        return self.head(self.norm(x[:, -masked_count:]))
