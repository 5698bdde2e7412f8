"""Corpora by their folders and names: small trees named as the real ones are, real tables and files where they are."""

import csv
import importlib
import json
import os
import re
import shutil
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avemo_jax import cli
from input_pipeline.corpora import CORPORA, crema_d, grid, list_corpus, ravdess
from input_pipeline.corpora.listing import Listing, media_files
from input_pipeline.errors import DataError
from input_pipeline.media import read_clip
from input_pipeline.records import open_records
from tests import real_clips
from tests.input_pipeline.containers import tone
from tests.input_pipeline.containers import write as write_media
from tests.input_pipeline.corpus_trees import by_id, reasons, tree, write

REAL = Path(os.environ.get(real_clips.VARIABLE) or "/nowhere")


# -- any folder ----------------------------------------------------------------------------------------------


def test_any_folder_gives_each_media_file_and_invents_nothing(tmp_path):
    tree(tmp_path, "b/x.MP4", "a.mov", "notes.txt", ".git/c.mp4", "__MACOSX/d.mp4", "._a.mov")
    listing = list_corpus("folder", tmp_path)
    assert [(row.path, row.clip_id) for row in listing.rows] == [("a.mov", "a"), ("b/x.MP4", "b/x")]
    assert all((row.speaker, row.split, row.labels, row.metadata) == ("", "", {}, {}) for row in listing.rows)
    assert reasons(listing) == {"._a.mov": "a hidden file"}


def test_files_that_differ_in_their_suffix_alone_are_two_clips(tmp_path):
    listing = list_corpus("folder", tree(tmp_path, "a.mp4", "a.avi", "b.avi"))
    assert [row.clip_id for row in listing.rows] == ["a.avi", "a.mp4", "b"]


def test_a_layout_says_what_folders_mean(tmp_path):
    tree(
        tmp_path,
        "train/anna/2024/happy/1.mp4",
        "test/ben/2023/sad/more/2.mp4",
        "test/3.mp4",
        "a b/c/d/e/4.mp4",
        "all/c/d/e/5.mp4",
    )
    listing = list_corpus("folder", tmp_path, layout="split/speaker/-/label_emotion")
    rows = by_id(listing)
    first, second = rows["train/anna/2024/happy/1"], rows["test/ben/2023/sad/more/2"]
    assert (first.split, first.speaker, first.labels) == ("train", "anna", {"emotion": "happy"})
    assert (second.split, second.speaker, second.labels) == ("test", "ben", {"emotion": "sad"})
    assert list(reasons(listing)) == ["a b/c/d/e/4.mp4", "all/c/d/e/5.mp4", "test/3.mp4"]
    (row,) = list_corpus("folder", tree(tmp_path / "s", "7/x.mp4"), layout="take").rows
    assert row.metadata == {"take": "7"}


@pytest.mark.parametrize(
    ("layout", "message"),
    [("split//speaker", "'' is no name"), ("speaker/speaker", "there twice"), ("A", "'A'")],
)
def test_a_layout_that_says_nothing_is_refused(tmp_path, layout, message):
    with pytest.raises(DataError, match=message):
        list_corpus("folder", tree(tmp_path, "x/y/a.mp4"), layout=layout)


def test_names_that_no_text_file_can_hold_are_refused_readably(tmp_path):
    tree(tmp_path, "a.mp4")
    with open(os.fsencode(tmp_path) + b"/\xff.mp4", "w"):
        pass
    listing = list_corpus("folder", tmp_path)
    assert [row.path for row in listing.rows] == ["a.mp4"]
    assert reasons(listing) == {"\\udcff.mp4": "its name is not UTF-8"}


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    root = tree(tmp_path / "root", "a/1.mp4")
    tree(tmp_path / "elsewhere", "2.mp4")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "again").symlink_to(root)
    assert [str(path) for path in media_files(root, Listing())] == ["a/1.mp4", "b/2.mp4"]


