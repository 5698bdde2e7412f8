"""The mesh and the two tables: sizes that fit, places that divide, and words when they do not."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.tasks import make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import state as state_lib
from avemo_jax.training.optimizer import make_optimizer
from avemo_jax.training.schedules import schedules_of
from tests.processes import run_together

TABLE_MESH = {"replica": 1, "data": 1, "fsdp": 4, "tensor": 2}


def sizes(replica=1, data=-1, fsdp=1, tensor=1):
    return {"replica": replica, "data": data, "fsdp": fsdp, "tensor": tensor}


def test_minus_one_takes_the_devices_that_are_left():
    mesh = mesh_lib.make_mesh(sizes(fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"replica": 1, "data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("wrong", [sizes(fsdp=3), sizes(data=4), sizes(data=16), sizes(fsdp=16)])
def test_sizes_that_do_not_multiply_to_the_devices_are_refused(wrong):
    with pytest.raises(UserError, match="does not fit 8 devices"):
        mesh_lib.make_mesh(wrong)


@pytest.mark.parametrize("wrong", [sizes(data=0), sizes(fsdp=-1), sizes(tensor=-2)])
def test_sizes_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError, match="sizes are positive"):
        mesh_lib.make_mesh(wrong)


def placed(path, shape, mesh=TABLE_MESH):
    """The table's row for one array; only the sizes of a mesh matter to it."""
    tree = jax.ShapeDtypeStruct(shape, np.float32)
    for part in reversed(path.split("/")):
        tree = {part: tree}
    return mesh_lib.placements(tree, SimpleNamespace(shape=mesh))[0]


@pytest.mark.parametrize(
    "path, shape, spec",
    [
        ("video/blocks/attn/qkv", (10, 512, 3, 8, 64), P(None, "fsdp", None, "tensor", None)),
        ("video_decoder/first_block/attn/qkv", (384, 3, 6, 64), P("fsdp", None, "tensor", None)),
        ("fusion/video_blocks/cross_attn/kv", (2, 512, 2, 8, 64), P(None, "fsdp", None, "tensor", None)),
        ("fusion/video_blocks/cross_attn/q", (2, 512, 8, 64), P(None, "fsdp", "tensor", None)),
        ("fusion/video_blocks/cross_attn/v_bias", (2, 8, 64), P(None, "tensor", None)),
        ("audio/blocks/attn/out/kernel", (10, 8, 64, 512), P(None, "tensor", None, "fsdp")),
        ("audio/blocks/mlp/fc2/kernel", (10, 2048, 512), P(None, "tensor", "fsdp")),
        ("audio/blocks/mlp/fc2/bias", (10, 512), P()),
        ("audio/patch_embed/kernel", (256, 512), P(None, "fsdp")),
        ("audio_decoder/head/kernel", (384, 256), P("fsdp", None)),
        ("video/norm/scale", (512,), P()),
    ],
)
def test_the_table_divides_widths_and_heads(path, shape, spec):
    assert placed(path, shape).spec == spec


def test_an_axis_that_does_not_divide_is_left_whole_and_the_row_says_so():
    row = placed("video/blocks/attn/qkv", (4, 192, 3, 3, 64))
    assert row.spec == P(None, "fsdp", None, None, None)
    assert row.note == "3 is not divisible by tensor 2"


