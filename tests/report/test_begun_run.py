"""Pages of runs that have only begun: every part that is not there names the command that makes it."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.evaluation.extraction import Source
from avemo_jax.evaluation.judging import judge
from avemo_jax.evaluation.protocols import LabelledClips, make_splits
from tests.report.test_charts import title_of


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "begun"
    folder.mkdir()
    config = {"task": "pretrain", "batch_size": 8, "total_steps": 9, "data": {"path": "nowhere"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sections(page):
    """id → text of each section."""
    return dict(re.findall(r'<section id="(\w+)".*?>(.*?)</section>', page, re.S))


def test_every_part_that_is_missing_says_which_command_makes_it(run, capsys):
    assert main(["report", str(run)]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    for name, verb in {
        "curves": "train",
        "pictures": "train",
        "map": "report",
        "looks": "report",
        "probes": "probe",
        "judged": "evaluate",
        "time": "train",
        "made": "train",
    }.items():
        (lacking,) = re.findall(r'<p class="missing">(.*?)</p>', sections(page)[name], re.S)
        assert f"<code>avemo {verb} " in lacking and str(run) in lacking, name
    assert len(page.encode()) < 50_000  # nothing is drawn, so no library is in it


def test_what_a_fine_tuning_of_all_folds_lacks_is_asked_of_its_first_fold(run):
    begun = json.loads((run / "config.json").read_text())
    (run / "config.json").unlink()
    (run / "rows.json").write_text("[]")
    for fold in ("fold_1", "fold_2"):
        (run / fold).mkdir()
        (run / fold / "config.json").write_text(json.dumps(begun))
    assert main(["report", str(run)]) == 0
    page = sections((run / "report.html").read_text())
    for name, verb in {"curves": "report", "map": "report", "probes": "probe", "time": "report"}.items():
        (lacking,) = re.findall(r'<p class="missing">(.*?)</p>', page[name], re.S)
        assert re.search(rf"<code>avemo {verb} .*{run / 'fold_1'}", lacking), name
    assert "each fold has weights of its own" in page["map"]
    assert not re.search("avemo train|no checkpoint", "".join(page.values()))


def test_what_is_said_of_pretraining_on_patches_is_not_said_of_other_runs(tmp_path):
    for name, config in (("tuned", "finetune/crema_d:demo"), ("latents", "mjepa:demo")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(load_config(config).to_json())
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "loss_video": 0.5}\n')
    (tmp_path / "tuned" / "samples").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "tuned" / "samples" / "00000001_input.png")
    page = tmp_path / "page.html"
    words = ["report", tmp_path / "tuned", tmp_path / "latents", "--clips", 0, "--out", page]
    assert main([str(word) for word in words]) == 0
    found = sections(page.read_text())
    assert "Errors of latents are mean absolute, of a teacher&#39;s tokens" in found["curves"]
    assert "mean squared" not in found["curves"] and "standardised" not in found["pictures"]
    assert "No pictures of latents: what it learns to predict is none." in found["pictures"]
    assert "samples_every_steps" not in found["pictures"] and "<img" in found["pictures"]


def test_a_run_that_goes_on_shows_what_it_has_logged(run):
    rows = [{"step": step, "loss": 1 / step, "skipped_steps": step // 2, "odd": None} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo')
    assert (
        main(["report", str(run), "--json", str(run / "numbers.json"), "--out", str(run / "page.html")]) == 0
    )
    page, numbers = (run / "page.html").read_text(), json.loads((run / "numbers.json").read_text())
    assert [row["loss"] for row in numbers["tables"]["curves"]] == [1, 1 / 2, 1 / 3]
    assert numbers["runs"][0]["step"] == 3 and "3 of 9" in page and "24 clips seen" in page
    assert "loss or gradients were not finite: 1; rollbacks: 0" in " ".join(page.split())
    assert not (run / "report.html").exists()


def test_a_run_given_twice_is_refused(run, tmp_path, capsys):
    assert main(["report", str(run), str(run), "--out", str(tmp_path / "page.html")]) == 2
    assert "a run is given twice" in capsys.readouterr().err


def test_runs_of_the_same_name_are_told_apart_by_their_folders(run, tmp_path):
    other = tmp_path / "more" / run.name
    other.mkdir(parents=True)
    (other / "config.json").write_text((run / "config.json").read_text())
    words = [
        str(run),
        str(other),
        "--out",
        str(tmp_path / "page.html"),
        "--json",
        str(tmp_path / "numbers.json"),
    ]
    assert main(["report", *words]) == 0
    names = [each["name"] for each in json.loads((tmp_path / "numbers.json").read_text())["runs"]]
    assert names == [f"{tmp_path.name}/begun", "more/begun"]


def test_a_place_that_cannot_be_written_to_is_named_before_any_work(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["report", str(run), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def write_probe(run, of_numbers, protocol, **dealt):
    """Rows of a probe of a value that the features nearly tell, or of the side of its median, in the run's folder."""
    rng = np.random.default_rng(0)
    number, empty = np.arange(24), np.full(24, "")
    values = rng.uniform(1, 5, (24, 1)).astype(np.float32)
    speaker = np.array([f"p{i // 6}" for i in number])
    ids, above = np.array([f"c{i:02d}" for i in number]), (values[:, 0] > np.median(values)).astype(int)
    clips = LabelledClips(number, ids, speaker, empty, empty, above, ("low", "high"))
    if of_numbers:
        clips = replace(clips, numbers=("valence",), values=values)
    splits = make_splits(protocol, clips, need_classes=not of_numbers, **dealt)
    features = np.hstack([values + rng.normal(size=(24, 1)), rng.normal(size=(24, 3))]).astype(np.float32)
    rows = []
    for weights, seed in (("checkpoint", 0), ("random", 0), ("random", 1), ("none", 0)):
        source = Source("pixels" if weights == "none" else "cat4", weights, seed, "as_recorded")
        (one,) = judge(source, features, clips, splits, "ridge")
        rows.append(one.row | {"label": "valence", "views": "cached", "step": 7})
    (run / "probe").mkdir()
    (run / "probe" / "rows.json").write_text(json.dumps(rows, allow_nan=False))
    return rows