def test_a_corpus_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(DataError, match="--corpus: no 'ravdes'; there are avcaffe, crema_d, .*ravdess"):
        list_corpus("ravdes", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        list_corpus("ravdess", tmp_path / "absent")
    with pytest.raises(DataError, match="--layout is for --corpus folder"):
        list_corpus("ravdess", tmp_path, layout="speaker")
    with pytest.raises(
        DataError, match=r"no clip of --corpus grid in it: 1 files were refused, the first \(x.mpg\)"
    ):
        list_corpus("grid", tree(tmp_path, "x.mpg"))


# -- VoxCeleb2 -----------------------------------------------------------------------------------------------

META = "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev\nid00017 ,n000017 ,f ,test\n"


def test_voxceleb2_joins_pictures_with_their_sound_and_knows_speakers(tmp_path):
    tree(
        tmp_path,
        "dev/mp4/id00012/21Uxsk56VDQ/00001.mp4",
        "dev/aac/id00012/21Uxsk56VDQ/00001.m4a",
        "dev/mp4/id00012/-2_JsxrRYYo/00007.mp4",
        "dev/aac/id00012/-2_JsxrRYYo/00007.wav",
        "dev/aac/id00012/-2_JsxrRYYo/00007.m4a",
        "test/mp4/id00017/01dfn2spqyE/00001.mp4",
        "elsewhere/audio/test/aac/id00017/01dfn2spqyE/00001.m4a",
        "test/mp4/id00017/01dfn2spqyE/00002.mp4",  # no sound
        "test/mp4/id17/01dfn2spqyE/00003.mp4",
        "test/mp4/id00017/short/00004.mp4",
    )
    write(tmp_path / "vox2_meta.csv", META)
    listing = list_corpus("voxceleb2", tmp_path)
    rows = by_id(listing)
    assert {key: (row.speaker, row.gender, row.split, row.audio_path) for key, row in rows.items()} == {
        "id00012/21Uxsk56VDQ/00001": ("id00012", "m", "dev", "dev/aac/id00012/21Uxsk56VDQ/00001.m4a"),
        "id00012/-2_JsxrRYYo/00007": ("id00012", "m", "dev", "dev/aac/id00012/-2_JsxrRYYo/00007.wav"),
        "id00017/01dfn2spqyE/00001": (
            *("id00017", "f", "test"),
            "elsewhere/audio/test/aac/id00017/01dfn2spqyE/00001.m4a",
        ),
    }
    refused = reasons(listing)
    assert refused.pop("test/mp4/id00017/01dfn2spqyE/00002.mp4") == "no sound file for it in aac or wav"
    assert set(refused.values()) == {"it does not lie as id00012/21Uxsk56VDQ/00001.mp4"} and len(refused) == 2


def test_voxceleb2_without_its_table_or_sound_says_what_is_missing(tmp_path):
    listing = list_corpus("voxceleb2", tree(tmp_path, "test/mp4/id00017/01dfn2spqyE/00001.mp4"))
    (row,) = listing.rows
    assert (row.gender, row.split, row.audio_path) == ("", "test", "")
    assert any("vox2_meta.csv" in note for note in listing.notes)
    assert any("aac" in note for note in listing.notes)


# -- CREMA-D -------------------------------------------------------------------------------------------------

VOTES = '"","A","D","F","H","N","S","fileName","numResponses"\n'
VOTES += '"100001",0,0,0,1,10,0,"1001_IEO_NEU_XX",11\n"200001",0,0,0,0,9,0,"1001_IEO_NEU_XX",9\n'
VOTES += '"300001",1,0,0,3,6,2,"1001_IEO_NEU_XX",12\n'
SUMMARY = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
SUMMARY += '"1","1001_IEO_NEU_XX","N","69.1","N:H","92.22:3","N","64.78"\n'
ACTORS = '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'


def test_crema_d_keeps_votes_as_counts_beside_the_intended_emotion(tmp_path):
    tree(
        tmp_path,
        "VideoFlash/1001_IEO_NEU_XX.flv",
        "AudioWAV/1001_IEO_NEU_XX.wav",
        "AudioMP3/1001_IEO_NEU_XX.mp3",
    )
    tree(tmp_path, "VideoFlash/1091_WSI_SAD_HI.flv", "VideoFlash/1040_ITH_SAD_X.flv")
    write(tmp_path / "VideoDemographics.csv", ACTORS)
    write(tmp_path / "processedResults" / "tabulatedVotes.csv", VOTES)
    write(tmp_path / "processedResults" / "summaryTable.csv", SUMMARY)
    rows = by_id(list_corpus("crema_d", tmp_path))
    row = rows["1001_IEO_NEU_XX"]
    zero = dict.fromkeys(crema_d.EMOTIONS, 0)
    assert row.labels == {
        "emotion": "NEU",
        "votes_voice": zero | {"HAP": 1, "NEU": 10},
        "votes_face": zero | {"NEU": 9},
        "votes_both": zero | {"ANG": 1, "HAP": 3, "NEU": 6, "SAD": 2},
        "majority_voice": "NEU",  # the face's is a tie
        "majority_both": "NEU",
    }
    assert (row.speaker, row.gender, row.text) == ("1001", "m", "It's eleven o'clock.")
    assert row.audio_path == "AudioWAV/1001_IEO_NEU_XX.wav"
    assert row.metadata["fold"] == "1" and row.metadata["race"] == "Caucasian" and row.metadata["age"] == "51"
    last = rows["1091_WSI_SAD_HI"]
    assert (last.metadata["fold"], last.labels, last.audio_path) == (
        "5",
        {"emotion": "SAD", "level": "high"},
        "",
    )
    assert rows["1040_ITH_SAD_X"].labels == {"emotion": "SAD"}


@pytest.mark.parametrize(
    "name", ["1092_IEO_NEU_XX", "1001_IEO_NEU", "1001_ABC_NEU_XX", "1001_ieo_neu_xx", "1001_IEO_NEU_XX (1)"]
)
def test_crema_d_refuses_names_that_are_not_its_own(tmp_path, name):
    listing = list_corpus(
        "crema_d", tree(tmp_path, "1001_IEO_NEU_XX.flv", f"{name}.flv", "1076_MTI_SAD_XX.flv")
    )
    assert "ACTOR_SENTENCE_EMOTION_LEVEL" in reasons(listing)[f"{name}.flv"]
    assert "broken" in reasons(listing)["1076_MTI_SAD_XX.flv"]
    assert len(listing.notes) == 3 and all("is not in" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VOTES.replace("fileName", "name"), "no column fileName"),
        (VOTES.replace('"300001"', '"400001"'), "'400001' is not one of votes"),
        (VOTES.replace(",10,", ",ten,"), "'100001' is not one of votes"),
        (VOTES + '"300002",0\n', "line 5: 2 values for 9 columns"),
        (VOTES + '"300002,0\n', "line 5: not CSV"),
    ],
)
def test_a_damaged_table_is_named_with_what_is_wrong(tmp_path, text, message):
    tree(tmp_path, "1001_IEO_NEU_XX.flv")
    write(tmp_path / "tabulatedVotes.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        list_corpus("crema_d", tmp_path)
    assert "\n" not in str(caught.value) and "tabulatedVotes.csv" in str(caught.value)


@pytest.mark.skipif(not (REAL / "crema-d-labels").is_dir(), reason="CREMA-D's tables are not here")
def test_the_real_tables_of_crema_d_give_its_known_numbers(tmp_path):
    labels = REAL / "crema-d-labels"
    with open(labels / "SentenceFilenames.csv", newline="") as file:
        names = [row["Filename"] for row in csv.DictReader(file)]
    tree(tmp_path, *(f"VideoFlash/{name}.flv" for name in names))
    for name in ("VideoDemographics.csv", "tabulatedVotes.csv", "summaryTable.csv"):
        shutil.copy(labels / name, tmp_path)
    listing = list_corpus("crema_d", tmp_path)
    assert listing.notes == [] and len(listing.refused) == 4 and len(listing.rows) == 7438
    folds = Counter(row.metadata["fold"] for row in listing.rows)
    published = {"1": 1463, "2": 1470, "3": 1475, "4": 1474, "5": 1555}  # HiCMAE's lists, one clip short
    assert sum(folds.values()) - sum(published.values()) == 1
    assert all(0 <= folds[fold] - count <= 1 for fold, count in published.items())
    people = {row.speaker: row for row in listing.rows}
    assert Counter(row.gender for row in people.values()) == {"m": 48, "f": 43}
    assert Counter(row.metadata["race"] for row in people.values())["Caucasian"] == 61
    for row in listing.rows:
        assert all(sum(row.labels[f"votes_{way}"].values()) > 0 for way in ("voice", "face", "both"))
    conflicts = [
        row
        for row in listing.rows
        if row.labels.get("majority_voice", "") != row.labels.get("majority_face", "")
        and {"majority_voice", "majority_face"} <= row.labels.keys()
    ]
    assert 3000 < len(conflicts) <= 3023  # of all 7,442


# -- RAVDESS -------------------------------------------------------------------------------------------------


def test_ravdess_takes_one_clip_of_each_utterance_whatever_its_modalities(tmp_path):
    tree(
        tmp_path,
        "Video_Speech_Actor_01/Actor_01/01-01-03-02-01-01-01.mp4",
        "Video_Speech_Actor_01/Actor_01/02-01-03-02-01-01-01.mp4",  # the same without sound
        "Video_Speech_Actor_01/Actor_01/02-01-04-01-01-01-01.mp4",
        "Audio_Speech_Actors_01-24/Actor_01/03-01-04-01-01-01-01.wav",
        "Audio_Speech_Actors_01-24/Actor_24/03-01-08-01-02-02-24.wav",
        "Video_Song_Actor_24/Actor_24/01-02-06-01-01-01-24.mp4",
    )
    listing = list_corpus("ravdess", tmp_path)
    rows = by_id(listing)
    assert set(rows) == {
        *("01-01-03-02-01-01-01", "02-01-04-01-01-01-01"),
        *("03-01-08-01-02-02-24", "01-02-06-01-01-01-24"),
    }
    whole, joined = rows["01-01-03-02-01-01-01"], rows["02-01-04-01-01-01-01"]
    assert whole.labels == {"emotion": "happy", "intensity": "strong"} and whole.audio_path == ""
    assert joined.audio_path == "Audio_Speech_Actors_01-24/Actor_01/03-01-04-01-01-01-01.wav"
    spoken, sung = rows["03-01-08-01-02-02-24"], rows["01-02-06-01-01-01-24"]
    assert (spoken.speaker, spoken.gender, spoken.text) == ("24", "f", "Dogs are sitting by the door")
    assert spoken.metadata == {"channel": "speech", "repetition": "2", "fold": "6"}
    assert "fold" not in sung.metadata and sung.metadata["channel"] == "song"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Actor_01/01-01-09-01-01-01-01.mp4", "its name is not MODALITY"),
        ("Actor_01/01-01-03-01-01-01-25.mp4", "its name is not MODALITY"),
        ("Actor_01/01-01-03-01-01-01-1.mp4", "its name is not MODALITY"),
        ("Actor_01/01-01-01-02-01-01-01.mp4", "neutral does not have"),
        ("Actor_01/01-02-07-01-01-01-01.mp4", "disgust sung"),
        ("Actor_02/01-01-03-01-01-01-01.mp4", "the folder of another actor"),
    ],
)
def test_ravdess_refuses_names_that_cannot_be(tmp_path, name, reason):
    listing = list_corpus("ravdess", tree(tmp_path, name, "Actor_03/01-01-03-01-01-01-03.mp4"))
    assert reason in reasons(listing)[name] and len(listing.rows) == 1


