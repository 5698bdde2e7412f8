"""Fine-tuning on several folders at once: a clip teaches its own folder's head, by its label and by a frozen teacher.

What a clip is to be comes with the batch, looked up beforehand (`lessons`), one row for all heads:
  label   float32 [B, K]  in its own head's columns its target, classes as a distribution; elsewhere 0
  taught  float32 [B, K]  likewise its teacher's softened outputs
  share   float32 [B, H]  1 for its own head
  pupil   float32 [B, H]  1 for its own head where that has a teacher who knows the clip
So clips of different folders may be mixed: each head then learns from its part.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from avemo_jax.batch import Batch
from avemo_jax.objectives.distillation import DISTILLATION
from avemo_jax.objectives.supervised import CLASS_LOSSES, VALUE_LOSSES
from avemo_jax.tasks import clips
from avemo_jax.tasks.finetune import Finetune
from avemo_jax.tasks.heads import heads_of

FIELDS = ("label", "taught", "share", "pupil")
_LOSSES: dict[str, Callable[..., Array]] = {**CLASS_LOSSES, **VALUE_LOSSES}


class Several(Finetune):
    """The task of `config.task = "several"`; see `avemo_jax.tasks.Task`."""

    def check(self) -> None:
        self.heads = heads_of(self.config)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        count, outputs, heads = self.config.batch_size, self.config.model.classes, len(self.heads)
        widths = dict(zip(FIELDS, (outputs, outputs, heads, heads), strict=True))
        shapes = {name: jax.ShapeDtypeStruct((count, width), jnp.float32) for name, width in widths.items()}
        return clips.batch_shapes(self.config) | shapes

    def targets(self, batch: Batch) -> Array:
        """All four fields side by side, [B, 2K + 2H], to be mixed as one."""
        return jnp.concatenate([batch[name] for name in FIELDS], axis=-1)

    def loss(self, model: nnx.Module, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
        """Mean over clips of weight · ((1 − d) · supervised + d · distilled), d being `distill.weight` where a clip has
        a teacher and else 0. Terms, of each head: `NAME_loss` and `NAME_taught`, its clips' sums over all clips."""
        config = self.config
        keys = clips.clip_keys(key, batch)
        clip, mixed = self.view(batch, keys, key)
        outputs, _ = model(clip, clips.drop_keys(config, keys))
        sizes = [batch[name].shape[-1] for name in FIELDS]
        label, taught, share, pupil = jnp.split(mixed, [sum(sizes[:n]) for n in (1, 2, 3)], axis=-1)
        total, terms = jnp.zeros(()), {}
        for number, head in enumerate(self.heads):
            own, its, known = outputs[:, head.columns], share[:, number], pupil[:, number]
            errors = _of_each_clip(_LOSSES[head.loss])(own, _whole(label[:, head.columns], its))
            terms[f"{head.name}_loss"] = jnp.mean(its * errors)
            part = terms[f"{head.name}_loss"]
            if head.teacher:
                says = _whole(taught[:, head.columns], known)
                distances = DISTILLATION[head.target.kind](own, says, config.distill.temperature)
                terms[f"{head.name}_taught"] = jnp.mean(known * distances)
                heard = config.distill.weight
                part = jnp.mean((its - heard * known) * errors) + heard * terms[f"{head.name}_taught"]
            total += head.weight * part
        return total, terms


def _of_each_clip(loss: Callable[..., Array]) -> Callable[[Array, Array], Array]:
    """A loss that is a mean over clips → one that gives each clip's, [B]."""
    return jax.vmap(lambda output, target: loss(output[None], target[None]))


def _whole(mixed: Array, share: Array) -> Array:
    """A head's targets [B, K], scaled by what part of each clip is its own, [B] → as if it were all."""
    return mixed / jnp.maximum(share, 1e-12)[:, None]
