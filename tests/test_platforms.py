"""Presets of XLA flags: what the environment says wins, and XLA takes every flag of them."""

import os
import subprocess
import sys

import pytest

from avemo_jax import platforms
from avemo_jax.cli import main
from avemo_jax.platforms import PRESETS, SETTINGS, choose, settings
from launch import main as launch


def test_flags_are_added_to_those_of_the_environment_which_stay_as_they_are():
    (row,) = (row for row in SETTINGS if row.preset == "cpu")
    assert settings("cpu", {}) == {"XLA_FLAGS": f"{row.flag}={row.value}"}
    assert settings("cpu", {"XLA_FLAGS": "--xla_a=1"}) == {"XLA_FLAGS": f"--xla_a=1 {row.flag}={row.value}"}
    assert settings("cpu", {"XLA_FLAGS": f"{row.flag}=7 --xla_a"}) == {"XLA_FLAGS": f"{row.flag}=7 --xla_a"}
    assert settings("none", {"XLA_FLAGS": "--xla_a=1"}) == {}


def test_variables_of_the_environment_stay_as_they_are():
    assert settings("gpu", {})["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"
    assert (
        settings("gpu", {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"})["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    )


def test_settings_that_were_set_before_are_not_set_again():
    for preset in PRESETS:
        once = settings(preset, {})
        assert settings(preset, once) == once


@pytest.mark.parametrize(
    "environment, chosen",
    [
        ({"JAX_PLATFORMS": "cpu"}, "cpu"),
        ({"JAX_PLATFORMS": "cuda,cpu"}, "gpu"),
        ({"JAX_PLATFORMS": "mps"}, "none"),
        ({"JAX_PLATFORMS": "cuda", "AVEMO_PLATFORM": "none"}, "none"),
        ({"JAX_PLATFORMS": "cuda", "AVEMO_PLATFORM": "cpu"}, "cpu"),
    ],
)
def test_the_platform_is_the_one_named_or_the_one_that_jax_is_told_to_take(environment, chosen):
    assert choose(environment) == chosen


def test_a_preset_that_there_is_not_is_refused_with_those_that_there_are(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("AVEMO_PLATFORM", "gqu")
    assert main(["train", "--config", "hicmae:demo", "--workdir", str(tmp_path / "run")]) == 2
    assert "no platform preset 'gqu': there are cpu, gpu" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        launch(["local", "--", "train"])
    assert "AVEMO_PLATFORM: no platform preset 'gqu'" in capsys.readouterr().err


@pytest.mark.parametrize("preset", PRESETS)
def test_the_installed_xla_takes_every_flag(preset):
    """jaxlib reads the flags of CPU and GPU alike, whatever there is; those of the TPU are read by libtpu."""
    flags = settings(preset, {}).get("XLA_FLAGS", "")

    def run(flags):
        code = "import jax; print(jax.jit(lambda x: x + 1)(1))"
        kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        environment = {**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    done = run(flags)
    assert done.returncode == 0, done.stderr
    assert "Unknown flag" in run(f"{flags} --xla_no_such_flag=1").stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (["gke", "--topology", "v5e:4x4", "--image", "i"], "platform tpu: "),
        (
            ["slurm", "--gpus_per_node", "8"],
            "platform gpu: XLA_FLAGS='--xla_gpu_enable_latency_hiding_scheduler=true'",
        ),
        (["slurm"], "platform auto: every host looks what it has"),
        (["slurm", "--platform", "none"], "platform none: nothing set"),
        (["tpu-vm", "run", "base", "--zone", "z", "--topology", "v5e:4x4"], "platform tpu: "),
        (
            ["gke", "--topology", "v6e:4x4", "--image", "i"],
            "platform tpu-v6e: LIBTPU_INIT_ARGS='--xla_tpu_scoped_vmem",
        ),
    ],
)
def test_launchers_say_what_the_preset_sets_and_pass_it_on(words, said, capsys):
    assert launch([*words, "--dry_run", "--", "train"]) == 0
    out, err = capsys.readouterr()
    assert said in err
    assert f"--platform {said.split()[1].rstrip(':')}" in out


def test_a_launched_process_is_started_with_the_flags(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    words = ["--processes", "2", "--devices_per_process", "4", "--dry_run", "--", "train"]
    for launcher in ("local", "host"):
        assert launch([launcher, *words]) == 0
        for line in capsys.readouterr().out.splitlines():
            assert "AVEMO_PLATFORM=cpu" in line
            assert f"XLA_FLAGS='--xla_a=1 {settings('cpu', {})['XLA_FLAGS']} --xla_force_host" in line


def test_every_row_says_why():
    assert all(len(row.why) > 20 for row in platforms.SETTINGS)
