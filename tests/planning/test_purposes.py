"""What collectives are for, where names and shapes are not simply there."""

from __future__ import annotations

import pytest

from avemo_jax.planning.hlo import ArrayType, Instruction
from avemo_jax.planning.purposes import Around, Stored, purpose_of

PARAMETERS = [
    Stored((12, 1280, 5120), (12, 80, 5120)),
    Stored((12, 1280), (12, 1280)),
    Stored((512, 384), (512, 384)),
]


def made(*shape, name=""):
    attributes = f'metadata={{op_name="{name}"}}' if name else ""
    return Instruction("x", "fusion", (ArrayType("bf16", shape, ""),), (), "", attributes, False)


def purpose(kind, shape, name="", loop="", made_of=(), uses=(), cut=False):
    around = Around(name, loop, list(made_of), list(uses), cut)
    return purpose_of(kind, ArrayType("bf16", shape, ""), around, PARAMETERS)


@pytest.mark.parametrize(
    "kind, shape, expected",
    [
        ("all-gather", (1, 1280, 5120), "parameters"),
        ("all-reduce", (1280, 5120), "gradients"),
        ("all-reduce", (5120, 1280), "gradients"),  # transposed
        ("reduce-scatter", (1, 1280, 5120), "gradients"),
        ("all-reduce", (80, 5120), "gradients"),  # one device's part
        ("all-gather", (512, 384), "gradients"),  # nothing of it is divided: the second half of an all-reduce
        ("all-reduce", (1,), "scalar"),
        ("all-reduce", (16, 80, 1280), "other"),
        ("all-to-all", (16, 80, 20, 64), "other"),
    ],
)
def test_parameters_and_gradients_are_known_by_their_shapes(kind, shape, expected):
    assert purpose(kind, shape) == expected


def test_the_contrast_is_known_by_its_own_name_its_loops_or_that_of_its_uses():
    scope = "jit(step)/jvp(contrast)/dot_general"
    assert purpose("all-gather", (3, 1, 2048, 512), name=scope) == "contrast"
    assert purpose("all-reduce", (1, 3, 1, 2048, 512), loop="jit(step)/jvp(contrast)/while") == "contrast"
    assert purpose("all-gather", (3, 4, 512, 512), uses=[made(3, 2048, 512, name=scope)]) == "contrast"
    assert (
        purpose("all-gather", (3, 4, 512, 512), uses=[made(3, 2048, 512, name="jit(step)/jvp()/add")])
        == "other"
    )


def test_parts_that_are_padded_to_whole_tiles_before_they_are_scattered_are_gradients():
    """1280 rows over 16 devices are 80 each, which a v5e's compiler pads to 96 and then moves into place."""
    whole = made(1280, 5120)
    assert purpose("reduce-scatter", (1536, 5120), made_of=[made(1536, 5120), whole]) == "gradients"
    assert purpose("collective-permute", (48, 5120), made_of=[made(48, 5120), whole]) == "gradients"
    assert purpose("collective-permute", (48, 5120), made_of=[made(48, 5120)]) == "other"
    assert purpose("collective-permute", (16, 40, 1280), made_of=[made(16, 80, 1280), whole]) == "other"


def test_what_goes_to_other_slices_is_known_by_what_it_was_before_it_was_cut_and_joined():
    flat = (36, 8, 128)
    assert purpose("all-reduce", flat, made_of=[made(*flat), made(1, 320, 5120)], cut=True) == "gradients"
    assert purpose("all-reduce", flat, made_of=[made(*flat), made(1, 320, 5120)]) == "other"
    assert purpose("all-reduce", flat, made_of=[made(*flat), made(16, 81, 1280)], cut=True) == "other"
