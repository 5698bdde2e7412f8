"""IEMOCAP's four emotions, excited being happiness, by its five sessions: `finetune/iemocap:SIZE`, or `…,reference`.

The reference has no settings for it; these are those of CREMA-D, filmed in a studio too. Six emotions are
`data.label=emotion` with `data.classes`; by speaker instead of session, `data.protocol=leave_one_speaker_out`.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("anger", "happiness", "neutral", "sadness")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/crema_d:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "emotion_4", CLASSES
        config.model.classes = len(CLASSES)
    return config
