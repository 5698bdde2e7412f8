"""CREMA-D without disgust and fear, as some work has it: `finetune/crema_d_4:SIZE`, or `…,reference`."""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("ANG", "HAP", "NEU", "SAD")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/crema_d:{arg}")
    with config.unlocked():
        config.data.classes, config.model.classes = CLASSES, len(CLASSES)
    return config
