"""Small models of both tasks with weights that follow from a formula, and the commands called on them."""

import jax

from avemo_jax import models
from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.convert import hicmae
from avemo_jax.models.params import split
from tests.golden_weights import golden_weights

SIZES = {"dim": 24, "heads": 3, "depth": 3, "frames": 4, "image_size": 32, "audio_frames": 64, "mel_bins": 32}
DECODER = {"decoder_dim": 12, "decoder_heads": 2, "decoder_depth": 3, "skip_layers": (0, 2)}


def flags(sizes):
    return [f"model.{key}={value}" for key, value in sizes.items()]


CONFIGS = {
    "pretrain": ("hicmae:demo", flags(SIZES | DECODER)),
    "finetune": ("finetune/crema_d:demo", flags(SIZES)),
}


def weights(task, salt="weights:"):
    """A state dict of the small model of a task, under the reference's names."""
    config = load_config(*CONFIGS[task])
    expected = jax.eval_shape(lambda: split(models.build(config, jax.random.key(0)))[1])
    return golden_weights(hicmae.reference_shapes(expected), salt)


def run_import(task, path, out, *more):
    """`avemo import` of the task's small model; `more` are further `key=value` of its config."""
    name, overrides = CONFIGS[task]
    words = [f"--config.{override}" for override in (*overrides, *more)]
    return main(
        ["import", "--from", "hicmae", "--weights", str(path), "--config", name, "--out", str(out), *words]
    )


def run_export(checkpoint, form, out, *more):
    return main(["export", "--checkpoint", str(checkpoint), "--format", form, "--out", str(out), *more])


def assert_same_bits(read, state):
    assert read.keys() == state.keys()
    assert [name for name in state if read[name].tobytes() != state[name].tobytes()] == []
