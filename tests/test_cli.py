"""The command line itself: verbs, help, one-line errors, exit codes; what verbs do is tested elsewhere."""

import gc
import importlib
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

import avemo_jax.__main__
from avemo_jax import cli
from avemo_jax.cli import main

COMMANDS = Path(cli.__file__).parent / "commands"


def module_of(verb):
    return importlib.import_module(f"avemo_jax.commands.{verb}{'_' if verb == 'import' else ''}")


def error_of(capsys):
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("avemo: error: ")
    return line


def test_every_command_file_is_a_listed_verb():
    files = {path.stem.rstrip("_") for path in COMMANDS.glob("*.py") if path.stem != "__init__"}
    assert files == set(cli.VERBS)


def test_without_a_verb_all_verbs_are_listed(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {verb} " in overview for verb in cli.VERBS)


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "avemo_jax"


@pytest.mark.parametrize("place", [("--out=",), ("--out", "")])
def test_an_empty_place_is_not_this_folder(place, capsys):
    assert main(["features", "--checkpoint", "run", "--data", "data", *place]) == 2
    assert "--out is empty: give a place" in error_of(capsys)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_help_of_a_verb_ends_with_its_example(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith(f"example:\n  {module_of(verb).EXAMPLE}")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_of_a_verb_is_accepted_as_it_stands(verb, monkeypatch):
    seen = []
    monkeypatch.setattr(module_of(verb), "run", lambda args: seen.append(args) or 0)
    program, *words = shlex.split(module_of(verb).EXAMPLE)
    assert (program, words[0]) == ("avemo", verb)
    assert main(words) == 0 and len(seen) == 1


def test_a_mistyped_verb_is_answered_with_the_nearest_one(capsys):
    assert main(["porbe"]) == 2
    assert "unknown verb 'porbe': did you mean 'probe'?" in error_of(capsys)


def test_a_verb_like_no_other_is_answered_with_all_of_them(capsys):
    assert main(["zzz"]) == 2
    assert all(verb in error for error in [error_of(capsys)] for verb in cli.VERBS)


@pytest.mark.parametrize(
    "words, said",
    [
        ("prepare --manifest nowhere.csv --root . --out new", "nowhere.csv: no such manifest"),
        ("prepare --root . --out new", "--manifest"),
        ("generate --clips 10", "--out"),
        ("generate --out new --speakers 2", "--speakers is 2"),
        ("train --config hicmea:demo --workdir new", "did you mean 'hicmae'?"),
        ("train --config hicmae:dmeo --workdir new", "did you mean 'demo'?"),
        ("train --config hicmae:demo --workdir new --config.batchsize=8", "'batch_size'"),
        ("train --config hicmae:demo --workdir new --config.batch_size=many", "takes a int"),
        ("train --config hicmae:demo --workdir new --config.seed", "--config.seed needs a value"),
        (
            "train --config hicmae:demo --workdir new --config.data.path=nowhere",
            "nowhere: no prepared dataset",
        ),
        ("train --config hicmae:demo --work new", "--workdir"),
        ("launch nowhere -- train", "no launcher 'nowhere'"),
        ("probe --checkpoint nowhere --data nowhere --label face --out new", "no usable checkpoint in"),
        ("export --checkpoint nowhere --format safetensors --out new", "no usable checkpoint in"),
        ("export --checkpoint nowhere --format tflite --out new", "invalid choice: 'tflite'"),
        ("import --from hicmae --weights nowhere.pth --config hicmae:tiny --out new", "nowhere.pth"),
        ("parity --fixture nowhere", "nowhere_info.json"),
        ("demo --clips nowhere", "nowhere: no such folder"),
        ("demo --manifest nowhere.csv", "--manifest needs --clips"),
        ("demo --steps 0", "--steps is 0"),
        ("demo --steps few", "invalid int value: 'few'"),
        ("report nowhere", "nowhere: no such folder"),
        ("report .", "no run in it"),
        ("report a b", "--out is needed for several runs"),
        ("report . --clips -1", "--clips is -1"),
        ("inspect --data nowhere --out page.html", "nowhere: no prepared dataset"),
        ("inspect --data nowhere --out page.html --clips 0", "--clips is 0"),
        ("inspect --data nowhere --out page.html --config hicmae:dmeo", "did you mean 'demo'?"),
        ("doctor --colour", "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(words)) == 2
    assert said in error_of(capsys)


def test_debug_shows_where_an_error_was_raised(capsys):
    assert (
        main(["export", "--checkpoint", "nowhere", "--format", "safetensors", "--out", "x", "--debug"]) == 2
    )
    assert "Traceback" in capsys.readouterr().err


def test_a_launched_command_keeps_its_own_debug(monkeypatch):
    seen = []
    monkeypatch.setattr(module_of("launch"), "run", lambda args: seen.append(args.words) or 0)
    assert main(shlex.split("launch local --debug --processes 2 -- train --debug --config hicmae:demo")) == 0
    assert seen == [shlex.split("--processes 2 -- train --debug --config hicmae:demo")]


def interrupted(args):
    raise KeyboardInterrupt


def interrupted_while_garbage_is_collected(args):
    def callback(phase, of_it):
        gc.callbacks.remove(callback)
        raise KeyboardInterrupt  # which Python ignores here

    gc.callbacks.append(callback)
    gc.collect()
    return 0


def interrupted_with_work_to_do(args):
    interrupted_while_garbage_is_collected(args)
    time.sleep(10)


@pytest.mark.parametrize(
    "run", [interrupted, interrupted_while_garbage_is_collected, interrupted_with_work_to_do]
)
def test_ctrl_c_is_said_and_exits_with_130(capsys, monkeypatch, run):
    monkeypatch.setattr(module_of("doctor"), "run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell started aside ignores it
    try:
        assert main(["doctor"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "avemo: interrupted\n"


def test_ctrl_c_while_the_command_line_itself_is_imported_is_said_too(capsys, monkeypatch):
    class Interrupted:
        def find_spec(self, name, path, target=None):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted()])
    monkeypatch.delitem(sys.modules, "avemo_jax.cli")
    monkeypatch.delattr(avemo_jax, "cli")
    assert avemo_jax.__main__.main() == 130
    assert capsys.readouterr().err == "avemo: interrupted\n"
