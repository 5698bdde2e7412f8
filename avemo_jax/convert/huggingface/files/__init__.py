"""The code that a Hugging Face folder carries, as ordinary modules; `bundle` copies it and all that it needs.

These files must run where there is no avemo_jax and no JAX: they import transformers, torch, NumPy, Pillow,
PyAV, `torch_model` and `input_pipeline`, nothing else.
"""
