"""`avemo export --format onnx` and `stablehlo`: files that run without our code and compute what our model does."""

import builtins
import json
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from avemo_jax.config import load_config
from avemo_jax.convert import hicmae, torch_model
from avemo_jax.convert.graphs import about, exporting, onnx_file, stablehlo_file, verify
from avemo_jax.convert.graphs.about import output_names
from avemo_jax.convert.huggingface import facts
from avemo_jax.convert.verify import Difference
from avemo_jax.errors import UserError
from tests.convert.small_models import CONFIGS, SIZES, run_export

FORMS = ("onnx", "stablehlo")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_graph_is_compared_in_a_process_of_its_own_and_the_largest_difference_is_told(
    imported, tmp_path, capsys, form
):
    task, _, run = imported
    report, out = tmp_path / "report.json", tmp_path / "model"
    assert run_export(run, form, out, "--json", str(report)) == 0
    rows = json.loads(report.read_text())["differences"]
    assert [row["name"] for row in rows] == list(output_names(task))
    assert all(row["ok"] and row["max_abs"] < 1e-3 for row in rows)
    printed = capsys.readouterr().out
    assert printed.count("largest difference") == len(rows) and "tensors" in printed
    check = _check_onnx if form == "onnx" else _check_stablehlo
    check(task, run, out, tmp_path)


def _check_onnx(task, run, out, tmp_path):
    """Against the PyTorch model in this process, with yet another number of clips; and what the file says."""
    known = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert known["model"] == f"HiCMAE demo {task}" and json.loads(known["frames"]) == SIZES["frames"]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    video, audio = torch.randn(5, 3, 4, 32, 32), torch.randn(5, 1, 64, 32)
    found = dict(
        zip(
            output_names(task),
            session.run(None, {"pixels": video.numpy(), "log_mel": audio.numpy()}),
            strict=True,
        )
    )
    sizes = {name: SIZES[name] for name in ("dim", "heads", "depth")}
    assert run_export(run, f"hicmae-{task}", tmp_path / "ours.pth") == 0
    state = torch.load(tmp_path / "ours.pth")["model"]
    with torch.inference_mode():
        if task == "finetune":
            assert json.loads(known["labels"]) == ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
            model = torch_model.Classifier(**sizes)
            model.load_state_dict(state)
            expected = dict(zip(("logits", "feature"), model.eval()(video, audio), strict=True))
        else:
            model = torch_model.AudioVisualEncoder(**sizes)
            model.load_state_dict(hicmae.shared_keys(state))
            features = model.eval()(video, audio)
            expected = {"cat4": torch_model.pooled(features), "fused_audio_tokens": features.fused_audio}
            expected["video_cells"] = torch_model.video_cells(features, 2, 2)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), atol=1e-4, rtol=1e-4)


