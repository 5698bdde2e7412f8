"""HiCMAE in plain PyTorch: encoder, pretraining model and classifier, for people who have no JAX.

This file stands alone (it needs `torch` only) and can be copied. Its modules are named so that `state_dict()`
has the keys, shapes and order of the reference's checkpoints, and `load_state_dict` takes them strictly.
There is no drop path and no initialisation of its own: load weights.

Sizes: B clips, T frames, H × W pixels, N tokens, C width, D decoder width, L layers, K classes. Video is
[B, 3, T, H, W], ImageNet-normalised RGB; audio is [B, 1, frames, mels], normalised log-mel.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH, TUBELET = 16, 2
VIDEO_PATCH = TUBELET * PATCH * PATCH * 3  # numbers in a video patch, ordered (frame, row, column, channel)
AUDIO_PATCH = PATCH * PATCH  # numbers in an audio patch, ordered (time, mel)
EPSILON = 1e-6  # of every layer norm

# modality → rule, grid and known grid, see `resized_table`; None where clips have the size that was trained on.
Resizing = dict[str, dict[str, Any]]
LayerNorm = functools.partial(nn.LayerNorm, eps=EPSILON)


class Predictions(NamedTuple):
    """What the pretraining model returns."""

    video_prediction: Tensor  # [B, N masked, 1536]
    audio_prediction: Tensor  # [B, N masked, 256]
    video_levels: Tensor  # [levels, B, C], mean visible token of each contrast layer
    audio_levels: Tensor  # [levels, B, C]

    def contrast_logits(self, temperature: float = 0.07) -> Tensor:
        """Similarity of every clip's video to every clip's audio, [levels, B, B]."""
        video, audio = (x / x.norm(dim=-1, keepdim=True) for x in (self.video_levels, self.audio_levels))
        return video @ audio.transpose(1, 2) / temperature


class Features(NamedTuple):
    """What the encoders make of whole clips; every token went through its stack's final norm."""

    video_layers: list[Tensor]  # L times [B, N video, C]
    audio_layers: list[Tensor]  # L times [B, N audio, C]
    fused_video: Tensor  # [B, N video, C]
    fused_audio: Tensor  # [B, N audio, C]


