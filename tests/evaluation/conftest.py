"""A prepared folder and a checkpoint that probes of several tests share."""

import pytest

from tests.evaluation import synthetic


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with the prepared `data` and the checkpoint `run`."""
    place = tmp_path_factory.mktemp("probe")
    synthetic.write_folder(place / "data")
    synthetic.write_checkpoint(place / "run")
    return place
