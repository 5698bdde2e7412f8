"""`avemo probe`: heads, missing modalities, the cache, augmented views, comparing, and the labelled legacy rows."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation import extraction, gathering, paired, predicted, probing
from avemo_jax.evaluation.cache import data_digest
from avemo_jax.evaluation.features import TOKENS
from tests.evaluation import synthetic
from tests.evaluation.synthetic import probe_rows, words


def _no_decoding(*_, **__):
    raise AssertionError("features were computed, though the cache has them")


@pytest.mark.slow
def test_each_head_takes_features_of_its_kind_and_has_rows_of_the_same_form(place, tmp_path, capsys):
    flags = {"head": "linear,ridge,knn,layer_mix,attentive", "legacy": True, "missing": "audio,video"}
    rows = probe_rows(place, tmp_path, "tone", **flags)
    taken = {}
    for row in rows:
        assert row.keys() == rows[0].keys() and row["n"] == 48
        taken.setdefault(row["head"], set()).add(row["feature"])
    statistics = {"log_mel", "log_mel_spans", "pixels", "log_mel+pixels"}
    assert taken["linear"] == taken["ridge"] == taken["knn"] == {"cat4", *statistics}
    assert taken["layer_mix"] == {"video_layers", "audio_layers", "layers"}
    assert taken["attentive"] == {"video_tokens", "audio_tokens", "fused_tokens"}
    by = {(r["feature"], r["head"], r["missing"], r["selection"]): r for r in rows}
    assert len(by) == len(rows)
    for head in ("linear", "ridge", "knn"):
        assert by["log_mel", head, "none", "inner_folds"]["uar"] > 0.9
    assert by["audio_tokens", "attentive", "none", "inner_folds"]["uar"] > 0.6
    # What sees one modality does not change without the other, or sees nothing: it has no row.
    assert {r["modality"] for r in rows if r["missing"] != "none"} == {"fused"}
    assert by["log_mel+pixels", "linear", "none", "inner_folds"]["uar"] > 0.9
    assert by["log_mel+pixels", "linear", "video", "inner_folds"]["uar"] > 0.9
    assert by["log_mel+pixels", "linear", "audio", "inner_folds"]["uar"] < 0.6
    for (*what, selection), row in by.items():
        if selection == "test (legacy)":
            assert row["war"] >= by[(*what, "inner_folds")]["war"]
    printed = capsys.readouterr().out
    assert "cat4, ridge head, without audio, legacy, chosen on test clips" in printed
    assert "note: rows called legacy chose their setting on the test clips" in printed


def test_one_modality_alone_can_be_asked_for(place, tmp_path):
    rows = probe_rows(place, tmp_path, "tone", modality="audio", features="default", head="linear,layer_mix")
    assert {row["feature"] for row in rows} == {
        "audio",
        "audio_rows",
        "log_mel",
        "log_mel_spans",
        "audio_layers",
    }


@pytest.mark.slow
def test_cached_features_are_used_by_a_copy_of_the_checkpoint_and_not_for_other_weights(
    place, tmp_path, monkeypatch, capsys
):
    cache = tmp_path / "cache"
    first = probe_rows(place, tmp_path / "a", "tone", cache=cache)
    kept = sorted(cache.iterdir())
    assert len(kept) == 5 and all(path.suffix == ".npz" for path in kept)  # cat4 and four statistics
    synthetic.write_checkpoint(tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "extract_folder", _no_decoding)
        again = probe_rows(place, tmp_path / "b", "tone", cache=cache, checkpoint=tmp_path / "copy")
        assert again == first
        with pytest.raises(AssertionError, match="the cache has them"):
            main(words(place, tmp_path / "c", "tone", cache=cache, loudness="normalised"))
    kept[0].write_bytes(kept[0].read_bytes()[:-40])  # a damaged file is not there, and is written again
    assert probe_rows(place, tmp_path / "d", "tone", cache=cache) == first
    assert sorted(cache.iterdir()) == kept and not list(cache.glob(".*"))


def test_a_byte_in_the_middle_of_a_shard_makes_other_data_and_a_copy_does_not(tmp_path):
    shard = tmp_path / "data" / "clips-clips.array_record-00000-of-00001"
    shard.parent.mkdir()
    written = bytearray(np.random.default_rng(0).bytes(400_000))
    shard.write_bytes(written)
    before = data_digest(str(shard.parent))
    shutil.copytree(shard.parent, tmp_path / "copy")
    assert data_digest(str(tmp_path / "copy")) == before == data_digest(str(shard.parent))
    written[200_000] ^= 1
    shard.write_bytes(written)
    assert data_digest(str(shard.parent)) != before


def test_what_is_missing_is_given_as_to_a_fine_tuned_network_black_and_without_sound(place):
    config = load_config("hicmae:demo", synthetic.TINY)
    _, found = extraction.extract_folder(
        config, str(place / "data"), range(4), [], [], missing=extraction.MISSING, batch_size=4
    )
    sound = len(found[extraction.Source("log_mel", "none", 0, "as_recorded")][0])
    both, deaf, blind = (
        found[extraction.Source("log_mel+pixels", "none", 0, "as_recorded", lost)]
        for lost in ("none", "audio", "video")
    )
    np.testing.assert_array_equal(blind[:, sound:], 0)
    np.testing.assert_array_equal(blind[:, :sound], both[:, :sound])
    np.testing.assert_array_equal(deaf[:, sound:], both[:, sound:])
    assert np.ptp(deaf[:, :sound], axis=0).max() == 0 and np.isfinite(deaf).all()


def test_random_views_of_clips_that_lack_a_stream_are_black_or_silent_as_centre_views(tmp_path):
    synthetic.write_folder(tmp_path / "data", lambda number: {1: "sound", 2: "picture"}.get(number, ""))
    synthetic.write_checkpoint(tmp_path / "run")
    config = load_config("hicmae:demo", synthetic.TINY)
    centre, random = (
        extraction.extract_folder(
            config, str(tmp_path / "data"), range(4), [], [], extraction.LOUDNESS, batch_size=4, view=view
        )
        for view in (None, 0)
    )
    assert centre[0].tolist() == random[0].tolist() == [0, 1, 2, 3]
    for source, matrix in random[1].items():
        assert np.isfinite(matrix).all()
        lacking = {"log_mel": 1, "log_mel_spans": 1, "pixels": 2}.get(source.feature)
        if lacking:
            np.testing.assert_array_equal(matrix[lacking], centre[1][source][lacking])
            assert not np.allclose(matrix[0], centre[1][source][0])  # another cut
    flags = {"modality": "audio", "features": "audio", "protocol": "split", "views": "augmented"}
    rows = probe_rows(tmp_path, tmp_path / "probe", "tone", views_per_clip=1, **flags)
    assert {row["feature"] for row in rows} == {"audio", "log_mel", "log_mel_spans"} and rows[0]["n"] == 12


_WRITE = """import sys
from avemo_jax import files
for _ in range(100):
    files.write_bytes(sys.argv[1], sys.argv[2].encode() * 100_000)