class AudioVisualEncoder(nn.Module):
    """The part that pretraining hands on: a video encoder, an audio encoder and their fusion."""

    def __init__(
        self,
        *,
        dim: int = 512,
        heads: int = 8,
        depth: int = 10,
        fusion_depth: int = 2,
        positions: Resizing | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(VideoPatches(dim), dim, heads, depth, positions, "video")
        self.encoder_audio = Encoder(AudioPatches(dim), dim, heads, depth, positions, "audio")
        self.encoder_fusion = Fusion(dim, heads, fusion_depth)

    def forward(self, video: Tensor, audio: Tensor) -> Features:
        """All tokens of whole clips; `pooled`, `audio_rows` and `video_cells` make vectors of them."""
        return encode(self, video, audio)


class PretrainingModel(nn.Module):
    """Encodes the visible tokens of both modalities, fuses them, predicts the masked patches."""

    def __init__(
        self,
        *,
        dim: int = 512,
        heads: int = 8,
        depth: int = 10,
        fusion_depth: int = 2,
        decoder_dim: int = 384,
        decoder_heads: int = 6,
        decoder_depth: int = 4,
        skip_layers: tuple[int, ...] = (3, 6, 9),
        positions: Resizing | None = None,
    ):
        super().__init__()
        if len(skip_layers) != decoder_depth - 1:
            raise ValueError(
                f"{decoder_depth} decoder blocks take {decoder_depth - 1} skips, not {skip_layers}"
            )
        self.skip_layers = skip_layers
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.mask_token_audio = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.encoder = Encoder(VideoPatches(dim), dim, heads, depth, positions, "video")
        self.decoder = Decoder(decoder_dim, decoder_heads, decoder_depth, VIDEO_PATCH)
        self.encoder_to_decoder = nn.Linear(dim, decoder_dim, bias=False)
        self.encoder_audio = Encoder(AudioPatches(dim), dim, heads, depth, positions, "audio")
        self.decoder_audio = Decoder(decoder_dim, decoder_heads, decoder_depth, AUDIO_PATCH)
        self.encoder_to_decoder_audio = nn.Linear(dim, decoder_dim, bias=False)
        self.encoder_fusion = Fusion(dim, heads, fusion_depth)

    def forward(self, video: Tensor, audio: Tensor, video_mask: Tensor, audio_mask: Tensor) -> Predictions:
        """Masks are boolean [B, N], True where a token is hidden, with one count for all clips."""
        video_layers = self.encoder(video, video_mask)
        audio_layers = self.encoder_audio(audio, audio_mask)
        fused_video, fused_audio = self.encoder_fusion(video_layers[-1], audio_layers[-1])
        video_skips = [video_layers[layer] for layer in self.skip_layers]
        audio_skips = [audio_layers[layer] for layer in self.skip_layers]
        return Predictions(
            self.decoder(fused_video, video_skips, video_mask, self.encoder_to_decoder, self.mask_token),
            self.decoder_audio(
                fused_audio, audio_skips, audio_mask, self.encoder_to_decoder_audio, self.mask_token_audio
            ),
            torch.stack([layer.mean(1) for layer in video_skips]),
            torch.stack([layer.mean(1) for layer in audio_skips]),
        )


class Classifier(AudioVisualEncoder):
    """The encoders and their fusion on whole clips, and a linear head on four pooled vectors."""

    def __init__(
        self,
        *,
        dim: int = 512,
        heads: int = 8,
        depth: int = 10,
        fusion_depth: int = 2,
        classes: int = 6,
        head_activation: str = "",
        positions: Resizing | None = None,
    ):
        super().__init__(dim=dim, heads=heads, depth=depth, fusion_depth=fusion_depth, positions=positions)
        self.video_layer_weights = nn.Parameter(torch.full((depth,), 1 / depth))
        self.audio_layer_weights = nn.Parameter(torch.full((depth,), 1 / depth))
        self.fc_norm = LayerNorm(4 * dim)
        self.head = nn.Linear(4 * dim, classes)
        activations = {"": nn.Identity, "sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh}
        self.activation = activations[head_activation]()

    def forward(  # type: ignore[override]  # it goes one step further
        self, video: Tensor, audio: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits [B, K] (after the head's activation, if it has one) and the normed feature [B, 4C]."""
        return classify(self, encode(self, video, audio))


def encode(parts: Any, video: Tensor, audio: Tensor) -> Features:
    """Whole clips through the encoders and the fusion of `parts`: a model of this file, or a wrapper of one."""
    video_layers, audio_layers = parts.encoder(video), parts.encoder_audio(audio)
    return Features(video_layers, audio_layers, *parts.encoder_fusion(video_layers[-1], audio_layers[-1]))


def classify(parts: Any, features: Features) -> tuple[Tensor, Tensor]:
    """Logits [B, K] and the normed feature [B, 4C] by the layer weights, norm and head of `parts`."""
    weights = parts.video_layer_weights, parts.audio_layer_weights
    feature = parts.fc_norm(pooled(features, weights))
    return parts.activation(parts.head(feature)), feature


def pooled(features: Features, layer_weights: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The clip vector [B, 4C]: video layers, audio layers, fused video, fused audio, each as its mean token.

    layer_weights: of the video's and the audio's layers, [L] before the softmax; None weighs all equally.
    """
    video_weights, audio_weights = layer_weights or (None, None)
    four = [
        _mixed(features.video_layers, video_weights),
        _mixed(features.audio_layers, audio_weights),
        features.fused_video.mean(1),
        features.fused_audio.mean(1),
    ]
    return torch.cat(four, dim=-1)


def audio_rows(features: Features, rows: int) -> Tensor:
    """The last audio layer averaged over time only: [B, rows · C], a vector for each frequency row.

    rows: mel bins / 16.
    """
    return features.audio_layers[-1].unflatten(1, (-1, rows)).mean(1).flatten(1)


def video_cells(features: Features, height: int, width: int) -> Tensor:
    """The last video layer averaged over time, and over the picture in at most 4 × 4 cells: [B, 16 · C].

    height, width: of a frame in pixels / 16. Where they are no multiples of 4, cells overlap.
    """
    tokens = features.video_layers[-1].unflatten(1, (-1, height, width)).mean(1).permute(0, 3, 1, 2)
    cells = F.adaptive_avg_pool2d(tokens, (min(4, height), min(4, width)))
    return cells.permute(0, 2, 3, 1).flatten(1)


def vectors(features: Features, bands: int, cells: int) -> dict[str, Tensor]:
    """Every vector of a clip by name: `cat4` [B, 4C], its four parts, `audio_rows` and `video_cells`.

    bands: mel bins / 16; cells: of a frame's side, pixels / 16.
    """
    vector = pooled(features)
    four = zip(("video", "audio", "fused_video", "fused_audio"), vector.chunk(4, dim=-1), strict=True)
    return {
        "cat4": vector,
        **dict(four),
        "audio_rows": audio_rows(features, bands),
        "video_cells": video_cells(features, cells, cells),
    }


def _mixed(layers: list[Tensor], weights: Tensor | None) -> Tensor:
    """Softmax-weighted mean of the layers' mean tokens: L times [B, N, C] → [B, C]."""
    means = torch.stack([layer.mean(1) for layer in layers])
    return means.mean(0) if weights is None else torch.einsum("l,lbc->bc", weights.softmax(0), means)


class VideoPatches(nn.Module):
    """[B, 3, T, H, W] → [B, N, C]; tokens in (time, row, column) order."""

    def __init__(self, dim: int):
        super().__init__()
        size = (TUBELET, PATCH, PATCH)
        self.proj = nn.Conv3d(3, dim, kernel_size=size, stride=size)

    def forward(self, video: Tensor) -> Tensor:
        return self.proj(video).flatten(2).transpose(1, 2)


class AudioPatches(nn.Module):
    """[B, 1, frames, mels] → [B, N, C]; tokens in (time, frequency) order."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel_size=PATCH, stride=PATCH)

    def forward(self, audio: Tensor) -> Tensor:
        return self.proj(audio).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """One modality: patches + fixed positions, transformer blocks, one norm that serves every layer."""

    def __init__(
        self,
        patch_embed: nn.Module,
        dim: int,
        heads: int,
        depth: int,
        positions: Resizing | None = None,
        modality: str = "",
    ):
        super().__init__()
        self.resizing = (positions or {}).get(modality)
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = LayerNorm(dim)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The normed output of every layer, each [B, N visible, C]."""
        x = self.patch_embed(signal)
        x = x + (resized_table(x, **self.resizing) if self.resizing else position_table(x))
        if mask is not None:
            x = _take(x, ~mask)
        layers = []
        for block in self.blocks:
            x = block(x)
            layers.append(self.norm(x))
        return layers


class Fusion(nn.Module):
    """Both streams attend to each other; in each layer they read the other's state from before it."""

    def __init__(self, dim: int, heads: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.norm = LayerNorm(dim)
        self.blocks_audio = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.norm_audio = LayerNorm(dim)

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        for video_block, audio_block in zip(self.blocks, self.blocks_audio, strict=True):
            video, audio = video_block(video, audio), audio_block(audio, video)
        return self.norm(video), self.norm_audio(audio)


class Decoder(nn.Module):
    """A plain block, then blocks that cross-attend to encoder layers, deepest first."""

    def __init__(self, dim: int, heads: int, depth: int, patch_dim: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, heads) if i == 0 else CrossBlock(dim, heads) for i in range(depth)
        )
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, patch_dim)

    def forward(
        self, tokens: Tensor, skips: list[Tensor], mask: Tensor, embed: nn.Linear, mask_token: Tensor
    ) -> Tensor:
        """The masked tokens' patches, [B, N masked, patch_dim].

        Args:
          tokens: fused visible tokens, [B, N visible, C].
          skips: encoder layers to look at, shallowest first, each [B, N visible, C].
          mask: [B, N].
          embed: the projection C → D of tokens and skips alike.
          mask_token: [1, 1, D], stands for every masked token.
        """
        table = position_table(mask_token.expand(*mask.shape, -1)).expand(len(mask), -1, -1)
        seen, hidden = _take(table, ~mask), mask_token + _take(table, mask)
        x = torch.cat([embed(tokens) + seen, hidden], dim=1)
        first, *rest = self.blocks
        x = first(x)
        for block, skip in zip(rest, reversed(skips), strict=True):
            x = block(x, embed(skip) + seen)
        return self.head(self.norm(x[:, seen.shape[1] :]))


class Block(nn.Module):
    """x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """As `Block`, after x + cross-attention(norm x, norm context)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.cross_attn = CrossAttention(dim, heads)
        self.cross_norm1 = LayerNorm(dim)
        self.cross_norm2 = LayerNorm(dim)
        self.norm1 = LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.cross_attn(self.cross_norm1(x), self.cross_norm2(context))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SelfAttention(nn.Module):
    """Multi-head self-attention with a bias on queries and values, none on keys."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return self.proj(_attend(query + self.q_bias, key, value + self.v_bias, self.heads))


class CrossAttention(nn.Module):
    """Queries from a stream, keys and values from a context."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        key, value = self.kv(context).chunk(2, dim=-1)
        return self.proj(_attend(self.q(x) + self.q_bias, key, value + self.v_bias, self.heads))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, hidden width 4C."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Softmax attention by head: [B, N, C], [B, M, C] twice → [B, N, C]."""
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def _take(x: Tensor, chosen: Tensor) -> Tensor:
    """The chosen tokens of each clip, in order: [B, N, C], boolean [B, N] → [B, K, C]."""
    return x[chosen].unflatten(0, (len(x), -1))


def resized_table(like: Tensor, rule: str, grid: list[int], known: list[int]) -> Tensor:
    """The table for tokens [B, N, C] of clips of another size than those that the weights were trained on: [1, N, C].

    Args:
      rule: regenerated, the formula; interpolated, the table of the known grid stretched linearly over the new one;
        extended, so within a frame, and gone on with in time.
      grid: N as tokens along time (and height) and width or frequency.
      known: likewise, of the clips that the weights were trained on.
    """
    if rule == "regenerated" or list(grid) == list(known):
        return position_table(like)
    if rule == "extended":
        known = [grid[0], *known[1:]]
    dim = like.shape[-1]
    table = position_table(torch.zeros(1, math.prod(known), dim, dtype=torch.float64))
    table = table.reshape(1, *known, dim).movedim(-1, 1)
    mode = "trilinear" if len(grid) == 3 else "bilinear"
    return F.interpolate(table, list(grid), mode=mode).movedim(1, -1).reshape(1, -1, dim).to(like)


def position_table(like: Tensor) -> Tensor:
    """The fixed sine-cosine table over the token index for tokens [B, N, C]: [1, N, C]; never stored."""
    _, tokens, dim = like.shape
    channel = torch.arange(dim)
    angle = torch.arange(tokens)[:, None] / 10000 ** (2 * (channel // 2).double() / dim)
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    return table[None].to(like)
