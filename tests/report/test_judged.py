"""What `avemo evaluate` and fine-tuning left, on the report page: its numbers, and in a real browser."""

import json
import re
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.evaluation import (
    extraction,
    judging,
    outcome_files,
    outcomes,
    retrieval,
    suite_tables,
    suites,
    text_space,
    text_suites,
)
from avemo_jax.evaluation.predicted import Predicted
from avemo_jax.evaluation.protocols import LabelledClips, make_splits
from avemo_jax.evaluation.runs import gather_run
from avemo_jax.report import contents, judged
from avemo_jax.report.numbers import value as shown_value
from input_pipeline.targets import Target
from input_pipeline.texts import Described, make_table
from tests.report.test_charts import title_of
from tests.report.test_report_page import CHARTS, TABLE

CLASSES = ("fear", "joy", "sad")
CLIPS = 90


def _predicted(seed, model):
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(3), CLIPS)
    label = np.array([rng.choice(3, p=row) for row in chances])
    names = [
        np.array([f"{kind}{number % of:02d}" for number in range(CLIPS)])
        for kind, of in (("c", CLIPS), ("p", 9))
    ]
    return Predicted(model, CLASSES, *names, np.full(CLIPS, "1"), label, chances, chances.argmax(1))


def _known():
    rng = np.random.default_rng(7)
    return {
        f"c{number:02d}": {
            "gender": "fm"[number % 9 % 2],
            "majority_voice": CLASSES[rng.integers(3)],
            "majority_face": CLASSES[rng.integers(3)],
            "majority_both": CLASSES[rng.integers(3)],
        }
        for number in range(CLIPS)
    }


def _identity():
    rng = np.random.default_rng(3)
    speaker = np.array([f"p{number % 9}" for number in range(CLIPS)])
    number = np.unique(speaker, return_inverse=True)[1]
    ids = np.array([f"c{n:02d}" for n in range(CLIPS)])
    empty = np.full(CLIPS, "")
    clips = LabelledClips(np.arange(CLIPS), ids, speaker, empty, empty, number, tuple(sorted(set(speaker))))
    features = (np.eye(9)[number] + 0.5 * rng.normal(size=(CLIPS, 9))).astype(np.float32)
    rows = []
    for weights in ("checkpoint", "random", "none"):
        source = extraction.Source("log_mel" if weights == "none" else "cat4", weights, 0, "as_recorded")
        (one,) = judging.judge(
            source, features, clips, make_splits("within_speakers", clips, folds=3), "ridge"
        )
        rows.append(one.row)
    return rows


def _robustness(change):
    levels = (("none", None, ""), ("noise", 20.0, "dB"), ("swapped_audio", 1.0, ""))
    swapped = {
        "reliance": 0.4,
        "reliance_ci95": [0.3, 0.5],
        "follows_donor": 0.25,
        "follows_donor_ci95": [0.2, 0.31],
        "follows_donor_clean": 0.1,
        "donors": 77,
        "stream": "audio",
    }
    return [
        {"corruption": name, "level": level, "unit": unit, "score": "uar", "uar": 0.6 + place * change, "n": CLIPS,
         "speakers": 9, "change": place * change, "kept": 0.9,
         "change_ci95": [place * change - 0.1, place * change + 0.1], **(swapped if place == 2 else {})}
        for place, (name, level, unit) in enumerate(levels)
    ]  # fmt: skip


