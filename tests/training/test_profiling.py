"""Profiles: a trace is really there, holds the steps that were asked for, and is no part of what a run is."""

import gzip
import json

from tests.training.tiny import losses_of, run_here, tiny_config


def events_of(workdir, name):
    """Names of all events of the trace of `name`, and the numbers of its train steps."""
    folder = workdir / "profile" / "plugins" / "profile" / name
    with gzip.open(folder / "perfetto_trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = {int(e["args"]["step_num"]) for e in events if e.get("name", "").startswith("train")}
    return {event.get("name", "") for event in events}, steps


def test_the_steps_asked_for_are_traced_and_the_train_step_is_in_it(tmp_path, capsys, uninterrupted):
    run_here(tiny_config("profile.steps=3", "profile.after=4"), tmp_path, devices=1)
    names, steps = events_of(tmp_path, "step_00000005")
    assert steps == {5, 6, 7}
    assert "PjitFunction(jit(step))" in names, sorted(names)[:50]
    folder = tmp_path / "profile" / "plugins" / "profile" / "step_00000005"
    assert list(folder.glob("*.xplane.pb"))
    said = capsys.readouterr().out
    assert f"profile of steps 5 to 7 is in {folder}: open" in said and "xprof --logdir" in said
    assert losses_of(tmp_path) == uninterrupted


def test_a_resumed_run_may_ask_for_another_trace_which_counts_from_its_own_start(tmp_path):
    run_here(tiny_config("total_steps=4"), tmp_path, devices=1)
    run_here(tiny_config("profile.steps=1", "profile.after=1"), tmp_path, devices=1)
    assert events_of(tmp_path, "step_00000006")[1] == {6}


def test_a_run_that_ends_earlier_leaves_what_was_traced(tmp_path, capsys):
    run_here(tiny_config("profile.steps=90", "profile.after=10"), tmp_path, devices=1)
    assert events_of(tmp_path, "step_00000011")[1] == {11, 12}
    assert "profile of steps from 11 is in" in capsys.readouterr().out


def test_without_being_asked_nothing_is_traced(tmp_path):
    run_here(tiny_config("total_steps=2"), tmp_path, devices=1)
    assert not (tmp_path / "profile").exists()
