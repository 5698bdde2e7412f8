"""On the path of tests' hosts: `avemo train` of the tiny config runs the tiny task, whatever launches it."""

import sys

if sys.orig_argv[1:4] == ["-m", "avemo_jax", "train"] and any(
    "tiny_config" in word for word in sys.orig_argv
):
    from avemo_jax.commands import train
    from tests.training import tiny

    train.make_task, train.make_loader = tiny.TinyTask, tiny.TinyLoader
