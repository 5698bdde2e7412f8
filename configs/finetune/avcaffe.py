"""AVCAffe's valence in five classes by its one split of people: `finetune/avcaffe:SIZE`, or `…,reference`.

The reference has no settings for it but the five classes; these are those of CREMA-D. As there, a person's task is
judged once, by the mean over its segments, whose label is that of the task (`views.pool`, which empty judges each).
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("Pleasant", "Pleased", "Neutral", "Unsatisfied", "Unpleasant")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/crema_d:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "valence", CLASSES
        config.model.classes = len(CLASSES)
        config.data.protocol = "split"
        config.views.pool = r"(aiim\d+_task_\d)"
    return config
