"""What the tests of training share: programs compiled once, and the run that nothing disturbed."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """The same few programs are compiled for many runs, here and in processes: keep them for the session."""
    import jax

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    yield
    for name in settings:
        del os.environ[name.upper()]
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> dict[int, float]:
    """step → loss of the tiny run that nothing disturbed, on one device."""
    from tests.training import tiny

    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    tiny.run_here(tiny.tiny_config(), workdir, devices=1)
    return tiny.losses_of(workdir)