def test_the_folds_of_ravdess_are_those_of_the_published_lists(tmp_path):
    names = [
        f"01-01-{e:02d}-{i:02d}-{s:02d}-{r:02d}-{a:02d}.mp4"
        for a in range(1, 25)
        for e in range(1, 9)
        for i in (1, 2)
        for s in (1, 2)
        for r in (1, 2)
        if not (e == 1 and i == 2)
    ]
    listing = list_corpus("ravdess", tree(tmp_path, *names))
    assert len(listing.rows) == 1440
    folds = Counter(row.metadata["fold"] for row in listing.rows)
    assert folds == {str(fold): 240 for fold in range(1, 7)}
    assert {row.speaker for row in listing.rows if row.metadata["fold"] == "2"} == {"05", "06", "07", "08"}
    assert {row.labels["emotion"] for row in listing.rows} == set(ravdess.EMOTIONS)


@pytest.mark.skipif(not (REAL / "clips" / "ravdess_speech").is_dir(), reason="RAVDESS's sound is not here")
def test_real_sound_of_ravdess_is_prepared_with_its_labels(tmp_path):
    with open(REAL / "manifest_ravdess_speech.csv", newline="") as file:
        known = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    listing = list_corpus("ravdess", REAL / "clips" / "ravdess_speech")
    assert len(listing.rows) == len(known) and listing.refused == []
    for row in listing.rows:
        want = known[row.clip_id]
        assert row.gender == want["gender"] and row.labels["emotion"].startswith(want["label_emotion"])
        assert f"ravdess_{row.speaker}" == want["speaker"] and row.text == want["text"]
    few = tmp_path / "raw"
    few.mkdir()
    for row in listing.rows[::300]:
        (few / row.path).symlink_to(REAL / "clips" / "ravdess_speech" / row.path)
        real_clips.decoded.add(REAL / "clips" / "ravdess_speech" / row.path)
    words = ["prepare", "--corpus", "ravdess", "--root", few, "--out", tmp_path / "out", "--workers", 0]
    assert cli.main([*map(str, words), "--allow_missing", "picture"]) == 0
    records = list(open_records(tmp_path / "out"))
    assert [record.labels for record in records] == [row.labels for row in listing.rows[::300]]
    assert all(len(record.audio) > 16_000 for record in records)


