"""What each term of a loss weighs at a step: further terms with their weights, and weights that change (`objectives`).

Not here: the terms themselves (objectives), and the usual weights, which stand where the term is configured.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.batch import Outputs, Targets
from avemo_jax.errors import UserError
from avemo_jax.objectives import Term, term_of

SHAPES = ("linear", "cosine")
_LEVELS = (
    "video_levels",
    "audio_levels",
)  # fields of `Outputs` whose second axis is the clips, not the first


class Ramp(NamedTuple):
    """A factor of a term's weight: `first` up to step `start`, `last` from step `end` on, in between a ramp."""

    term: str
    first: float
    last: float
    start: int
    end: int


class Weighing:
    """The `objectives` of a config, whose own terms are called `own`.

    Raises:
      UserError, DataError: a term that is not there, or that is called as another one; weights or ramps that are none.
    """

    def __init__(self, objectives: ConfigDict, own: Collection[str]):
        found = [term_of(name) for name in objectives.get("terms", ())]  # a task may have none of them
        self._terms: dict[str, Term] = dict(found)
        twice = [name for name, _ in found if name in own]
        if twice or len(self._terms) < len(found):
            name = twice[0] if twice else next(n for n, _ in found if [m for m, _ in found].count(n) > 1)
            raise UserError(f"objectives.terms: two terms are called '{name}'; give one's file another name")
        weights = tuple(objectives.get("weights", ())) or (1.0,) * len(found)
        if len(weights) != len(found) or not all(isinstance(w, (int, float)) for w in weights):
            raise UserError(
                f"objectives.weights is {weights}: {len(found)} terms need a number each, or none at all"
            )
        self._weights = dict(zip(self._terms, weights, strict=True))
        if objectives.ramp not in SHAPES:
            raise UserError(f"objectives.ramp is '{objectives.ramp}', not one of {', '.join(SHAPES)}")
        self._cosine = objectives.ramp == "cosine"
        self.ramps = tuple(_ramp(entry, [*own, *self._terms]) for entry in objectives.ramps)

    def factors(self, step: Array | int | None) -> dict[str, Array]:
        """Of the terms whose weight changes, what it is multiplied by at this step, float32 []; without a step
        none does."""
        if step is None:
            return {}
        found: dict[str, Array] = {}
        for ramp in self.ramps:
            share = jnp.clip((step - ramp.start) / (ramp.end - ramp.start), 0.0, 1.0)
            share = (1 - jnp.cos(jnp.pi * share)) / 2 if self._cosine else share
            found[ramp.term] = found.get(ramp.term, 1.0) * (ramp.first + (ramp.last - ramp.first) * share)
        return found

    def further(
        self, outputs: Outputs, targets: Targets, copies: int, factors: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """The further terms, weighted and added up, and each as `loss_NAME`.

        A term is asked about every copy of the clips by itself, so no clip is there twice; then the mean is taken.
        """
        total, terms = jnp.zeros(()), dict[str, Array]()
        for name, term in self._terms.items():
            one = jax.vmap(lambda o, t, term=term, name=name: _scalar(name, term, o, t))
            value = one(*_by_copy(outputs, targets, copies)).mean()
            terms[f"loss_{name}"] = value
            total += self._weights[name] * factors.get(name, 1.0) * value
        return total, terms


def _scalar(name: str, term: Term, outputs: Outputs, targets: Targets) -> Array:
    try:
        value = jnp.asarray(term(outputs, targets), jnp.float32)
    except UserError as error:
        raise UserError(f"objective {name}: {error}") from error
    except Exception as error:
        first = (str(error) or "no reason given").splitlines()[0]
        raise UserError(f"objective {name} fails: {type(error).__name__}: {first}") from error
    if value.shape:
        raise UserError(f"objective {name} gives an array of shape {value.shape}, not one number")
    return value


def _by_copy(outputs: Outputs, targets: Targets, copies: int) -> tuple[Outputs, Targets]:
    """Every field as [copies, …]; copies of a clip lie side by side."""

    def apart(field: Array | None, axis: int) -> Array | None:
        if field is None:
            return None
        shape = field.shape
        cut = field.reshape(*shape[:axis], shape[axis] // copies, copies, *shape[axis + 1 :])
        return jnp.moveaxis(cut, axis + 1, 0)

    fields = {name: apart(field, int(name in _LEVELS)) for name, field in outputs._asdict().items()}
    return Outputs(**fields), Targets(*(apart(field, 0) for field in targets))


def _ramp(entry: Sequence, known: Sequence[str]) -> Ramp:
    said = f"objectives.ramps has {entry!r}"
    if not isinstance(entry, tuple) or len(entry) != len(Ramp._fields):
        raise UserError(f"{said}: a ramp is (term, factor before, factor after, from step, to step)")
    ramp = Ramp(*entry)
    if ramp.term not in known:
        raise UserError(f"{said}: this loss has no term '{ramp.term}', but {', '.join(known)}")
    if not all(isinstance(number, (int, float)) and number >= 0 for number in ramp[1:]):
        raise UserError(f"{said}: factors and steps are numbers from 0 on")
    if ramp.start >= ramp.end:
        raise UserError(f"{said}: step {ramp.start} is not before step {ramp.end}")
    return ramp
