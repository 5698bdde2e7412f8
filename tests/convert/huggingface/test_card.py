"""The model card says what is known of the run, and nothing else."""

import json
import shutil

import pytest

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.convert.huggingface import facts
from avemo_jax.convert.huggingface.card import Stored, write_card
from avemo_jax.convert.huggingface.facts import Data, Facts
from avemo_jax.training.checkpoints import load_params
from input_pipeline.storing import ClipOptions
from tests.convert.small_models import run_export
from tests.evaluation import synthetic

METRICS = [
    {"step": 4, "loss": 2.0, "loss_video": 1.5, "step_s": 100.0},
    {"step": 7, "loss": 1.25, "loss_video": 0.75, "loss_audio": None, "grad_norm": 3.0, "step_s": 200.0},
    {"step": 9, "loss": 0.5, "step_s": 9999.0},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prepared folder `data`, and a work directory `run` of step 7 with metrics and a probe of it."""
    place = tmp_path_factory.mktemp("card")
    synthetic.write_folder(place / "data")
    synthetic.write_checkpoint(
        place / "run", [f"data.path={place / 'data'}", "batch_size=32"], dataset_size=48
    )
    lines = [json.dumps(row) for row in METRICS] + ['{"step": 9, "lo']
    (place / "run" / "metrics.jsonl").write_text("\n".join(lines))
    words = ["--label", "tone", "--features", "cat4", "--random_seeds", "1", "--batch_size", "16"]
    folders = ["--checkpoint", place / "run", "--data", place / "data", "--out", place / "run" / "probe_tone"]
    assert main(["probe", *map(str, folders), *words]) == 0
    return place


def card_of(checkpoint, tmp_path, *more):
    assert run_export(checkpoint, "huggingface", tmp_path / "out", *more) == 0
    return (tmp_path / "out" / "README.md").read_text()


def test_it_tells_data_steps_time_and_losses_of_the_exported_step(place, tmp_path):
    card = card_of(place / "run", tmp_path)
    assert "| clips | 48, 1 min |" in card
    assert "| steps | 7 of 32 clips, 224 clips seen |" in card
    assert "| time in steps | 0:16:40 |" in card  # 4 · 100 + 3 · 200 s
    assert "| losses at step 7 | loss 1.25, loss_video 0.75 |" in card
    assert "9999" not in card and "0.5 " not in card.split("## Training")[1].split("##")[0]


def test_it_names_the_splits_that_the_data_has():
    known = Facts(3, versions={}, data=Data(36, 7300.0, {"train": 30, "test": 6}))
    card = write_card(load_config("hicmae:demo"), known, Stored(ClipOptions(), True), 10, "unknown", None)
    assert "| clips | 36, 2.0 h (train 30, test 6) |" in card


def test_it_shows_probes_of_this_step_beside_their_baselines_with_intervals(place, tmp_path):
    card = card_of(place / "run", tmp_path)
    part = card.split("## Linear probe: `tone`")[1].split("\n## ")[0]
    assert "48 clips, 4 speakers, 3 classes, chance 33.3 %" in part and "resampling speakers" in part
    (row,) = [line for line in part.splitlines() if line.startswith("cat4") and "checkpoint" in line]
    rows = json.loads((place / "run" / "probe_tone" / "rows.json").read_text())
    (ours,) = [row for row in rows if row["weights"] == "checkpoint"]
    assert (
        f"{100 * ours['uar']:.1f}" in row
        and "[{:.0f}, {:.0f}]".format(*(100 * b for b in ours["ci95"])) in row
    )
    assert "random" in part and "log_mel" in part


def test_probes_of_another_step_are_left_out(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    path = tmp_path / "run" / "probe_tone" / "rows.json"
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    (tmp_path / "run" / "rows.json").write_text("[1, 2]")  # somebody else's
    assert "Linear probe" not in card_of(tmp_path / "run", tmp_path)


def test_data_that_is_gone_or_has_changed_is_left_out(place, tmp_path):
    config, _, _ = load_params(place / "run")
    assert facts.gather(place / "run", config, 7).data.clips == 48
    for overrides, clips in (([f"data.path={place / 'data'}"], 47), (["data.path=/nowhere"], 48)):
        run = tmp_path / f"run{clips}"
        synthetic.write_checkpoint(run, overrides, dataset_size=clips)
        config, _, _ = load_params(run)
        assert facts.gather(run, config, 7).data is None
    card = card_of(run, tmp_path)
    assert "| clips |" not in card and "/nowhere" not in card
    assert "| losses" not in card and "| time" not in card and "| steps |" in card


def test_the_folder_of_one_step_has_the_facts_of_its_run(place):
    config, _, _ = load_params(place / "run")
    whole = facts.gather(place / "run", config, 7)
    assert facts.gather(place / "run" / "checkpoints" / "00000007", config, 7) == whole
    assert facts.gather(place / "run" / "checkpoints", config, 7) == whole
    assert whole.probes and whole.losses_step == 7


def test_it_is_five_lines_to_a_vector_or_a_label(imported, tmp_path):
    task, _, run = imported
    card = card_of(run, tmp_path)
    code = card.split("```python\n")[1].split("```")[0].splitlines()
    assert len(code) == 5 and ("cat4" if task == "pretrain" else "id2label") in code[-1]
    compile("\n".join(code), "card", "exec")


def test_imported_weights_claim_no_training(imported, tmp_path):
    card = card_of(imported[2], tmp_path)
    assert "how they came about is not recorded" in card and "## Training" not in card


def test_the_hub_reads_its_metadata(imported, tmp_path):
    yaml = pytest.importorskip("yaml")
    task, _, run = imported
    _, header, _ = card_of(run, tmp_path, "--license", "cc-by-nc-4.0").split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "cc-by-nc-4.0" and metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == {"pretrain": "feature-extraction"}.get(task, "video-classification")


def test_without_a_stated_licence_it_is_unknown(imported, tmp_path):
    card = card_of(imported[2], tmp_path)
    assert "license: unknown\n" in card and "No licence was stated for the weights." in card


def test_every_file_that_it_names_is_there(imported, tmp_path):
    card = card_of(imported[2], tmp_path)
    named = [
        word.strip("`") for word in card.split() if word.startswith("`") and word.endswith((".py`", ".json`"))
    ]
    assert len(named) > 2 and all((tmp_path / "out" / name).exists() for name in named)
