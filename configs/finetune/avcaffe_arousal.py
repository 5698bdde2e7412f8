"""AVCAffe's arousal in five classes: `finetune/avcaffe_arousal:SIZE`, or `…,reference`; else as `finetune/avcaffe`."""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("Excited", "Wide-awake", "Neutral", "Dull", "Calm")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/avcaffe:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "arousal", CLASSES
    return config