def _check_stablehlo(task, run, out, tmp_path):
    known = json.loads((tmp_path / "model.json").read_text())
    assert known["outputs"] == list(output_names(task)) and "waveform" in known["inputs"]
    code = f"""if True:
        import sys
        sys.modules["avemo_jax"] = None
        import numpy as np
        from jax import export
        model = export.deserialize(bytearray(open({str(out)!r}, "rb").read()))
        outputs = model.call(np.zeros((2, 4, 32, 32, 3), np.uint8), np.zeros((2, 10480), np.int16),
                             np.full(2, 10480, np.int32), np.zeros(2, np.float32))
        assert set(outputs) == {set(output_names(task))!r}
        assert all(len(value) == 2 and np.isfinite(value).all() for value in outputs.values())
        print(*model.platforms)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cpu", "cuda", "tpu"]


@pytest.mark.slow
@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
@pytest.mark.parametrize("form", FORMS)
def test_a_graph_that_computes_something_else_is_not_kept(imported, tmp_path, capsys, monkeypatch, form):
    right = verify.named_outputs
    monkeypatch.setattr(
        verify,
        "named_outputs",
        lambda *given: {name: 1.01 * value for name, value in right(*given).items()},
    )
    (tmp_path / "model").write_bytes(b"old")
    assert run_export(imported[2], form, tmp_path / "model") == 1
    captured = capsys.readouterr()
    assert "FAIL" in captured.out and "nothing was written" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_bytes() == b"old"


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize(("off", "ok"), [(math.nan, False), (math.inf, False), (6e-5, False), (4e-5, True)])
def test_a_batch_that_is_off_is_told_beside_one_whose_outputs_and_limit_are_larger(
    monkeypatch, batch, off, ok
):
    sizes = [1.0, 100.0] if batch == 0 else [100.0, 1.0]  # of the outputs

    def ours(model, clip, config):
        return dict.fromkeys(output_names("finetune"), jnp.full(2, sizes[len(clip.video) > 1]))

    def theirs(form, path, work):
        for number, size in enumerate(sizes):
            values = np.full(2, size, np.float32) + np.float32(off if number == batch else 1e-3)
            np.savez(work / f"outputs_{number}.npz", **dict.fromkeys(output_names("finetune"), values))

    monkeypatch.setattr(verify, "model_in_float32", lambda config: lambda params: None)
    monkeypatch.setattr(verify, "named_outputs", ours)
    monkeypatch.setattr(verify, "_run_outside", theirs)
    found = verify.verify(None, "stablehlo", load_config(*CONFIGS["finetune"]), {})
    assert [row.ok for row in found] == [ok, ok]
    assert [row.max_abs for row in found] == pytest.approx([off, off], rel=0.1, nan_ok=True)


@pytest.fixture
def drawn(monkeypatch):
    """Graphs are drawn at once, and not compared: for what is beside them."""
    monkeypatch.setattr(stablehlo_file, "write", lambda path, *_: path.write_bytes(b"graph"))
    monkeypatch.setattr(verify, "verify", lambda *_: [Difference("logits", 0.0, 1.0)])


@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
def test_a_graph_and_what_is_known_of_it_appear_together_and_both_are_told(
    imported, tmp_path, capsys, monkeypatch, drawn
):
    out, beside = tmp_path / "model", tmp_path / "model.json"
    assert run_export(imported[2], "stablehlo", out) == 0
    said = capsys.readouterr().out
    assert f"{out}\n" in said and f"{beside}\n" in said and "replaced" not in said
    beside.write_text("mine")
    assert run_export(imported[2], "stablehlo", out) == 0
    said = capsys.readouterr().out
    assert f"{out} (replaced)\n" in said and f"{beside} (replaced)\n" in said
    assert json.loads(beside.read_text())["outputs"] == ["logits", "feature"]

    def full(path, text):
        raise UserError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(exporting, "write_file", full)
    monkeypatch.setattr(stablehlo_file, "write", lambda path, *_: path.write_bytes(b"another"))
    assert run_export(imported[2], "stablehlo", out) == 2
    assert out.read_bytes() == b"graph" and "model.json cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
def test_no_data_is_looked_at_for_a_graph(imported, tmp_path, monkeypatch, drawn):
    def looked(*_):
        raise AssertionError("the data was looked at")

    for name in ("_data", "_made_by", "gather"):
        monkeypatch.setattr(facts, name, looked)
    assert run_export(imported[2], "stablehlo", tmp_path / "model") == 0


@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_its_packages_onnx_says_which_extra_to_install(
    imported, tmp_path, capsys, monkeypatch, package
):
    importer = builtins.__import__

    def absent(name, *more):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named '{package}'", name=package)
        return importer(name, *more)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert run_export(imported[2], "onnx", tmp_path / "model.onnx") == 2
    error = capsys.readouterr().err
    assert package in error and "pip install 'avemo_jax[onnx]'" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
@pytest.mark.parametrize("form", FORMS)
def test_weights_beyond_what_one_file_can_hold_are_refused_before_the_work(
    imported, tmp_path, capsys, monkeypatch, form
):
    monkeypatch.setattr(about, "_LARGEST", 100_000)
    monkeypatch.setattr(stablehlo_file, "write", None)
    monkeypatch.setattr(onnx_file, "write", None)
    assert run_export(imported[2], form, tmp_path / "model") == 2
    error = capsys.readouterr().err
    assert f"({form}) holds at most 2 GB" in error and error.count("\n") == 1
    assert error.rstrip().endswith("use --format huggingface") and list(tmp_path.iterdir()) == []


def test_huge_weights_are_beyond_it_and_large_ones_are_not():
    class Array:
        def __init__(self, size):
            self.size = size

    with pytest.raises(UserError, match=r"2 GB and these weights are 2.3 GB"):
        about.check_size("stablehlo", {"weight": Array(580_000_000)})
    about.check_size("stablehlo", {"weight": Array(450_000_000)})
