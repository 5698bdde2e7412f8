"""HiCMAE's matrix products counted by hand, to hold other counts against.

A product of [n, a] and [a, b] is 2nab FLOPs. Per clip, forward, with n tokens of width C and m tokens of context:
  block       queries, keys, values 2n·C·3C, their products with each other and with the values 2 · 2n²C, the way out
              2n·C·C, the MLP 2 · 2n·C·4C:                                                        24nC² + 4n²C
  cross       queries 2nC², keys and values 2m·C·2C, attention 4nmC, the way out 2nC²:             4nC² + 4mC² + 4nmC
  encoder     patches of P numbers 2nPC, then its blocks, on visible tokens only
  fusion      in every layer and stream: cross with the other stream, then a block
  decoder     width D: four projections (fused tokens and three skips) 2vCD each on v visible tokens; a block and
              three cross blocks on all N tokens with v of context; the head 2hDP on h hidden tokens
  log-mel     for each of F frames: two Fourier sums 2 · 2·400·257 and the mel bank 2·257·M; no gradient
The contrast compares B clips with B clips on each of its levels: 2B²C. The backward pass is two products of the same
size for each one of the forward pass.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from avemo_jax.frontend import AUDIO_PATCH, VIDEO_PATCH, audio_grid, video_grid


def block(n: int, width: int) -> int:
    return 24 * n * width**2 + 4 * n**2 * width


def cross(n: int, m: int, width: int) -> int:
    return 4 * n * width**2 + 4 * m * width**2 + 4 * n * m * width


def encoder(n: int, patch: int, model: ConfigDict) -> int:
    return 2 * n * patch * model.dim + model.depth * block(n, model.dim)


def decoder(visible: int, hidden: int, patch: int, model: ConfigDict) -> int:
    tokens, width, depth = visible + hidden, model.decoder_dim, model.decoder_depth
    embed = depth * 2 * visible * model.dim * width
    blocks = depth * block(tokens, width) + (depth - 1) * cross(tokens, visible, width)
    return embed + blocks + 2 * hidden * width * patch


def training_step(config: ConfigDict) -> int:
    """FLOPs of one step of pretraining, without rematerialisation."""
    model, batch = config.model, config.batch_size
    times, height, width = video_grid(model.frames, model.image_size)
    bands = audio_grid(model.audio_frames, model.mel_bins)
    hidden_video = times * int(config.mask.video_ratio * height * width)
    hidden_audio = int(config.mask.audio_ratio * bands[0] * bands[1])
    video, audio = times * height * width - hidden_video, bands[0] * bands[1] - hidden_audio
    fusion = (
        block(video, model.dim)
        + cross(video, audio, model.dim)
        + block(audio, model.dim)
        + cross(audio, video, model.dim)
    )
    forward = (
        encoder(video, VIDEO_PATCH, model)
        + encoder(audio, AUDIO_PATCH, model)
        + model.fusion_depth * fusion
        + decoder(video, hidden_video, VIDEO_PATCH, model)
        + decoder(audio, hidden_audio, AUDIO_PATCH, model)
    )
    log_mel = model.audio_frames * (2 * 2 * 400 * 257 + 2 * 257 * model.mel_bins)
    contrast = 2 * len(model.skip_layers) * batch**2 * model.dim
    return batch * (3 * forward + log_mel) + 3 * contrast
