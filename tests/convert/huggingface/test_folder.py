"""What lies in a Hugging Face folder, what may be replaced by one, and how flags of other formats are met."""

import ast
import importlib.util
import json
import os
from pathlib import Path

import pytest

from avemo_jax.config import load_config
from avemo_jax.convert import hicmae, torch_model
from avemo_jax.convert.huggingface import bundle, folder
from avemo_jax.convert.huggingface.files.configuration_hicmae import HiCMAEConfig
from avemo_jax.convert.weight_files import read_weights
from avemo_jax.training import manifest
from input_pipeline.manifests import Row
from input_pipeline.prepare import prepare
from input_pipeline.storing import ClipOptions
from tests.convert.small_models import SIZES, assert_same_bits, run_export, run_import
from tests.input_pipeline.containers import tone, write

ROOT = Path(__file__).parents[3]
THEIRS = {
    "torch",
    "transformers",
    "numpy",
    "av",
    "PIL",
    "ai_edge_litert",
    "simplejpeg",  # done without where it is not there: see test_without_jax
}  # what a person in PyTorch installs


@pytest.fixture(scope="module")
def exported(imported, tmp_path_factory):
    """The task, its weights, the work directory, and the folder that was made of it."""
    task, state, run = imported
    out = tmp_path_factory.mktemp("folder") / "out"
    assert run_export(run, "huggingface", out) == 0
    return task, state, run, out


def read(out, name):
    return json.loads((out / name).read_text())


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_weights_have_the_references_names_and_bits_without_the_decoders(exported):
    task, state, _, out = exported
    expected = hicmae.shared_keys(state) if task == "pretrain" else state
    assert_same_bits(read_weights(out / "model.safetensors"), expected)
    assert not any(name.startswith(("decoder", "mask_token")) for name in expected)


