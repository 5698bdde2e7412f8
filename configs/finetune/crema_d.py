"""CREMA-D's six intended emotions by HiCMAE's five folds of actors: `finetune/crema_d:SIZE`, or `…,reference`.

Other labels are a matter of `data.label` and `data.target`: `votes_both` with `distribution`, say. It is also what
fine-tuned weights of the reference are imported into.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/recipe:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "emotion", CLASSES
        config.model.classes = len(CLASSES)
        config.data.protocol = "folds"
    return config
