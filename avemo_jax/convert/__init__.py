"""Weights between this library and PyTorch, both ways.

`hicmae` holds the table of names and layouts, `layout` the reversible rules in it, `checkpoint_file` reads and
writes the files, `torch_model` is the model in plain PyTorch, `verify` runs it against
ours, `take_over` makes a config's parameters from weights.
"""
