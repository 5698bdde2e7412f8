"""A run's folder as plain data: what is there, what is cut short, and what is not there."""

import json

import pytest

from avemo_jax.errors import UserError
from avemo_jax.evaluation.runs import gather_run

PROBE_ROW = dict.fromkeys(
    ("feature", "weights", "loudness", "uar", "ci95", "classes", "confusion", "folds"), 0
)


@pytest.fixture
def folder(tmp_path):
    """A run that has only just begun."""
    (tmp_path / "config.json").write_text(json.dumps({"total_steps": 9, "data": {"path": "clips"}}))
    return tmp_path


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run in it"):
        gather_run(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        gather_run(tmp_path / "nowhere")


def test_a_run_that_has_only_begun_has_nothing_else(folder):
    run = gather_run(folder)
    assert (run.total_steps, run.data) == (9, "clips")
    assert not run.metrics and not run.samples and not run.probes and not run.calls and not run.notes
    assert run.time is None and run.checkpoint_step is None and run.parameters is None


def test_a_line_that_is_being_written_is_passed_over(folder):
    (folder / "metrics.jsonl").write_text(
        '{"step": 2, "loss": 1.0}\n{"step": 4, "loss": null}\n{"step": 6, "lo'
    )
    assert [row["step"] for row in gather_run(folder).metrics] == [2, 4]


def test_probes_are_found_wherever_they_lie_but_not_in_the_runs_own_folders(folder):
    for place in ("probe", "more/probes/emotion", "checkpoints/00000002", "samples"):
        (folder / place).mkdir(parents=True)
        (folder / place / "rows.json").write_text(json.dumps([PROBE_ROW]))
    (folder / "other").mkdir()
    (folder / "other" / "rows.json").write_text('[{"rows": "of something else"}]')
    probes = gather_run(folder).probes
    assert [probe.name for probe in probes] == ["more/probes/emotion", "probe"]
    assert "folds" not in probes[0].rows[0]


def test_files_that_cannot_be_read_are_named(folder):
    (folder / "probe").mkdir()
    (folder / "probe" / "rows.json").write_text("[{")
    (folder / "time.json").write_text("")
    notes = gather_run(folder).notes
    assert (
        len(notes) == 2 and "time.json cannot be read" in notes[0] and "rows.json cannot be read" in notes[1]
    )


def test_numbers_that_are_none_are_none(folder):
    (folder / "probe").mkdir()
    (folder / "probe" / "rows.json").write_text(json.dumps([PROBE_ROW | {"uar": float("nan")}]))
    (probe,) = gather_run(folder).probes
    assert probe.rows[0]["uar"] is None


def test_pictures_are_found_by_their_step(folder):
    (folder / "samples").mkdir()
    for name in ("00000020_reconstruction.png", "00000004_reconstruction.png", "notes_of_mine.png"):
        (folder / "samples" / name).touch()
    assert list(gather_run(folder).samples) == [4, 20]
