"""The text of compiled programs: what is read from it, and how often things run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax.planning.hlo import Program, array_types
from tests.planning import programs


def compiled(function, *arguments):
    return Program(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_type_is_read_with_its_layout():
    (one, two) = array_types("(bf16[4,80,512]{2,1,0:T(8,128)(2,1)S(1)}, f32[])")
    assert (one.dtype, one.shape, one.bytes, one.in_hbm) == ("bf16", (4, 80, 512), 4 * 80 * 512 * 2, False)
    assert (two.shape, two.size, two.bytes, two.in_hbm) == ((), 1, 4, True)


@pytest.mark.parametrize(
    "text, padded",
    [
        ("f32[4,26,26]{2,1,0:T(8,128)}", 4 * 32 * 128 * 4),
        ("f32[26,4,26]{2,0,1:T(8,128)}", 4 * 32 * 128 * 4),
        ("bf16[16,128]{1,0:T(8,128)(2,1)}", 16 * 128 * 2),
        ("f32[5,7]{1,0}", 5 * 7 * 4),
        ("pred[9]{0:T(1024)}", 9),
    ],
)
def test_a_tpus_arrays_fill_whole_tiles(text, padded):
    assert array_types(text)[0].padded_bytes == padded


def test_what_stands_in_nested_loops_runs_as_often_as_both_say():
    def nested(x):
        inner = lambda x: jax.lax.fori_loop(0, 7, lambda _, y: jnp.cos(y @ y), x)  # noqa: E731
        return jax.lax.fori_loop(0, 3, lambda _, y: inner(y), x)

    program = compiled(nested, np.zeros((16, 16), np.float32))
    (product,) = [one for one in program.executed() if one.instruction.opcode == "dot"]
    assert product.times == 21 and product.place.counted


def test_a_loop_that_depends_on_the_data_counts_once_and_says_so():
    program = compiled(
        lambda x: jax.lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y @ y, x), np.zeros((16, 16))
    )
    (product,) = [one for one in program.executed() if one.instruction.opcode == "dot"]
    assert product.times == 1 and not product.place.counted


def test_trip_counts_of_a_tpu_program_are_read_from_its_conditions():
    """A TPU's compiler writes no trip count beside its loops."""
    text = """HloModule jit_f

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %x = f32[8]{0:T(128)} get-tuple-element(%state), index=1
  %y = f32[8]{0:T(128)} cosine(%x)
  ROOT %again = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%next, %y)
}

%condition (test: (s32[], f32[8])) -> pred[] {
  %end = s32[]{:T(128)} constant(10)
  %test = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %at = s32[]{:T(128)} get-tuple-element(%test), index=0
  ROOT %less = pred[]{:T(512)} compare(%at, %end), direction=LT
}

ENTRY %main (x0: f32[8]) -> f32[8] {
  %start = s32[]{:T(128)} constant(START)
  %copied = s32[]{:T(128)} copy(%start)
  %x0 = f32[8]{0:T(128)} parameter(0)
  %first = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%copied, %x0)
  %loop = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%first), condition=%condition, body=%body
  ROOT %out = f32[8]{0:T(128)} get-tuple-element(%loop), index=1
}
"""
    for start, trips in (("0", 10), ("3", 7)):
        program = Program(text.replace("START", start))
        (cosine,) = [one for one in program.executed() if one.instruction.opcode == "cosine"]
        assert cosine.times == trips


def test_instructions_inside_fusions_know_where_they_are_scheduled():
    program = Program(programs.layers_over_fsdp())
    inside = [one for one in program.executed() if one.place.fusion is not None]
    assert inside and all(one.place.owner in program.computations for one in inside)
    assert all(one.instruction.name in program.computations[one.computation.name] for one in inside)
