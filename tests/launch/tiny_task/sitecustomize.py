"""On the path of tests' hosts: `avemo train` of the tiny config runs the tiny task, whatever launches it."""

import sys

if sys.orig_argv[1:4] == ["-m", "avemo_jax", "train"] and any(
    "tiny_config" in word for word in sys.orig_argv
):
    from tests.training import tiny

    tiny.train_on(tiny.TinyLoader, tiny.TinyTask)
