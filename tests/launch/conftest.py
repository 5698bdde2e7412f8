"""Tests of launchers run the same tiny task many times."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def programs_compiled_once(compiled_once):
    """Here for every test."""
