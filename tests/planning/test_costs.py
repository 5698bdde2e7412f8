"""FLOPs and memory traffic of compiled programs beside counts by hand and XLA's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.planning.costs import costs, moved_bytes
from avemo_jax.planning.flops import traced_flops
from avemo_jax.planning.hlo import Program
from tests.planning import programs


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def test_products_in_a_loop_count_every_time():
    x = np.zeros((32, 32), np.float32)
    program = compiled(lambda x: jax.lax.scan(lambda y, _: (jnp.sin(y @ y), None), x, length=6)[0], x)
    assert costs(Program(program.as_text())).flops == 6 * 2 * 32**3


@pytest.mark.parametrize("widths", [(32, 32, 32), (8, 32)], ids=str)
def test_of_choices_that_are_drawn_the_mean_counts_as_in_the_traced_function(widths):
    def loss(choice, x):
        return jnp.sum(jnp.cos(jnp.sin(x @ x) @ x[:, : widths[choice]]))

    x = np.zeros((32, 32), np.float32)
    for function, passes in ((lambda x: x, 1), (jax.grad, 3)):
        step = function(programs.drawn(loss, len(widths)))
        program = compiled(step, x)
        mean = passes * 2 * 32**2 * (32 + sum(widths) / len(widths))
        assert costs(Program(program.as_text())).flops == traced_flops(jax.make_jaxpr(step)(x)) == mean


def test_of_a_divided_step_the_flops_are_those_of_one_device():
    p = programs
    forward = 2 * (2 * p.ROWS * p.WIDTH * p.HIDDEN) * p.LAYERS
    # The gradient: two products for each one; the first layer's input has none, but a scan computes it.
    assert costs(Program(p.layers_over_fsdp())).flops == pytest.approx(3 * forward / 8)


@pytest.mark.parametrize(
    "left, right, out, window, labels, flops",
    [
        # w [512, 3·8·64] by x [4·26, 512]: clips are an axis that the window slides along.
        ("bf16[512,3,8,64,1]", "bf16[4,26,512,1,1]", "bf16[3,8,64,4,26]",
         "size=1x1x4 pad=0_0x0_0x3_3 rhs_reversal=0x0x1", "f01b2_2oi01->01b2f", 4 * 26 * 512 * 3 * 8 * 64),
        # Attention weights by values: clip and head are batch axes, a dilated input under a strided window.
        ("bf16[4,26,8,64]", "bf16[4,8,26,26]", "bf16[4,8,64,26]",
         "size=4x8 stride=3x7 lhs_dilate=4x8", "0f1b_01oi->01bf", 4 * 8 * 26 * 26 * 64),
        # A gradient: clips and tokens are summed over.
        ("bf16[4,800,384,1,1]", "bf16[3,6,64,4,800]", "bf16[384,3,6,64,1]",
         "size=3x6x4 pad=2_2x5_5x0_0 rhs_reversal=1x1x0", "2fb01_01o2i->b01f2", 4 * 800 * 384 * 3 * 6 * 64),
        ("bf16[4,26,2048]", "bf16[4,26,512]", "bf16[2048,512,1]",
         "size=4", "0fb_0io->bf0", 4 * 26 * 2048 * 512),
    ],
)  # fmt: skip
def test_products_are_read_from_the_convolutions_that_a_tpu_makes_of_them(
    left, right, out, window, labels, flops
):
    """Lines as the compiler for v5e wrote them for HiCMAE's step."""
    text = f"""HloModule jit_f
ENTRY %main (a: {left}, b: {right}) -> {out} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {out} convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""
    assert costs(Program(text)).flops == 2 * flops


def test_convolutions_are_counted_as_xla_counts_them():
    image, kernel = np.zeros((2, 12, 12, 6), np.float32), np.zeros((3, 3, 6, 8), np.float32)

    def convolved(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (2, 1), ((1, 1), (0, 2)), lhs_dilation=(2, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )  # fmt: skip

    program = compiled(convolved, image, kernel)
    assert costs(Program(program.as_text())).flops == program.cost_analysis()["flops"]


def test_a_loop_moves_one_layer_at_a_time_not_the_whole_stack():
    layers, width = 16, 64
    stack, x = np.zeros((layers, width, width), np.float32), np.zeros((width, width), np.float32)
    program = Program(
        compiled(lambda w, x: jax.lax.scan(lambda y, w: (y @ w, None), x, w)[0], stack, x).as_text()
    )
    layer = 4 * width * width
    moved = costs(program).hbm_bytes
    assert layers * 3 * layer <= moved <= layers * 8 * layer


def test_what_lies_in_fast_memory_is_no_traffic_of_the_main_one():
    text = """HloModule jit_f
