"""Fixtures that several folders of tests share, and the line that says how many real files were decoded."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from tests import processes, real_clips

# Eight fake devices, for the tests of layouts. Flags count only before JAX first looks for devices, which some test
# files do while they are imported; those that are set already come last and so stay.
os.environ["XLA_FLAGS"] = f"{processes.device_flags(8)} {os.environ.get('XLA_FLAGS', '')}".strip()

# Their threads. XLA's CPU starts collectives that do not depend on each other at once, and each holds a thread until
# all devices have come to it: with as many threads as devices two collectives wait for each other for ever.
os.environ.setdefault("NPROC", "64")

hypothesis.settings.register_profile("shared_machine", deadline=None)  # CI machines pause at will
hypothesis.settings.load_profile("shared_machine")


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory):
    """A folder prepared from real clips with picture and sound, in small shards; do not write to it."""
    from input_pipeline.prepare import prepare
    from input_pipeline.storing import ClipOptions

    rows = real_clips.talking_rows()
    out = tmp_path_factory.mktemp("prepared") / "clips"
    prepare(rows, real_clips.root(), out, ClipOptions(short_side=112), clips_per_shard=5, workers=0)
    real_clips.count(rows)
    return out


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """The same few programs are compiled for many runs, here and in processes: they are kept for the session, or
    for longer where JAX_COMPILATION_CACHE_DIR names a folder."""
    import jax

    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.mktemp("compiled"))
    settings = {
        "jax_compilation_cache_dir": kept,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> dict[int, float]:
    """step → loss of the tiny run that nothing disturbed, on one device."""
    from tests.training import tiny

    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    tiny.run_here(tiny.tiny_config(), workdir, devices=1)
    return tiny.losses_of(workdir)


def pytest_addoption(parser):
    parser.addoption("--update_dumps", action="store_true", help="write the resolved configs anew")


def pytest_xdist_auto_num_workers(config):
    """A whole suite is divided over the cores, file by file (most of a test is compiling, by one thread); files that
    are named are run here, where a debugger and `-s` work. A test may have eight devices: memory for four."""
    return 0 if config.args_source is config.ArgsSource.ARGS else min(4, len(os.sched_getaffinity(0)))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["decoded"] = [str(path) for path in real_clips.decoded]


def pytest_testnodedown(node):
    real_clips.decoded.update(map(Path, getattr(node, "workeroutput", {}).get("decoded", ())))


def pytest_terminal_summary(terminalreporter):
    if real_clips.decoded:
        terminalreporter.write_line(
            f"real media: {len(real_clips.decoded)} files decoded, from {real_clips.source()}"
        )
