"""Identity leakage: how well features that are to tell emotions tell speakers apart.

A probe for the speaker, trained on some clips of each and tested on their others, on the features of a checkpoint
(pretrained or fine-tuned), of the same network with random weights, and on plain statistics of sound and picture. What
random weights and statistics tell, the recordings give away by themselves; what a checkpoint tells beyond, it carries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from avemo_jax.evaluation import probing

Row = dict[str, Any]
LABEL, PROTOCOL = "speaker", "within_speakers"
# As large as there are speakers; `avemo probe` has them.
_LEFT_OUT = ("confusion", "folds", "classes", "outputs")


def rows(
    checkpoint: str,
    data: str,
    *,
    seeds: int = 1,
    batch_size: int = 32,
    workers: int = 0,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """One row a feature and network, as of `judging.judge`, without confusions and folds.

    `uar` is the mean over speakers of how many of their clips are recognised; `ci95` is from resampling speakers;
    `chance` is 1 / `speakers`.

    Raises:
      UserError: no usable checkpoint, or the folder names less than two speakers.
    """
    options = probing.ProbeOptions(
        label=LABEL, protocol=PROTOCOL, random_seeds=seeds, batch_size=batch_size, workers=workers
    )
    result = probing.run(checkpoint, data, options, say=say)
    return [{key: value for key, value in row.items() if key not in _LEFT_OUT} for row in result.rows]
