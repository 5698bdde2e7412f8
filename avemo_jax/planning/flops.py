"""Matrix-product FLOPs of a traced function, before any compiler has seen it: those of the model itself.

Traced without rematerialisation this is what the step must compute; with it, what it asks to be computed. Counts
are of the whole mesh. Not here: what the compiler makes of it (`costs`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core

from avemo_jax.planning.hlo import is_drawn


def traced_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products of a (closed) jaxpr: a scan's body times its length, of branches the largest.

    A multiplication and an addition are two. The body of a `while` counts once, as its iterations are not known. Of
    branches that are drawn it is the mean.
    """
    return sum(_equation_flops(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation_flops(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
    if name == "cond":
        branches = [traced_flops(branch) for branch in params["branches"]]
        drawn = is_drawn(str(equation.source_info.name_stack))
        return sum(branches) // len(branches) if drawn else max(branches)
    repeats = params["length"] if name == "scan" else 1
    return repeats * sum(traced_flops(inner) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item