# -- GRID ----------------------------------------------------------------------------------------------------


def test_grid_reads_the_sentence_out_of_the_name_and_deals_talkers_into_folds(tmp_path):
    names = [f"s{talker}/{name}.mpg" for talker in (1, 2, 3, 4, 5, 20) for name in ("bbaf2n", "swwzzs")]
    tree(tmp_path, *names, "s6/video/mpg_6000/lgwm1p.mpg", "audio_25k/s1/bbaf2n.wav")
    listing = list_corpus("grid", tmp_path)
    rows = by_id(listing)
    assert (
        rows["s1_bbaf2n"].text == "bin blue at f two now"
        and rows["s1_swwzzs"].text == "set white with z zero soon"
    )
    assert rows["s6_lgwm1p"].labels["preposition"] == "with" and rows["s6_lgwm1p"].speaker == "s6"
    assert (rows["s20_bbaf2n"].gender, rows["s3_bbaf2n"].gender) == ("f", "m")
    folds = {row.speaker: row.metadata["fold"] for row in listing.rows}
    assert all(folds[row.speaker] == row.metadata["fold"] for row in listing.rows)
    assert set(folds.values()) == {"1", "2", "3", "4", "5"}
    assert list_corpus("grid", tmp_path).rows == listing.rows and listing.refused == []