def _texts():
    rng = np.random.default_rng(5)
    words = {name: rng.normal(size=6).astype(np.float32) for name in CLASSES}
    said = [CLASSES[n % 3] for n in range(CLIPS)]
    ids = [f"c{n:02d}" for n in range(CLIPS)]
    clips = text_space.Judged(
        ids, np.array([f"p{n % 9}" for n in range(CLIPS)]), [{"tone": name} for name in said]
    )
    vectors = np.stack([words[name] for name in said]) + rng.normal(size=(CLIPS, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    space = text_space.Space(
        "checkpoint", 0, "heads", "both", vectors, np.ones(len(vectors), bool), np.zeros(6), None
    )
    spaces, embed = (
        [space, space._replace(weights="random", map="fitted")],
        lambda texts: np.stack([words[t] for t in texts]),
    )
    described = [
        Described(ids[n], said[n], ((said[n], True), (CLASSES[(n + 1) % 3], False))) for n in range(CLIPS)
    ]
    return {
        "zero_shot": text_suites.zero_shot_rows(
            clips, spaces, "tone", {name: [name] for name in CLASSES}, embed
        ),
        "text_retrieval": text_suites.text_retrieval_rows(clips, spaces, make_table(ids, embed(said))),
        "statements": text_suites.statement_rows(clips, spaces, described, embed),
    }


def _retrieval():
    ranks = retrieval.match_ranks(*(np.random.default_rng(k).normal(size=(CLIPS, 6)) for k in range(2)))
    scores = retrieval.summary(ranks)
    scores |= {f"{name}_ci95": [value, value] for name, value in scores.items()}
    ways = dict.fromkeys(judged.WAYS, scores)
    named = {"layer": "all", "n": CLIPS, "lacking": 3, "chance": {"r1": 0.01, "r5": 0.05, "r10": 0.1}}
    return [{"weights": weights, "seed": 0, **named, **ways} for weights in ("checkpoint", "random")]


def _neighbours(seed):
    return [
        {"feature": "cat4", "weights": weights, "seed": seed, "label": "emotion", "k": 5, "index": "exact", "n": CLIPS,
         "precision": 0.5, "precision_ci95": [0.4, 0.6], "chance": 0.3}
        for weights in ("checkpoint", "random")
    ]  # fmt: skip


def _outcomes(seed):
    target = Target("class", ("emotion",), CLASSES)
    rng = np.random.default_rng(seed)
    truth, speaker = rng.integers(0, 3, CLIPS), np.array([f"p{n % 9}" for n in range(CLIPS)])
    rows = []
    for selection, step in (("best on the development clips", 30), ("last", 40)):
        scores = outcomes.judged(target, rng.dirichlet(np.ones(3), CLIPS), truth, speaker)
        row = {"label": "emotion", "target": "class", "split": "folds", "fold": "1", "selection": selection}
        rows.append(row | {"step": step, "modalities": "audio_video", **scores})
    return rows


def _write(folder, seed, change):
    folder.mkdir()
    config = {"task": "finetune", "batch_size": 8, "total_steps": 40, "data": {"path": "nowhere"}}
    (folder / "config.json").write_text(json.dumps(config))
    looks = [
        {"step": step, "loss": 1.0, "development_uar": 0.5}
        | {f"development_recall_{name}": k / 10 + step / 100 for k, name in enumerate(CLASSES)}
        for step in (10, 20)
    ]
    looks.insert(1, {"step": 15, "loss": 1.0})
    looks[0][f"development_recall_{CLASSES[-1]}"] = None  # no clip of it was there
    (folder / "metrics.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    (folder / "rows.json").write_text(json.dumps(_outcomes(seed)))
    (folder / "fold_1").mkdir()
    (folder / "fold_1" / "rows.json").write_text(json.dumps(_outcomes(seed + 1)))
    models = [
        _predicted(seed + k, {"selection": name, "modalities": "audio_video"})
        for k, name in enumerate(("best", "last"))
    ]
    results = {
        "calibration": suites.calibration_rows(models),
        "fairness": suites.fairness_rows(models, _known(), ("gender",)),
        "conflict": suites.conflict_rows(models, _known()),
        "robustness": _robustness(change),
        "identity": _identity(),
        **_texts(),
        "neighbours": _neighbours(seed),
        "retrieval": _retrieval(),
        "rollout": [
            {"clip_id": f"c{n}", "video": 0.1 + n / 10, "audio": 0.2, "fused_video": 0.3, "fused_audio": 0.4}
            for n in range(3)
        ],
    }
    (folder / "judged").mkdir()
    (folder / "judged" / "neighbours.html").write_text("<title>nearest</title>")
    (folder / "judged" / "suites.json").write_text(json.dumps(results))
    return results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two folders as runs leave them, and what was found of each."""
    place = tmp_path_factory.mktemp("judged")
    return {
        place / name: _write(place / name, seed, change)
        for name, seed, change in (("a", 0, -0.1), ("b", 9, -0.2))
    }


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """(page, numbers, folder of charts) of the two side by side."""
    place = tmp_path_factory.mktemp("page")
    page, numbers, charts = place / "page.html", place / "numbers.json", place / "charts"
    flags = ["--out", page, "--json", numbers, "--charts", charts, "--clips", 0]
    assert main([str(word) for word in ("report", *runs, *flags)]) == 0
    return page, json.loads(numbers.read_text()), charts


def test_groups_are_told_in_the_score_of_what_is_predicted(tmp_path):
    """Values: a group of one clip has no CCC; divergences are in nats, and the best group's is the lowest."""
    one = _predicted(0, {"selection": "last"})
    votes = replace(one, truth=np.eye(3)[one.truth] * 0.9 + 0.1 / 3, kind="distribution")
    values = replace(votes, model={"selection": "best"}, kind="values")
    known = _known() | {"c00": {"gender": "x"}}
    rows = suites.fairness_rows([votes, values], known, ("gender",))
    pairs = suites.paired_rows([votes], [votes])
    (tmp_path / "judged").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"task": "finetune", "data": {"path": "nowhere"}}))
    (tmp_path / "judged" / "suites.json").write_text(
        json.dumps(outcome_files.plain({"fairness": rows, "paired": pairs}))
    )
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    flags = ["--out", page, "--json", numbers, "--clips", 0]
    assert main([str(word) for word in ("report", tmp_path, *flags)]) == 0
    found = json.loads(numbers.read_text())
    assert [one["score"] for one in found["judged"]["fairness"]["traits"]] == ["js", "ccc"]
    js, ccc = (found["tables"][f"groups-{number}"] for number in range(2))
    assert [row["value"] for row in js] == pytest.approx([group["js"] for group in rows[0]["groups"]])
    assert ccc[-1]["group"] == "x" and ccc[-1]["value"] is None
    best, worst = rows[0]["gap"]["best"], rows[0]["gap"]["worst"]
    text = page.read_text()
    assert f"{best} is {shown_value(rows[0]['gap']['gap'])} " in text and f"over {worst}; by chance" in text
    lines = [(row["score"], row["difference"], row["p"]) for row in found["tables"]["paired"]]
    assert lines == [("js", 0, 1), ("uar", 0, None), ("war", 0, None)] and "Two models clip by clip" in text
    assert "Groups by gender, JS" in text and "Groups by gender, CCC in per cent" in text


