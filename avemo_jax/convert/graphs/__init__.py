"""A checkpoint's model as one graph of operations with its weights in it, in one file that needs none of our code.

onnx_file       by PyTorch's exporter, from `torch_model`
stablehlo_file  by `jax.export`, from our own model, log-mel included
about           what the file's user has to know: names, sizes, labels, temperature
verify          the finished file, run by `outside` where none of our code can be imported, against our model
"""
