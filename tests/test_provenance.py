"""Which commands made what is in a folder: `commands.jsonl`, written from one place and never in the way."""

import json
import os

import pytest

from avemo_jax import cli, provenance
from avemo_jax.cli import main
from avemo_jax.provenance import read_calls
from tests.evaluation import synthetic
from tests.test_cli import module_of

LEAVE_RESULTS = {
    "generate",
    "prepare",
    "train",
    "finetune",
    "probe",
    "features",
    "describe",
    "export",
    "import",
    "evaluate",
    "compare",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the checkpoint `run`."""
    place = tmp_path_factory.mktemp("provenance")
    synthetic.write_checkpoint(place / "run")
    return place


def test_every_verb_that_leaves_results_in_a_folder_says_in_which():
    assert {verb for verb in cli.VERBS if hasattr(module_of(verb), "results_folder")} == LEAVE_RESULTS


def test_a_command_is_noted_as_typed_with_its_time_and_its_versions(place, tmp_path):
    out = tmp_path / "two words.safetensors"
    for step in (place / "run", place / "run" / "checkpoints", place / "run" / "checkpoints" / "00000007"):
        assert main(["export", "--checkpoint", str(step), "--format", "safetensors", "--out", str(out)]) == 0
    calls = read_calls(place / "run")
    assert len(calls) == 3
    typed = f"avemo export --checkpoint {place / 'run'} --format safetensors --out '{out}'"
    assert calls[0]["command"] == typed
    assert calls[0].keys() == {"command", "began", "seconds", "exit_code", "versions"}
    assert calls[0]["exit_code"] == 0 and calls[0]["seconds"] > 0
    assert calls[0]["began"].endswith("Z") and calls[0]["began"] <= calls[1]["began"]
    assert {"avemo_jax", "jax", "numpy", "python"} <= calls[0]["versions"].keys()
    assert os.uname().nodename not in json.dumps({**calls[0], "command": ""})


def test_a_command_that_failed_is_noted_with_its_exit_code(tmp_path, monkeypatch):
    words = ["train", "--config", "hicmae:demo", "--workdir", str(tmp_path)]
    for error, code in ((KeyboardInterrupt(), 130), (ZeroDivisionError(), 1)):

        def fail(args, error=error):
            raise error

        monkeypatch.setattr(module_of("train"), "run", fail)
        if code == 1:
            with pytest.raises(ZeroDivisionError):
                main(words)
        else:
            assert main(words) == code
    assert [call["exit_code"] for call in read_calls(tmp_path)] == [130, 1]


def test_a_command_that_was_refused_leaves_nothing_in_a_folder_that_may_be_somebody_elses(tmp_path):
    (tmp_path / "m.csv").write_text("path\na.mp4\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    words = ["prepare", "--manifest", str(tmp_path / "m.csv"), "--root", str(tmp_path)]
    assert main([*words, "--out", str(tmp_path / "photos")]) == 2
    assert provenance.NAME not in [path.name for path in (tmp_path / "photos").iterdir()]


def test_no_folder_is_made_for_a_note_and_one_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(module_of("train"), "run", lambda args: 0)
    words = ["train", "--config", "hicmae:demo", "--workdir"]
    assert main([*words, str(tmp_path / "new")]) == 0 and not (tmp_path / "new").exists()
    (tmp_path / provenance.NAME).mkdir()
    assert main([*words, str(tmp_path)]) == 0


def test_lines_that_are_damaged_are_passed_over(tmp_path):
    (tmp_path / provenance.NAME).write_text('{"command": "avemo a"}\n{"comm\n3\n{"command": "avemo b"}\n')
    assert [call["command"] for call in read_calls(tmp_path)] == ["avemo a", "avemo b"]
    assert read_calls(tmp_path / "nowhere") == []