def test_the_rows_of_all_runs_stand_in_one_table_told_apart_by_run_and_model(runs, made):
    page, numbers, charts = made
    tables, found = numbers["tables"], numbers["judged"]
    series = ["a, best", "a, last", "b, best", "b, last"]
    rows = [row for results in runs.values() for row in results["calibration"]]
    assert [one["series"] for one in found["calibration"]["models"]] == series
    for one, row in zip(found["calibration"]["models"], rows, strict=True):
        assert one["ece"] == row["ece"] and one["tempered_ece"] == row["tempered"]["ece"]
        drawn = [each for each in tables["reliability"] if each["series"] == one["series"]]
        assert [each["accuracy"] for each in drawn] == row["reliability"]["accuracy"]
        drawn = [each for each in tables["risk"] if each["series"] == one["series"]]
        assert [each["risk"] for each in drawn] == row["risk_coverage"]["risk"]
    gaps = found["fairness"]["traits"][0]["gaps"]
    rows = [row["gap"] for results in runs.values() for row in results["fairness"]]
    assert [gap["gap"] for gap in gaps] == [row["gap"] for row in rows] and found["fairness"][
        "series"
    ] == series
    assert found["conflict"]["models"][-1]["series"] == "raters who had both"
    for one in found["conflict"]["models"]:
        shares = [row["share"] for row in tables["conflict"] if row["series"] == one["series"]]
        assert sum(shares) == pytest.approx(1) and shares[0] == one["face"] / one["n"]
    changes = [(row["series"], row["condition"], row["change"]) for row in tables["robustness"]]
    assert changes[:2] == [("a", "as they are", 0), ("a", "noise, 20 dB", -0.1)]
    assert changes[2] == ("a", "swapped audio", -0.2)
    words = re.sub(r"\s+", " ", page.read_text())
    assert "a, swapped audio: 40.0 % [30.0, 50.0]; b, swapped" in words  # reliance
    assert "a, swapped audio: 25.0 % [20.0, 31.0] of 77, 10.0 % as they are; b, swapped" in words
    assert [one["series"] for one in found["identity"]["runs"]] == ["a", "b"]
    asked = [row["zero_shot"][0] for row in runs.values()]
    assert [row["scores"]["uar"]["value"] for row in tables["zero_shot"][::2]] == [
        row["uar"] for row in asked
    ]
    lines = [(row["series"], row["map"], row["way"]) for row in tables["text_retrieval"][:3]]
    assert lines[:2] == [("a, checkpoint", "heads", way) for way in ("text_to_clip", "clip_to_text")]
    assert lines[2][:2] == ("a, random 0", "fitted") and len(tables["statements"]) == 4
    lines = [(row["series"], row["way"]) for row in tables["retrieval"]]
    assert lines[:2] == [("a, checkpoint", "video_to_audio"), ("a, checkpoint", "audio_to_video")]
    assert lines[3][0] == "a, random 0" and len(lines) == 8
    assert "Left out, without picture or without sound: a, 3 clips; b, 3 clips." in words
    assert {path.stem for path in charts.iterdir()} >= {
        "reliability",
        "risk",
        "conflict",
        "robustness",
        "confusion-0",
    }


