"""The folder where it is meant to be used: a venv with torch and transformers, without JAX and without us."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import frontend
from avemo_jax.batch import Clip
from avemo_jax.convert import hicmae
from avemo_jax.convert.verify import model_in_float32
from avemo_jax.evaluation import decisions, extraction, features
from avemo_jax.evaluation.views import Viewer
from avemo_jax.training.checkpoints import load_params
from avemo_jax.training.mesh import make_mesh
from input_pipeline.loader import eval_batches
from input_pipeline.records import open_records
from input_pipeline.targets import Target
from tests import real_clips
from tests.convert.small_models import SIZES, run_export, run_import
from tests.torch_only_venv import TorchOnlyVenv

pytestmark = pytest.mark.slow
of_one_model = pytest.mark.parametrize("imported", ["pretrain"], indirect=True)  # both would show the same

# Arguments: the folder, a JSON list of [path, start_s, end_s], where to write the inputs and outputs.
USE = """
import json, sys
import numpy as np, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForVideoClassification, AutoProcessor

for absent in ("jax", "avemo_jax", "input_pipeline", "tensorflow_datasets", "torchvision"):
    try:
        __import__(absent)
    except ImportError:
        continue
    sys.exit(absent + " is there")

folder, clips, out = sys.argv[1:]
trusted = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trusted)
kind = AutoModelForVideoClassification if "AutoModelForVideoClassification" in config.auto_map else AutoModel
model, loading = kind.from_pretrained(folder, output_loading_info=True, **trusted)
assert not any(loading.values()), loading
assert type(model) is type(AutoModel.from_pretrained(folder, **trusted))
extractor = AutoFeatureExtractor.from_pretrained(folder, **trusted)
assert AutoProcessor.from_pretrained(folder, **trusted).to_dict() == extractor.to_dict()

files, starts, ends = zip(*json.load(open(clips)))
inputs = extractor(files, start_s=starts, end_s=ends)
with torch.inference_mode():
    outputs = model.eval()(**inputs)
arrays = {f"input {name}": value.numpy() for name, value in inputs.items()}
arrays |= {name: value.numpy() for name, value in outputs.items()}
if kind is not AutoModel:  # a fine-tuned model, as somebody uses it
    from transformers import pipeline
    recognise = pipeline(model=folder, trust_remote_code=True)
    told = [recognise(file, start_s=start, end_s=end) for file, start, end in zip(files, starts, ends)]
    arrays["told"] = np.array([[one[name] for name in config.id2label.values()] for one in told])
    assert [recognise.decide(one) for one in told] == [max(one, key=one.get) for one in told]
    assert [*told[0].values()] == sorted(told[0].values(), reverse=True)
    sequence = recognise(files[0], window_s=0.8, step_s=0.4, end_s=1.6)
    assert 1 < len(sequence) < 5 and sequence[0]["time_s"] == 0.2
    assert all(one["told"].keys() == told[0].keys() for one in sequence)
np.savez(out, **arrays)

# Saved by transformers and loaded again, it computes the same from the same file, under the same names.
model.save_pretrained(out + ".again")
extractor.save_pretrained(out + ".again")
again = kind.from_pretrained(out + ".again", **trusted)
assert list(again.state_dict()) == list(model.state_dict())
same = AutoProcessor.from_pretrained(out + ".again", **trusted)(files, start_s=starts, end_s=ends)
with torch.inference_mode():
    repeated = again.eval()(**same)
assert all(torch.equal(repeated[name], outputs[name]) for name in outputs)

