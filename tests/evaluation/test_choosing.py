"""Which look of a fine-tuning run is the best."""

import json

import pytest

from avemo_jax.config import load_config
from avemo_jax.evaluation.choosing import choices
from avemo_jax.training.checkpoint_files import step_name
from avemo_jax.training.watching import LOOKS

SEEN = {
    2: {"uar": 0.3, "war": 0.6, "ccc": 0.4, "js": 0.3},
    4: {"uar": 0.5, "war": 0.4, "ccc": 0.1, "js": 0.2},
}


@pytest.mark.parametrize(
    ("overrides", "best"),
    [
        (("data.target=class",), 4),
        (("data.target=class", "select.score=war"), 2),
        (("data.target=values",), 2),
        (("data.target=distribution",), 4),
        (("data.target=distribution", "select.score=ccc"), 2),
    ],
)
def test_it_is_best_in_the_score_asked_for_or_else_the_first_of_what_is_predicted(overrides, best, tmp_path):
    config = load_config("finetune/recipe:demo", overrides)
    looks = [
        {"step": step} | {f"development_{name}": value for name, value in scores.items()}
        for step, scores in SEEN.items()
    ]
    (tmp_path / LOOKS).write_text("".join(json.dumps(look) + "\n" for look in looks))
    (_, checkpoint), (last, _) = choices(config, tmp_path)
    assert checkpoint.name == step_name(best) and last == "last"
