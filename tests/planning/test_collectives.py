"""Collectives of compiled programs: kind, payload, how often, for what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from avemo_jax.objectives.contrastive import hierarchical_contrast
from avemo_jax.planning.collectives import collectives, first_group
from avemo_jax.planning.hlo import Program
from avemo_jax.planning.purposes import Stored
from avemo_jax.training import mesh as mesh_lib
from tests.planning import programs
from tests.planning.programs import HIDDEN, LAYERS, WIDTH

PARAMETERS = [
    Stored((LAYERS, WIDTH, HIDDEN), (LAYERS, WIDTH // 4, HIDDEN)),
    Stored((LAYERS, HIDDEN, WIDTH), (LAYERS, HIDDEN, WIDTH // 4)),
]
LINE = [(device,) for device in range(8)]


def test_weights_divided_over_fsdp_are_gathered_in_every_layer_and_gradients_reduced():
    rows = collectives(Program(programs.layers_over_fsdp()), PARAMETERS, LINE)
    assert {row.purpose for row in rows} == {"parameters", "gradients"}
    gathered = [row for row in rows if row.purpose == "parameters"]
    assert [(row.kind, row.network, row.group) for row in gathered] == [("all-gather", "ici", 4)]
    # Both matrices in the forward pass and in the backward pass of every layer.
    assert gathered[0].count == 2 * 2 * LAYERS and gathered[0].bytes == 4 * LAYERS * WIDTH * HIDDEN * 4
    assert sum(row.count for row in rows if row.purpose == "gradients") >= LAYERS


def test_activations_that_are_moved_are_neither_parameters_nor_gradients():
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 8, "fsdp": 1, "tensor": 1})

    def exchanged(x):
        x = jax.lax.with_sharding_constraint(jnp.sin(x), NamedSharding(mesh, P("data", None)))
        return jax.lax.with_sharding_constraint(jnp.cos(x), NamedSharding(mesh, P(None, "data")))

    place = NamedSharding(mesh, P("data", None))
    compiled = (
        jax.jit(exchanged, in_shardings=place).lower(jax.ShapeDtypeStruct((64, 72), np.float32)).compile()
    )
    (row,) = collectives(Program(compiled.as_text()), PARAMETERS, LINE)
    assert (row.kind, row.purpose, row.group, row.count) == ("all-to-all", "other", 8, 1)


def test_what_one_of_three_drawn_choices_says_is_said_every_third_time():
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 8, "fsdp": 1, "tensor": 1})
    rows, whole = NamedSharding(mesh, P("data", None)), NamedSharding(mesh, P())

    def exchanged(choice, x):
        return jnp.sin(x) if choice else jax.lax.with_sharding_constraint(jnp.cos(x), whole)

    step = jax.jit(programs.drawn(exchanged, 3), in_shardings=rows, out_shardings=rows)
    text = step.lower(jax.ShapeDtypeStruct((64, 72), np.float32)).compile().as_text()
    (row,) = collectives(Program(text), PARAMETERS, LINE)
    assert (row.kind, row.count, row.bytes) == ("all-gather", 0.33, 64 * 72 * 4 // 3)


def test_the_contrast_is_known_by_its_name_and_single_numbers_by_their_size():
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 8, "fsdp": 1, "tensor": 1})
    struct = jax.ShapeDtypeStruct(
        (3, 64, 16), np.float32, sharding=NamedSharding(mesh, P(None, mesh_lib.ROWS))
    )
    loss = jax.value_and_grad(lambda v, a: hierarchical_contrast(v, a, temperature=0.07)[0], argnums=(0, 1))
    rows = collectives(Program(jax.jit(loss).lower(struct, struct).compile().as_text()), PARAMETERS, LINE)
    assert {row.purpose for row in rows} == {"contrast"}
    total = jax.jit(jnp.sum).lower(struct).compile().as_text()
    assert [row.purpose for row in collectives(Program(total), PARAMETERS, LINE)] == ["scalar"]


@pytest.mark.parametrize(
    "written, group",
    [
        ("replica_groups={{0,3},{1,2}}", [0, 3]),
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
        ("replica_groups=mesh['axis_0'=256] {'axis_0'}, use_global_device_ids=true", list(range(256))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2'}, dimensions={0}", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_0','axis_1'}, x={0}", [0, 4]),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, x", [0, 1, 2, 3]),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(2)2}, dimensions={0}", [0, 2]),
        ("source_target_pairs={{3,5},{5,3}}", [3, 5]),
        ("channel_id=3", []),
    ],
)
def test_groups_are_read_however_they_are_written(written, group):
    assert first_group(written) == group


def tpu_program(body: str, more: str = "") -> Program:
    return Program(f"HloModule jit_step\n{more}\nENTRY %main (a: f32[24,40]) -> f32[24,40] {{\n{body}\n}}\n")


def test_a_collective_spread_over_fusions_counts_once_and_runs_beside_computation():
    gather = "all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}"
    pieces = "".join(
        f"%{name} (p: f32[6,40]) -> f32[24,40] {{\n  %p = f32[6,40]{{1,0}} parameter(0)\n"
        f"  ROOT %g = f32[24,40]{{1,0}} {gather}\n}}\n"
        for name in ("start", "async_collective_fusion", "done")
    )
    calls = "\n".join(
        f"  %{name}.1 = f32[24,40]{{1,0}} fusion(%a), kind=kCustom, calls=%{name}"
        for name in ("start", "async_collective_fusion", "done")
    )
    (row,) = collectives(
        tpu_program(f"  %a = f32[6,40]{{1,0}} parameter(0)\n{calls}", pieces), PARAMETERS, LINE
    )
    assert (row.count, row.overlapped, row.bytes, row.purpose) == (1, True, 24 * 40 * 4, "parameters")


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    piece = (
        "%all-reduce-scatter.1 (p: f32[24,40]) -> f32[6,40] {\n  %p = f32[24,40]{1,0} parameter(0)\n"
        "  %r = f32[24,40]{1,0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}\n"
        "  %z = u32[] constant(0)\n"
        "  ROOT %s = f32[6,40]{1,0} dynamic-slice(%r, %z, %z), dynamic_slice_sizes={6,40}\n}\n"
    )
    body = (
        "  %a = f32[24,40]{1,0} parameter(0)\n"
        "  ROOT %f = f32[6,40]{1,0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1"
    )
    (row,) = collectives(tpu_program(body, piece), PARAMETERS, LINE)
    assert (row.kind, row.purpose, row.group, row.overlapped) == ("reduce-scatter", "gradients", 4, False)
    assert row.bytes == 24 * 40 * 4


def test_what_goes_between_slices_is_read_from_transfers_to_the_host():
    attributes = (
        'channel_id=4, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",'
        '_xla_megascale_target="{1,2,3,4}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    body = (
        "  %a = f32[24,40]{1,0} parameter(0)\n  %flat = f32[960]{0} bitcast(%a)\n  %t = token[] after-all()\n"
        f"  ROOT %s = (f32[960]{{0}}, u32[], token[]) send(%flat, %t), {attributes}"
    )
    (row,) = collectives(tpu_program(body), PARAMETERS, LINE)
    assert (row.kind, row.network, row.group, row.purpose) == ("all-reduce", "dcn", 4, "gradients")
    assert row.bytes == 960 * 4


def test_small_gradients_that_are_laid_end_to_end_and_padded_for_another_slice_are_gradients():
    """As libtpu does for v5e:4x4 in four slices: joined, copied, padded to whole tiles."""
    attributes = (
        'channel_id=4, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2,3,4}x{0:15}",'
        '_xla_megascale_transfer_type="ALL_REDUCE"}'
    )

    def body(rows):
        return (
            f"  %a = f32[{rows},40]{{1,0}} parameter(0)\n  %b = f32[65]{{0}} parameter(1)\n"
            f"  %flat = f32[{rows * 40}]{{0}} bitcast(%a)\n"
            "  %joined = f32[1025]{0} concatenate(%flat, %b), dimensions={0}\n"
            "  %copied = f32[1025]{0} copy(%joined)\n  %padded = f32[2048]{0} custom-call(%copied)\n"
            "  %tiles = f32[2,8,128]{2,1,0} bitcast(%padded)\n  %t = token[] after-all()\n"
            f"  ROOT %s = (f32[2,8,128]{{2,1,0}}, u32[], token[]) send(%tiles, %t), {attributes}"
        )

    (row,) = collectives(tpu_program(body(24)), PARAMETERS, LINE)
    assert (row.network, row.purpose) == ("dcn", "gradients")
    (row,) = collectives(tpu_program(body(23)), PARAMETERS, LINE)
    assert row.purpose == "other"
