"""A fine-tuned folder as a transformers pipeline: a media file → {label: probability}, or {name: value}.

recognise = pipeline(model=FOLDER, trust_remote_code=True)
recognise("clip.mp4")
"""

from __future__ import annotations

from typing import Any

from transformers import Pipeline

from avemo_jax.convert.huggingface.files.deciding import decided, merged

_Pipeline: Any = Pipeline  # whose methods everybody overrides with signatures of their own


class AvemoPipeline(_Pipeline):
    """Files, each with picture and sound, or dicts of what the feature extractor takes (`frames`, `fps`, `waveform`).

    Every clip is seen in the views that it was tested with, evenly spread over its time, which are merged as in the
    test. Keyword arguments of a call: `start_s`, `end_s` take a part of the file.
    """

    _load_tokenizer = _load_image_processor = _load_video_processor = _load_processor = False
    _load_feature_extractor = True

    def decide(self, told: dict[str, float]) -> Any:
        """What is decided by one clip's result: a label; the list of labels at or above their thresholds, for models of
        several classes a clip; the values themselves."""
        return decided(told, self.model.config.head, self.names)

    @property
    def names(self) -> list[str]:
        """Of what is told, in the order of the model's outputs."""
        config = self.model.config
        if config.head.get("labels"):
            return config.head["labels"]
        return [config.id2label[number] for number in range(len(config.id2label))]

    def _sanitize_parameters(self, start_s: float | None = None, end_s: float | None = None):
        return {"start_s": start_s, "end_s": end_s}, {}, {}

    def preprocess(self, clip: Any, start_s: float | None = None, end_s: float | None = None) -> Any:
        make = self.feature_extractor
        given = dict(clip) if isinstance(clip, dict) else {"files": [clip]}
        if not isinstance(clip, dict):
            given |= {"start_s": start_s, "end_s": end_s}
        return make(**given, segments=make.segments)

    def _forward(self, inputs: Any) -> Any:
        return self.model(**inputs)

    def postprocess(self, outputs: Any) -> dict[str, float]:
        """Probabilities from the highest on; values in their order."""
        head = self.model.config.head
        told = dict(zip(self.names, merged(outputs["logits"].float(), head).tolist(), strict=True))
        if head["predicts"] == "values":
            return told
        return dict(sorted(told.items(), key=lambda item: -item[1]))