def test_a_probe_of_a_number_is_shown_with_its_own_scores(run):
    rows = write_probe(run, True, "leave_one_speaker_out")
    assert main(["report", str(run), "--json", str(run / "numbers.json")]) == 0
    (probe,) = json.loads((run / "numbers.json").read_text())["probes"]
    assert probe["scores"] == ["ccc", "pcc", "mae", "rmse"] and not probe["confusions"]
    page = sections((run / "report.html").read_text())
    ccc = f"{100 * rows[0]['ccc']:.1f}"
    assert "24 clips tested, a number;" in page["probes"] and "Confusions" not in page["probes"]
    assert f"CCC in per cent, chance 0.0: cat4 {ccc} [" in page["probes"]
    assert f'<td class="number">{rows[0]["mae"]:.4g}</td>' in page["probes"]
    assert f"CCC of valence, per cent</dt><dd>{ccc} <span" in page["glance"]


def test_a_probe_whose_folds_were_dealt_several_times_says_so(run):
    rows = write_probe(run, False, "speaker_folds", folds=2, seeds=range(20), dealings=3)
    words = ["--json", str(run / "numbers.json"), "--charts", str(run / "charts")]
    assert main(["report", str(run), *words]) == 0
    (probe,) = json.loads((run / "numbers.json").read_text())["probes"]
    assert probe["repeats"] == 3 and np.sum(probe["confusions"][0]["confusion"]) == 3 * 24
    page = sections((run / "report.html").read_text())["probes"]
    assert "24 clips tested" in page and "dealt 3 times, confusions summed over them" in page
    assert "± repeats</th>" in page and rows[0]["repeat_uar_std"] > 0.01
    assert f'<td class="number">{100 * rows[0]["repeat_uar_std"]:.1f}</td>' in page
    drawn = (
        run / "charts" / "confusion-scores-0-cat4.svg"
    ).read_text()  # a table on the page, a chart as a file
    right = probe["confusions"][0]["confusion"][0][0]
    assert f"low as low {right}" in drawn and "Confusions of valence" in drawn


def test_several_probes_of_a_label_are_told_apart_by_their_folders(run):
    rows = [
        row | {"layer_shares": [[0.5, 0.5]] * 2} for row in write_probe(run, False, "leave_one_speaker_out")
    ]
    rows += [row | {"loudness": "normalised"} for row in rows]
    (run / "probe" / "rows.json").write_text(json.dumps(rows))
    shutil.copytree(run / "probe", run / "later" / "probe")
    words = ["--json", str(run / "numbers.json"), "--charts", str(run / "charts")]
    assert main(["report", str(run), *words]) == 0
    titles = {title_of(path.read_text()) for path in (run / "charts").iterdir()}
    of = [
        f"valence{manner}, ridge head, {folder}"
        for manner in ("", ", at equal loudness")
        for folder in ("later/probe", "probe")
    ]
    assert titles == (
        {f"Probe of {what}" for what in of}
        | {f"Layers of cat4, probe of {what}" for what in of}
        | {f"Confusions of {what}, cat4" for what in of}
    )
    page = sections((run / "report.html").read_text())
    assert sorted(re.findall(r"<h3.*?>(.*?)</h3>", page["probes"])) == sorted(of)
