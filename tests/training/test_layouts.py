"""HiCMAE's losses over twenty steps are the same however it is divided, and it goes on in any other layout.

Masks, volumes, drop path and the negatives of the contrast belong to clips and the step, so nothing of them may show
where a clip lies. One compiled program a layout serves all runs (see conftest).
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.training.random_clips import run_here, run_in_processes, small_config
from tests.training.tiny import rows_of

STEPS, SAVED = 20, 10
RUN = (
    f"total_steps={STEPS}", f"checkpoint.every_steps={SAVED}", "log.samples_every_steps=0",
    "model.drop_path=0.2", "contrast.weight=0.1",  # so much that a missing negative would show in the loss
    # AdamW's first update is the gradient's sign: with its ε of 1e-8, where a gradient is all rounding the order of a
    # sum decides what is done with a weight (2e-5 of the contrast from one device to eight).
    "optimizer.eps=1e-5",
)  # fmt: skip
TERMS = ("loss", "loss_video", "loss_audio", "loss_contrast")


class Layout(NamedTuple):
    """Fake devices, and how the run is divided over them."""

    processes: int
    devices: int  # of a process
    mesh: tuple[str, ...]

    def run(self, workdir: Path) -> None:
        overrides = (*RUN, *self.mesh)
        if self.processes == 1:
            run_here(small_config(*overrides), workdir, self.devices)
        else:
            run_in_processes(workdir, *overrides, processes=self.processes, devices=self.devices)


DIVIDED = "data 2, fsdp 2, tensor 2"
GROUP = "2 processes of 4: fsdp 4, tensor 2"
LAYOUTS = {
    "1": Layout(1, 1, ()),
    "data 8": Layout(1, 8, ("mesh.data=8",)),
    "fsdp 8": Layout(1, 8, ("mesh.data=1", "mesh.fsdp=8")),
    DIVIDED: Layout(1, 8, ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")),
    GROUP: Layout(2, 4, ("mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2")),
}


def _marked(name: str):
    """Each layout compiles for a minute or more: the one that holds all kinds of division is slow, others nightly."""
    return pytest.param(name, marks=pytest.mark.slow if name == DIVIDED else pytest.mark.nightly)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Callable[[str], Path]:
    """The work directory of a finished run in a layout; each is run once."""

    @functools.cache
    def run(name: str) -> Path:
        workdir = tmp_path_factory.mktemp("layout") / "run"
        LAYOUTS[name].run(workdir)
        return workdir

    return run


def terms_of(workdir: Path) -> dict[tuple[int, str], float]:
    """(step, term) → value."""
    rows = rows_of(workdir)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return {(row["step"], term): row[term] for row in rows for term in TERMS}


@pytest.mark.slow
def test_the_run_learns_and_its_losses_are_not_all_the_same(finished):
    terms = terms_of(finished("1"))
    losses = [terms[step, "loss"] for step in range(1, STEPS + 1)]
    assert min(losses[-3:]) < 0.97 * losses[0] and len(set(losses)) == STEPS


@pytest.mark.parametrize("name", [_marked(name) for name in LAYOUTS if name != "1"])
def test_every_layout_has_the_losses_of_one_device(name, finished):
    assert terms_of(finished(name)) == pytest.approx(terms_of(finished("1")), rel=1e-5)


@pytest.mark.parametrize(
    "saved, name",
    [
        pytest.param(DIVIDED, "1", marks=pytest.mark.slow),
        *(
            pytest.param(DIVIDED, name, marks=pytest.mark.nightly)
            for name in LAYOUTS
            if name not in ("1", DIVIDED)
        ),
        pytest.param("1", DIVIDED, marks=pytest.mark.nightly),
    ],
)
def test_a_checkpoint_of_one_layout_goes_on_in_another_with_the_same_losses(saved, name, finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished(saved), workdir)
    shutil.rmtree(workdir / "checkpoints" / f"{STEPS:08d}")  # as if killed just before the end
    LAYOUTS[name].run(workdir)
    assert terms_of(workdir) == pytest.approx(terms_of(finished("1")), rel=1e-5)
