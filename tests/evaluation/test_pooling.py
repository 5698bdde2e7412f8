"""Clips that are judged as one: which belong together, and what becomes of their outputs."""

import numpy as np
import pytest

from avemo_jax.errors import UserError
from avemo_jax.evaluation.pooling import means, wholes

CLIPS = [
    "aiim002_task_1_clip_001",
    "aiim001_task_9_clip_001",
    "aiim002_task_1_clip_002",
    "aiim002_task_2_clip_001",
]
TASK = r"(aiim\d+_task_\d)"


def test_clips_of_one_whole_become_their_mean_in_the_order_in_which_wholes_come():
    names, numbers = wholes(TASK, CLIPS, np.array([3, 1, 3, 3]))
    assert names.tolist() == ["aiim002_task_1", "aiim001_task_9", "aiim002_task_2"] and numbers.tolist() == [
        0,
        1,
        0,
        2,
    ]
    outputs = np.random.default_rng(0).random((4, 5))
    np.testing.assert_allclose(means(numbers, outputs), [outputs[[0, 2]].mean(0), outputs[1], outputs[3]])


@pytest.mark.parametrize(
    ("pattern", "truth", "hint"),
    [
        ("(aiim", [0] * 4, "is no regular expression"),
        ("aiim", [0] * 4, "needs one group"),
        ("(aiim)(task)", [0] * 4, "needs one group"),
        (r"(aiim002)", [0] * 4, "finds nothing in the name of clip aiim001_task_9_clip_001"),
        (TASK, [0, 0, 1, 0], "clip aiim002_task_1_clip_002 has another target"),
        (TASK, [[0.5, 1], [0, 0], [0.5, 2], [0, 0]], "clip aiim002_task_1_clip_002 has another target"),
    ],
)
def test_what_does_not_say_what_belongs_together_is_one_line(pattern, truth, hint):
    with pytest.raises(UserError, match=hint) as error:
        wholes(pattern, CLIPS, np.array(truth))
    assert "\n" not in str(error.value)
