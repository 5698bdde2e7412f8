"""StableHLO: our own model with a checkpoint's weights, from decoded frames and sound on, for any number of clips.

What `jax.export` serialises: `jax.export.deserialize(data).call(…)` needs JAX and none of our code, on a CPU, a GPU or
a TPU, in float32 everywhere. JAX reads what versions of the last six months wrote; its `mlir_module()` is StableHLO for
other compilers.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.convert.graphs.about import output_names
from avemo_jax.convert.verify import model_in_float32, named_outputs
from avemo_jax.models.params import Params
from input_pipeline.audio import samples_for

INPUTS = {
    "video": "uint8 [batch, frames, image_size, image_size, 3], RGB",
    "waveform": "int16 [batch, samples], 16 kHz mono, zero after waveform_length",
    "waveform_length": "int32 [batch], valid samples",
    "waveform_mean": "float32 [batch], mean of the clip's sound in [-1, 1)",
}
PLATFORMS = ("cpu", "cuda", "tpu")


def write(path: Path, params: Params, config: ConfigDict) -> None:
    """Writes the file: a function of the `INPUTS` in order, which returns the outputs as a dict by name."""
    rebuild, names = model_in_float32(config), output_names(config.task)

    def run(video: Array, waveform: Array, waveform_length: Array, waveform_mean: Array) -> dict[str, Array]:
        batch = {"video": video, "waveform": waveform}
        batch |= {"waveform_length": waveform_length, "waveform_mean": waveform_mean}
        clip = frontend.to_clip(batch, mels=config.model.mel_bins)
        outputs = named_outputs(rebuild(params), clip, config)
        return {name: outputs[name] for name in names}

    model = config.model
    (batch,) = jax.export.symbolic_shape("batch", constraints=["batch >= 1"])
    size = model.image_size
    arguments = (
        jax.ShapeDtypeStruct((batch, model.frames, size, size, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch, samples_for(model.audio_frames)), jnp.int16),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.ShapeDtypeStruct((batch,), jnp.float32),
    )
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(*arguments)
    path.write_bytes(exported.serialize())
