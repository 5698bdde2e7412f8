"""Whose a work directory is: the config that it was begun with, also by an older version."""

import json

import pytest

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.training import workdir


@pytest.fixture
def begun_by_an_earlier_version(tmp_path):
    workdir.write_config(tmp_path, load_config("hicmae:demo"))
    written = json.loads((tmp_path / workdir.CONFIG).read_text())
    del written["ema"], written["mask"]["video"], written["target"]["error"], written["contrast"]["kind"]
    (tmp_path / workdir.CONFIG).write_text(json.dumps(written))
    return tmp_path


def test_a_key_that_came_later_does_not_make_it_another_run(begun_by_an_earlier_version):
    workdir.check_config(begun_by_an_earlier_version, load_config("hicmae:demo"))


def test_unless_it_now_asks_for_something(begun_by_an_earlier_version):
    with pytest.raises(UserError, match=r"ema.decay was 0.0 and is 0.9"):
        workdir.check_config(begun_by_an_earlier_version, load_config("hicmae:demo", ("ema.decay=0.9",)))


def test_what_makes_another_run_is_named(tmp_path):
    workdir.write_config(tmp_path, load_config("hicmae:demo"))
    workdir.check_config(tmp_path, load_config("hicmae:demo", ("total_steps=7", "mesh.fsdp=2")))
    with pytest.raises(UserError, match=r"seed was 0 and is 1"):
        workdir.check_config(tmp_path, load_config("hicmae:demo", ("seed=1",)))
