"""Visible tokens + mask tokens → what was masked: with skip connections from inside the encoder, or plain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn import initializers
from ml_collections import ConfigDict

from avemo_jax.batch import TokenMask
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.encoders import take_tokens
from avemo_jax.models.layers import (
    Block,
    CrossBlock,
    LayerNorm,
    Linear,
    glorot,
    position_table,
    positions_of,
    remat,
    stacked,
    torch_uniform,
    truncated_normal,
)
from avemo_jax.models.windows import WindowBlock, fitted, run_windows


def decoder_complaints(model: ConfigDict) -> list[str]:
    """What is wrong with the decoder's sizes in `config.model`."""
    dim, heads, found = model.decoder_dim, model.decoder_heads, []
    if heads < 1 or dim % heads:
        found.append(f"model.decoder_dim {dim} is not a multiple of model.decoder_heads {heads}")
    if model.get("positions") == "grid" and dim % 8:
        found.append(f"model.positions=grid needs a model.decoder_dim that is a multiple of 8, not {dim}")
    if model.decoder_depth < 1:
        found.append(f"model.decoder_depth {model.decoder_depth} must be at least 1")
    return found


class SkipDecoder(nnx.Module):
    """HiCMAE's decoder: a plain block, then blocks that cross-attend to encoder layers, deepest first.

    One bias-free projection C → D serves the fused tokens and every skip. Positions are of the decoder's own
    fixed table. Without `skips` all blocks are plain (the paper's ablation).
    """

    def __init__(
        self,
        *,
        encoder_dim: int,
        dim: int,
        heads: int,
        depth: int,
        patch_dim: int,
        tokens: int,
        skips: bool = True,
        remat_policy: str = "none",
        attention: Choice = PLAIN,
        rngs: nnx.Rngs,
    ):
        self.embed = Linear(encoder_dim, dim, init=torch_uniform(encoder_dim), bias_init=None, rngs=rngs)
        self.mask_token = nnx.Param(truncated_normal(0.02, 0.02)(rngs.params(), (dim,)))
        self.first_block = Block(dim, heads, attention=attention, rngs=rngs)
        kind: Callable[..., nnx.Module] = functools.partial(CrossBlock, context_dim=dim) if skips else Block
        make = functools.partial(kind, dim, heads, attention=attention)
        self.blocks = stacked(make, depth - 1, rngs) if depth > 1 else None
        self.norm = LayerNorm(dim)
        self.head = Linear(dim, patch_dim, init=glorot(1), rngs=rngs)
        self.tokens, self.skips, self.remat_policy = tokens, skips, remat_policy

    def __call__(self, tokens: Array, skips: Array, mask: TokenMask) -> Array:
        """The predicted patches of the masked tokens, in raster order.

        Args:
          tokens: fused visible tokens, [B, N visible, C].
          skips: encoder layers to look at, shallowest first, [depth − 1, B, N visible, C].
          mask: which tokens these are.

        Returns:
          [B, N masked, P]
        """
        masked_count = mask.masked.shape[1]
        dim = self.mask_token.shape[0]
        table = jnp.asarray(position_table(self.tokens, dim), tokens.dtype)
        seen = table[mask.visible]
        hidden = self.mask_token.astype(tokens.dtype) + table[mask.masked]
        x = jnp.concatenate([self.embed(tokens) + seen, hidden], axis=1)
        contexts = ((self.embed(skips) + seen)[::-1],) if self.skips else ()

        def layer(x, inputs):
            block, *context = inputs
            return block(x, *context), None

        x = remat(lambda x, block: (block(x), None), self.remat_policy)(x, self.first_block)[0]
        if self.blocks is not None:
            x, _ = jax.lax.scan(remat(layer, self.remat_policy), x, (self.blocks, *contexts))
        return self.head(self.norm(x[:, -masked_count:]))


class Stream(NamedTuple):
    """What a `TokenDecoder` is to know of a modality: its token grid, and the numbers to predict of a token."""

    grid: tuple[int, ...]
    size: int


class Part(NamedTuple):
    """A modality's part in a decoder's input."""

    tokens: Array | None  # encoded visible tokens [B, N visible, C]; None: only its mask tokens are there
    mask: TokenMask