def _of_divergence(change):
    own = {"score": "js", "js": 0.1, "change": change, "change_ci95": [change - 0.0021, change + 0.0021]}
    return [{**row, **own, "kept": None} for row in _robustness(change)]


def test_robustness_of_different_scores_has_a_chart_and_a_table_each(tmp_path):
    for name, rows in (("a", _robustness(-0.1)), ("b", _of_divergence(0.034))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "suites.json").write_text(json.dumps({"robustness": rows}))
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    words = ["report", tmp_path / "a", tmp_path / "b", "--clips", 0, "--out", page, "--json", numbers]
    assert main([str(word) for word in words]) == 0
    found = json.loads(numbers.read_text())
    entries = found["judged"]["robustness"]["scores"]
    assert [(one["score"], one["series"]) for one in entries] == [("uar", ["a"]), ("js", ["b"])]
    tables = [found["tables"][one["table"]] for one in entries]
    assert [row["change"] for row in tables[0]] == [0, -0.1, -0.2]
    assert [row["change"] for row in tables[1]] == [0.034] * 3
    text = page.read_text()
    for one, heading, axis in zip(
        entries, ("UAR, per cent", "JS"), ("change in UAR, points", "change in JS"), strict=True
    ):
        (table,) = re.findall(rf"<span>Robustness, {heading}</span>.*?</table>", text, re.S)
        assert (">0.03400</td>" in table, "[0.03190, 0.03610]" in table) == (one["score"] == "js",) * 2
        assert f'data-chart="{one["table"]}"' in text and f'"title":"{axis}"' in text
    for title, shape in (("change in UAR, points", ".1f"), ("change in JS", ".3f")):
        assert f'"format":"{shape}","title":"{title}"' in text


def test_a_median_rank_between_two_is_not_rounded():
    rows = _retrieval()
    for row in rows:
        for way in judged.WAYS:
            row[way] = {**row[way], "median_rank": 4.5}
    texts = [{**row, "text_to_clip_median_rank": 2.5} for row in _texts()["text_retrieval"]]
    said = suite_tables.text({"retrieval": rows, "text_retrieval": texts}).splitlines()
    assert [line.split()[-1] for line in said if "→ audio" in line or "→ video" in line] == ["4.5"] * 4
    ranks = said[next(n for n, line in enumerate(said) if line.startswith("text → clip")) + 1 :][:2]
    assert [line.split()[-1] for line in ranks] == ["2.5"] * 2


def test_tables_of_robustness_are_in_the_unit_of_the_score():
    ccc = [{**row, "score": "ccc", "ccc": 0.612, "change": -0.034} for row in _robustness(0)]
    js = _of_divergence(0.034)
    for rows in (ccc, js):
        for row in rows:
            row |= {"selection": "last", "step": 3}
            row.pop("kept", None)
    (line,) = [line for line in suite_tables.text({"robustness": ccc}).splitlines() if "noise" in line]
    assert line.split() == ["noise,", "20", "dB", "61.2", "-3.4", "[-10.0,", "10.0]"]
    (line,) = [line for line in suite_tables.text({"robustness": js}).splitlines() if "noise" in line]
    assert line.split() == ["noise,", "20", "dB", "0.100", "0.034", "[0.032,", "0.036]"]


