"""A fine-tuned folder as a transformers pipeline: a media file → {label: probability}, or {name: value}.

recognise = pipeline(model=FOLDER, trust_remote_code=True)
recognise("clip.mp4")
recognise("talk.mp4", window_s=3.0)  # a sequence, with its times
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import Pipeline

from avemo_jax.convert.huggingface.files.deciding import decided, merged
from avemo_jax.evaluation.windows import RULES, grid, spans, stitch

_Pipeline: Any = Pipeline  # whose methods everybody overrides with signatures of their own


class AvemoPipeline(_Pipeline):
    """Files, each with picture and sound, or dicts of what the feature extractor takes (`frames`, `fps`, `waveform`).

    Every clip is seen in the views that it was tested with, evenly spread over its time, which are merged as in the
    test. Keyword arguments of a call: `start_s`, `end_s` take a part of the file, where a dict has none of its own.

    With `window_s` a long file becomes a sequence: [{"time_s": seconds from the file's start, "told": as of a clip}],
    a time every `step_s` (0.5). Its windows, every `hop_s` (half a window), are each told as a clip, and joined by
    `rule` ("mean", "triangle" or "centre", see windows.py). A window that cannot be used, such as one without a face,
    is left out, and so are times that none covers.
    """

    _load_tokenizer = _load_image_processor = _load_video_processor = _load_processor = False
    _load_feature_extractor = True

    def __call__(
        self,
        inputs: Any,
        *args: Any,
        window_s: float | None = None,
        hop_s: float | None = None,
        step_s: float = 0.5,
        rule: str = "mean",
        **kwargs: Any,
    ) -> Any:
        """Raises a ValueError for a file that cannot be used, and for windows of what is no file."""
        if window_s is None:
            if hop_s is not None:
                raise ValueError("hop_s is between windows: give window_s too")
            inputs = list(inputs) if isinstance(inputs, tuple) else inputs
            return super().__call__(inputs, *args, **kwargs)
        hop_s = window_s / 2 if hop_s is None else hop_s
        if not min(window_s, hop_s, step_s) > 0:
            raise ValueError(f"window_s {window_s}, hop_s {hop_s} and step_s {step_s} must be above 0")
        if rule not in RULES:
            raise ValueError(f"rule '{rule}': there are {', '.join(RULES)}")
        if isinstance(inputs, list | tuple):
            return [self._sequence(one, window_s, hop_s, step_s, rule, **kwargs) for one in inputs]
        return self._sequence(inputs, window_s, hop_s, step_s, rule, **kwargs)

    def _sequence(
        self,
        file: Any,
        window_s: float,
        hop_s: float,
        step_s: float,
        rule: str,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> list[dict[str, Any]]:
        if isinstance(file, dict):
            raise ValueError("windows are cut from files, not from frames and sound")
        first_s = start_s or 0.0
        last_s = first_s + self.feature_extractor.length_s(file, start_s=start_s, end_s=end_s)
        found, told, refused = [], [], None
        for span in spans(first_s, last_s, window_s, hop_s):
            part = {"start_s": span[0], "end_s": span[1]}
            try:
                one = self.run_single(file, part, {}, {})
            except ValueError as error:
                refused = refused or error
                continue
            found.append(span)
            told.append([one[name] for name in self.names])
        if refused and not found:
            raise refused
        start, end = np.array(found).T
        times = grid(start, end, step_s)
        joined = stitch(start, end, np.array(told), times, rule)
        return [
            {"time_s": float(time), "told": self._sorted(dict(zip(self.names, row.tolist(), strict=True)))}
            for time, row in zip(times, joined, strict=True)
            if np.isfinite(row).all()
        ]

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
        given: dict[str, Any] = {"start_s": start_s, "end_s": end_s}
        given |= clip if isinstance(clip, dict) else {"files": [clip]}
        views = make(**given, segments=make.segments)
        if len(views["video"]) != make.segments:
            raise ValueError("a dict is of one clip: give a list of them")
        # A batch of one clip with its views: of what transformers collates it takes the first of each.
        return {name: tensor[None] for name, tensor in views.items()}

    def _forward(self, inputs: Any) -> Any:
        """{"logits": float32 [B, V, K]} of V views of B clips; the model computes in its own precision."""
        flat = {name: views.flatten(0, 1).to(self.model.dtype) for name, views in inputs.items()}
        return {"logits": self.model(**flat).logits.float().unflatten(0, inputs["video"].shape[:2])}

    def postprocess(self, outputs: Any) -> dict[str, float]:
        """Probabilities from the highest on; values in their order."""
        told = merged(outputs["logits"][0], self.model.config.head)
        return self._sorted(dict(zip(self.names, told.tolist(), strict=True)))

    def _sorted(self, told: dict[str, float]) -> dict[str, float]:
        if self.model.config.head["predicts"] == "values":
            return told
        return dict(sorted(told.items(), key=lambda item: -item[1]))
