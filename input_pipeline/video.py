"""uint8 pictures → what the models see, in NumPy, and the constants of it.

The device version (`avemo_jax.frontend`) takes its constants from here; this one serves work on the host.
"""

from __future__ import annotations

import numpy as np

# ImageNet's, of RGB in [0, 1].
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalise(video: np.ndarray) -> np.ndarray:
    """uint8 RGB [..., 3] → float32 with ImageNet's mean and deviation."""
    return (video.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