def test_what_differs_between_runs_is_said_of_each(tmp_path):
    clips = [np.arange(CLIPS), np.arange(CLIPS - 20)]
    runs = []
    for name, own, n in zip("ab", clips, (CLIPS, 40), strict=True):
        model = _predicted(0, {"selection": "last"}).at(own)
        more = {"n": n, "lacking": n // 10, "chance": {"r1": 1 / n, "r5": 5 / n, "r10": 10 / n}}
        results = {
            "conflict": suites.conflict_rows([model], _known()),
            "retrieval": [row | more for row in _retrieval()],
        }
        runs.append(results)
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "suites.json").write_text(json.dumps(results))
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    words = ["report", tmp_path / "a", tmp_path / "b", "--clips", 0, "--out", page, "--json", numbers]
    assert main([str(word) for word in words]) == 0
    models = json.loads(numbers.read_text())["judged"]["conflict"]["models"]
    rows = [results["conflict"][0] for results in runs]
    assert [one["series"] for one in models[2:]] == [f"{name}, raters who had both" for name in "ab"]
    assert [(one["n"], one["face"]) for one in models[2:]] == [
        (row["n"], row["raters"]["face"]) for row in rows
    ]
    assert rows[0]["n"] != rows[1]["n"]
    assert suite_tables.text({"conflict": rows}).count("raters who had both") == 2
    assert suite_tables.text({"conflict": rows[:1] * 2}).count("raters who had both") == 1
    (table,) = re.findall(r"<span>Retrieval, per cent</span>.*?</table>", page.read_text(), re.S)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.split("<tr>")[2:]]
    assert [(line[2], line[7]) for line in cells] == [("90", "1.1, 5.6, 11.1")] * 4 + [
        ("40", "2.5, 12.5, 25.0")
    ] * 4
    assert "sound: a, 9 clips; b, 4 clips." in page.read_text()


def test_a_fine_tuning_runs_scores_are_those_of_all_its_folds_together(runs):
    run = gather_run(next(iter(runs)))
    assert [one.name for one in run.outcomes] == ["."] and not run.probes
    (one,) = contents.assemble([run])["judged"]["outcomes"]
    row = json.loads((run.folder / "rows.json").read_text())[0]
    assert one["lines"][0]["scores"]["uar"] == {
        "value": row["uar"],
        "bounds": row["ci95"],
        "folds": [None, None],
    }
    assert one["lines"][0]["scores"]["war"]["bounds"] == row["war_ci95"]
    recalls = np.diag(row["confusion"]) / np.sum(row["confusion"], 1)
    assert one["confusions"][0]["recalls"] == pytest.approx(recalls.tolist())


