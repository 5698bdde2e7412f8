"""A pretraining task and a batch small enough to differentiate in seconds."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avemo_jax.config import load_config
from avemo_jax.models.params import merge, split
from avemo_jax.tasks import make_task

SIZES = (
    "model.dim=24",
    "model.depth=2",
    "model.skip_layers=(0,0,1)",
    "model.decoder_dim=12",
    "model.fusion_depth=1",
    "model.image_size=32",
    "model.frames=4",
    "model.audio_frames=32",
    "model.mel_bins=32",
    "mask.video_ratio=0.5",
    "mask.audio_ratio=0.5",
    "mask.repeats=1",
)


def task(*overrides: str, clips: int = 3):
    """HiCMAE pretraining with tiny sizes, in float32."""
    return make_task(load_config("hicmae:demo", [*SIZES, f"batch_size={clips}", *overrides]))


def fresh(task, seed: int = 0):
    """The task's model at the start; to optimise the program of its many random draws takes most of a minute."""
    init = jax.jit(task.init_model, compiler_options={"xla_backend_optimization_level": 0})
    return init(jax.random.key(seed))


def drawn(task, seed: int = 0):
    """(graphdef, parameters) of the task's model, off their neutral start and drawn by NumPy: nothing to compile."""
    graphdef, shapes = split(nnx.eval_shape(lambda: task.init_model(jax.random.key(0))))
    rng = np.random.default_rng(seed)

    def draw(path, of):
        around_one = path[-1].key in ("scale", "tau")
        return np.float32(around_one + 0.2 * rng.standard_normal(of.shape))

    return graphdef, jax.tree_util.tree_map_with_path(draw, shapes)


def check_learned_temperature(make, of):
    """That it begins as the fixed one, and is learned; `make(override)` is the task."""
    learned, fixed = make("model.learned_temperature=0.3"), make("contrast.temperature=0.3")
    (graphdef, params), (other, _) = drawn(learned), drawn(fixed)
    rest = {name: part for name, part in params.items() if name != "contrast_scale"}
    begun = jax.jit(lambda: split(learned.init_model(jax.random.key(0)))[1]["contrast_scale"])()

    def loss(scale):
        return learned.loss(merge(graphdef, rest | {"contrast_scale": scale}), of, jax.random.key(0))

    (found, terms), slope = jax.jit(jax.value_and_grad(loss, has_aux=True))(begun)
    expected, _ = jax.jit(lambda rest: fixed.loss(merge(other, rest), of, jax.random.key(0)))(rest)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(terms["contrast_temperature"], 0.3, rtol=1e-5)
    assert abs(float(slope["scale"])) > 1e-3


def batch(clips: int = 3, of=None):
    """Random clips, of the sizes of a task, with places in the dataset that are not their rows."""
    rng = np.random.default_rng(0)
    shapes = (of or task(clips=clips)).batch_shapes()
    made = {
        "video": rng.integers(0, 256, shapes["video"].shape, np.uint8),
        "waveform": rng.integers(-9000, 9000, shapes["waveform"].shape).astype(np.int16),
        "waveform_length": np.full(clips, shapes["waveform"].shape[1], np.int32),
        "waveform_mean": np.zeros(clips, np.float32),
        "position": rng.permutation(100)[:clips].astype(np.int32),
    }
    return jax.tree.map(jnp.asarray, made)
