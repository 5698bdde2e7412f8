"""A classifier's outputs for several views of one clip → what its user is told. Needs NumPy alone.

As evaluation does it: views are merged as probabilities (raw outputs for values), which the temperature then corrects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LEAST = 1e-6  # as in evaluation


def merged(outputs: Any, head: Mapping[str, Any]) -> np.ndarray:
    """Outputs of V views float [V, K], or of R raters [V, R · K] → calibrated probabilities, or values, float [K].

    head: `head` of the model's config. `predicts` is the rule of the targets, `temperature` None where none was fitted.
    """
    outputs = np.asarray(outputs, np.float64)
    rule, temperature = head["predicts"], head.get("temperature") or 1.0
    if rule == "values":
        return outputs.mean(0)
    if rule == "multi_label":
        means = (1 / (1 + np.exp(-outputs))).mean(0)
        return _tempered(np.stack([means, 1 - means], -1), temperature)[:, 0]
    each = outputs.reshape(len(outputs), len(head.get("raters") or "1"), -1)
    shifted = np.exp(each - each.max(-1, keepdims=True))
    return _tempered((shifted / shifted.sum(-1, keepdims=True)).mean((0, 1)), temperature)


def decided(told: Mapping[str, float], head: Mapping[str, Any], labels: Sequence[str]) -> Any:
    """What is decided by label → probability: the likeliest label; of several classes a clip the list of those at or
    above their thresholds (one half where none were chosen); values as they are."""
    rule = head["predicts"]
    if rule == "values":
        return dict(told)
    if rule != "multi_label":
        return max(labels, key=told.__getitem__)
    thresholds = head.get("thresholds") or dict.fromkeys(labels, 0.5)
    return [label for label in labels if told[label] >= thresholds[label]]


def _tempered(chances: np.ndarray, temperature: float) -> np.ndarray:
    if temperature == 1:
        return chances
    logits = np.log(np.maximum(chances, _LEAST)) / temperature
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)
