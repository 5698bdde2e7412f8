"""A run's folder as plain data: what is there, what is cut short, and what is not there."""

import json

import numpy as np
import pytest

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation.runs import gather_run, page_of
from avemo_jax.training.checkpoint_files import save_params
from tests.evaluation import synthetic

PROBE_ROW = dict.fromkeys(
    ("feature", "weights", "loudness", "uar", "ci95", "classes", "confusion", "folds"), 0
)

OUTCOME_ROW = dict.fromkeys(("selection", "modalities", "target", "label", "fold", "n", "ci95", "outputs"), 0)


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


def test_the_folder_of_a_step_is_its_run_with_the_weights_and_pictures_of_that_step(folder):
    config = load_config("hicmae:demo", synthetic.TINY)
    steps = {step: save_params(folder, config, {"a": np.zeros(3, np.float32)}, step) for step in (4, 8)}
    (folder / "samples").mkdir()
    for step in (2, 4, 8):
        (folder / "samples" / f"{step}_input.png").touch()
    run, whole = gather_run(steps[4]), gather_run(folder)
    assert (run.name, run.folder, run.weights) == (f"{folder.name} at step 4", folder, steps[4])
    assert (run.checkpoint_step, sorted(run.samples)) == (4, [2, 4]) and run.config == whole.config
    assert (whole.checkpoint_step, sorted(whole.samples)) == (8, [2, 4, 8]) and whole.weights == folder
    assert [page_of(of).name for of in (folder, steps[4])] == ["report.html", "report_00000004.html"]
    assert page_of(steps[4]).parent == folder
    (steps[4] / "manifest.json").unlink()
    with pytest.raises(UserError, match="this checkpoint is not finished; give another step's folder"):
        gather_run(steps[4])


def test_a_fine_tuning_of_all_folds_has_their_scores_together_and_says_where_the_rest_is(tmp_path):
    tmp_path = tmp_path / "all folds"
    tmp_path.mkdir()
    for fold in ("1", "2"):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no run in it"):  # it has not ended
        gather_run(tmp_path)
    for place in (".", "fold_1", "fold_2/heads/mafw", "fold_1/other_corpus", "other_corpus"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "rows.json").write_text(json.dumps([OUTCOME_ROW]))
    run = gather_run(tmp_path)
    assert [one.name for one in run.outcomes] == [".", "fold_1/other_corpus", "other_corpus"]
    (note,) = run.notes
    assert note.endswith(f"avemo report '{tmp_path / 'fold_1'}'")
    assert run.folds == [tmp_path / "fold_1", tmp_path / "fold_2"]


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
