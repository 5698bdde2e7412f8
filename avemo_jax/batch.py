"""The names, shapes, types and units of what passes between the parts. Everyone imports this.

B clips, T frames, H × W pixels, S samples; N tokens, C encoder width; L layers.

Host → device, a plain dict of arrays (`Batch`):
  video            uint8   [B, T, H, W, 3]  RGB, cropped and resized; whole frames where there is a box
  box              int32   [B, 4]           left, top, right, bottom of what the device cuts out of the frames, and
  flip             bool    [B]              whether it mirrors it; only with `data.device_crop`
  waveform         int16   [B, S]           mono, 16 kHz, zero after `waveform_length`
  waveform_length  int32   [B]              valid samples
  waveform_mean    float32 [B]              mean of the whole sampled window, before the cut to S, in [-1, 1)
  position         int32   [B]              the clip's place in the dataset
  label            int32   [B]              fine-tuning only: a class; or
                   float32 [B, K]           a distribution over classes, several classes, or values
  taught, share, pupil                      of several folders only: see `tasks.several`
  text             float32 [B, E]           alignment with texts only: the text tower's vector, zeros without a text
  text_number      int32   [B]              and which text it is, the same for equal ones; −1 without
  clip_weights     float32 [B, 3]           parts of a batch with clips that lack a stream only: see `Targets`
"""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

Batch = dict[str, Array]


class Clip(NamedTuple):
    """What an encoder sees."""

    video: Array  # float32 [B, T, H, W, 3], ImageNet-normalised RGB
    audio: Array  # float32 [B, frames, mels], normalised log-mel


class TokenMask(NamedTuple):
    """One modality's tokens, split; indices in raster order, the same counts in every clip.

    With dual masking (`mask.decoded`) there are hidden tokens that nobody predicts: they are in neither.
    """

    visible: Array  # int32 [B, N visible]
    masked: Array  # int32 [B, N masked], to be predicted


class Masks(NamedTuple):
    """Which tokens are hidden; None for a modality that the method does not look at."""

    video: TokenMask | None
    audio: TokenMask | None


class Targets(NamedTuple):
    """What was hidden: patches, or a teacher's tokens [B, N masked, C]; None for a modality without."""

    video: Array | None  # float32 [B, N masked, 2·16·16·3], ordered (frame, row, column, channel)
    audio: Array | None  # float32 [B, N masked, 16·16], ordered (time, mel)
    # bool [B], which clips have this stream at all; None: all of them (`data.allow_missing` is off)
    video_there: Array | None = None
    audio_there: Array | None = None
    # int32 [B], clips of the same number are contrasted (`contrast.within`); None: all of them
    group: Array | None = None
    # A teacher's tokens float32 [B, N masked, C] beside patches, where both are predicted
    video_latents: Array | None = None
    audio_latents: Array | None = None
    # float32 [B, 3], of the batch that these are a part of (`objectives.reconstruction`); None: they are all of it
    clip_weights: Array | None = None

    @property
    def complete(self) -> Array | None:
        """bool [B], which clips have both streams; None: all."""
        if self.video_there is None or self.audio_there is None:
            return None
        return self.video_there & self.audio_there


class Outputs(NamedTuple):
    """What a pretraining model returns and objectives read; None for what the method does not have."""

    video_prediction: Array | None  # [B, N masked, 2·16·16·3], or C where tokens are predicted
    audio_prediction: Array | None  # [B, N masked, 16·16], or C
    video_levels: Array | None  # float32 [levels, B, C], mean visible token of each contrast layer
    audio_levels: Array | None  # float32 [levels, B, C]
    video_from_audio: Array | None = None  # as video_prediction, by one who saw only the other modality
    audio_from_video: Array | None = None
    # float32 [B, 2]: learned 1/temperature and bias of the contrast, the same in each row
    scale: Array | None = None


class Features(NamedTuple):
    """What an encoder makes of unmasked clips, None for what it lacks; every token went through a final norm."""

    video_layers: Array | None  # [L, B, N video, C]
    audio_layers: Array | None  # [L, B, N audio, C]
    fused_video: Array | None  # [B, N video, C]
    fused_audio: Array | None  # [B, N audio, C]
