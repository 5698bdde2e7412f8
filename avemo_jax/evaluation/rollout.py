"""Attention rollout (Abnar & Zuidema 2020): how much of each input token reaches the clip's vector by attention.

In each layer half of a token stays (the residual) and half comes from what it attends to, by the mean over heads; the
layers' matrices are multiplied. Through the fusion the two streams are one row of tokens, so that sound can reach the
picture's tokens and the other way round. A clip's vector is the mean over the tokens, so a token's relevance is the
mean of its column. What values and MLPs do to the tokens is not in it: it shows where a network looks, not why.

Sizes: B clips, N tokens, L layers.
"""

from __future__ import annotations

import re
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from ml_collections import ConfigDict, FrozenConfigDict

from avemo_jax import frontend, models
from avemo_jax.batch import Batch, Clip
from avemo_jax.errors import UserError
from avemo_jax.models.encoders import Encoder, Fusion
from avemo_jax.models.hicmae import AudioVisualEncoder
from avemo_jax.models.layers import Block, CrossBlock
from avemo_jax.models.params import Params, merge, split


class Relevance(NamedTuple):
    """Of each token to a mean over tokens; every row sums to 1. `video` and `audio` [B, N]: to the mean of their own
    encoder's last layer. `fused` [B, N video + N audio]: to the mean of both streams after the fusion."""

    video: Array
    audio: Array
    fused: Array


def check_model(config: ConfigDict) -> None:
    """Raises a UserError where the config's model has not HiCMAE's two encoders and their fusion, or its config lacks
    what a model needs."""
    try:
        model = jax.eval_shape(partial(models.build, config), jax.random.key(0))
    except (AttributeError, KeyError) as error:  # a ConfigDict's; it names the key
        lacking = next(iter(re.findall(r"\w+", str(error))), "a key")
        raise UserError(
            f"the run's config lacks '{lacking}' and may be of another version: a model cannot be built from it"
        ) from error
    if not isinstance(model, AudioVisualEncoder):
        raise UserError(
            f"attention rollout follows HiCMAE's two encoders and their fusion, and this is a run of {config.method}"
        )


def relevance(config: ConfigDict, params: Params, batch: Batch) -> Relevance:
    """Of the whole clips of a batch on the device, for a checkpoint of the config's model."""
    graphdef, _ = split(jax.eval_shape(partial(models.build, config), jax.random.key(0)))
    return _relevance(params, batch, graphdef=graphdef, model=FrozenConfigDict(config.model))


def rollout(attention: Array) -> Array:
    """[L, B, N, N], rows summing to 1 (query, key), the first layer first → [B, N, N], from inputs to outputs."""
    tokens = attention.shape[-1]

    def layer(flow, weights):
        return 0.5 * (flow + jnp.einsum("bij,bjk->bik", weights, flow)), None

    start = jnp.broadcast_to(jnp.eye(tokens), attention.shape[1:])
    with jax.default_matmul_precision("highest"):
        return jax.lax.scan(layer, start, attention)[0]


@partial(jax.jit, static_argnames=("graphdef", "model"))
def _relevance(params: Params, batch: Batch, *, graphdef: nnx.GraphDef, model: FrozenConfigDict) -> Relevance:
    encoder = cast(AudioVisualEncoder, merge(graphdef, params))
    return _of_clip(encoder, frontend.to_clip(batch, mels=model.mel_bins))


def _of_clip(encoder: AudioVisualEncoder, clip: Clip) -> Relevance:
    video, video_weights = encoder_attention(encoder.video, frontend.patchify_video(clip.video))
    audio, audio_weights = encoder_attention(encoder.audio, frontend.patchify_audio(clip.audio))
    flows = rollout(video_weights), rollout(audio_weights)
    fused = fusion_attention(encoder.fusion, video, audio)
    before = jax.vmap(jax.scipy.linalg.block_diag)(*flows)
    with jax.default_matmul_precision("highest"):
        after = jnp.einsum("bij,bjk->bik", rollout(fused), before)
    halves = jnp.repeat(
        jnp.array([0.5 / video.shape[1], 0.5 / audio.shape[1]]), jnp.array([video.shape[1], audio.shape[1]]),
        total_repeat_length=video.shape[1] + audio.shape[1],
    )  # fmt: skip
    return Relevance(flows[0].mean(1), flows[1].mean(1), jnp.einsum("i,bij->bj", halves, after))


def encoder_attention(encoder: Encoder, patches: Array) -> tuple[Array, Array]:
    """The normed last layer [B, N, C], and every layer's attention, mean over heads [L, B, N, N], of whole clips."""
    table = encoder.position_table(patches.shape[1], encoder.norm.scale.shape[-1])
    positions = jnp.asarray(table, patches.dtype)
    layers = encoder(patches)
    inputs = jnp.concatenate([(encoder.patch_embed(patches) + positions)[None], layers[:-1]])
    weights = jax.lax.map(lambda each: self_attention(*each), (encoder.blocks, inputs))
    return encoder.norm(layers[-1]), weights


def fusion_attention(fusion: Fusion, video: Array, audio: Array) -> Array:
    """Attention over the tokens of both streams, one behind the other: [2 F, B, N, N], in each layer first what a
    stream takes from the other, then from itself."""

    def layer(streams, blocks):
        video, audio = streams
        of_video, of_audio = blocks
        across = cross_attention(of_video, video, audio), cross_attention(of_audio, audio, video)
        within = (
            self_attention(of_video, _after_context(of_video, video, audio)),
            self_attention(of_audio, _after_context(of_audio, audio, video)),
        )
        zeros = [jnp.zeros((*stream.shape[:2], stream.shape[1])) for stream in streams]
        crossed = jnp.concatenate(
            [jnp.concatenate([zeros[0], across[0]], -1), jnp.concatenate([across[1], zeros[1]], -1)], 1
        )
        own = jax.vmap(jax.scipy.linalg.block_diag)(*within)
        return (of_video(video, audio), of_audio(audio, video)), jnp.stack([crossed, own])

    _, weights = jax.lax.scan(layer, (video, audio), (fusion.video_blocks, fusion.audio_blocks))
    return weights.reshape(-1, *weights.shape[2:])


def self_attention(block: Block, x: Array) -> Array:
    """What a block's tokens attend to, mean over heads: [B, N, C] → [B, N, N]."""
    query, key, _ = jnp.einsum("bnc,cshd->sbnhd", block.norm1(x), block.attn.qkv[...])
    return _weights(query, key, block.attn.q_bias)


def cross_attention(block: CrossBlock, x: Array, context: Array) -> Array:
    """What they attend to in the context: [B, N, C], [B, M, C] → [B, N, M]."""
    query = jnp.einsum("bnc,chd->bnhd", block.cross_norm(x), block.cross_attn.q[...])
    key = jnp.einsum("bmc,chd->bmhd", block.context_norm(context), block.cross_attn.kv[:, 0])
    return _weights(query, key, block.cross_attn.q_bias)


def _after_context(block: CrossBlock, x: Array, context: Array) -> Array:
    """A stream between the two attentions of a block."""
    attended = block.cross_attn(block.cross_norm(x), block.context_norm(context))
    return x + (attended if block.gamma_0 is None else attended * block.gamma_0[...])


def _weights(query: Array, key: Array, bias: nnx.Param | None) -> Array:
    query = (query if bias is None else query + bias[...]) * query.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", query, key), -1).mean(1)
