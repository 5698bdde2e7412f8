"""MAFW's eleven single emotions by its five official folds: `finetune/mafw:SIZE`, or `…,reference`.

It names no speakers, so nobody can be held out to choose by: the end of the run is taken, of averaged weights.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
)


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/recipe:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "emotion", CLASSES
        config.model.classes = len(CLASSES)
        config.data.protocol, config.epochs, config.optimizer.warmup_share = "folds", 100, 0.05
        if config.select.by != "test":
            config.data.development, config.select.by, config.ema.decay = 0, "last", 0.999
    return config
