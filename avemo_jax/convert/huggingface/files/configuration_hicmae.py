"""The sizes of a HiCMAE encoder or classifier, as a transformers config."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class HiCMAEConfig(PretrainedConfig):
    """Sizes; what was trained and how is in the model card.

    Args:
      dim, heads, depth, fusion_depth: width, attention heads, layers of each encoder, layers of the fusion.
      frames, image_size: of a clip's video, pixels.
      audio_frames, mel_bins: of a clip's log-mel, 10 ms a frame.
      positions: of a model whose clips have another size than those that its weights were trained on: for `video` and
        `audio` the rule, the grid of tokens and the known one (see `resized_table` in torch_model.py).
      head: of a classifier, whose outputs are named in `id2label`; None for an encoder.
        activation: after the linear layer: "", "sigmoid", "relu" or "tanh".
        predicts: class (one a clip), distribution (shares of classes), multi_label (several classes a clip) or values.
        raters, labels: of a model with outputs for each rater, whose mean is told: whose, and of which classes.
        temperature: that probabilities are corrected by, fitted on development clips; None where none were held out.
        thresholds: of multi_label, label → the probability from which it is said, likewise; None: one half.
        fitted_on: how many clips and speakers those were.
    """

    model_type = "avemo_hicmae"
    attribute_map = {"hidden_size": "dim", "num_attention_heads": "heads", "num_hidden_layers": "depth"}  # noqa: RUF012

    def __init__(
        self,
        dim: int = 512,
        heads: int = 8,
        depth: int = 10,
        fusion_depth: int = 2,
        frames: int = 16,
        image_size: int = 160,
        audio_frames: int = 256,
        mel_bins: int = 128,
        positions: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        self.dim, self.heads, self.depth, self.fusion_depth = dim, heads, depth, fusion_depth
        self.frames, self.image_size = frames, image_size
        self.audio_frames, self.mel_bins = audio_frames, mel_bins
        self.positions, self.head = positions, head
        super().__init__(**kwargs)
