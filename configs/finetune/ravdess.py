"""RAVDESS's eight spoken emotions by HiCMAE's six folds of actors: `finetune/ravdess:SIZE`, or `…,reference`.

The reference has no settings for it; these are those of CREMA-D, whose clips are alike.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/recipe:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "emotion", CLASSES
        config.model.classes = len(CLASSES)
        config.data.protocol = "folds"
    return config
