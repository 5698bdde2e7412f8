"""The built package, away from the checkout: built from its source archive, installed into a venv of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = ("avemo_jax", "input_pipeline", "configs", "launch", "setup.py", "pyproject.toml", "MANIFEST.in")
SOURCES += ("README.md", "CHANGELOG.md", "LICENSE")
TINY = "model.dim=24 model.heads=3 model.depth=3 model.decoder_dim=12 model.decoder_heads=2 model.decoder_depth=3"
TINY += " model.skip_layers=(0,2) model.frames=4 model.image_size=32 model.audio_frames=64 model.mel_bins=32"
TINY += " batch_size=4 total_steps=2 data.workers=0 log.samples_every_steps=0"


class Installed(NamedTuple):
    """The wheel and the venv that it was installed into."""

    wheel: Path
    venv: Path
    elsewhere: Path  # a folder far from any checkout, to run in

    @property
    def packages(self) -> Path:
        return next((self.venv / "lib").glob("python*/site-packages"))

    def run(self, program, *words):
        # Without what other tests set for this process.
        kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
        command = [self.venv / "bin" / program, *words]
        return subprocess.run(
            command, env={**kept, "JAX_PLATFORMS": "cpu"}, cwd=self.elsewhere, capture_output=True, text=True
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    quiet = dict(check=True, cwd=tree, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", folder], **quiet)
    (archive,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, archive]
    subprocess.run(build, **quiet)
    (wheel,) = folder.glob("*.whl")

    venv.create(folder / "venv", with_pip=False)
    result = Installed(wheel, folder / "venv", tmp_path_factory.mktemp("elsewhere"))
    python = result.venv / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], **quiet)
    # The packages that it needs are borrowed; a path in a .pth file brings no editable install of ours along.
    (result.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return result


def test_the_wheel_holds_the_two_packages_with_configs_launchers_templates_and_the_licence(installed):
    names = zipfile.ZipFile(installed.wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"avemo_jax", "input_pipeline"}
    for folder in ("configs", "launch"):
        files = {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}
        start = f"avemo_jax/_{folder}/"
        assert {name.removeprefix(start) for name in names if name.startswith(start)} == files
    templates = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "avemo_jax/report/templates").iterdir()
    }
    assert templates and templates <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_command_and_the_library_are_those_of_the_wheel(installed):
    assert installed.run("avemo", "--version").stdout.startswith("avemo_jax ")
    code = "import avemo_jax, input_pipeline; print(avemo_jax.__file__, input_pipeline.__file__)"
    paths = installed.run("python", "-c", code).stdout.split()
    assert len(paths) == 2 and all(path.startswith(str(installed.packages)) for path in paths)


def test_configs_are_found_by_name_whatever_lies_beside_the_package(installed):
    stranger = installed.packages / "configs" / "pretrain"
    stranger.mkdir(parents=True)
    (stranger / "hicmae.py").write_text("raise SystemExit('not ours')")
    code = "from avemo_jax.config import find_config, load_config as load\n"
    code += "print(load('hicmae:base').model.dim, load('finetune/crema_d:small').model.dim, find_config('hicmae'))"
    done = installed.run("python", "-c", code)
    dims = done.stdout.split()
    assert dims[:2] == ["512", "384"], done.stderr
    assert dims[2] == str(installed.packages / "avemo_jax/_configs/pretrain/hicmae.py")


def test_it_trains_and_hands_over_what_it_trained(installed, prepared_folder):
    flags = [f"--config.{flag}" for flag in TINY.split()] + [f"--config.data.path={prepared_folder}"]
    done = installed.run("avemo", "train", "--config", "hicmae:demo", "--workdir", "run", *flags)
    assert done.returncode == 0, done.stderr
    assert (installed.elsewhere / "run" / "checkpoints" / "00000002" / "manifest.json").exists()
    flags = ["--format", "huggingface", "--out", "folder"]
    done = installed.run("avemo", "export", "--checkpoint", "run", *flags)
    assert done.returncode == 0, done.stderr
    code = {path.name for path in (installed.elsewhere / "folder").glob("*.py")}
    sources = ROOT / "avemo_jax" / "convert" / "huggingface" / "files"
    of_classifiers = {"deciding.py", "pipeline_avemo.py"}
    assert code > {path.name for path in sources.glob("*.py")} - {"__init__.py", *of_classifiers}


def test_it_makes_pages(installed, prepared_folder):
    flags = [f"--config.{flag}" for flag in TINY.split()] + ["--data", prepared_folder, "--clips", "2"]
    done = installed.run("avemo", "inspect", *flags, "--out", "page.html")
    assert done.returncode == 0, done.stderr
    assert "</html>" in (installed.elsewhere / "page.html").read_text()


def test_it_launches(installed):
    flags = ["--processes", "2", "--devices_per_process", "4", "--dry_run"]
    done = installed.run("avemo", "launch", "local", *flags, "--", "train", "--config", "hicmae:demo")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(str(installed.venv / "bin") in line for line in lines)
