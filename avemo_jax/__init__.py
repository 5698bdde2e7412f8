"""avemo_jax: audio-visual emotion encoders, pretrained in JAX and handed over to PyTorch."""

__version__ = "0.1.0"
