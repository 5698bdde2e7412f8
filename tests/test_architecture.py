"""Dependencies point one way, and heavy or optional packages stay out of the way of quick commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A part may import the parts of its own row and of the rows below it.
LAYERS = [
    {"cli"},
    {"commands"},
    {"comparing", "demo"},
    {"tasks", "parity", "doctor", "planning", "report", "stages"},
    {"models", "objectives", "evaluation", "training", "convert"},
    {"augmentation", "frontend", "masking", "resizing"},
    {"batch", "config", "errors", "files", "paths", "platforms", "provenance", "sharding"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def imports(path):
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def part_of(module):
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "avemo_jax" and len(pieces) > 1 and pieces[1] in RANK else None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "avemo_jax").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_part_imports_only_what_lies_below_it(path):
    own = part_of("avemo_jax." + ".".join(path.relative_to(ROOT / "avemo_jax").with_suffix("").parts))
    if own is None:
        assert path.name in ("__init__.py", "__main__.py")
        return
    for module in imports(path):
        other = part_of(module)
        assert other is None or RANK[other] >= RANK[own], f"{own} imports {module}"


def test_training_knows_tasks_by_their_protocol_only():
    for path in (ROOT / "avemo_jax" / "training").rglob("*.py"):
        assert not [
            m for m in imports(path) if m.startswith(("avemo_jax.tasks", "avemo_jax.models.hicmae"))
        ], path


def test_the_input_pipeline_knows_neither_jax_nor_the_rest():
    for path in (ROOT / "input_pipeline").rglob("*.py"):
        roots = {module.split(".")[0] for module in imports(path)}
        assert not roots & {"jax", "flax", "avemo_jax", "torch", "tensorflow"}, path


def test_help_does_not_import_jax():
    code = """if True:
        import sys
        from avemo_jax.cli import main
        main(["--help"]); main(["--version"])
        sys.exit("jax" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0