@given(
    st.sampled_from(
        ["blocks/attn/qkv", "blocks/mlp/fc1/kernel", "blocks/attn/out/kernel", "head/kernel", "x/bias"]
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.tuples(*[st.integers(1, 6)] * 4),
)
def test_whatever_the_sizes_every_place_divides_its_array(path, shape, axes):
    mesh = dict(zip(mesh_lib.AXES, axes, strict=True))
    row = placed(path, tuple(shape), mesh)
    assert len(row.spec) <= len(shape)
    for size, axis in zip(shape, row.spec, strict=False):
        assert axis is None or size % mesh[axis] == 0


def test_the_optimisers_moments_lie_where_their_parameters_do():
    config = load_config("hicmae:base")
    params = state_lib.abstract_params(make_task(config), jax.random.key(0))[1]
    state = state_lib.abstract_state(params, make_optimizer(config, params, schedules_of(config, 10)))
    mesh = SimpleNamespace(shape={"replica": 1, "data": 1, "fsdp": 4, "tensor": 2})
    rows = {row.path: row for row in mesh_lib.placements(state, mesh)}
    matrices = [
        path for path in rows if path.startswith("params/") and path.endswith(("kernel", "attn/qkv", "/kv"))
    ]
    assert len(matrices) > 30
    for path in matrices:
        same = [row for other, row in rows.items() if other.endswith(path.removeprefix("params"))]
        assert len(same) == 3 and len({row.spec for row in same}) == 1
        assert rows[path].spec != P() and not rows[path].note, rows[path]


def test_the_table_can_be_printed():
    mesh = mesh_lib.make_mesh(sizes(fsdp=2))
    tree = {
        "head": {
            "kernel": jax.ShapeDtypeStruct((7, 4), np.float32),
            "bias": jax.ShapeDtypeStruct((4,), np.float32),
        }
    }
    first, bias, kernel = mesh_lib.format_placements(mesh_lib.placements(tree, mesh), mesh).splitlines()
    assert first == "mesh replica 1 × data 4 × fsdp 2 × tensor 1"
    assert bias.split() == ["head/bias", "(4,)", "replicated"]
    assert kernel.endswith("(7 is not divisible by fsdp 2)")


@dataclass(frozen=True)
class SliceDevice:
    """A device as multi-slice platforms describe it, as far as a mesh looks at it."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "fake"
    process_index: int = 0


def slices_of(count, devices):
    """So many slices of so many devices each, handed out in turns."""
    return [SliceDevice(index, index % count) for index in range(count * devices)]


def test_only_the_axis_replica_goes_from_slice_to_slice():
    mesh = mesh_lib.make_mesh(sizes(replica=4, fsdp=2), slices_of(2, 8))
    assert dict(mesh.shape) == {"replica": 4, "data": 2, "fsdp": 2, "tensor": 1}
    assert mesh_lib.slice_count(list(mesh.devices.flat)) == 2
    for part in mesh.devices:
        assert len({device.slice_index for device in part.flat}) == 1


def test_slices_that_replica_does_not_tell_apart_are_refused():
    with pytest.raises(UserError, match="on 2 slices: make mesh.replica 2 or a multiple"):
        mesh_lib.make_mesh(sizes(), slices_of(2, 4))


def test_clips_are_divided_and_what_is_inside_a_clip_is_not():
    mesh = mesh_lib.make_mesh(sizes(replica=2, fsdp=2))
    shapes = {
        "video": jax.ShapeDtypeStruct((8, 4, 32, 32, 3), np.uint8),
        "position": jax.ShapeDtypeStruct((8,), np.int32),
    }
    places = mesh_lib.batch_shardings(shapes, mesh)
    assert places["video"].spec[0] == places["position"].spec[0] == ("replica", "data", "fsdp")
    assert places["video"].shard_shape((8, 4, 32, 32, 3)) == (1, 4, 32, 32, 3)


def fake_mesh(processes: int, devices: int, **axes):
    """A mesh whose devices belong to several processes, in their order."""
    shape = {axis: axes.get(axis, 1) for axis in mesh_lib.AXES}
    owners = [SimpleNamespace(process_index=index // devices) for index in range(processes * devices)]
    return SimpleNamespace(shape=shape, devices=np.array(owners, object).reshape(tuple(shape.values())))


@pytest.mark.parametrize(
    "processes, devices, axes, expected",
    [
        (2, 4, {"data": 8}, [((0, 1, 2, 3), 8), ((4, 5, 6, 7), 8)]),
        (2, 4, {"data": 2, "fsdp": 2, "tensor": 2}, [((0, 1), 4), ((2, 3), 4)]),
        (
            4,
            2,
            {"data": 2, "tensor": 4},
            [((0,), 2), ((0,), 2), ((1,), 2), ((1,), 2)],
        ),  # two feed the same clips
        (2, 1, {"tensor": 2}, [((0,), 1), ((0,), 1)]),
    ],
)
def test_each_process_reads_the_clips_that_its_devices_hold(processes, devices, axes, expected, monkeypatch):
    mesh = fake_mesh(processes, devices, **axes)
    shares = []
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        shares.append(mesh_lib.data_share(mesh))
    assert shares == expected


WOUND = """
import sys
import jax, numpy as np
from jax.sharding import Mesh
from avemo_jax.training import distributed, mesh as mesh_lib
from input_pipeline.loader import Share
distributed.initialize()
mesh = Mesh(np.array(jax.devices())[[0, 3, 2, 1]].reshape(1, 4, 1, 1), mesh_lib.AXES)
share = Share(*mesh_lib.data_share(mesh))
own = np.array([share.row(row, 8) for row in range(share.size(8))], np.int32)
places = mesh_lib.batch_shardings({"position": jax.ShapeDtypeStruct((8,), np.int32)}, mesh)
batch = jax.make_array_from_process_local_data(places["position"], own, (8,))
whole = np.asarray(jax.jit(lambda x: x, out_shardings=mesh_lib.replicated(mesh))(batch))
print(share.parts, whole.tolist())
sys.exit(whole.tolist() != list(range(8)) or share.parts != ((0, 3), (1, 2))[jax.process_index()])
"""


@pytest.mark.slow
def test_a_batch_is_in_the_loader_s_order_on_a_mesh_that_winds_through_the_processes():
    run_together([sys.executable, "-c", WOUND], processes=2, devices=2)


def test_a_mesh_that_cuts_processes_unevenly_is_refused():
    with pytest.raises(UserError, match="unevenly between processes"):
        mesh_lib.data_share(fake_mesh(3, 2, data=2, tensor=3))
