"""`avemo launch gke`: the manifest against JobSet's own schema, and what a pod's command does when it is really run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch import tpus
from launch.gke import main, manifest_of, read_flags
from launch.manifests import to_yaml
from tests.training.tiny import ROOT

WORDS = ("--name", "base", "--topology", "v5e:4x4", "--image", "registry/avemo:1")
VERB = ("--", "train", "--config", "hicmae:base", "--workdir", "/data/a b")
EVERYTHING = (
    "--slices", "2", "--spot", "--pvc", "data:/data", "--env", "A=1", "--queue", "tpus", "--service_account", "me",
    "--namespace", "team", "--setup", "echo 'it''s'",
)  # fmt: skip


def closed(schema):
    """The schema, with nothing allowed that it does not name, as `kubectl` checks it."""
    if isinstance(schema, dict):
        closed_too = {key: closed(value) for key, value in schema.items()}
        if "properties" in schema and schema.get("type") == "object":
            closed_too["additionalProperties"] = False
        return closed_too
    return [closed(each) for each in schema] if isinstance(schema, list) else schema


SCHEMA = closed(yaml.safe_load(Path(__file__).with_name("jobset_schema.yaml").read_text()))


def printed(capsys, *words) -> dict:
    assert main([*WORDS, *words, "--dry_run", *VERB]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("words", [(), EVERYTHING])
def test_the_manifest_is_a_jobset_by_its_schema(words, capsys):
    jsonschema.validate(printed(capsys, *words), SCHEMA)


def test_the_schema_refuses_what_kubernetes_would():
    manifest = manifest_of(read_flags([*WORDS, *VERB]))
    for path, value in [("spec/maxRestarts", 3), ("spec/failurePolicy/maxRestarts", "3"), ("metadta", {})]:
        broken = json.loads(json.dumps(manifest))
        *parents, last = path.split("/")
        inner = broken
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


def test_every_host_of_every_slice_has_a_pod_with_all_its_chips(capsys):
    manifest = printed(capsys, "--slices", "3", "--topology", "v5p:2x2x4")
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["completions"], job["parallelism"]) == (3, 4, 4)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy asks for
    assert pod["terminationGracePeriodSeconds"] > 60  # the run's own grace


def test_what_saved_or_lost_its_peers_is_restarted_without_being_counted(capsys):
    spec = printed(capsys)["spec"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    first, _ = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert first["onExitCodes"]["values"] == [75, 143]


def test_a_pods_command_starts_its_host_and_finds_the_first_one(capsys, tmp_path):
    manifest = printed(capsys, "--slices", "2", "--python", sys.executable)
    container = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    *shell, script = container["command"]
    given_by_kubernetes = {"JOB_INDEX": "1", "JOB_COMPLETION_INDEX": "2", "ATTEMPT": "0", "HOSTNAME": "pod"}
    assert {each["name"] for each in container["env"]} == {"JOB_INDEX", "ATTEMPT"}
    done = subprocess.run(
        [*shell, script.replace(" -- train", " --dry_run -- train")],
        env={**os.environ, **given_by_kubernetes, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "AVEMO_COORDINATOR=base-slice-0-0.base:PORT AVEMO_PROCESSES=8" in done.stdout
    assert "AVEMO_PROCESS_ID=6" in done.stdout
    assert done.stdout.rstrip().endswith("train --config hicmae:base --workdir '/data/a b'")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--topology", "v5e:4x4x4"], "2 sides, as in v5e:4x4"),
        (["--topology", "v9:4x4"], "there are v4, v5e"),
        (["--topology", "v5e:3x3"], "not whole hosts"),
        (["--name", "Base"], "small letters"),
        (["--pvc", "data"], "it has no ':/'"),
    ],
)
def test_flags_that_make_no_sense_are_refused_in_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*WORDS, *words, *VERB])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_manifest_is_handed_to_kubectl(monkeypatch, tmp_path, capsys):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words; cat > {tmp_path}/manifest\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main([*WORDS, "--namespace", "team", *VERB]) == 0
    assert (tmp_path / "words").read_text() == "apply --filename - --namespace team\n"
    jsonschema.validate(yaml.safe_load((tmp_path / "manifest").read_text()), SCHEMA)
    assert "kubectl delete jobset base --namespace team" in capsys.readouterr().out


def test_topologies_are_counted_in_hosts_and_named_as_google_does():
    slices = {
        text: tpus.parse(text) for text in ("v5e:16x16", "v5p:4x4x4", "v4:2x2x1", "v6e:1x1", "tpu7x:4x4x8")
    }
    assert [each.hosts for each in slices.values()] == [64, 16, 1, 1, 32]
    assert slices["v5e:16x16"].accelerator_type == "v5litepod-256"
    assert slices["v5p:4x4x4"].accelerator_type == "v5p-128"


_TEXTS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z"), exclude_characters="\u2028\u2029")
)
_SCALARS = st.one_of(_TEXTS, st.integers(-9999, 9999), st.booleans(), st.none(), st.just("a\nb c\n\n  d\n"))
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(_VALUES)
def test_any_yaml_reader_finds_what_was_written(value):
    assert yaml.safe_load(to_yaml(value)) == value