@pytest.mark.parametrize("name", ["bbaw2n", "bbaf2", "bbaf2nn", "xbaf2n", "BBAF2N", "s1_bbaf2n", "bbaf0n"])
def test_grid_refuses_names_that_are_no_sentences(tmp_path, name):
    listing = list_corpus(
        "grid", tree(tmp_path, f"s1/{name}.mpg", "s1/bbaf2n.mpg", "s35/bbaf2n.mpg", "bbaf2n.mpg")
    )
    assert "not a sentence" in reasons(listing)[f"s1/{name}.mpg"]
    assert all("no folder of a talker" in reasons(listing)[path] for path in ("s35/bbaf2n.mpg", "bbaf2n.mpg"))


@given(st.tuples(*(st.sampled_from(sorted(words)) for _, words in grid.WORDS)))
def test_every_sentence_of_the_grammar_is_read_and_starts_with_its_letters(letters):
    said = list(grid.sentence("".join(letters)).values())
    starts = [word[0] for word in said]
    assert starts[:4] == list(letters[:4]) and starts[5] == letters[5]


@given(st.text(string.ascii_lowercase + string.digits, max_size=8))
def test_no_name_but_a_sentence_is_taken_for_one(name):
    said = grid.sentence(name)
    assert (said is not None) == (
        len(name) == 6 and all(c in w for c, (_, w) in zip(name, grid.WORDS, strict=True))
    )


