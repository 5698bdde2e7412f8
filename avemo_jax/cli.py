"""`avemo VERB …`: finds the verb's file, reads its flags, turns errors into one clear line.

A verb is a module of `avemo_jax.commands` with a docstring (its first line is the help text), `EXAMPLE`,
`add_flags(parser)` and `run(args) -> int`; `TAKES_CONFIG = True` adds `--config` and collects
`--config.path.to.key=value` into `args.overrides` (`DEFAULT_CONFIG` is taken when it is not given). A verb that
leaves results in a folder says in which, `results_folder(args) -> Path`, and is noted there. The module is
imported only when its verb is called, so that `avemo --help` stays quick.
"""

from __future__ import annotations

import _thread
import argparse
import functools
import importlib
import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import avemo_jax
from avemo_jax.errors import UserError
from avemo_jax.provenance import Call
from input_pipeline.errors import DataError

VERBS = {
    "generate": "a labelled talking-face corpus, spoken and drawn on this machine, to try things out",
    "prepare": "raw videos → face crops and sound → sharded records, and a list of what was left out",
    "describe": "texts of clips and their vectors: from a file, or from what can be measured",
    "plan": "memory, FLOPs, collectives and speed of a config on a TPU pod, without the pod",
    "train": "run the task of a config file; resumes by itself",
    "finetune": "a classifier or regressor from a pretrained run, scored on clips left out",
    "launch": "run a command as several processes: local, slurm, gke, tpu-vm",
    "probe": "linear probes on a frozen checkpoint, beside their baselines",
    "evaluate": "calibration, fairness, modality conflict, retrieval, texts",
    "compare": "pretraining methods under one budget, judged alike: one table, one page",
    "features": "what a checkpoint makes of every clip, as a table: Parquet or NumPy",
    "report": "what a run did, or several side by side, as one page to mail",
    "inspect": "clips as the model sees them before training, as one page",
    "export": "checkpoint → PyTorch weights, or a folder for transformers",
    "import": "PyTorch weights of the reference → checkpoint",
    "parity": "this build against numbers recorded from the reference",
    "demo": "the whole job in minutes, on clips that it makes or on yours",
    "doctor": "devices, versions, decoders, disk: what is wrong and how to mend it",
}


_REFUSED = 2  # the exit code of bad input


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the process's exit code (2 on bad input, 130 on Ctrl-C)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        print(f"avemo_jax {avemo_jax.__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    own = rest[: rest.index("--")] if "--" in rest else rest  # behind it is a command to launch
    words = [word for word in own if word != "--debug"] + rest[len(own) :]
    debug = len(words) < len(rest)
    call, note_in = Call(argv), None
    code = 1  # of an error that nobody foresaw, which Python reports
    hook = sys.unraisablehook
    again: list[threading.Timer] = []
    sys.unraisablehook = functools.partial(_interrupt_again, hook, again)
    try:
        command, args = _read(verb, words)
        if hasattr(command, "results_folder"):
            note_in = lambda: command.results_folder(args)  # noqa: E731
        code = command.run(args)
    except (UserError, DataError) as error:
        if debug:
            traceback.print_exc()
        print(f"avemo: error: {error}", file=sys.stderr)
        code = getattr(error, "exit_code", _REFUSED)
    except KeyboardInterrupt:
        code = _interrupted()
    finally:
        sys.unraisablehook = hook
        if _still_to_come(again) and code == 0:
            code = _interrupted()
        if note_in and code != _REFUSED:  # that made nothing, perhaps in a folder of somebody else's
            call.note(note_in, code)
    return code


def _interrupted() -> int:
    """Says so; returns the exit code."""
    print("avemo: interrupted", file=sys.stderr)
    return 130


def _interrupt_again(otherwise: Callable[[Any], None], again: list[threading.Timer], ignored: Any) -> None:
    """For `sys.unraisablehook`: a Ctrl-C that came while garbage was collected, where Python ignores it, comes again a
    moment later; what brings it is added to `again`."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        again.append(threading.Timer(0.05, _thread.interrupt_main))
        again[-1].start()
    else:
        otherwise(ignored)


def _still_to_come(again: Iterable[threading.Timer]) -> bool:
    """Whether a Ctrl-C of `_interrupt_again` had not come yet; it does not any more."""
    pending = any(not timer.finished.is_set() for timer in again)
    try:
        for timer in again:
            timer.cancel()
            timer.join()  # of one that began in between
    except KeyboardInterrupt:
        return True
    return pending


def _read(verb: str, words: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    """The verb's module and its flags."""
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(VERBS)}"
        raise UserError(f"unknown verb '{verb}': {hint}")
    command = importlib.import_module(f"avemo_jax.commands.{verb}{'_' if verb == 'import' else ''}")
    parser = _Parser(
        prog=f"avemo {verb}",
        description=command.__doc__,
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    takes_config = getattr(command, "TAKES_CONFIG", False)
    overrides: list[str] = []
    if takes_config:
        default = getattr(command, "DEFAULT_CONFIG", None)
        hint = f" ({default})" if default else ""
        parser.add_argument(
            "--config",
            required=default is None,
            default=default,
            help=f"file or name, with an argument after a colon: hicmae:base{hint}",
        )
        overrides, words = _split_overrides(words)
    command.add_flags(parser)
    for flag in ("--out", "--workdir"):  # of an unset variable; it would mean this folder
        if f"{flag}=" in words or (flag, "") in itertools.pairwise(words):
            raise UserError(f"{flag} is empty: give a place, or . for this folder")
    args = parser.parse_args(words)
    if takes_config:
        args.overrides = overrides
    return command, args


def _split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Takes `--config.a.b=value` (or `--config.a.b value`) out of the words."""
    overrides, rest = [], []
    queue = iter(words)
    for word in queue:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        key = word.removeprefix("--config.")
        if "=" not in key:
            value = next(queue, None)
            if value is None:
                raise UserError(f"--config.{key} needs a value: --config.{key}=…")
            key = f"{key}={value}"
        overrides.append(key)
    return overrides, rest


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [avemo_jax.__doc__ or "", "", "usage: avemo VERB [--flags]", ""]
    lines += [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    return "\n".join(
        [*lines, "", "avemo VERB --help tells a verb's flags; --debug shows the traceback of an error."]
    )


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in the same form as all others: one line."""

    def error(self, message: str):
        raise UserError(f"{message} (see '{self.prog} --help')")