def test_config_has_the_sizes_the_classes_and_where_the_code_is(exported):
    task, _, _, out = exported
    config = read(out, "config.json")
    assert {name: config[name] for name in SIZES} == SIZES and config["dtype"] == "float32"
    assert config["auto_map"]["AutoConfig"] == "configuration_hicmae.HiCMAEConfig"
    if task == "pretrain":
        assert config["auto_map"]["AutoModel"] == "modeling_hicmae.HiCMAEModel"
        assert not {"id2label", "head"} & config.keys()
    else:
        assert config["auto_map"]["AutoModelForVideoClassification"] == config["auto_map"]["AutoModel"]
        assert list(config["id2label"].values()) == ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
        assert config["label2id"]["SAD"] == 5
        assert config["head"] == {"activation": "", "predicts": "class", "temperature": None}
        assert config["problem_type"] == "single_label_classification"
        assert [one["impl"] for one in config["custom_pipelines"].values()] == [
            "pipeline_avemo.AvemoPipeline"
        ]
    for place in config["auto_map"].values():
        file, _, name = place.partition(".")
        tree = ast.parse((out / f"{file}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_classes_without_names_get_the_usual_ones():
    config = load_config("finetune/crema_d:demo", ["data.classes="])
    assert folder.model_config(config)["id2label"] == {str(k): f"LABEL_{k}" for k in range(6)}


@pytest.mark.parametrize(
    ("overrides", "labels", "problem"),
    [
        (["data.target=values", "data.label=valence,arousal"], ["valence", "arousal"], "regression"),
        (["data.target=multi_label", "data.classes=a,b"], ["a", "b"], "multi_label_classification"),
        (["data.target=distribution", "data.classes=a,b"], ["a", "b"], None),
    ],
)
def test_outputs_have_their_names_in_order_and_what_they_are(overrides, labels, problem):
    config = load_config("finetune/recipe:demo", ["data.label=votes", *overrides, "model.classes=2"])
    decision = {"temperature": 1.5, "thresholds": [0.2, 0.7], "clips": 9, "speakers": 3}
    written = folder.model_config(config, None if problem == "regression" else decision)
    assert list(written["id2label"].values()) == labels and written.get("problem_type") == problem
    head = written["head"]
    assert head["predicts"] == config.data.target
    if problem == "regression":
        assert head["temperature"] is None
    else:
        assert head["temperature"] == 1.5 and head["thresholds"] == {"a": 0.2, "b": 0.7}
        assert head["fitted_on"] == {"development_clips": 9, "speakers": 3}


def test_the_model_type_is_that_of_the_config_class():
    assert HiCMAEConfig.model_type == folder.MODEL_TYPE


def test_the_plain_model_is_copied_as_it_is(exported):
    assert (exported[-1] / "torch_model.py").read_bytes() == Path(torch_model.__file__).read_bytes()


def test_code_is_ours_to_the_letter_but_for_relative_imports_and_needs_nothing_of_ours(exported):
    code = {path.name: path.read_text() for path in exported[-1].glob("*.py")}
    places = [
        ROOT / "input_pipeline",
        ROOT / "avemo_jax/convert",
        ROOT / "avemo_jax/convert/huggingface/files",
        ROOT / "avemo_jax/evaluation",
    ]
    for name, text in code.items():
        (source,) = (place / name for place in places if (place / name).exists())
        for ours, theirs in zip(source.read_text().splitlines(), text.splitlines(), strict=True):
            assert ours == theirs or ours.split()[0] == theirs.split()[0] == "from"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert f"{node.module}.py" in code
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                module = getattr(node, "module", None) or node.names[0].name
                root = module.split(".")[0]
                assert root in THEIRS | set(os.sys.stdlib_module_names), f"{name} imports {module}"
    assert {"media.py", "storing.py", "sampling.py", "augment.py"} <= code.keys()


def test_the_files_that_transformers_opens_name_all_that_they_need(exported):
    """transformers 4 does not look into the files that a file needs for what those need."""

    def named(name):
        tree = ast.parse((exported[-1] / name).read_text())
        return {f"{n.module}.py" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level}

    opened = ["configuration_hicmae.py", "modeling_hicmae.py", "feature_extraction_avemo.py"]
    for name in opened + ["pipeline_avemo.py"] * (exported[0] == "finetune"):
        for needed in named(name):
            assert named(needed) <= named(name), f"{needed}, which {name} needs"


def test_imports_that_transformers_would_not_follow_are_refused():
    with pytest.raises(
        ValueError, match=r"clips.py, line \d+: write it as `from package.module import name`"
    ):
        bundle.flatten(["input_pipeline.clips"])
    with pytest.raises(ValueError, match="cannot lie in one folder"):
        bundle.flatten(["input_pipeline.errors", "avemo_jax.errors"])


def test_preparation_is_that_of_the_data_or_else_the_default_and_says_which(
    imported, prepared_folder, tmp_path, capsys
):
    task, _, run = imported
    weights = run.parent / "theirs.pth"
    for path, short_side, said in (
        (prepared_folder, 112, f"as in {prepared_folder}"),
        (tmp_path, 160, "by default values"),
    ):
        out = tmp_path / f"run{short_side}"
        assert run_import(task, weights, out, f"data.path={path}", "data.frame_stride=3") == 0
        assert run_export(out, "huggingface", tmp_path / f"out{short_side}") == 0
        assert said in capsys.readouterr().out
        config = read(tmp_path / f"out{short_side}", "preprocessor_config.json")
        assert config["prepare"]["short_side"] == short_side and config["prepare"]["jpeg_quality"] == 95
        assert config["frame_stride"] == 3 and config["crop"] == {"pretrain": "multi_scale"}.get(task, "none")
        assert {
            name: config[name] for name in ("frames", "image_size", "audio_frames", "mel_bins")
        }.items() <= (SIZES.items())


@pytest.mark.slow
@pytest.mark.parametrize("imported", ["finetune"], indirect=True)
def test_a_model_that_learnt_from_sound_alone_is_compared_on_a_sound_file(imported, tmp_path, capsys):
    """The whole way: the file through transformers without us, and through a record and JAX."""
    heard, data = tmp_path / "heard.wav", tmp_path / "data"
    write(heard, None, tone(16_000, 3.0), audio_rate=16_000, codecs=("", "pcm_s16le"))
    prepare([Row("heard.wav", "heard")], tmp_path, data, ClipOptions(allow_missing="picture"), workers=0)
    for allowed, code in ((False, 2), (True, 0)):
        run, out = tmp_path / f"run_{allowed}", tmp_path / f"out_{allowed}"
        words = f"data.path={data}", f"data.allow_missing={allowed}"
        assert run_import("finetune", imported[2].parent / "theirs.pth", run, *words) == 0
        assert run_export(run, "huggingface", out, "--verify", "--clip", str(heard)) == code
    assert "heard.wav: no picture; give another clip to compare on" in capsys.readouterr().err
    assert "one without a picture is taken as black frames" in (out / "README.md").read_text()


def test_a_folder_of_ours_is_replaced_and_that_is_said(exported, tmp_path, capsys):
    _, _, run, out = exported
    copy = tmp_path / "out"
    assert run_export(run, "huggingface", copy) == 0
    assert run_export(run, "huggingface", copy, "--license", "cc-by-4.0") == 0
    assert "(replaced)" in capsys.readouterr().out
    assert contents(copy).keys() == contents(out).keys() and os.listdir(tmp_path) == ["out"]
    assert "license: cc-by-4.0" in (copy / "README.md").read_text()
    assert manifest.find_damage(copy) is None


def test_an_empty_folder_is_filled(exported, tmp_path):
    (tmp_path / "out").mkdir()
    assert run_export(exported[2], "huggingface", tmp_path / "out") == 0
    assert contents(tmp_path / "out").keys() == contents(exported[-1]).keys()


@pytest.mark.parametrize("what", ["another folder", "a changed card", "a further file", "a file"])
def test_what_is_not_as_it_was_written_is_left_alone(exported, tmp_path, capsys, what):
    _, _, run, _ = exported
    out = tmp_path / "out"
    message = "choose a new --out"
    if what == "a file":
        out.write_text("mine")
        message = "is a file"
    elif what == "another folder":
        out.mkdir()
        (out / "config.json").write_text('{"model_type": "bert"}')
    else:
        assert run_export(run, "huggingface", out) == 0
        with (out / ("README.md" if what == "a changed card" else "notes.txt")).open("a") as file:
            file.write("mine")
    before = contents(out) if out.is_dir() else out.read_text()
    capsys.readouterr()
    assert run_export(run, "huggingface", out) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (contents(out) if out.is_dir() else out.read_text()) == before
    assert os.listdir(tmp_path) == ["out"]


def test_what_ends_half_way_leaves_the_old_folder_and_nothing_else(exported, tmp_path, monkeypatch, capsys):
    _, _, run, _ = exported
    assert run_export(run, "huggingface", tmp_path / "out") == 0
    before = contents(tmp_path / "out")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write_manifest", full)
    assert run_export(run, "huggingface", tmp_path / "out") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["safetensors", "--license", "mit"], "--license and --clip belong to --format huggingface"),
        (["huggingface", "--license", "My Licence"], "short names"),
        (["huggingface", "--clip", "a.mp4"], "give --verify too"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(imported, tmp_path, capsys, words, message):
    form, *more = words
    assert run_export(imported[2], form, tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_transformers_verify_says_which_extra_to_install(imported, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    absent = lambda name, *more: None if name == "transformers" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    assert run_export(imported[2], "huggingface", tmp_path / "out", "--verify") == 2
    assert "pip install 'avemo_jax[huggingface]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
