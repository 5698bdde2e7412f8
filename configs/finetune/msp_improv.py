"""MSP-IMPROV's four emotions by its six sessions: `finetune/msp_improv:SIZE`, or `…,reference`.

The reference has no settings for it; these are those of CREMA-D, filmed in a studio too. Its classes and folds are the
reference's. `votes` and the values (`valence,arousal,dominance`) are a matter of `data.label` and `data.target`.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("angry", "happy", "neutral", "sad")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/crema_d:{arg}")
    with config.unlocked():
        config.data.classes, config.model.classes = CLASSES, len(CLASSES)
    return config