ENTRY %main (a: f32[8,128], b: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)S(1)} parameter(1)
  ROOT %sum = f32[8,128]{1,0:T(8,128)S(1)} add(%a, %b)
}
"""
    program = Program(text)
    entry = program.computations["main"]
    assert moved_bytes(entry["sum"], entry, program) == 8 * 128 * 4


def test_cycles_are_those_that_the_compiler_wrote():
    text = """HloModule jit_f
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} cosine(%a), backend_config={"window_config":{"estimated_cycles":"1200"}}
  ROOT %c = f32[8]{0} sine(%b), backend_config={"window_config":{"estimated_cycles":"34"}}
}
"""
    assert costs(Program(text)).cycles == 1234


KERNEL = """HloModule jit_f
ENTRY %main (s: s8[1,7,1], q: bf16[16,6,896,64], k: bf16[16,6,384,64]) -> bf16[16,6,896,64] {
  %s = s8[1,7,1]{2,1,0} parameter(0)
  %q = bf16[16,6,896,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[16,6,384,64]{3,2,1,0:T(8,128)(2,1)} parameter(2)
  %splash_mha_fwd_segmented_residuals.1 = (bf16[16,6,896,64]{3,2,1,0:T(8,128)(2,1)}, f32[16,6,896,128]{3,2,1,0:T(8,128)}) custom-call(%s, %s, %q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128, \\"block_kv\\": 384}"
}}, metadata={op_name="jit(f)/splash_mha_fwd_segmented_residuals/pallas_call" stack_frame_id=8}
  ROOT %out = bf16[16,6,896,64]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%splash_mha_fwd_segmented_residuals.1), index=0
}
"""  # noqa: E501  # as the compiler for v5e wrote it, broken inside the kernel's metadata


def test_what_a_kernel_of_attention_computes_is_counted_from_its_shapes():
    program = Program(KERNEL)
    entry = program.computations["main"]
    assert entry.root.name == "out"  # what stands behind the broken line is not lost
    (kernel,) = (one for one in entry.values() if one.opcode == "custom-call")
    assert "pallas_call" in kernel.op_name
    found = costs(program)
    assert found.flops == 2 * (2 * 16 * 6 * 896 * 384 * 64)  # logits, and weights by values
    assert found.cycles > 0
    query, key = 16 * 6 * 896 * 64 * 2, 16 * 6 * 384 * 64 * 2
    # 64 of 128 lanes are padding, the log-sum-exp is repeated on all 128.
    assert found.hbm_bytes == pytest.approx(2 * (2 * query + 2 * key) + 16 * 6 * 896 * 128 * 4, rel=1e-3)


def test_a_kernel_of_attention_on_one_clip_a_chip_has_no_axis_of_clips():
    found = costs(Program(KERNEL.replace("[16,6,", "[6,").replace("{3,2,1,0:", "{2,1,0:")))
    assert found.flops == 2 * (2 * 6 * 896 * 384 * 64)


def test_a_gather_that_a_sparse_core_does_is_what_it_takes_and_writes():
    """As libtpu 0.0.52 writes it for v5p; the shapes are others."""
    table, places, found = (
        "f32[4096,256]{1,0:T(8,128)}",
        "s32[1024]{0:T(1024)}",
        "f32[1024,256]{1,0:T(8,128)}",
    )
    inner = "(s32[25]{0:T(1)S(11)})"
    program = Program(
        f"""HloModule jit_step, is_scheduled=true

%inside () -> s32[25] {{
  ROOT %nothing = s32[25]{{0:T(1)S(11)}} constant(0)
}}

ENTRY %main (table: f32[4096,256], places: s32[1024]) -> f32[1024,256] {{
  %table = {table} parameter(0)
  %places = {places} parameter(1)
  %gather.start = ((), (), {inner}) async-start(), async_execution_thread="sparsecore", calls=%inside
  %gather.update = (({table}, {places}), {found}, {inner}) async-update(%gather.start, %table, %places)
  ROOT %gather.done = {found} async-done(%gather.update)
}}
"""
    )
    assert costs(program).hbm_bytes == 2 * 1024 * 256 * 4 + 1024 * 4
