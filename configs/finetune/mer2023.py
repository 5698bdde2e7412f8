"""MER2023's six emotions, tested on MER-MULTI: `finetune/mer2023:SIZE`, or `…,reference`.

`data.test_split=test_noise` tests on MER-NOISE instead, `test_semi` on MER-SEMI; valence is `data.label=valence` with
`data.target=values`. The reference has no settings for it; these are those of MAFW, whose clips name nobody either.
Which clips the reference chooses its epoch by is not published: `…,reference` takes the test clips, as its others do.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/mafw:{arg}")
    with config.unlocked():
        config.data.classes, config.model.classes = CLASSES, len(CLASSES)
        config.data.protocol = "split"
    return config