def test_confusions_of_a_runs_several_scores_are_told_apart_by_their_folders(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.json").write_text(json.dumps(_outcomes(0)))
    assert main([str(word) for word in ("report", tmp_path, "--charts", tmp_path / "charts")]) == 0
    assert [title_of((tmp_path / "charts" / f"confusion-{n}.svg").read_text()) for n in range(2)] == [
        f"Confusions of emotion, {folder}, best on the development clips" for folder in ("one", "other")
    ]


def test_how_often_each_class_was_found_by_looks_has_one_chart_a_run(made):
    page, numbers, charts = made
    assert [(one["run"], one["of"], one["looks"]) for one in numbers["recalls"]] == [
        (name, "development", 2) for name in "ab"
    ]
    first, *_, last = numbers["recalls"][0]["classes"]
    assert first == {"name": CLASSES[0], "first": 0.1, "highest": 0.2, "last": 0.2}
    assert last["first"] == last["last"] == pytest.approx(0.2 + (len(CLASSES) - 1) / 10)
    assert "development_uar" in numbers["curves"]
    assert not any("recall" in key for key in numbers["curves"])
    assert {"recalls-0", "recalls-1"} <= {path.stem for path in charts.iterdir()}
    assert "Recall by class of the development clips" in page.read_text()
    words = " ".join(re.findall(r">([^<]+)</", (charts / "recalls-1.svg").read_text()))
    assert "Recall by class of the development clips, b" in words and set(CLASSES) <= set(words.split())


def test_pages_of_clips_are_linked_where_they_were_made(runs, made):
    page, numbers, _ = made
    rows = [(row["series"], row["label"], row["precision"]) for row in numbers["tables"]["neighbours"]]
    assert rows[:2] == [("a, checkpoint", "emotion", 0.5), ("a, random 0", "emotion", 0.5)]
    assert [row["series"] for row in numbers["tables"]["rollout"]] == ["a", "b"]
    assert numbers["tables"]["rollout"][0]["video"] == pytest.approx(0.2)
    assert numbers["judged"]["rollout"]["pages"] == []  # nobody made any
    links = re.findall(r'<a href="([^"#]+)">the clips</a>', page.read_text())
    targets = [(page.parent / unquote(link)).resolve() for link in links]
    assert targets == [(run / "judged" / "neighbours.html").resolve() for run in runs]


def test_at_a_glance_a_runs_probe_of_another_feature_says_so(tmp_path):
    rows = [row | {"label": "person"} for row in _identity() if row["weights"] == "checkpoint"]
    for name, feature in (("a", "cat4"), ("b", "video")):
        (tmp_path / name / "probe").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        own = [row | {"feature": feature} for row in rows]
        (tmp_path / name / "probe" / "rows.json").write_text(json.dumps(outcome_files.plain(own)))
    page = tmp_path / "page.html"
    words = ["report", tmp_path / "a", tmp_path / "b", "--clips", 0, "--out", page]
    assert main([str(word) for word in words]) == 0
    (row,) = re.findall(
        r"<tr><th[^>]*>UAR of person, per cent: cat4[^<]*</th>(.*?)</tr>", page.read_text(), re.S
    )
    cells = [cell.strip() for cell in re.findall(r'<td class="number">(.*?)</td>', row, re.S)]
    score = f"{100 * rows[0]['uar']:.1f} ["
    assert len(cells) == 2 and all(cell.startswith(score) for cell in cells)
    assert cells[0].endswith("]") and cells[1].endswith("] (video)")


def test_models_are_called_by_what_tells_them_apart():
    probes = [
        {"feature": "cat4", "weights": w, "seed": s, "head": "linear"}
        for w, s in (("random", "0"), ("random", "1"))
    ]
    assert judged.names_of(probes) == ["0", "1"]
    assert judged.names_of(probes[:1]) == ["cat4, random"]
    assert judged.names_of([{"selection": "last", "modalities": "video"}]) == ["last, video"]


def test_a_file_that_is_no_result_of_a_suite_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name, content in (("one", '{"calibration": [{"n": 3}]}'), ("two", "[]"), ("three", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "suites.json").write_text(content)
    notes = gather_run(tmp_path).notes
    assert len(notes) == 3 and all("suites.json" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_every_chart_is_drawn_and_every_table_shows_its_numbers(browser, made, width, dark):
    page, numbers, _ = made
    browser.open(page, width=width, dark=dark)
    assert browser.ask("document.documentElement.dataset.drawn") == "all" and browser.complaints() == []
    assert browser.ask("document.documentElement.scrollWidth") <= width
    charts = browser.ask(CHARTS)
    expected = {
        "reliability",
        "risk",
        "groups-0",
        "conflict",
        "robustness",
        "scores-identity-0",
        "confusion-1",
        "recalls-0",
    }
    assert {name for name, *_ in charts} >= expected
    assert all(live and not still for _, live, still in charts), charts
    (table,) = browser.ask(TABLE, "Calibration")
    for cells, one in zip(table, numbers["judged"]["calibration"]["models"], strict=True):
        assert cells[0] == one["series"] and float(cells[4]) == pytest.approx(100 * one["ece"], abs=0.0501)
    (table,) = browser.ask(TABLE, "Robustness")
    assert [float(cells[3]) for cells in table] == pytest.approx([0, -10, -20, 0, -20, -40])
    tables = browser.ask(TABLE, "Scores of the fine-tuned model")
    for cells, one in zip(tables, numbers["judged"]["outcomes"], strict=True):
        assert [float(line[2]) for line in cells] == pytest.approx(
            [100 * line["scores"]["uar"]["value"] for line in one["lines"]], abs=0.0501
        )
    marks = browser.ask(
        "document.querySelectorAll('[data-chart=reliability] .live .mark-symbol path').length"
    )
    assert marks == len(numbers["tables"]["reliability"])
    words = browser.ask("document.getElementById('conflict-h').parentElement.innerText")
    assert re.search(r"raters who had both\s+\d+", words)
    assert browser.violations() == []
