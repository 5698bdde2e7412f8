"""Every command and every piece of Python in the docs, run as it stands, page after page in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import shell_environment

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The order of docs/index.md: a page may use what the ones before it made.
PAGES = re.findall(r"^(\w+)$", (DOCS / "index.md").read_text().partition("Reference")[0], re.MULTILINE)
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader")
    (path / "tests").symlink_to(ROOT / "tests")  # `avemo parity` is shown in a checkout
    return path


def blocks(page):
    return BLOCK.findall((DOCS / f"{page}.md").read_text())


def run(words, text, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        words,
        input=text,
        cwd=folder,
        env={**shell_environment(), "PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs_as_it_stands(page, folder):
    shell = [text for kind, text in blocks(page) if kind == "bash"]
    python = [text for kind, text in blocks(page) if kind == "python"]
    assert shell or python, f"{page} shows nothing to run"
    # A page's shell blocks, then its Python as one program, as in a notebook.
    for words, text in [(["bash", "-eu"], part) for part in shell] + [([sys.executable], "\n".join(python))]:
        done = run(words, text, folder)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    done = run([sys.executable, "-m", "sphinx", "-W", "-q", str(DOCS), str(tmp_path)], None, ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train.html").exists()


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.MULTILINE), page.name
