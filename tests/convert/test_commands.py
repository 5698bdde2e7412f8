"""`avemo import` and `avemo export` as a person calls them, with small models."""

import json
import os

import jax
import numpy as np
import pytest
import torch
from safetensors import safe_open

from avemo_jax.commands import export
from avemo_jax.config import load_config
from avemo_jax.convert import hicmae, torch_model, verify
from avemo_jax.convert.weight_files import read_weights, write_pth
from avemo_jax.errors import UserError
from avemo_jax.tasks import make_task
from avemo_jax.training.checkpoint_files import save_params
from avemo_jax.training.checkpoints import load_params
from avemo_jax.training.loop import train
from avemo_jax.training.mesh import make_mesh
from tests.convert.small_models import (
    CONFIGS,
    DECODER,
    SIZES,
    assert_same_bits,
    run_export,
    run_import,
    weights,
)
from tests.training.random_clips import RandomClips


def test_import_then_export_through_files_keeps_every_bit(imported, tmp_path):
    task, state, run = imported
    assert run_export(run, f"hicmae-{task}", tmp_path / "ours.pth") == 0
    content = torch.load(tmp_path / "ours.pth")
    assert list(content["model"]) == list(state) and content["epoch"] == 0
    assert_same_bits(read_weights(tmp_path / "ours.pth"), state)


def test_verify_prints_and_reports_the_largest_difference_of_every_output(imported, tmp_path, capsys):
    task, _, run = imported
    report = tmp_path / "new" / "report.json"
    assert run_export(run, f"hicmae-{task}", tmp_path / "ours.pth", "--verify", "--json", str(report)) == 0
    rows = json.loads(report.read_text())["differences"]
    outputs = {
        "pretrain": ["video_prediction", "audio_prediction", "video_levels", "audio_levels"],
        "finetune": ["logits", "feature"],
    }[task]
    assert [row["name"] for row in rows] == outputs
    assert all(row["ok"] and row["max_abs"] <= row["limit"] for row in rows)
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in outputs) and "largest difference" in printed


def test_exported_weights_load_strictly_into_the_pytorch_model(imported, tmp_path):
    task, _, run = imported
    run_export(run, f"hicmae-{task}", tmp_path / "ours.pth")
    shared = {name: SIZES[name] for name in ("dim", "heads", "depth")}
    model = (
        torch_model.PretrainingModel(**shared, **DECODER)
        if task == "pretrain"
        else torch_model.Classifier(**shared)
    )
    model.load_state_dict(torch.load(tmp_path / "ours.pth")["model"], strict=True)


