"""Softmax attention and who computes it: XLA, a TPU's kernel (Pallas) or a GPU's (cuDNN). All give the same numbers.

XLA keeps the logits of every head, float32 [B, H, N, M], in main memory, and for the backward pass the weights too.
The kernels keep them on the chip and compute them again instead, which pays where sequences are long. They serve
the training step; outside of one (pictures, probes, exports) it is XLA. What was measured is in docs/train.md.

Sizes: B clips, N tokens, M context tokens, H heads, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from avemo_jax.errors import UserError
from avemo_jax.sharding import CLIP_AXES

QUERIES = (
    128  # that the TPU's kernel takes at a time; keys too come in multiples of that, its registers' width
)
_KEYS = 1024  # that it takes at most
_PLATFORMS = {"pallas": "tpu", "cudnn": "cuda"}
_BY_ITSELF = {"tpu": "pallas"}  # what was measured to pay; elsewhere XLA


class Choice(NamedTuple):
    """`config.attention`: which kernel, and from how many queries and keys on (shorter ones are XLA's)."""

    kernel: str = "xla"  # or pallas, cudnn, or auto: whichever pays on the platform
    min_tokens: int = 0


PLAIN = Choice()


def choice(config: ConfigDict) -> Choice:
    """The choice that a config makes.

    Raises:
      UserError: there is no such kernel.
    """
    made = Choice(config.attention.kernel, config.attention.min_tokens)
    known = ("auto", "xla", *_PLATFORMS)
    if made.kernel not in known:
        raise UserError(f"attention.kernel is '{made.kernel}', not one of {', '.join(known)}")
    return made


def check_platform(config: ConfigDict, platform: str) -> None:
    """Raises a UserError where the config asks for a kernel that devices of this platform do not have."""
    _kernel_on(choice(config), _plain_name(platform))
    if config.attention.kernel == "cudnn" and config.dtype == "float32":
        raise UserError("attention.kernel=cudnn computes in bfloat16 only, and dtype is float32")


def attend(query: Array, key: Array, value: Array, made: Choice = PLAIN) -> Array:
    """Softmax attention, the query already scaled: [B, N, H, D], [B, M, H, D] twice → [B, N, H, D]."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or made.kernel == "xla" or min(query.shape[1], key.shape[1]) < made.min_tokens:
        return plain(query, key, value)
    kernel = _kernel_on(made, _plain_name(mesh.abstract_device.platform))
    if kernel == "xla":
        return plain(query, key, value)
    return on_mesh({"pallas": pallas, "cudnn": cudnn}[kernel], mesh)(query, key, value)


def plain(query: Array, key: Array, value: Array) -> Array:
    """The definition, by XLA; see `attend`."""
    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value)


def pallas(query: Array, key: Array, value: Array, *, interpret: bool = False) -> Array:
    """The same on a TPU by JAX's splash attention; `interpret` runs the kernel's operations on any device.

    Sequences are padded to what the kernel takes. Padding is told from tokens by segments, so that no weight
    falls on it; a query that is padding is cut off again.
    """
    # Imported where it is used: it brings the TPU's kernel compiler with it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    tokens, keys, heads = query.shape[1], key.shape[1], query.shape[2]
    rows, (columns, block) = query_rows(tokens), key_blocks(keys)
    sizes = splash.BlockSizes(
        block_q=QUERIES, block_kv=block, block_q_dkv=QUERIES, block_kv_dkv=block, use_fused_bwd_kernel=True
    )
    everything = splash_attention_mask.MultiHeadMask(
        [splash_attention_mask.FullMask((rows, columns))] * heads
    )
    kernel = splash.make_splash_mha(
        everything, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    segments = None
    if columns > keys:
        segments = splash.SegmentIds(
            q=jnp.zeros(rows, jnp.int32), kv=jnp.asarray(np.arange(columns) >= keys, jnp.int32)
        )
    padded = (_padded(query, rows), _padded(key, columns), _padded(value, columns))
    by_head = (x.swapaxes(1, 2) for x in padded)
    out = jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=segments))(*by_head)
    return out[:, :, :tokens].swapaxes(1, 2)


def query_rows(tokens: int) -> int:
    """Queries that `pallas` computes, padding included."""
    return _rounded_up(tokens, QUERIES)


def key_blocks(keys: int) -> tuple[int, int]:
    """(keys with padding, keys of a block) of `pallas`: as few equal blocks as it can take, little padding."""
    count = -(-keys // _KEYS)
    block = _rounded_up(-(-keys // count), QUERIES)
    return count * block, block


def cudnn(query: Array, key: Array, value: Array) -> Array:
    """The same on a GPU by cuDNN's fused attention, in bfloat16; odd lengths, which it cannot train, are padded."""
    tokens, keys = query.shape[1], key.shape[1]
    rows, columns = _rounded_up(tokens, 2), _rounded_up(keys, 2)
    seen: list[Array | None] = [None, None]  # how many queries and keys of each clip are none of the padding
    if (rows, columns) != (tokens, keys):
        seen = [jnp.full(query.shape[0], count, jnp.int32) for count in (tokens, keys)]
    out = jax.nn.dot_product_attention(
        _padded(query, rows),
        _padded(key, columns),
        _padded(value, columns),
        scale=1.0,
        query_seq_lengths=seen[0],
        key_value_seq_lengths=seen[1],
        implementation="cudnn",
    )
    return out[:, :tokens]


def on_mesh(compute: Callable[..., Array], mesh: jax.sharding.AbstractMesh) -> Callable[..., Array]:
    """`compute` on every device's own clips and heads: the compiler does not look into a kernel to divide it."""

    def divided(query: Array, key: Array, value: Array) -> Array:
        clips = CLIP_AXES if query.shape[0] % math.prod(mesh.shape[axis] for axis in CLIP_AXES) == 0 else None
        heads = "tensor" if query.shape[2] % mesh.shape["tensor"] == 0 else None
        spec = PartitionSpec(clips, None, heads, None)
        mapped = jax.shard_map(compute, mesh=mesh, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
        return mapped(query, key, value)

    return divided


def _kernel_on(made: Choice, platform: str) -> str:
    """The kernel to use on a platform, or a UserError."""
    if made.kernel == "auto":
        return _BY_ITSELF.get(platform, "xla")
    needed = _PLATFORMS.get(made.kernel, platform)
    if needed != platform:
        device = {"tpu": "a TPU", "cuda": "an NVIDIA GPU"}[needed]
        raise UserError(
            f"attention.kernel={made.kernel} needs {device}, and the devices are {platform}: take auto or xla"
        )
    return made.kernel


def _plain_name(platform: str) -> str:
    return {"gpu": "cuda"}.get(platform, platform)


def _rounded_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _padded(x: Array, size: int) -> Array:
    """[B, N, H, D] → [B, size, H, D], zeros at the end."""
    return jnp.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0), (0, 0)))
