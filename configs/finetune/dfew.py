"""DFEW's seven emotions by its five official folds: `finetune/dfew:SIZE`, or `…,reference`.

The reference has no settings for it; these are those of MAFW, whose clips are alike and name nobody either.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/mafw:{arg}")
    with config.unlocked():
        config.data.classes, config.model.classes = CLASSES, len(CLASSES)
    return config
