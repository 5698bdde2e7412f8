"""HiCMAE for transformers: a thin wrapper around the plain PyTorch model in `torch_model.py`.

`AutoModel.from_pretrained(folder, trust_remote_code=True)` gives one of the two classes here, whichever was
exported. Parameters have the names of HiCMAE's own checkpoints. There is no drop path, also in training mode.

Sizes: B clips, T frames, H × W pixels, C width, L layers, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from avemo_jax.convert.huggingface.files.configuration_hicmae import HiCMAEConfig
from avemo_jax.convert.torch_model import (
    PATCH,
    AudioVisualEncoder,
    Classifier,
    classify,
    encode,
    vectors,
)


@dataclass
class HiCMAEOutput(ModelOutput):
    """What the encoder makes of B clips.

    Vectors of a clip:
      cat4 [B, 4C]: the next four, one behind the other.
      video, audio [B, C]: mean token of each encoder, averaged over its layers.
      fused_video, fused_audio [B, C]: mean token after the fusion.
      audio_rows [B, mel_bins / 16 · C]: last audio layer averaged over time only, a vector a frequency row.
      video_cells [B, 16 · C]: last video layer averaged over time only, on at most 4 × 4 cells of the picture.
    A mean over all tokens hides much of what a masked autoencoder learns: try the last two also.

    Tokens, after the final norm of their stack; tokens of video are numbered in (time, row, column) order,
    those of audio in (time, frequency) order:
      fused_video_tokens, fused_audio_tokens [B, N, C].
      video_hidden_states, audio_hidden_states: L times [B, N, C]; with `output_hidden_states=True`, else None.
    """

    cat4: Tensor | None = None
    video: Tensor | None = None
    audio: Tensor | None = None
    fused_video: Tensor | None = None
    fused_audio: Tensor | None = None
    audio_rows: Tensor | None = None
    video_cells: Tensor | None = None
    fused_video_tokens: Tensor | None = None
    fused_audio_tokens: Tensor | None = None
    video_hidden_states: tuple[Tensor, ...] | None = None
    audio_hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class HiCMAEClassifierOutput(ModelOutput):
    """What the classifier makes of B clips.

    logits [B, K]: in the order of `config.id2label`, after the head's activation where it has one.
    feature [B, 4C]: the normed vector that the head reads, ordered video, audio, fused video, fused audio.
    """

    logits: Tensor | None = None
    feature: Tensor | None = None


class _HiCMAEPreTrainedModel(PreTrainedModel):
    """What both classes share: the plain model's parts under their own names, and the check of inputs."""

    config_class = HiCMAEConfig
    base_model_prefix = ""
    main_input_name = "video"
    _supports_sdpa = True  # it is the only attention there is

    def _take_parts(self, plain: nn.Module) -> None:
        for name, parameter in plain.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.post_init()

    def _check(self, video: Tensor, audio: Tensor) -> None:
        c = self.config
        for name, tensor, shape in (
            ("video", video, (3, c.frames, c.image_size, c.image_size)),
            ("audio", audio, (1, c.audio_frames, c.mel_bins)),
        ):
            if tuple(tensor.shape[1:]) != shape:
                raise ValueError(f"{name} is {list(tensor.shape)}, this model takes [B, {str(shape)[1:-1]}]")
        if len(video) != len(audio):
            raise ValueError(f"video of {len(video)} clips and audio of {len(audio)}")


class HiCMAEModel(_HiCMAEPreTrainedModel):
    """The pretrained encoders and their fusion. The decoders of pretraining are not part of it."""

    def __init__(self, config: HiCMAEConfig):
        super().__init__(config)
        self._take_parts(AudioVisualEncoder(**_sizes(config)))

    def forward(self, video: Tensor, audio: Tensor, output_hidden_states: bool | None = None) -> HiCMAEOutput:
        """Whole clips → `HiCMAEOutput`.

        Args:
          video: [B, 3, T, H, W], ImageNet-normalised RGB.
          audio: [B, 1, frames, mels], normalised log-mel. The feature extractor makes both.
          output_hidden_states: also return the tokens of every layer; None does what the config says.
        """
        self._check(video, audio)
        config = self.config
        features = encode(self, video, audio)
        wanted = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return HiCMAEOutput(
            **vectors(features, config.mel_bins // PATCH, config.image_size // PATCH),
            fused_video_tokens=features.fused_video,
            fused_audio_tokens=features.fused_audio,
            video_hidden_states=tuple(features.video_layers) if wanted else None,
            audio_hidden_states=tuple(features.audio_layers) if wanted else None,
        )


class HiCMAEForVideoClassification(_HiCMAEPreTrainedModel):
    """The fine-tuned classifier: encoders, fusion, and a linear head on four pooled vectors."""

    def __init__(self, config: HiCMAEConfig):
        super().__init__(config)
        activation = (config.head or {}).get("activation", "")
        plain = Classifier(**_sizes(config), classes=len(config.id2label or ()), head_activation=activation)
        self._take_parts(plain)

    def forward(self, video: Tensor, audio: Tensor) -> HiCMAEClassifierOutput:
        """Whole clips → `HiCMAEClassifierOutput`; inputs as in `HiCMAEModel`."""
        self._check(video, audio)
        logits, feature = classify(self, encode(self, video, audio))
        return HiCMAEClassifierOutput(logits=logits, feature=feature)


def _sizes(config: HiCMAEConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("dim", "heads", "depth", "fusion_depth", "positions")}