@pytest.mark.skipif(not (REAL / "clips" / "grid_s1").is_dir(), reason="GRID's clips are not here")
def test_real_clips_of_grid_are_prepared_with_what_their_manifest_says(tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    (root / "s1").symlink_to(REAL / "clips" / "grid_s1")
    with open(REAL / "manifest_grid.csv", newline="") as file:
        known = {Path(row["path"]).stem: row for row in csv.DictReader(file) if "/grid_s1/" in row["path"]}
    listing = list_corpus("grid", root)
    assert len(listing.rows) == len(known) and listing.refused == []
    for row in listing.rows:
        want = known[Path(row.path).stem]
        assert row.text == want["text"] and row.gender == want["gender"]
        assert all(row.labels[part] == want[f"label_{part}"] for part, _ in grid.WORDS)


# -- MAFW ----------------------------------------------------------------------------------------------------


def mafw(root, encoding="gb18030"):
    lists = root / "Train & Test Set"
    for number in range(1, 6):
        write(
            lists / f"single/no_caption/set_{number}/test.txt",
            f"0000{number}.mp4 anger\n0001{number}.mp4 neutral\n",
        )
        write(lists / f"compound/no_caption/set_{number}/test.txt", f"0000{number}.mp4 anger_disgust\n")
        line = f"0000{number}.mp4\tanger\t<br>一个男人皱眉。\t<br> A man frowns.\n"
        write(lists / f"single/with_caption/set_{number}/test.txt", line, encoding)
    return tree(
        root,
        *(f"data/clips/0000{n}.mp4" for n in range(1, 6)),
        "data/clips/00015.mp4",
        "data/clips/20045.mp4",
    )


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8"])
def test_mafw_takes_labels_folds_and_text_from_its_lists(tmp_path, encoding):
    listing = list_corpus("mafw", tree(mafw(tmp_path, encoding), "data/clips/123.mp4"))
    rows = by_id(listing)
    assert rows["00003"].labels == {"emotion": "anger", "compound_emotion": "anger_disgust"}
    assert (
        rows["00003"].metadata == {"fold": "3", "compound_fold": "3"}
        and rows["00003"].text == "A man frowns."
    )
    assert rows["00015"].labels == {"emotion": "neutral"} and rows["00015"].metadata == {"fold": "5"}
    assert rows["20045"].labels == {} and rows["20045"].speaker == ""
    assert list(reasons(listing)) == ["data/clips/123.mp4"]
    assert any("4 clips of the lists are not there" in note for note in listing.notes)


def test_mafw_keeps_the_shares_of_votes_where_the_table_was_saved_as_csv(tmp_path):
    from input_pipeline.corpora.mafw import EMOTIONS

    shares = ["0.6", "0.4", *["0"] * 9]
    table = f"clip,invalid,{','.join(EMOTIONS)}\n00001.mp4,0,{','.join(shares)}\n"
    write(mafw(tmp_path) / "Labels" / "annotation.csv", table)
    row = by_id(list_corpus("mafw", tmp_path))["00001"]
    assert row.labels["votes"] == dict.fromkeys(EMOTIONS, 0.0) | {"anger": 0.6, "disgust": 0.4}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00001.mp4 rage", "is not a clip and its emotions"),
        ("00002.mp4 anger", "00002.mp4 is in another set"),
    ],
)
def test_mafw_refuses_lists_that_are_not_its_own(tmp_path, line, message):
    write(mafw(tmp_path) / "Train & Test Set/single/no_caption/set_1/test.txt", line + "\n")
    with pytest.raises(DataError, match=message):
        list_corpus("mafw", tmp_path)


def test_mafw_without_its_lists_says_that_they_are_a_part_of_it(tmp_path):
    with pytest.raises(DataError, match="no folder 'Train & Test Set' in it; it is a part of MAFW"):
        list_corpus("mafw", tree(tmp_path, "clips/00001.mp4"))
    with pytest.raises(DataError, match="no single/no_caption/set_1/test.txt"):
        list_corpus("mafw", tree(tmp_path, "Train & Test Set/readme.txt"))


