"""Texts aligned with HiCMAE's encoders, after `hicmae:SIZE`: `hicmae_text:SIZE`. Ours: docs/text.md."""

from ml_collections import ConfigDict

from avemo_jax.config import load_config, text_alignment


def get_config(arg: str = "base") -> ConfigDict:
    return text_alignment(load_config(f"hicmae:{arg}"))
