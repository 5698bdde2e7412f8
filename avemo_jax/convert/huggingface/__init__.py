"""A checkpoint as a folder for `transformers`: for people who have PyTorch and no JAX.

exporting  from a checkpoint to its folder
folder     what is in it, and writing it whole or not at all
files      the code that it carries: config, model, preparation of media files
bundle     that code and all that it needs of ours, as files that transformers finds
facts      what is known of a run: data, training, probes
card       the facts as a model card
verify     the finished folder, run by `outside` where JAX cannot be imported, against the model it came from
"""