# It trains as any other PyTorch model.
model.train()(**extractor(files[:1])).to_tuple()[0].sum().backward()
assert all(parameter.grad is not None for parameter in model.encoder.parameters())
print(json.dumps(model.config.id2label))
"""


CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
SCORED = {"before": {"ece": 0.1}, "after": {"ece": 0.05, "ece_ci95": [0.0, 0.1]}}
DECISION = {"temperature": 0.6, "thresholds": None, "unseen": [], "clips": 9, "speakers": 3, "test": SCORED}


@pytest.fixture(scope="module")
def torch_only(tmp_path_factory):
    return TorchOnlyVenv(tmp_path_factory.mktemp("venv") / "venv")


@pytest.fixture(scope="module")
def placed(imported, prepared_folder, tmp_path_factory):
    """The task, a work directory whose data is the prepared real clips, and its folder, in an awkward place."""
    task, _, run = imported
    place = tmp_path_factory.mktemp("a place, (with) spaces")
    assert run_import(task, run.parent / "theirs.pth", place / "run", f"data.path={prepared_folder}") == 0
    if task == "finetune":  # as if it were fine-tuned here, and calibrated
        tested = {
            "selection": "last",
            "target": "class",
            "step": 0,
            "modalities": "audio_video",
            "split": "folds",
        }
        tested |= dict.fromkeys(("split_hash", "fold", "unreadable"), "")
        tested |= {"outputs": list(CLASSES), "n": 9, "speakers": 3, "n_train": 27, "n_development": 9}
        tested |= {
            "speaker_disjoint": True,
            "ci_groups": 3,
            "ci_unit": "speaker",
            "uar": 0.5,
            "ci95": [0.2, 0.8],
        }
        (place / "run" / "rows.json").write_text(json.dumps([{**tested, "decision": DECISION}]))
    out = place / "my.model-v1 (ä)"
    assert run_export(place / "run", "huggingface", out) == 0
    return task, place / "run", out


@pytest.fixture(scope="module")
def used(placed, torch_only, tmp_path_factory):
    """What came out of the venv from the raw files of the prepared clips, in their order: class names, arrays."""
    _, run, out = placed
    work = tmp_path_factory.mktemp("used")
    rows = {row.clip_id: row for row in real_clips.talking_rows()}
    config, _, _ = load_params(run)
    chosen = [rows[name] for name in open_records(config.data.path).clip_ids]
    clips = [[str(real_clips.root() / row.path), row.start_s, row.end_s] for row in chosen]
    (work / "clips.json").write_text(json.dumps(clips))
    # As somebody types it: relative, with a slash at the end.
    done = torch_only.run(USE, f"./{out.name}/", work / "clips.json", work / "outputs.npz", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    with np.load(work / "outputs.npz") as arrays:
        return json.loads(done.stdout.splitlines()[-1]), dict(arrays)


def assert_near(ours, theirs, limit):
    """Within `limit` times the largest of theirs, where that is above 1."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    largest = np.abs(ours - theirs).max()
    print(f"largest difference {largest:.1e}")
    assert largest <= limit * max(1, np.abs(theirs).max())


def our_outputs(config, model, clip):
    """Ours under the names of the folder's model."""
    with jax.default_matmul_precision("highest"):
        if config.task == "finetune":
            return dict(zip(("logits", "feature"), model(clip), strict=True))
        tokens = model.encode(clip)
        of = config.model
        vectors = features.pool(tokens, features.layer_weights({}, of), features.default(of), of)
    return {**vectors, "fused_video_tokens": tokens.fused_video, "fused_audio_tokens": tokens.fused_audio}


