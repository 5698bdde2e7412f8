"""`avemo parity` on the recorded fixtures, on variants of them, and on fixtures that cannot be used."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from avemo_jax import parity
from avemo_jax.cli import main
from avemo_jax.errors import UserError
from tests.golden_weights import GOLDEN, write_fixture


@pytest.fixture(params=["pretrain_tiny", "finetune_tiny"])
def fixture(request, tmp_path):
    return write_fixture(request.param, tmp_path)


def test_every_required_array_and_gradient_passes(fixture, tmp_path, capsys):
    assert (
        main(
            [
                "parity",
                "--fixture",
                str(fixture),
                "--json",
                str(tmp_path / "p.json"),
                "--dump",
                str(tmp_path / "d.npz"),
            ]
        )
        == 0
    )
    report = json.loads((tmp_path / "p.json").read_text())
    compared = {row["name"] for row in report["arrays"]}
    io = np.load(f"{fixture}_io.npz").files
    required = {
        n for n in io if n.startswith(("pred_", "target_", "logits", "loss")) or n == "feature_fc_norm"
    }
    grads = {f"grad/{key}" for key in load_file(f"{fixture}_grads.safetensors")}
    assert compared >= required | grads
    assert report["failed"] == 0 and report["passed"] == len(report["arrays"])
    assert set(np.load(tmp_path / "d.npz").files) >= compared


@pytest.mark.parametrize("flag", ["--json", "--dump"])
def test_results_that_cannot_be_written_are_refused_before_the_comparison(flag, tmp_path, capsys):
    prefix = write_fixture("pretrain_tiny", tmp_path)
    (tmp_path / "file").touch()
    assert main(["parity", "--fixture", str(prefix), flag, str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr()
    assert "is a file; choose another place" in said.err and said.err.count("\n") == 1 and not said.out


def test_results_are_written_into_folders_that_are_made(tmp_path, capsys):
    prefix = write_fixture("finetune_tiny", tmp_path)
    dump, report = tmp_path / "new" / "arrays.npz", tmp_path / "other" / "parity.json"
    assert main(["parity", "--fixture", str(prefix), "--dump", str(dump), "--json", str(report)]) == 0
    compared = {row["name"] for row in json.loads(report.read_text())["arrays"]}
    assert compared and set(np.load(dump).files) >= compared


def test_a_wrong_number_is_a_failure_with_exit_code_1(tmp_path, capsys):
    prefix = write_fixture("finetune_tiny", tmp_path)
    arrays = dict(np.load(GOLDEN / "finetune_tiny_io.npz"))
    arrays["logits"] = arrays["logits"] + 1e-3
    np.savez(tmp_path / "finetune_tiny_io.npz", **arrays)
    assert main(["parity", "--fixture", str(prefix)]) == 1
    assert "FAIL" in capsys.readouterr().out


def remove_weight(folder):
    weights = load_file(folder / "pretrain_tiny_weights.safetensors")
    del weights["mask_token"]
    save_file(weights, folder / "pretrain_tiny_weights.safetensors")
    return "mask_token"


def uneven_masks(folder):
    arrays = dict(np.load(folder / "pretrain_tiny_io.npz"))
    arrays["mask_video"][0, :] = 1
    arrays["mask_video"][0, :5] = 0
    np.savez(folder / "pretrain_tiny_io.npz", **arrays)
    return "equal"


def other_width(folder):
    info = json.loads((folder / "pretrain_tiny_info.json").read_text())
    info["config"]["ddim"] = 24
    (folder / "pretrain_tiny_info.json").write_text(json.dumps(info))
    return "mask_token"


def no_json(folder):
    (folder / "pretrain_tiny_info.json").write_text("{")
    return "pretrain_tiny_info.json"


@pytest.mark.parametrize("spoil", [remove_weight, uneven_masks, other_width, no_json])
def test_a_fixture_that_cannot_be_used_is_one_line_and_exit_code_2(spoil, tmp_path, capsys):
    prefix = write_fixture("pretrain_tiny", tmp_path)
    hint = spoil(tmp_path)
    assert main(["parity", "--fixture", str(prefix)]) == 2
    error = capsys.readouterr().err
    assert hint in error and error.count("\n") == 1


def test_a_missing_fixture_is_named():
    with pytest.raises(UserError, match="nowhere_info.json"):
        parity.run("nowhere")
