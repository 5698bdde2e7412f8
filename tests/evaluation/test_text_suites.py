"""Suites of texts on clips and texts that are known: counted one by one, and beside scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation import prompts, suite_tables, text_space, text_suites
from avemo_jax.evaluation.protocols import clips_hash
from avemo_jax.evaluation.text_space import Judged, Space
from avemo_jax.report import judged as judged_page
from input_pipeline.texts import Described, make_table
from tests.evaluation import synthetic

RNG = np.random.default_rng(0)
CLIPS, DIM = 30, 6
WORDS = {text: RNG.standard_normal(DIM).astype(np.float32) for text in "abcdefgh"}
TEXT = [list(WORDS)[n] for n in RNG.integers(6, size=CLIPS)]
JUDGED = Judged(
    [f"clip{n}" for n in range(CLIPS)],
    np.array([f"p{n % 5}" for n in range(CLIPS)]),
    [{"tone": text} if n else {} for n, text in enumerate(TEXT)],
)


def embed(texts):
    return np.stack([WORDS[text] for text in texts])


def space(weights="checkpoint", noise=1.0, map_="heads"):
    clips = embed(TEXT) + noise * np.random.default_rng(1).standard_normal((CLIPS, DIM)).astype(np.float32)
    clips /= np.linalg.norm(clips, axis=1, keepdims=True)
    return Space(weights, 0, map_, "both", clips, np.ones(CLIPS, bool), np.zeros(DIM, np.float32), None)


def sizes_of(*without):
    """Of a small encoder, less these parts of it."""
    parts = tuple(f"model.{part}" for part in ("decoder", "skip", *without))
    return [word for word in synthetic.TINY if not word.startswith(parts)]


def cosine(clip, vector):
    return float(space().clips[clip] @ vector / np.linalg.norm(vector))


def test_a_clip_has_the_class_whose_prompts_are_nearest():
    classes = {"a": ["a", "g"], "b": ["b"], "c": ["c"]}
    (row,) = text_suites.zero_shot_rows(JUDGED, [space()], "tone", classes, embed)
    middle = {
        name: np.mean([WORDS[t] / np.linalg.norm(WORDS[t]) for t in of], axis=0)
        for name, of in classes.items()
    }
    kept = [n for n in range(1, CLIPS) if TEXT[n] in classes]
    guess = [max(classes, key=lambda name, n=n: cosine(n, middle[name])) for n in kept]
    truth = [TEXT[n] for n in kept]
    assert row["n"] == len(kept) and row["chance"] == 1 / 3
    assert row["split_hash"] == clips_hash([f"clip{n}" for n in kept])
    assert row["uar"] == pytest.approx(recall_score(truth, guess, average="macro"))
    assert row["war"] == pytest.approx(np.mean(np.array(truth) == guess))
    assert row["recalls"]["b"] == pytest.approx(
        np.mean([g == "b" for g, t in zip(guess, truth, strict=True) if t == "b"])
    )
    assert row["uar_ci95"][0] <= row["uar"] <= row["uar_ci95"][1] and row["ci_unit"] == "speaker"
    ranked = {
        name: average_precision_score(np.array(truth) == name, [cosine(n, middle[name]) for n in kept])
        for name in classes
    }
    assert row["precisions"] == pytest.approx(ranked)
    assert row["average_precision"] == pytest.approx(np.mean(list(ranked.values())))
    with pytest.raises(UserError, match="no clip's label 'pitch' is one of a"):
        text_suites.zero_shot_rows(JUDGED, [space()], "pitch", classes, embed)


def test_numbers_and_votes_are_no_classes():
    odd = [{"tone": 0.5}, {"tone": {"a": 2, "b": 1}}, {"tone": None}, *JUDGED.labels[3:]]
    judged = JUDGED._replace(labels=odd)
    (row,) = text_suites.zero_shot_rows(
        judged, [space()], "tone", {"a": ["a"], "b": ["b"], "0.5": ["c"]}, embed
    )
    assert row["n"] == sum(label["tone"] in ("a", "b") for label in JUDGED.labels[3:])
    options = text_suites.Options(label="tone", template="{}")
    prompts = text_suites._prompts(judged, options)
    assert set(prompts) == {label["tone"] for label in JUDGED.labels[3:]} - {""}


@pytest.mark.parametrize("length", [1, 20])
def test_prompts_are_as_long_as_the_vectors_that_a_head_was_trained_on(length):
    head = space()._replace(kernel=np.eye(DIM, dtype=np.float32), bias=np.full(DIM, length, np.float32))
    classes = [name for name in WORDS if name in TEXT]
    asked = (JUDGED, [head], "tone", {name: [name] for name in classes}, lambda texts: length * embed(texts))
    (row,) = text_suites.zero_shot_rows(*asked)
    guess = head.similarity(length * embed(classes))[1:].argmax(
        1
    )  # as the head itself compares clips and texts
    assert row["war"] == pytest.approx(np.mean(np.array(classes)[guess] == TEXT[1:]))
    both = text_space.mean_vector(length * embed(["a", "b"]))
    np.testing.assert_allclose(both, length * text_space.mean_vector(embed(["a", "b"])), rtol=1e-5)


@pytest.mark.parametrize("block", [1024, 4])
def test_any_clip_with_a_text_is_found_by_it_and_a_clip_finds_it_among_different_ones(block, monkeypatch):
    monkeypatch.setattr(text_suites, "_BLOCK", block)
    described = range(3, CLIPS)
    table = make_table([f"clip{n}" for n in described], embed([TEXT[n] for n in described]))
    (row,) = text_suites.text_retrieval_rows(JUDGED, [space()], table)
    distinct = sorted({TEXT[n] for n in described})
    to_clip, to_text = [], []
    for n in described:
        order = sorted(described, key=lambda m, n=n: -cosine(m, WORDS[TEXT[n]]))
        to_clip.append(1 + min(place for place, m in enumerate(order) if TEXT[m] == TEXT[n]))
        to_text.append(1 + sorted(distinct, key=lambda t, n=n: -cosine(n, WORDS[t])).index(TEXT[n]))
    assert row["n"] == 27 and row["texts"] == len(distinct)
    for way, ranks in (("text_to_clip", to_clip), ("clip_to_text", to_text)):
        for k in (1, 5, 10):
            assert row[f"{way}_r{k}"] == pytest.approx(np.mean(np.array(ranks) <= k))
        assert row[f"{way}_median_rank"] == np.median(ranks)
    assert row["chance"]["clip_to_text_r1"] == 1 / len(distinct)
    drawn = [  # who guesses at random
        TEXT[n] in {TEXT[m] for m in RNG.choice(list(described), 5, replace=False)}
        for n in described
        for _ in range(400)
    ]
    assert row["chance"]["text_to_clip_r5"] == pytest.approx(np.mean(drawn), abs=0.02)


def test_statements_are_judged_by_whether_they_are_nearer_to_their_clip_than_to_others():
    said = [
        Described(f"clip{n}", "x", ((TEXT[n], True), ("g" if n % 2 else "h", False)))
        for n in range(0, CLIPS, 2)
    ] + [Described("clip1", "x", ((TEXT[1], True), ("g", False))), Described("unknown", "x", (("a", True),))]
    (row,) = text_suites.statement_rows(JUDGED, [space()], said, embed)
    nearer, true = [], []
    for one in said[:-1]:
        for text, right in one.statements:
            clip = int(one.clip_id[4:])
            nearer.append(cosine(clip, WORDS[text]) - np.mean([cosine(m, WORDS[text]) for m in range(CLIPS)]))
            true.append(right)
    assert row["n"] == len(true) == 32 and row["clips"] == 16 and row["true_share"] == 0.5
    assert row["accuracy"] == pytest.approx(np.mean((np.array(nearer) > 0) == true))
    assert row["auc"] == pytest.approx(roc_auc_score(true, nearer))
    with pytest.raises(UserError, match="true and false ones are needed"):
        text_suites.statement_rows(JUDGED, [space()], [Described("clip1", "x", (("a", True),))], embed)


def test_a_difference_is_that_of_the_same_clips():
    good, bad = space(noise=0.3), space("against", 3.0, "fitted")
    of, other = text_suites.zero_shot_rows(
        JUDGED, [good, bad], "tone", {name: [name] for name in "abcdef"}, embed
    )
    assert of["difference"]["uar"] == pytest.approx(of["uar"] - other["uar"]) and "difference" not in other
    low, high = of["difference"]["uar_ci95"]
    assert 0 < low <= of["difference"]["uar"] <= high


def test_a_map_is_ridge_regression_and_never_sees_the_speakers_that_it_answers_for(monkeypatch):
    known, asked = RNG.standard_normal((40, 12)), RNG.standard_normal((7, 12))
    wanted = (known @ RNG.standard_normal((12, 3)) + RNG.standard_normal((40, 3))).astype(np.float32)
    monkeypatch.setattr(text_space, "_STRENGTHS", np.array([0.3]))
    mean, deviation = known.mean(0), known.std(0)
    expected = (
        Ridge(alpha=0.3 * 40).fit((known - mean) / deviation, wanted).predict((asked - mean) / deviation)
    )
    np.testing.assert_allclose(text_space._ridge(known, wanted, asked), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.undo()

    # Features that tell speakers alone say nothing of texts that other speakers' clips have.
    one_hot = np.eye(5)[[n % 5 for n in range(CLIPS)]]
    texts = np.eye(5, dtype=np.float32)[[n % 5 for n in range(CLIPS)]] + 0.1
    network = text_space.extraction.Network("checkpoint", 0, {})
    found = text_space._by_map(
        network, one_hot, JUDGED, make_table(JUDGED.clip_id, texts), np.ones(CLIPS, bool)
    )
    nearest = found.similarity(np.eye(5, dtype=np.float32) + 0.1).argmax(1)
    assert not np.any(nearest == np.arange(CLIPS) % 5)


@pytest.mark.parametrize(
    ("speakers", "apart", "words"),
    [
        (5, "speaker", "other speakers' descriptions"),
        (1, "clip", "descriptions of other clips, whoever speaks"),
    ],
)
def test_rows_of_a_map_say_what_was_kept_apart(speakers, apart, words):
    judged = JUDGED._replace(speaker=np.array([f"p{n % speakers}" for n in range(CLIPS)]))
    network, there = text_space.extraction.Network("checkpoint", 0, {}), np.ones(CLIPS, bool)
    table = make_table(JUDGED.clip_id, embed(TEXT))
    fitted = text_space._by_map(network, embed(TEXT), judged, table, there)
    rows = text_suites.text_retrieval_rows(judged, [space(), fitted], table)
    assert [row.get("apart") for row in rows] == [None, apart]
    assert suite_tables.text({"text_retrieval": rows}).count(f"fitted on {words}") == 1
    found = judged_page.Found((), rows, Path("nowhere"))
    assert judged_page._of_texts("text_retrieval")([found], {})["fitted_on"].startswith(words)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_an_encoder_of_one_modality_is_asked_by_it(modality, tmp_path):
    synthetic.write_folder(tmp_path / "data")
    config = load_config(
        f"text_after:{modality}_mae:demo", [*sizes_of("fusion"), "model.text_dim=6", "data.crop=none"]
    )
    (network,) = text_space.extraction.random_networks(config, [0])
    table = make_table([f"clip{n:02d}" for n in range(40)], RNG.standard_normal((40, DIM)).astype(np.float32))
    model = text_space.Model("checkpoint", config, network.params)
    judged, found = text_space.spaces(model, str(tmp_path / "data"), table, seeds=1)
    assert [(one.weights, one.map, one.by) for one in found] == [
        ("checkpoint", "heads", modality),
        ("checkpoint", "fitted", "all"),
        ("random", "fitted", "all"),
    ]
    rows = text_suites.text_retrieval_rows(judged, found, table)
    assert [row["n"] for row in rows] == [40] * 3


def test_clips_that_lack_a_stream_are_judged_by_what_they_have(tmp_path):
    synthetic.write_folder(tmp_path / "data", lambda number: "sound" if number % 2 else "")
    synthetic.write_changed(
        tmp_path / "whole", tmp_path / "data", lambda record: record if len(record.audio) else None
    )
    config = load_config("text_after:hicmae:demo", [*sizes_of(), f"model.text_dim={DIM}", "data.crop=none"])
    (network,) = text_space.extraction.random_networks(config, [0])
    model = text_space.Model("checkpoint", config, network.params)
    ids = [f"clip{n:02d}" for n in range(48)]
    table = make_table(ids, RNG.standard_normal((48, DIM)).astype(np.float32))
    said = [Described(one, "x", (("a", n % 4 < 2), ("b", n % 4 >= 2))) for n, one in enumerate(ids)]

    def asked(folder):
        judged, found = text_space.spaces(model, str(tmp_path / folder), table)
        found.append(found[-1]._replace(weights="against"))
        prompts_of = {tone: [text] for tone, text in zip(("low", "middle", "high"), "abc", strict=True)}
        return [
            {(row["weights"], row["by"]): row for row in rows}
            for rows in (
                text_suites.text_retrieval_rows(judged, found, table),
                text_suites.zero_shot_rows(judged, found, "tone", prompts_of, embed),
                text_suites.statement_rows(judged, found, said, embed),
            )
        ]

    for every, whole, each in zip(asked("data"), asked("whole"), (1, 1, 2), strict=True):
        counts = {by: row["n"] / each for (_, by), row in every.items()}
        assert counts == {"video": 48, "audio": 24, "both": 24, "all": 24}
        for key in every.keys() - {("checkpoint", "video")}:
            assert every[key]["split_hash"] == whole[key]["split_hash"]
            scores = [name for name, of in whole[key].items() if isinstance(of, float)]
            assert {s: every[key][s] for s in scores} == pytest.approx({s: whole[key][s] for s in scores})
        seen = every["checkpoint", "video"]["difference"]
        assert seen.pop("n") == 24 * each
        other = whole["checkpoint", "video"]["difference"]
        assert {name: of for name, of in seen.items() if isinstance(of, float)} == pytest.approx(
            {name: of for name, of in other.items() if isinstance(of, float)}
        )


def test_prompts_come_from_a_template_or_a_file(tmp_path):
    words = prompts.words_of("ANG=angry, HAP=happy")
    assert prompts.class_prompts(["ANG", "SAD"], "{} face", words) == {
        "ANG": ["angry face"],
        "SAD": ["SAD face"],
    }
    (tmp_path / "p.json").write_text('{"ANG": "cross", "SAD": ["sad", "down"], "more": 3}')
    assert prompts.class_prompts(["ANG", "SAD"], "", {}, str(tmp_path / "p.json"))["SAD"] == ["sad", "down"]
    for classes, says in ((["ANG", "HAP"], "lacks HAP"), (["more"], "class more has no text")):
        with pytest.raises(UserError, match=says):
            prompts.class_prompts(classes, "", {}, str(tmp_path / "p.json"))
    for wrong in ("ANG", "ANG=", "=angry"):
        with pytest.raises(UserError, match="is no LABEL=WORD"):
            prompts.words_of(wrong)
    with pytest.raises(UserError, match="once, where"):
        prompts.filled("no gap", "ANG", {})