def test_from_raw_files_it_gives_what_prepare_and_our_evaluation_give(placed, used):
    task, run, _ = placed
    config, params, _ = load_params(run)
    count = len(used[1]["input video"])
    sizes = {name: SIZES[name] for name in ("frames", "image_size", "audio_frames")}
    (batch,) = eval_batches(config.data.path, **sizes, batch_size=-(-count // 8) * 8, crop=config.data.crop)
    names = ("video", "waveform", "waveform_length", "waveform_mean")
    clip = frontend.to_clip(
        {name: jnp.asarray(batch[name][:count]) for name in names}, mels=SIZES["mel_bins"]
    )
    ours = our_outputs(config, model_in_float32(config)(params), clip)
    assert ours.keys() | {"input video", "input audio"} == used[1].keys() - {"told"}
    for name, array in ours.items():
        assert_near(array, used[1][name], 1e-3)
    if task == "pretrain":
        network = extraction.Network("checkpoint", 0, params)
        _, found = extraction.extract(
            config, [network], [batch], features.default(config.model), ["as_recorded"]
        )
        for feature in features.default(config.model):
            matrix = found[extraction.Source(feature, "checkpoint", 0, "as_recorded")]
            assert_near(matrix, used[1][feature], 1e-3)


def test_a_raw_file_is_told_as_our_test_says_after_the_temperature(placed, used):
    task, run, _ = placed
    if task == "pretrain":
        return
    config, params, _ = load_params(run)
    config = copy.deepcopy(config)
    with config.unlocked():
        config.dtype, config.data.workers, config.views.batch_size = "float32", 0, 4
    target = Target("class", ("emotion",), CLASSES)
    viewer = Viewer(config, target, make_mesh(config.mesh, jax.devices()[:1]))
    read, merged = viewer.merged(viewer.placed(params), range(len(used[1]["told"])))
    assert len(read) == len(used[1]["told"])
    assert_near(decisions.applied(DECISION, target, merged), used[1]["told"], 1e-3)
    assert np.abs(merged - used[1]["told"]).max() > 1e-2  # it does something


def test_from_the_same_tensors_it_gives_what_our_model_gives(placed, used):
    _, run, _ = placed
    config, params, _ = load_params(run)
    video, audio = used[1]["input video"], used[1]["input audio"]
    clip = Clip(jnp.asarray(video.transpose(0, 2, 3, 4, 1)), jnp.asarray(audio[:, 0]))
    for name, array in our_outputs(config, model_in_float32(config)(params), clip).items():
        assert_near(array, used[1][name], 1e-5)


def test_a_classifier_knows_the_names_of_its_classes(placed, used):
    expected = (
        ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"] if placed[0] == "finetune" else ["LABEL_0", "LABEL_1"]
    )
    assert list(used[0].values()) == expected


@of_one_model
def test_the_model_needs_no_decoders_of_media_and_reading_files_says_which(placed, tmp_path):
    """Everybody has torch and transformers; PyAV and Pillow are for raw files."""
    venv = TorchOnlyVenv(tmp_path / "venv", ("torch", "transformers"))
    code = """
import sys, torch
from transformers import AutoFeatureExtractor, AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
model(torch.zeros(1, 3, 4, 32, 32), torch.zeros(1, 1, 64, 32))
try:
    model(torch.zeros(1, 3, 4, 48, 48), torch.zeros(1, 1, 64, 32))
except ValueError as error:
    print(error)
AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
    done = venv.run(code, placed[-1])
    assert "video is [1, 3, 4, 48, 48], this model takes [B, 3, 4, 32, 32]" in done.stdout
    assert (
        done.stderr.splitlines()[-1]
        == "ImportError: reading clips needs PyAV and Pillow: pip install av pillow"
    )


def test_verify_compares_every_output_from_tensors_and_from_a_file(imported, tmp_path, capsys):
    task, _, run = imported
    report = tmp_path / "report.json"
    assert run_export(run, "huggingface", tmp_path / "out", "--verify", "--json", str(report)) == 0
    rows = {row["name"]: row for row in json.loads(report.read_text())["differences"]}
    outputs, told = {"logits", "feature"}, {"told"}
    if task == "pretrain":
        outputs = {*features.default(load_params(run)[0].model), "fused_video_tokens", "fused_audio_tokens"}
        outputs, told = outputs | {"video_hidden_states", "audio_hidden_states"}, set()
    from_file = {f"from a file: {name}" for name in (*outputs, *told, "input video", "input audio")}
    assert rows.keys() == outputs | from_file and all(row["ok"] for row in rows.values())
    printed = capsys.readouterr().out
    assert all(f"{name} " in printed for name in rows)
    assert "loaded with transformers " in (tmp_path / "out" / "README.md").read_text()


@of_one_model
def test_verify_takes_ones_own_clip_and_names_one_that_is_of_no_use(imported, tmp_path, capsys):
    _, _, run = imported
    words = ("--verify", "--clip", str(real_clips.talking_file()))
    assert run_export(run, "huggingface", tmp_path / "out", *words) == 0
    (tmp_path / "text.mp4").write_text("no video")
    words = ("--verify", "--clip", str(tmp_path / "text.mp4"))
    assert run_export(run, "huggingface", tmp_path / "other", *words) == 2
    assert "text.mp4: not a readable video" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@of_one_model
def test_a_folder_that_differs_is_not_kept(imported, tmp_path, capsys, monkeypatch):
    _, _, run = imported
    right = hicmae.to_reference

    def swapped(params):
        state = right(params)
        names = [f"encoder_audio.blocks.{layer}.attn.qkv.weight" for layer in (0, 1)]
        return state | dict(zip(names, (state[name] for name in reversed(names)), strict=True))

    monkeypatch.setattr(hicmae, "to_reference", swapped)
    assert run_export(run, "huggingface", tmp_path / "out", "--verify") == 1
    captured = capsys.readouterr()
    assert "FAIL" in captured.out and "nothing was written" in captured.err
    assert list(tmp_path.iterdir()) == []


@of_one_model
def test_weights_that_transformers_would_not_load_are_found(imported, tmp_path, capsys, monkeypatch):
    _, _, run = imported
    right = hicmae.to_reference

    def short(params):
        state = right(params)
        return {name: array for name, array in state.items() if name != "encoder.norm.weight"}

    monkeypatch.setattr(hicmae, "to_reference", short)
    assert run_export(run, "huggingface", tmp_path / "out", "--verify") == 1
    assert "do not fit the model" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