"""


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path = tmp_path / "one.npz"
    writers = [subprocess.Popen([sys.executable, "-c", _WRITE, str(path), letter]) for letter in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]
    written = path.read_bytes()
    assert len(written) == 100_000 and len(set(written)) == 1


@pytest.mark.slow
def test_augmented_views_train_and_centre_views_are_tested(place, tmp_path):
    rows = probe_rows(place, tmp_path / "a", "tone", views="augmented", views_per_clip=2)
    assert {row["views"] for row in rows} == {"augmented"} and rows[0]["n"] == 48
    by = {row["feature"]: row for row in rows}
    assert by["log_mel"]["uar"] > 0.9
    cached = probe_rows(place, tmp_path / "b", "tone")
    assert by["pixels"]["confusion"] != {row["feature"]: row for row in cached}["pixels"]["confusion"]


def test_two_checkpoints_are_compared_clip_by_clip(place, tmp_path, capsys):
    probe_rows(place, tmp_path / "a", "tone")
    synthetic.write_checkpoint(tmp_path / "other", ["seed=5"])
    flags = {"against": tmp_path / "a"}
    probe_rows(place, tmp_path / "b", "tone", **flags)
    printed = capsys.readouterr().out
    (pair,) = json.loads((tmp_path / "b" / "paired.json").read_text())
    assert pair["feature"] == "cat4" and pair["n"] == 48 and pair["groups"] == 4
    assert pair["uar_difference"] == pytest.approx(0) and pair["p_permutation"] == 1 == pair["p_mcnemar"]
    assert "permutation p 1.000" in printed
    for what, more in (("split otherwise", {"protocol": "folds"}), ("is a probe of label 'tone'", {})):
        label = "tone" if more else "shade"
        assert main(words(place, tmp_path / "c", label, **flags, **more)) == 2
        assert what in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_a_learnt_head_is_trained_for_as_many_steps_as_asked(place, tmp_path, capsys):
    flags = {"head": "linear,layer_mix", "modality": "audio", "features": "audio", "protocol": "split"}
    rows = probe_rows(place, tmp_path, "tone", head_steps=1, **flags)
    assert {(row["head"], row["head_steps"]) for row in rows} == {("linear", None), ("layer_mix", 1)}
    assert "linear, layer_mix probe of 1 steps, cached views" in capsys.readouterr().out
    (barely,) = (row["layer_shares"] for row in rows if row["head"] == "layer_mix")
    np.testing.assert_allclose(barely, 1 / len(barely[0]), atol=0.03)  # of layers, from the plain mean on
    line = words(place, tmp_path / "b", "tone", against=tmp_path, **flags)
    assert main(line) == 2 and "for 1 steps, here it is 400: only" in capsys.readouterr().err
    # The same rows as of 400 steps: of the learnt head others than here, of the linear one none at all.
    shutil.copytree(tmp_path, tmp_path / "usual", ignore=shutil.ignore_patterns("run", "data"))
    usual = [{key: value for key, value in row.items() if key != "head_steps"} for row in rows]
    (tmp_path / "usual" / "rows.json").write_text(json.dumps(usual))
    line = ["evaluate", "--suite", "paired", "--predictions", tmp_path, "--out", tmp_path / "c", "--against"]
    asked = [str(word) for word in (*line, tmp_path / "usual")]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert "trained the layer_mix head for 400 steps, here it is 1: only" in error and error.count("\n") == 1
    assert not (tmp_path / "c").exists() and main([*asked, "--models", "linear,checkpoint"]) == 0
    assert main([str(word) for word in (*line, tmp_path)]) == 0  # of as many steps


def test_folds_that_are_dealt_several_times_have_one_row_and_are_compared_by_whole_speakers(
    place, tmp_path, capsys
):
    flags = {"protocol": "speaker_folds", "folds": 2, "split_seeds": 3}
    row = probe_rows(place, tmp_path / "a", "tone", **flags)[0]
    assert (
        row["n"] == 48
        and len(row["folds"]) == 6
        and [one["split_seed"] for one in row["repeats"]] == [0, 2, 5]  # others deal as an earlier one
    )
    printed = capsys.readouterr().out
    assert "2 test parts, dealt 3 times" in printed and "± repeats" in printed
    models = predicted.read(tmp_path / "a" / predicted.NAME)
    assert [one.model["split_seed"] for one in models if one.model["feature"] == "cat4"] == ["0", "2", "5"]
    asked = [
        "evaluate",
        "--suite",
        "calibration",
        "--predictions",
        tmp_path / "a",
        "--out",
        tmp_path / "judged",
    ]
    assert main([*map(str, asked), "--models", "cat4,checkpoint,split_seed=2"]) == 0
    (of_one,) = json.loads((tmp_path / "judged" / "suites.json").read_text())["calibration"]
    assert of_one["model"]["split_seed"] == "2" and of_one["split_hash"] == row["repeats"][1]["split_hash"]
    synthetic.write_checkpoint(tmp_path / "run", ["seed=5"])
    other = probe_rows(
        place, tmp_path / "b", "tone", checkpoint=tmp_path / "run", against=tmp_path / "a", **flags
    )[0]
    (pair,) = json.loads((tmp_path / "b" / "paired.json").read_text())
    assert pair["uar_difference"] == pytest.approx(other["uar"] - row["uar"])
    assert (pair["n"], pair["groups"], pair["ci_unit"]) == (48, 4, "speaker") and "p_mcnemar" not in pair
    line = words(place, tmp_path / "c", "tone", against=tmp_path / "a", protocol="speaker_folds", folds=2)
    assert main(line) == 2 and "was split otherwise" in capsys.readouterr().err


@pytest.mark.parametrize("modality", ["audio", ""])
def test_tokens_are_refused_by_what_is_held_of_them(place, monkeypatch, modality):
    flags = {"heads": "attentive", "modality": modality, "missing": "audio,video", "protocol": "split"}
    flags |= {"loudness": ("as_recorded", "normalised"), "random_seeds": 1, "views": "augmented"}
    held = []

    def gathered(*args, **more):
        matrices, _ = gathering.gather(*args, **more)
        of_tokens = (matrix for source, matrix in matrices.items() if source.feature in TOKENS)
        held.append(sum(matrix.nbytes for matrix in of_tokens))
        raise InterruptedError

    def probe(**more):
        options = probing.ProbeOptions("tone", views_per_clip=1, batch_size=16, **flags, **more)
        return probing.run(str(place / "run"), str(place / "data"), options, say=lambda _: None)

    monkeypatch.setattr(probing, "gather", gathered)
    with pytest.raises(InterruptedError):
        probe()
    monkeypatch.setattr(probing, "gather", _no_decoding)
    with pytest.raises(AssertionError):
        probe(token_memory=held[0] / 2**30)
    with pytest.raises(UserError, match="attentive: .*audio_tokens.* of 48 clips take"):
        probe(token_memory=(held[0] - 1) / 2**30)


def test_what_has_no_pair_is_refused_before_any_work(place, tmp_path, capsys, monkeypatch):
    probe_rows(place, tmp_path / "a", "tone")
    monkeypatch.setattr(probing, "gather", None)
    predictions = tmp_path / "a" / "predictions.csv"
    text = predictions.read_text()
    head, _, *others = text.splitlines(keepends=True)
    for what, written, features in (
        ("no row of the same feature, head", text, "video"),
        ("other clips or folds (1 of these are not there, 0", "".join([head, *others]), "cat4"),
        (
            "it predicts high, deep, middle (class), not high, low, middle",
            text.replace("low", "deep"),
            "cat4",
        ),
        ("the same clips have other labels there", text.replace("p0,low,", "p0,high,"), "cat4"),
    ):
        predictions.write_text(written)
        line = words(place, tmp_path / "c", "tone", against=tmp_path / "a", features=features)
        assert main(line) == 2
        assert what in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_the_prediction_of_a_file_is_the_one_that_it_names(tmp_path):
    head = "feature,test_of,clip_id,speaker,label,predicted,p_a,p_b\n"
    (tmp_path / "p.csv").write_text(head + "cat4,1,c0,s0,a,b,0.5000,0.5000\n")
    (found,) = predicted.read(tmp_path / "p.csv")
    assert found.guess.tolist() == [1] and found.label.tolist() == [0]


def test_the_paired_tests_find_a_difference_that_is_there_and_none_that_is_not():
    rng = np.random.default_rng(0)
    label, speaker = rng.integers(0, 3, 400), np.repeat(np.arange(20), 20)
    good = np.where(rng.random(400) < 0.8, label, (label + 1) % 3)
    poor = np.where(rng.random(400) < 0.5, label, (label + 1) % 3)
    found = paired.paired_tests(label, good, poor, speaker, 3)
    assert found["p_permutation"] < 0.01 and found["p_mcnemar"] < 0.01
    low, high = found["uar_difference_ci95"]
    assert 0 < low < found["uar_difference"] < high
    only_here = int(((good == label) & (poor != label)).sum())
    assert found["only_here"] == only_here
    other = np.where(rng.random(400) < 0.8, label, (label + 1) % 3)
    found = paired.paired_tests(label, good, other, speaker, 3)
    assert (
        found["p_permutation"] > 0.05
        and found["uar_difference_ci95"][0] < 0 < found["uar_difference_ci95"][1]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head": "linear,mlp"}, "--head: no head 'mlp'; there are linear, linear_centred, ridge, knn"),
        ({"modality": "text"}, "--modality: no 'text'; there are audio, video, fused"),
        ({"missing": "none"}, "--missing: no 'none'; there are audio, video"),
        ({"modality": "video"}, "--modality video: none of --features cat4 is of it"),
        ({"against": "/nowhere"}, "--against /nowhere: not the folder of a probe"),
        ({"head": "attentive", "token_memory": 0}, "--token_memory allows 0"),
        ({"views_per_clip": 0}, "--views_per_clip is 0, it must be at least 1"),
        ({"head_steps": 9}, "--head_steps 9 is of --head layer_mix and attentive"),
        ({"head_steps": 0, "head": "layer_mix"}, "--head_steps is 0, it must be at least 1"),
        ({"split_seeds": 0}, "--split_seeds is 0, it must be at least 1"),
        ({"split_seeds": 2}, "--split_seeds 2: by protocol leave_one_speaker_out no fold is dealt; it is of"),
        (
            {"split_seeds": 2, "protocol": "speaker_folds"},
            "protocol speaker_folds: seeds 0 to 199 give only 1 different dealing that can be used; ask for",
        ),
    ],
)
def test_bad_options_are_one_clear_line_and_exit_code_2(place, tmp_path, capsys, flags, message):
    assert main(words(place, tmp_path / "out", "tone", **flags)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
