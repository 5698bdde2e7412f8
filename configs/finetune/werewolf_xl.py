"""Werewolf-XL's pleasure, arousal and dominance: `finetune/werewolf_xl:SIZE`, or `…,reference`.

By HiCMAE's five folds of sessions. They share people, so nobody can be held out to choose by: the end of the run is
taken, of averaged weights.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/recipe:{arg}")
    with config.unlocked():
        config.data.label, config.data.target = "pleasure,arousal,dominance", "values"
        config.model.classes = 3
        config.data.protocol, config.data.frame_stride = "folds", 3
        config.batch_size, config.epochs, config.optimizer.warmup_share = 128, 30, 1 / 6
        config.loss.kind, config.loss.label_smoothing = "mse", 0.0
        config.mix.probability = 0.0
        config.select.score = "ccc"
        if config.select.by != "test":
            config.data.development, config.select.by, config.ema.decay = 0, "last", 0.999
    return config