def test_safetensors_carry_the_same_names_and_say_what_they_are(imported, tmp_path):
    task, state, run = imported
    assert run_export(run, "safetensors", tmp_path / "ours.safetensors") == 0
    assert_same_bits(read_weights(tmp_path / "ours.safetensors"), state)
    with safe_open(tmp_path / "ours.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and metadata["names"] == f"HiCMAE {task}"
    assert json.loads(metadata["config"])["model"]["dim"] == 24
    assert os.stat(tmp_path / "ours.safetensors").st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_wrong_export_fails_the_comparison_and_leaves_the_old_file(imported, tmp_path, capsys, monkeypatch):
    task, _, run = imported
    (tmp_path / "ours.pth").write_bytes(b"old")
    right = hicmae.to_reference

    def swapped(params):
        state = right(params)
        names = [f"encoder.blocks.{layer}.attn.qkv.weight" for layer in (0, 1)]
        return state | dict(zip(names, (state[name] for name in reversed(names)), strict=True))

    monkeypatch.setattr(hicmae, "to_reference", swapped)
    assert run_export(run, f"hicmae-{task}", tmp_path / "ours.pth", "--verify") == 1
    captured = capsys.readouterr()
    assert "FAIL" in captured.out and "nothing was written" in captured.err
    assert (tmp_path / "ours.pth").read_bytes() == b"old" and os.listdir(tmp_path) == ["ours.pth"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_report_of_a_comparison_that_failed_is_json(tmp_path, value):
    rows = [verify.Difference("logits", value, 1.0), verify.Difference("feature", 0.0, 1.0)]
    with pytest.raises(UserError, match="computes something else"):
        export._tell(rows, str(tmp_path / "v.json"))
    text = (tmp_path / "v.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    first, second = json.loads(text)["differences"]
    assert (first["max_abs"], first["ok"], second["max_abs"], second["ok"]) == (None, False, 0.0, True)


def test_a_nan_never_passes_the_comparison():
    row = verify.Difference("logits", float("nan"), 1.0)
    assert not row.ok


def test_the_other_format_is_refused_with_what_to_use(imported, tmp_path, capsys):
    task, _, run = imported
    other = {"pretrain": "finetune", "finetune": "pretrain"}[task]
    assert run_export(run, f"hicmae-{other}", tmp_path / "ours.pth") == 2
    assert f"use --format hicmae-{task}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
@pytest.mark.parametrize(
    "words, hint",
    [
        (("--json", "v.json"), "--json is what --verify finds"),
        (("--json", "file/v.json", "--verify"), "file cannot be written"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_any_work(
    imported, tmp_path, capsys, monkeypatch, words, hint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run_export(imported[2], "hicmae-finetune", tmp_path / "ours.pth", *words) == 2
    assert hint in capsys.readouterr().err and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("place", [".", "/", "there"])
@pytest.mark.parametrize("form", ["hicmae-finetune", "safetensors", "onnx", "stablehlo"])
def test_a_folder_where_a_file_is_to_be_is_refused_before_any_work(
    tmp_path, capsys, monkeypatch, form, place
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert run_export("nowhere", form, place) == 2
    error = capsys.readouterr().err
    assert "--out is a folder" in error and error.count("\n") == 1


def test_a_folder_in_the_place_of_a_report_or_of_a_graph_s_json_likewise(tmp_path, capsys):
    (tmp_path / "model.json").mkdir()
    assert run_export("nowhere", "stablehlo", tmp_path / "model") == 2
    assert "--out, with .json behind it, is a folder" in capsys.readouterr().err
    words = ("--verify", "--json", str(tmp_path))
    for form in ("safetensors", "huggingface"):
        assert run_export("nowhere", form, tmp_path / "ours", *words) == 2
        assert "--json is a folder" in capsys.readouterr().err


def test_weights_that_are_not_hicmae_s_are_refused_with_what_can_be_exported(tmp_path, capsys):
    student = load_config("hicmae:demo")
    with student.unlocked():
        student.model.target_dim = 48  # as `tasks.token_teacher.remember` fills it in
    several = load_config("finetune/several:demo,crema_d,ravdess")
    for config, hint in ((student, "use --format huggingface"), (several, "export heads/NAME in its work")):
        run = tmp_path / config.task
        save_params(run, config, {"encoder": np.zeros(3, np.float32)})
        assert run_export(run, "safetensors", tmp_path / "ours") == 2
        error = capsys.readouterr().err
        assert hint in error and error.count("\n") == 1


def test_replacing_a_file_is_said(imported, tmp_path, capsys):
    task, _, run = imported
    (tmp_path / "ours.pth").write_bytes(b"old")
    assert run_export(run, f"hicmae-{task}", tmp_path / "ours.pth") == 0
    assert "(replaced)" in capsys.readouterr().out


def test_a_second_import_into_the_same_folder_is_refused(imported, tmp_path, capsys):
    task, state, run = imported
    write_pth(tmp_path / "more.pth", state, {})
    assert run_import(task, tmp_path / "more.pth", run) == 2
    assert "holds checkpoints already" in capsys.readouterr().err


@pytest.mark.slow
def test_training_goes_on_from_imported_weights(tmp_path, capsys):
    state = weights("pretrain")
    write_pth(tmp_path / "theirs.pth", state, {})
    assert run_import("pretrain", tmp_path / "theirs.pth", tmp_path / "run") == 0
    name, overrides = CONFIGS["pretrain"]
    still = ["optimizer.learning_rate=0.0", "optimizer.min_learning_rate=0.0"]
    short = ["total_steps=2", "batch_size=2", "log.samples_every_steps=0"]
    config = load_config(name, [*overrides, *still, *short])
    task = make_task(config)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    assert train(task, RandomClips(config), config, tmp_path / "run", mesh).step == 2
    assert "parameters only" in capsys.readouterr().out
    assert run_export(tmp_path / "run", "hicmae-pretrain", tmp_path / "ours.pth") == 0
    assert "of step 2" in capsys.readouterr().out
    assert_same_bits(read_weights(tmp_path / "ours.pth"), state)


def test_pretraining_weights_make_a_classifier_with_a_fresh_head(tmp_path, capsys):
    state = weights("pretrain")
    write_pth(tmp_path / "pretrained.pth", state, {})
    assert run_import("finetune", tmp_path / "pretrained.pth", tmp_path / "run") == 0
    assert (
        "fresh in the classifier: audio_layer_weights, feature_norm, head, video_layer_weights"
        in capsys.readouterr().out
    )
    config, params, step = load_params(tmp_path / "run")
    assert config.task == "finetune" and step == 0
    classifier = hicmae.to_reference(params)
    assert_same_bits(hicmae.shared_keys(classifier), hicmae.shared_keys(state))
    np.testing.assert_allclose(classifier["video_layer_weights"], 1 / 3, rtol=1e-6)
    assert (
        np.unique(classifier["head.weight"]).size > 100
        and np.abs(classifier["head.weight"]).max() <= 96**-0.5
    )


def test_a_temperature_that_is_learnt_begins_afresh_and_what_was_exported_comes_back(tmp_path, capsys):
    state, more = weights("pretrain"), "model.learned_temperature=0.1"
    write_pth(tmp_path / "theirs.pth", state, {})
    assert run_import("pretrain", tmp_path / "theirs.pth", tmp_path / "run", more) == 0
    assert "fresh, since HiCMAE's weights have none: contrast_scale\n" in capsys.readouterr().out
    config, params, _ = load_params(tmp_path / "run")
    np.testing.assert_allclose(params["contrast_scale"]["scale"], np.log(10), rtol=1e-6)
    assert config.model.learned_temperature == 0.1
    assert run_export(tmp_path / "run", "hicmae-pretrain", tmp_path / "ours.pth") == 0
    assert_same_bits(read_weights(tmp_path / "ours.pth"), state)
    assert run_import("pretrain", tmp_path / "ours.pth", tmp_path / "again", more) == 0


def test_a_classifier_cannot_become_a_pretraining_model(tmp_path, capsys):
    write_pth(tmp_path / "classifier.pth", weights("finetune"), {})
    assert run_import("pretrain", tmp_path / "classifier.pth", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "missing (mask_token, mask_token_audio" in error and "6 left over (video_layer_weights" in error
    assert not (tmp_path / "run").exists()


def test_weights_of_another_size_are_listed_and_nothing_is_made(tmp_path, capsys):
    state = weights("pretrain")
    state["decoder.head.bias"] = state["decoder.head.bias"][:5]
    write_pth(tmp_path / "other.pth", state, {})
    assert run_import("pretrain", tmp_path / "other.pth", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "decoder.head.bias [5] for [1536]" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_values_that_are_not_finite_are_imported_and_said(tmp_path, capsys):
    state = weights("pretrain")
    state["mask_token"] = state["mask_token"] * np.float32("nan")
    write_pth(tmp_path / "nan.pth", state, {})
    assert run_import("pretrain", tmp_path / "nan.pth", tmp_path / "run") == 0
    assert "1 tensors hold values that are not finite: mask_token" in capsys.readouterr().out


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, capsys):
    assert run_export(tmp_path, "safetensors", tmp_path / "ours.safetensors") == 2
    assert str(tmp_path) in capsys.readouterr().err
