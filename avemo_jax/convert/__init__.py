"""Weights between this library and PyTorch, both ways.

`hicmae` holds the table of names and layouts, `layout` the reversible rules in it; `weight_files` reads and
writes the files; `take_over` makes a config's parameters from weights; `torch_model` is the model in plain
PyTorch, and `verify` runs it against ours; `huggingface` makes a folder for transformers of all that.
"""