# -- Werewolf-XL ---------------------------------------------------------------------------------------------

RATINGS = "Session,VideoName,Mean_P_1_2_4,Mean_A_1_2_4,Mean_D_1_2_4,Categorical\n"
RATINGS += "1,01_01_128,1.0,0.0,0.5,紧张\n8,08_05_3,-0.5,0.25,-1.5,高兴\n"


def werewolf(root):
    write(root / "labels" / "pad.csv", RATINGS, "gb18030")
    return tree(
        root, "video/01_01_128.mp4", "video/08_05_3.mp4", "video/30_09_1.mp4", "video/31_01_1.mp4", "v/a.mp4"
    )


def test_werewolf_xl_takes_ratings_and_sessions_and_says_that_seats_are_no_people(tmp_path):
    listing = list_corpus("werewolf_xl", werewolf(tmp_path))
    rows = by_id(listing)
    assert rows["01_01_128"].labels == {
        "pleasure": 1.0,
        "arousal": 0.0,
        "dominance": 0.5,
        "emotion": "nervous",
    }
    assert rows["08_05_3"].metadata == {"session": "8", "fold": "2", "session_fold": "3"}
    assert rows["30_09_1"].labels == {} and rows["30_09_1"].metadata["fold"] == "5"
    assert (rows["01_01_128"].speaker, rows["08_05_3"].speaker) == ("01_01", "08_05")
    assert any("a seat of a session" in note for note in listing.notes)
    assert set(reasons(listing)) == {"video/31_01_1.mp4", "v/a.mp4"}


def test_werewolf_xl_knows_people_over_sessions_by_the_list_of_who_takes_part(tmp_path):
    write(
        werewolf(tmp_path) / "Final_results.csv", "Round,Seat,1st,2nd\n1,1,1-1,8-5\n8,5,8-5,1-1\n30,9,30-9,\n"
    )
    rows = by_id(list_corpus("werewolf_xl", tmp_path))
    assert rows["01_01_128"].speaker == rows["08_05_3"].speaker == "person_01_01"
    assert rows["30_09_1"].speaker == "person_30_09"


def test_werewolf_xl_refuses_ratings_that_are_not_numbers_and_a_folder_without_any(tmp_path):
    with pytest.raises(DataError, match="no CSV file with ratings"):
        list_corpus("werewolf_xl", tree(tmp_path, "01_01_128.mp4"))
    write(werewolf(tmp_path) / "more.csv", "speaker_audio,Arousal_average\n01_01_128,much\n")
    with pytest.raises(
        DataError, match="more.csv, 01_01_128, column Arousal_average: 'much' is not a rating"
    ):
        list_corpus("werewolf_xl", tmp_path)


# -- to shards -----------------------------------------------------------------------------------------------


def test_refused_files_are_counted_and_listed_with_those_that_cannot_be_decoded(tmp_path, capsys):
    frames = list(np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8))
    root = tree(tmp_path / "raw", "s1/bad.mpg", "s1/bbaf3s.mp4")
    write_media(
        root / "s1" / "bbaf2n.mp4", frames, tone(16_000, 0.5), audio_rate=16_000, codecs=("libx264", "aac")
    )
    out = tmp_path / "out"
    words = [
        "prepare",
        "--corpus",
        "grid",
        "--root",
        root,
        "--out",
        out,
        "--workers",
        0,
        "--json",
        tmp_path / "j",
    ]
    assert cli.main([*map(str, words)]) == 0
    with open(out / "rejected.csv", newline="") as file:
        listed = [(row["path"], row["reason"]) for row in csv.DictReader(file)]
    assert listed == [
        ("s1/bad.mpg", "its name is not a sentence of six letters and digits, as in bbaf2n"),
        ("s1/bbaf3s.mp4", "empty file"),
    ]
    summary = json.loads((tmp_path / "j").read_text())
    assert (summary["clips"], summary["kept"], summary["rejected"]) == (3, 1, 2)
    assert "1 of 3 clips prepared" in capsys.readouterr().out
    (record,) = open_records(out)
    assert (record.clip_id, record.speaker, record.metadata["fold"]) == ("s1_bbaf2n", "s1", "1")
    assert cli.main([*map(str, words)]) == 0  # the same again is no other plan


