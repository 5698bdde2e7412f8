"""Every kernel beside attention as it is defined, forward and backward; and who may ask for which."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.models import attention
from avemo_jax.training import mesh as mesh_lib

QUICKLY = {"xla_backend_optimization_level": 0}  # run once: compiling is what takes time
interpreted = functools.partial(attention.pallas, interpret=True)


def drawn(tokens, keys, *, clips=2, heads=2, head_dim=16, dtype=np.float32):
    """(query, key, value) and a gradient of the output; logits of some size, so that the softmax matters."""
    rng = np.random.default_rng(tokens * 1000 + keys)
    shapes = [(clips, count, heads, head_dim) for count in (tokens, keys, keys, tokens)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def computed(compute, query, key, value, gradient):
    """The output and the three gradients."""

    def both(query, key, value, gradient):
        out, pull = jax.vjp(compute, query, key, value)
        return out, *pull(gradient)

    compiled = jax.jit(both, compiler_options=QUICKLY)
    return [np.asarray(array, np.float32) for array in compiled(query, key, value, gradient)]


def assert_same(one, other, atol):
    for name, a, b in zip(("output", "query", "key", "value"), one, other, strict=True):
        assert np.abs(b).max() > 0.01, name
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * np.abs(b).max(), err_msg=name)


def test_the_plain_one_is_the_softmax_of_products():
    query, key, value, _ = (np.asarray(array, np.float64) for array in drawn(5, 9))
    weights = scipy.special.softmax(np.einsum("bnhd,bmhd->bhnm", query, key), axis=-1)
    expected = np.einsum("bhnm,bmhd->bnhd", weights, value)
    np.testing.assert_allclose(attention.plain(*map(jnp.float32, (query, key, value))), expected, atol=1e-5)


@pytest.mark.parametrize(
    "tokens, keys",
    [(128, 128), (131, 26), (16, 1030)],
    ids=lambda count: str(count),
)
def test_the_tpu_kernel_gives_the_same_output_and_gradients_at_any_length(tokens, keys):
    """1,030 keys take two blocks, and most lengths padding, on which no weight may fall."""
    arrays = drawn(tokens, keys)
    assert_same(computed(interpreted, *arrays), computed(attention.plain, *arrays), 1e-5)


def test_a_shift_of_all_values_comes_through_the_kernels_padding_unchanged():
    query, key, value, _ = drawn(9, 130)
    ones = jax.jit(interpreted, compiler_options=QUICKLY)(query, key, jnp.ones_like(value))
    np.testing.assert_allclose(ones, 1.0, atol=1e-6)


@pytest.mark.parametrize("heads", [4, 3], ids=["heads divide", "heads do not"])
def test_on_a_mesh_every_device_computes_its_own_clips_and_heads(heads):
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 2, "fsdp": 2, "tensor": 2})
    arrays = drawn(20, 33, clips=4, heads=heads)

    def run(*arrays):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.vjp(attention.on_mesh(interpreted, mesh.abstract_mesh), *arrays[:3])[1](arrays[3])

    placed = jax.device_put(arrays, jax.NamedSharding(mesh, jax.P(mesh_lib.ROWS)))
    compiled = jax.jit(run).lower(*placed).compile(QUICKLY)
    expected = computed(attention.plain, *arrays)[1:]
    for gradient, wanted in zip(compiled(*placed), expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def on_gpu() -> bool:
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


@pytest.mark.skipif(not on_gpu(), reason="cuDNN computes on an NVIDIA GPU only")
@pytest.mark.parametrize("tokens, keys", [(128, 128), (131, 77), (800, 80)])
def test_cudnn_gives_the_same_output_and_gradients_in_bfloat16(tokens, keys):
    arrays = drawn(tokens, keys, head_dim=64, dtype=jnp.bfloat16)
    wide = [array.astype(jnp.float32) for array in arrays]
    with jax.default_device(jax.devices("cuda")[0]), jax.default_matmul_precision("highest"):
        assert_same(computed(attention.cudnn, *arrays), computed(attention.plain, *wide), 2e-2)


@pytest.fixture
def a_cudnn_to_lower_for(monkeypatch):
    """JAX asks the installed cuDNN for its version even where it only writes a program for one."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)


def test_the_program_for_a_gpu_calls_cudnn_forward_and_backward(a_cudnn_to_lower_for):
    arrays = drawn(131, 77, head_dim=64, dtype=jnp.bfloat16)
    step = jax.jit(
        lambda query, key, value, gradient: jax.vjp(attention.cudnn, query, key, value)[1](gradient)
    )
    text = step.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text and "__cudnn$fmhaSoftmaxBackward" in text
    assert "131x77" not in text and "132x78" not in text  # no logits in main memory


def config(*overrides):
    return load_config("hicmae:base", overrides)


@pytest.mark.parametrize(
    "tokens, platform, calls",
    [(600, "tpu", "splash_mha_fwd"), (600, "cpu", ""), (500, "tpu", "")],
)
def test_by_itself_a_tpu_takes_its_kernel_where_sequences_are_long(tokens, platform, calls):
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    device = jax.sharding.AbstractDevice(device_kind=platform, num_cores=1, platform=platform)
    elsewhere = mesh.abstract_mesh.update(abstract_device=device)
    made = attention.choice(config())
    with jax.sharding.use_abstract_mesh(elsewhere):
        program = str(jax.make_jaxpr(lambda *x: attention.attend(*x, made))(*drawn(tokens, tokens)[:3]))
    assert ("pallas_call" in program, calls in program) == (bool(calls), True)


@pytest.mark.parametrize(
    "overrides, platform, words",
    [
        (
            ["attention.kernel=flash"],
            "tpu",
            "attention.kernel is 'flash', not one of auto, xla, pallas, cudnn",
        ),
        (["attention.kernel=pallas"], "cpu", "needs a TPU, and the devices are cpu: take auto or xla"),
        (["attention.kernel=pallas"], "gpu", "needs a TPU, and the devices are cuda"),
        (["attention.kernel=cudnn"], "tpu", "needs an NVIDIA GPU, and the devices are tpu"),
        (["attention.kernel=cudnn", "dtype=float32"], "gpu", "in bfloat16 only, and dtype is float32"),
    ],
)
def test_a_kernel_that_is_not_there_is_refused_in_one_line(overrides, platform, words):
    with pytest.raises(UserError, match=words) as caught:
        attention.check_platform(config(*overrides), platform)
    assert "\n" not in str(caught.value)


def test_what_the_default_asks_for_is_there_on_every_platform():
    for platform in ("cpu", "gpu", "cuda", "tpu"):
        attention.check_platform(config(), platform)
