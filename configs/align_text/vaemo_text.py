"""VAEmo's second stage (Cheng et al. 2025), after `vaemo:SIZE`: `vaemo_text:SIZE`.

Its code was not released: docs/text.md says what is ours.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config, text_alignment


def get_config(arg: str = "base") -> ConfigDict:
    return text_alignment(load_config(f"vaemo:{arg}"))
