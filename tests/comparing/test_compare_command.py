"""`avemo compare`: each method gets the same budget by the ordinary commands, and what they leave is one table."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.comparing import methods as methods_lib
from avemo_jax.comparing import page, scores
from avemo_jax.comparing.methods import Budget, read_budget
from avemo_jax.errors import UserError
from avemo_jax.evaluation import predicted
from avemo_jax.evaluation.paired import paired_tests
from tests.evaluation import synthetic

# Of methods with skip layers, and of those without.
SMALL = [one for one in synthetic.TINY if not one.startswith("model.skip_layers")] + ["batch_size=8"]
OURS = [one for one in SMALL if not one.startswith(("model.fusion_depth", "model.decoder_depth"))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "data"
    synthetic.write_folder(path)
    return path


def compare(out, data, *words):
    flags = ("--data", data, "--out", out, "--label", "tone", "shade", "--protocol", "folds")
    return main(["compare", *map(str, (*flags, *words))])


def test_a_budget_is_clips_or_flops_and_becomes_the_nearest_number_of_steps():
    assert read_budget("30400") == Budget(30400, "clips") == read_budget("30,400 clips")
    assert read_budget("2e15flops") == Budget(2e15, "flops")
    assert Budget(100, "clips").steps(batch_size=32, flops=7) == 3
    assert Budget(1e6, "flops").steps(batch_size=32, flops=300_000) == 3
    assert Budget(1, "clips").steps(batch_size=32, flops=7) == 1
    for wrong in ("", "many", "-3", "0", "3 epochs", "1.2.3"):
        with pytest.raises(UserError, match="--budget is"):
            read_budget(wrong)


def test_a_config_with_its_overrides_and_name_is_one_word(data):
    budget = Budget(16, "clips")
    texts = (f"hicmae:demo {' '.join(synthetic.TINY)}", f"alone=audio_mae:demo {' '.join(OURS)} seed=3")
    first, second = methods_lib.read_methods(texts, ["batch_size=8"], str(data), budget)
    assert first.name.startswith("hicmae_demo_model.dim_16") and second.name == "alone"
    assert second.config.seed == 3 and second.config.batch_size == 8 == first.config.batch_size
    assert first.steps == second.steps == 2 and first.clips == 16
    # Matrix products of a step: three of forward and backward, two FLOPs each, at least once over all parameters.
    assert first.flops > 2 * 3 * 2 * first.counted.parameters
    assert first.flops == 2 * first.counted.flops > second.flops


@pytest.mark.parametrize(
    "words, hint",
    [
        (("--configs", "hicmea:demo", "--budget", "8"), "no config"),
        (("--configs", "hicmae:demo modle.dim=3", "--budget", "8"), "model.dim"),
        (("--configs", "finetune/crema_d:demo", "--budget", "8"), "only pretraining"),
        (("--configs", "../x=hicmae:demo", "--budget", "8"), "is the name of a folder"),
        (("--configs", "a=hicmae:demo", "a=hicmae:demo", "--budget", "8"), "two are called a"),
        (("--configs", "hicmae:demo", "--budget", "none"), "--budget"),
        (("--configs", "hicmae:demo", "--budget", "8", "--random_seeds", "0"), "--random_seeds"),
        (("--configs", "hicmae:demo", "--budget", "8", "--data", "nowhere"), "no prepared folder"),
        (("--configs", "hicmae:demo", "--budget", "8", "--label", "mood"), "mood"),
        (("--configs", "hicmae:demo", "--budget", "8", "--protocol", "halves"), "halves"),
        (("--configs", "hicmae:demo", "--budget", "8", "--head", "neck"), "neck"),
        (("--configs", "hicmae:demo model.heads=5", "--budget", "8"), "is not a multiple of model.heads"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_begun(data, tmp_path, capsys, words, hint):
    assert compare(tmp_path / "out", data, *words) == 2
    said = capsys.readouterr().err.strip()
    assert hint in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def test_scores_of_different_questions_stand_apart_and_say_so():
    def row(method, kind, loudness, uar):
        known = {
            "label": "tone",
            "method": method,
            "kind": kind,
            "feature": kind,
            "loudness": loudness,
            "n": 40,
        }
        known |= {"chance": 0.5, "uar": uar, "uar_bounds": [uar - 0.1, uar + 0.1], "weights": "checkpoint"}
        return known | dict.fromkeys(
            ("random_uar", "random_uar_bounds", "uar_difference", "uar_difference_ci95", "p_permutation")
        )

    loud = {"as_recorded": 0.7, "normalised": 0.6}
    probes = [row(name, "whole", level, uar) for name in ("a", "b", "") for level, uar in loud.items()]
    method = {
        "name": "a",
        "config": "a:demo",
        "overrides": [],
        "parameters": 1,
        "steps": 1,
        "clips": 1,
        "flops": 1,
    }
    budget = {"amount": 8, "unit": "clips"}
    text = page.make({"budget": budget, "data": "d", "methods": [method], "probes": probes, "retrieval": []})
    articles = re.findall(r'<article class="probe".*?</article>', text, re.S)
    titles = ["tone, clip vectors", "tone, clip vectors, at equal loudness"]
    assert [re.search("<h3.*?>(.*?)</h3>", one)[1] for one in articles] == titles
    for one, uar in zip(articles, loud.values(), strict=True):
        assert re.findall('<th scope="row">(.*?)</th>', one) == ["a", "b", "no network"]
        assert one.count(f'<td class="number">{100 * uar:.1f}</td>') == 3


@pytest.mark.parametrize(("seeds", "words"), [(1, "[41, 52]"), (3, "41 to 52")])
def test_of_one_random_network_there_is_an_interval_and_of_several_their_range(seeds, words):
    row = {"method": "a", "feature": "cat4", "uar": 0.6, "uar_bounds": [0.5, 0.7], "loudness": "as_recorded"}
    row |= {"head": "linear", "missing": "none", "views": "cached", "selection": "inner_folds"}
    row |= {"label": "tone", "n": 40, "chance": 0.5}
    row |= {"random_uar": 0.46, "random_uar_bounds": [0.41, 0.52], "random_seeds": seeds}
    said = scores.table({"probes": [row], "retrieval": []})
    assert f"[50, 70]  46.0  {words}" in re.sub("  +", "  ", said)


def test_only_the_same_clips_with_the_same_labels_are_paired():
    ids, truth = np.array([f"c{n}" for n in range(6)]), np.arange(6) % 2
    outputs = np.eye(2)[[0, 1, 0, 1, 1, 1]]
    speaker, part = np.array([f"p{n // 2}" for n in range(6)]), np.full(6, "1")
    here = predicted.Predicted({}, ("a", "b"), ids, speaker, part, truth, outputs, outputs.argmax(1))
    assert scores._against(here, here.at(np.arange(6)[::-1]))["uar_difference"] == 0
    for other, says in (
        (here.at(ids != "c0"), "the first method's probe: it was tested on other clips or folds"),
        (replace(here, truth=1 - truth), "the same clips have other labels"),
    ):
        with pytest.raises(UserError, match=says):
            scores._against(here, other)


@pytest.mark.slow
def test_methods_are_trained_probed_and_searched_alike_and_stand_in_one_table(data, tmp_path, capfd):
    out = tmp_path / "out"
    words = (
        *(
            "--configs",
            f"both=hicmae:demo {' '.join(synthetic.TINY)}",
            f"sound=audio_mae:demo {' '.join(OURS)}",
        ),
        *("--set", "batch_size=8", "--budget", "16clips"),
    )
    assert compare(out, data, *words) == 0
    printed = capfd.readouterr().out
    found = json.loads((out / "comparison.json").read_text())
    assert [(m["name"], m["steps"], m["clips"]) for m in found["methods"]] == [
        ("both", 2, 16),
        ("sound", 2, 16),
    ]
    assert scores.table(found) in printed and (out / "table.txt").read_text() in printed
    assert [row["method"] for row in found["retrieval"]] == ["both"]  # the other has no picture to ask with

    for label in ("tone", "shade"):
        rows = {(row["method"], row["kind"]): row for row in found["probes"] if row["label"] == label}
        assert ("", "log_mel") in rows and ("both", "video_cells") in rows
        one, other = (rows[name, "whole"] for name in ("both", "sound"))
        assert (one["feature"], other["feature"]) == ("cat4", "audio")
        assert one["uar_difference"] is None
        assert other["uar_difference"] == pytest.approx(other["uar"] - one["uar"], abs=1e-9)
        assert other["random_uar"] is not None and 0 <= other["p_permutation"] <= 1
        # Paired by the same clips, whatever the order in the two files.
        both, sound = (
            next(
                model
                for model in predicted.read(out / name / f"probe_{label}" / "predictions.csv")
                if (model.model["feature"], model.model["weights"]) == (feature, "checkpoint")
            )
            for name, feature in (("both", "cat4"), ("sound", "audio"))
        )
        assert (both.clip_id == sound.clip_id).all()
        tested = paired_tests(sound.label, sound.guess, both.guess, sound.speaker, len(sound.names))
        assert other["p_permutation"] == tested["p_permutation"]
    text = (out / "comparison.html").read_text()
    assert "2 methods compared" in text and "training FLOPs" in text

    assert compare(out, data, *words) == 0
    assert capfd.readouterr().out.count("done already") == 7
    # Another budget is more steps of the same runs, here of one of them.
    assert compare(out, data, "--configs", words[2], *words[3:-1], "24clips") == 0
    assert "resuming at step 2 of 3" in capfd.readouterr().out
