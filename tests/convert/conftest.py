"""Small models as checkpoints, for the tests of what becomes of them."""

import pytest

from avemo_jax.convert.weight_files import write_pth
from tests.convert.small_models import run_import, weights


@pytest.fixture(scope="session", params=["pretrain", "finetune"])
def imported(request, tmp_path_factory):
    """The task, its weights, and the work directory that they were imported into."""
    folder = tmp_path_factory.mktemp(request.param)
    state = weights(request.param)
    write_pth(folder / "theirs.pth", state, {"epoch": 99})
    assert run_import(request.param, folder / "theirs.pth", folder / "run") == 0
    return request.param, state, folder / "run"