@pytest.mark.parametrize("window", [(None, None), (0.21, 0.75), (0.2415, 0.75)])
def test_sound_of_a_file_of_its_own_is_cut_as_the_videos_own_would_be(tmp_path, window):
    start, end = window
    rng = np.random.default_rng(0)
    frames = list(rng.integers(0, 256, (25, 48, 64, 3), np.uint8))
    sound = rng.integers(-9000, 9000, 16_000).astype(np.int16)
    write_media(tmp_path / "both.mkv", frames, sound, audio_rate=16_000)
    write_media(tmp_path / "mute.mkv", frames, None)
    write_media(tmp_path / "sound.mkv", None, sound, audio_rate=16_000)
    times = f"{'' if start is None else start},{'' if end is None else end}"
    write(
        tmp_path / "m.csv", f"path,audio_path,start_s,end_s\nboth.mkv,,{times}\nmute.mkv,sound.mkv,{times}\n"
    )
    words = [
        "prepare",
        "--manifest",
        tmp_path / "m.csv",
        "--root",
        tmp_path,
        "--out",
        tmp_path / "out",
        "--workers",
        0,
    ]
    assert cli.main([*map(str, words)]) == 0
    own, joined = open_records(tmp_path / "out")
    assert len(own.frames) == len(joined.frames) and own.fps == joined.fps
    np.testing.assert_array_equal(own.audio, joined.audio)
    whole = read_clip(tmp_path / "both.mkv").audio
    first = (
        0 if start is None else round(0.24 * 16_000)
    )  # of the first frame after the start, or just before it
    np.testing.assert_array_equal(joined.audio, whole[first : first + len(joined.audio)])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ("mute.mkv,absent.wav", "its sound file: no such file"),
        ("mute.mkv,mute.mkv", "its sound file: no sound"),
    ],
)
def test_a_sound_file_that_holds_none_is_the_reason(tmp_path, columns, reason):
    write_media(tmp_path / "mute.mkv", [np.zeros((48, 64, 3), np.uint8)] * 9, None)
    write(tmp_path / "m.csv", f"path,audio_path\n{columns}\n")
    words = [
        "prepare",
        "--manifest",
        tmp_path / "m.csv",
        "--root",
        tmp_path,
        "--out",
        tmp_path / "out",
        "--workers",
        0,
    ]
    assert cli.main([*map(str, words)]) == 2
    assert reason in (tmp_path / "out" / "rejected.csv").read_text()


def test_every_corpus_has_a_section_of_the_docs_with_where_licence_and_command():
    text = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text()
    for name in CORPORA:
        title = re.split("[:(]", importlib.import_module(f"input_pipeline.corpora.{name}").__doc__)[0].strip()
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        assert f"avemo prepare --corpus {name} --root " in section, name
        assert name in ("folder", "traces") or ("Licence" in section and "Had " in section), name


def test_a_corpus_of_ones_own_is_one_file_as_the_docs_show(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
    (written,) = re.findall(r"cat > my_corpus.py <<'EOF'\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("my_corpus.py").write_text(written)
    listing = list_corpus(
        "my_corpus.py", tree(tmp_path / "videos", "anna_sad_1.mp4", "ben_happy_2.mp4", "x.mp4")
    )
    assert [(row.speaker, row.labels) for row in listing.rows] == [
        ("anna", {"emotion": "sad"}),
        ("ben", {"emotion": "happy"}),
    ]
    assert [one.reason for one in listing.refused] == ["not named SPEAKER_EMOTION_TAKE"]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("crema", None, "there are avcaffe, crema_d, dfew"),
        ("none.py", None, "no such file"),
        ("empty.py", "", "has no list_clips"),
        ("wrong.py", "def list_clips(root:", "cannot be used: SyntaxError"),
        ("key.py", "{'a': 1}['b']", "cannot be used: KeyError: 'b'$"),
    ],
)
def test_a_corpus_that_there_is_not_is_one_line(tmp_path, monkeypatch, name, content, says):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(DataError, match=says):
        list_corpus(name, tmp_path)