class TokenDecoder(nnx.Module):
    """A plain decoder of one or more modalities in one sequence, with a head for each of them.

    Every modality has its fixed positions, and with `modality_tokens` a learned vector. The projection C → D and the
    mask token are the same for all modalities, or, with `own_entry`, each one's own.

    With a `window` (tokens along both axes of the one modality's grid) its blocks attend within windows, over the whole
    grid in raster order: every token must be visible or asked for, and registers, which have no place, are left out.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        *,
        encoder_dim: int,
        dim: int,
        heads: int,
        depth: int,
        positions: str = "flat",
        modality_tokens: bool = False,
        own_entry: bool = False,
        embed_bias: bool = True,
        window: tuple[int, ...] = (),
        gelu: str = "erf",
        remat_policy: str = "none",
        attention: Choice = PLAIN,
        rngs: nnx.Rngs,
    ):
        bias = initializers.zeros if embed_bias else None
        self.embed = nnx.Dict(
            {
                name: Linear(encoder_dim, dim, init=glorot(1), bias_init=bias, rngs=rngs)
                for name in (streams if own_entry else ["all"])
            }
        )
        token = truncated_normal(0.02, 0.04)
        self.mask_token = nnx.Dict({name: nnx.Param(token(rngs.params(), (dim,))) for name in self.embed})
        self.modality_token = nnx.Dict(
            {name: nnx.Param(token(rngs.params(), (dim,))) for name in (streams if modality_tokens else [])}
        )
        make: Callable[..., nnx.Module] = functools.partial(Block, dim, heads, gelu=gelu, attention=attention)
        if window:
            (only,) = streams.values()
            make = functools.partial(WindowBlock, dim, heads, fitted(window, only.grid), gelu=gelu)
        self.blocks = stacked(make, depth, rngs)
        self.norm = LayerNorm(dim)
        self.head = nnx.Dict(
            {name: Linear(dim, stream.size, init=glorot(1), rngs=rngs) for name, stream in streams.items()}
        )
        self.grids = tuple((name, stream.grid) for name, stream in streams.items())  # with a hash
        self.dim, self.depth, self.positions, self.remat_policy = dim, depth, positions, remat_policy
        self.windowed = bool(window)

    def __call__(self, parts: dict[str, Part], registers: Array | None = None) -> dict[str, Array]:
        """The predictions for the masked tokens of each part, in raster order: float [B, N masked, P].

        `registers` are further encoded tokens [B, R, C], which have no positions (projected as the first modality).
        """
        pieces, masked, grids = [], {}, dict(self.grids)
        for name, part in parts.items():
            entry = name if name in self.embed else "all"
            like = next(p.tokens for p in parts.values() if p.tokens is not None)
            offset = jnp.asarray(positions_of(self.positions, grids[name], self.dim))
            if name in self.modality_token:
                offset = offset + self.modality_token[name]
            offset = offset.astype(like.dtype)
            if part.tokens is not None:
                pieces.append(self.embed[entry](part.tokens) + offset[part.mask.visible])
            start = sum(piece.shape[1] for piece in pieces)
            pieces.append(self.mask_token[entry].astype(like.dtype) + offset[part.mask.masked])
            masked[name] = slice(start, start + part.mask.masked.shape[1])
        if self.windowed:
            return self._in_windows(jnp.concatenate(pieces, axis=1), parts)
        if registers is not None:
            first = next(iter(parts))
            pieces.append(self.embed[first if first in self.embed else "all"](registers))
        x = jnp.concatenate(pieces, axis=1)
        x = jax.lax.scan(remat(lambda x, block: (block(x), None), self.remat_policy), x, self.blocks)[0]
        return {name: self.head[name](self.norm(x[:, where])) for name, where in masked.items()}

    def _in_windows(self, x: Array, parts: dict[str, Part]) -> dict[str, Array]:
        """The same from the visible tokens of the one modality, and then its masked ones."""
        ((name, part),) = parts.items()
        (_, grid), masked = self.grids[0], part.mask.masked
        places = jnp.concatenate([part.mask.visible, masked], axis=1)
        x = take_tokens(x, jnp.argsort(places, axis=1))
        x = run_windows(self.blocks, x, grid, self.depth, self.remat_policy)
        return {name: self.head[name](self.norm(take_tokens(x, masked)))}
