"""Texts aligned with the encoder of any pretraining config: `text_after:METHOD:SIZE`, `text_after:my_method.py:SIZE`.

Ours: docs/text.md.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config, text_alignment


def get_config(arg: str = "vaemo:base") -> ConfigDict:
    return text_alignment(load_config(arg))
