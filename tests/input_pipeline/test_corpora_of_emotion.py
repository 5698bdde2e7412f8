"""DFEW, MSP-IMPROV, IEMOCAP, MER2023 and AVCAffe: trees named as the real ones are, and small real films in them."""

import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from avemo_jax import cli
from avemo_jax.config import load_config
from input_pipeline.corpora import avcaffe, dfew, iemocap, list_corpus, mafw, mer2023, msp_improv
from input_pipeline.errors import DataError
from input_pipeline.records import open_records
from tests.input_pipeline.containers import tone
from tests.input_pipeline.containers import write as write_media
from tests.input_pipeline.corpus_trees import by_id, reasons, tree, write

CONFIGS = ("mafw_43", "dfew", "msp_improv", "iemocap", "mer2023", "avcaffe", "avcaffe_arousal")

# -- DFEW ----------------------------------------------------------------------------------------------------

SETS = {1: "1,4\n7,1\n", 2: "2,7\n", 3: "16372,3\n", 4: "4,5\n", 5: "5,6\n"}
HEAD = "1happy,2sad,3neutral,4angry,5surprise,6disgust,7fear,order,label\n"
VOTES = f"{HEAD}0,0,1,9,0,0,0,1,4\n0,0,10,0,0,0,0,8,3\n3,3,4,0,0,0,0,9,0\n"


def in_dfew(root, splits="test(single-labeled)"):
    for number, lines in SETS.items():
        write(root / "EmoLabel_DataSplit" / splits / f"set_{number}.csv", f"video_name,label\n{lines}")
    write(root / "Annotation" / "annotation.csv", VOTES)
    return root


@pytest.mark.parametrize("splits", ["test(single-labeled)", "test(single_labeled)"])
def test_dfew_takes_labels_and_folds_from_its_sets_and_votes_from_its_table(tmp_path, splits):
    tree(
        in_dfew(tmp_path, splits),
        *("Clip/original/part_1/1.mp4", "Clip/original/00002.mp4", "Clip/original/8.mp4"),
        *("Clip/original/9.mp4", "Clip/original/part_11/16372.mp4"),
        *("Clip/original/16373.mp4", "Clip/original/0.mp4", "Clip/original/x1.mp4"),
        *("Clip/clip_224x224_avi/00004.avi", "Clip/clip_224x224/00005/00005_00001.jpg"),
    )
    listing = list_corpus("dfew", tmp_path)
    rows = by_id(listing)
    assert set(rows) == {"00001", "00002", "00008", "00009", "16372"}
    votes = dict(zip(dfew.EMOTIONS, (0, 0, 1, 9, 0, 0, 0), strict=True))
    assert rows["00001"].labels == {"emotion": "angry", "votes": votes}
    assert rows["00001"].metadata == {"fold": "1"} and rows["00001"].speaker == ""
    assert (rows["00002"].labels, rows["00002"].metadata) == ({"emotion": "fear"}, {"fold": "2"})
    assert rows["16372"].labels == {"emotion": "neutral"} and rows["16372"].metadata == {"fold": "3"}
    # In no set: a single emotion by the table, and none.
    assert rows["00008"].labels["emotion"] == "neutral" and rows["00008"].metadata == {}
    assert list(rows["00009"].labels) == ["votes"]
    assert all("not a number from 1 to 16372" in reason for reason in reasons(listing).values())
    assert len(listing.refused) == 3 and any("3 clips of the lists" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("test(single-labeled)/set_2.csv", "video_name,label\n1,5\n", "clip 1 is in another set"),
        ("test(single-labeled)/set_2.csv", "video_name,label\n2,8\n", "2,8 is not a clip and an emotion"),
        ("test(single-labeled)/set_2.csv", "video_name,label\n2,0\n", "2,0 is not a clip and an emotion"),
        ("test(single-labeled)/set_2.csv", "name,label\n2,1\n", "no column video_name"),
        (
            "../Annotation/annotation.csv",
            f"{HEAD}0,0,x,9,0,0,0,1,4\n",
            "the line of clip '1' is not one of votes",
        ),
        (
            "../Annotation/annotation.csv",
            f"{HEAD}0,0,1,9,0,0,0,1,9\n",
            "the line of clip '1' is not one of votes",
        ),
    ],
)
def test_dfew_refuses_tables_that_are_not_its_own(tmp_path, name, text, message):
    write(tree(in_dfew(tmp_path), "1.mp4") / "EmoLabel_DataSplit" / name, text)
    with pytest.raises(DataError, match=message) as caught:
        list_corpus("dfew", tmp_path)
    assert "\n" not in str(caught.value) and name.split("/")[-1] in str(caught.value)


def test_dfew_without_its_sets_says_that_they_are_a_part_of_it(tmp_path):
    with pytest.raises(DataError, match="no folder 'EmoLabel_DataSplit/test.* it is a part of DFEW"):
        list_corpus("dfew", tree(tmp_path, "1.mp4"))
    with pytest.raises(DataError, match="no set_1.csv"):
        list_corpus("dfew", tree(tmp_path, "EmoLabel_DataSplit/test(single-labeled)/read.me"))


# -- MSP-IMPROV ----------------------------------------------------------------------------------------------

RATINGS = """UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:3.000000; V:3.500000; D:3.000000 ; N:NaN;
7-p1; Neutral; Neutral,Other; A:3.000000; V:4.000000; D:3.000000; N:4.000000;
7-p1; Neutral; Neutral,Other; A:3.000000; V:4.000000; D:3.000000; N:4.000000;
8-p2; Happy; Happy; A:3.000000; V:3.000000; D:3.000000; N:4.000000;

UTD-IMPROV-S20S-M06-R-MM02.avi; X; A:1.000000; V:2.000000; D:NaN ; N:4.500000;
"""


@pytest.mark.parametrize(
    ("video", "audio", "ratings"),
    [("", "", "Evalution.txt"), ("Video/", "Audio/", "labels/Evaluation.txt")],
)
def test_msp_improv_keeps_the_consensus_the_votes_and_who_cast_them(tmp_path, video, audio, ratings):
    tree(
        tmp_path,
        f"{video}session1/S01A/P/UTD-IMPROV-S01A-F01-P-FM01.avi",
        f"{audio}session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav",
        f"{video}session6/S20S/R/MSP-IMPROV-S20S-M06-R-MM02.avi",
        f"{video}session6/S20S/T/MSP-IMPROV-S20S-M06-T-MM02.avi",
        *(f"{video}{name}.avi" for name in ("MSP-IMPROV-S01A-F07-P-FM01", "MSP-IMPROV-S01X-F01-P-FM01", "x")),
    )
    write(tmp_path / ratings, RATINGS)
    listing = list_corpus("msp_improv", tmp_path)
    rows = by_id(listing)
    row = rows["MSP-IMPROV-S01A-F01-P-FM01"]
    assert row.labels == {
        "emotion": "neutral",
        "arousal": 3.0,
        "valence": 3.5,
        "dominance": 3.0,
        "raters": {"7-p1": "neutral", "8-p2": "happy"},
        "votes": {"angry": 0, "happy": 1, "neutral": 1, "sad": 0, "other": 0},  # a line twice is one vote
    }
    assert row.audio_path == f"{audio}session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav"
    assert (row.speaker, row.gender) == ("F01", "f")
    assert row.metadata == {
        "fold": "1",
        "session": "1",
        "sentence": "S01",
        "intended_emotion": "angry",
        "setting": "natural interaction",
    }
    read = rows["MSP-IMPROV-S20S-M06-R-MM02"]
    assert read.labels == {"arousal": 1.0, "valence": 2.0, "naturalness": 4.5} and read.audio_path == ""
    assert (read.speaker, read.metadata["fold"], read.metadata["setting"]) == ("M06", "6", "target read")
    assert rows["MSP-IMPROV-S20S-M06-T-MM02"].labels == {}
    assert len(listing.refused) == 3 and all(
        "MSP-IMPROV-S01A" in reason for reason in reasons(listing).values()
    )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("; N; A:3", "; Q; A:3", "line 1: 'Q' is none of A, H, N, S, O, X"),
        ("S01A-F01", "S01A-F09", "line 1: .* is not the consensus on a clip"),
        ("V:3.500000", "V:much", "line 1: 'V:much' is not a mean rating"),
        ("V:3.500000", "Q:3.500000", "line 1: 'Q:3.500000' is not a mean rating"),
    ],
)
def test_msp_improv_names_the_line_of_its_ratings_that_is_damaged(tmp_path, before, after, message):
    write(
        tree(tmp_path, "MSP-IMPROV-S01A-F01-P-FM01.avi") / "Evalution.txt", RATINGS.replace(before, after, 1)
    )
    with pytest.raises(DataError, match=message):
        list_corpus("msp_improv", tmp_path)


def test_msp_improv_without_its_ratings_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no Evalution.txt in it, which has the ratings"):
        list_corpus("msp_improv", tree(tmp_path, "MSP-IMPROV-S01A-F01-P-FM01.avi"))


# -- IEMOCAP -------------------------------------------------------------------------------------------------

EVALUATION = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[0.2000 - 0.6000]\tSes01F_impro01_F000\tneu\t[2.5000, 2.0000, 3.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral state; Sadness;\t(tired)
C-F1:\tAnger;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[0.6000 - 1.0000]\tSes01F_impro01_M000\texc\t[4.0000, 4.0000, 3.0000]
C-E2:\tExcited;\t()

[0.9000 - 1.4000]\tSes01F_impro01_MXX1\txxx\t[3.0000, 3.0000, 3.0000]
"""
SAID = "Ses01F_impro01_F000 [000.2000-000.6000]: Excuse me.\nM: [LAUGHTER]\n"


def in_iemocap(root, evaluation=EVALUATION):
    dialog = root / "Session1" / "dialog"
    write(dialog / "EmoEvaluation" / "Ses01F_impro01.txt", evaluation)
    write(
        dialog / "EmoEvaluation" / "Categorical" / "Ses01F_impro01_e2_cat.txt",
        "Ses01F_impro01_F000 :Anger; ()\n",
    )
    write(dialog / "transcriptions" / "Ses01F_impro01.txt", SAID)
    return root


def test_iemocap_cuts_dialogues_into_turns_and_the_picture_to_who_speaks(tmp_path):
    folder = "Session1/dialog/avi/DivX"
    tree(in_iemocap(tmp_path), f"{folder}/Ses01F_impro01.avi", "Session1/dialog/wav/Ses01F_impro01.wav")
    tree(
        tmp_path,
        *(f"{folder}/{name}.avi" for name in ("._Ses01F_impro01", "Ses01M_impro01", "Ses06F_impro01")),
    )
    write(tmp_path / "Session2/dialog/EmoEvaluation/Ses02M_script01_1b.txt", "")
    listing = list_corpus("iemocap", tmp_path)
    rows = by_id(listing)
    her, him, another = (rows[f"Ses01F_impro01_{turn}"] for turn in ("F000", "M000", "MXX1"))
    zero = dict.fromkeys(iemocap.EMOTIONS.values(), 0)
    assert her.labels == {
        "emotion": "neutral",
        "emotion_4": "neutral",
        "valence": 2.5,
        "arousal": 2.0,
        "dominance": 3.5,
        "raters": {"E2": "neutral", "E3": "neutral"},
        "votes": zero | {"neutral": 2, "sadness": 1},  # not what the actress said herself
    }
    assert (her.start_s, her.end_s, her.half, her.text) == (0.2, 0.6, "left", "Excuse me.")
    assert (her.speaker, her.gender) == (
        "Ses01F",
        "f",
    ) and her.audio_path == "Session1/dialog/wav/Ses01F_impro01.wav"
    assert her.metadata == {
        "fold": "1",
        "session": "1",
        "dialogue": "Ses01F_impro01",
        "setting": "improvised",
    }
    assert (him.half, him.speaker, him.text) == ("right", "Ses01M", "")
    assert (him.labels["emotion"], him.labels["emotion_4"]) == ("excited", "happiness")
    assert set(another.labels) == {"valence", "arousal", "dominance"}
    refused = reasons(listing)
    assert refused[f"{folder}/._Ses01F_impro01.avi"] == "a hidden file"
    assert "no evaluation" in refused[f"{folder}/Ses01M_impro01.avi"]
    assert "not that of a dialogue" in refused[f"{folder}/Ses06F_impro01.avi"]
    assert any("1 dialogues have no film, as Ses02M_script01_1b.avi" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\tneu\t", "\tbad\t", "line 3: .* is not a turn of Ses01F_impro01 with its labels"),
        ("Ses01F_impro01_M000", "Ses02F_impro01_M000", "line 9: .* is not a turn of Ses01F_impro01"),
        ("[2.5000, 2.0000, 3.5000]", "[2.5000, 2.0000]", "line 3: .* is not a turn"),
        ("[0.2000 - 0.6000]", "[0.7000 - 0.6000]", "line 3: Ses01F_impro01_F000 ends before it begins"),
    ],
)
def test_iemocap_names_the_line_of_an_evaluation_that_is_damaged(tmp_path, before, after, message):
    tree(in_iemocap(tmp_path, EVALUATION.replace(before, after, 1)), "Ses01F_impro01.avi")
    with pytest.raises(DataError, match=message):
        list_corpus("iemocap", tmp_path)


def test_iemocap_without_evaluations_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no Session.*EmoEvaluation.* in it, which have times and labels"):
        list_corpus("iemocap", tree(tmp_path, "Session1/dialog/avi/DivX/Ses01F_impro01.avi"))


@pytest.mark.parametrize(
    "name", ["Ses01F_impro01", "Ses05M_script01_1b", "Ses03M_impro08a", "Ses02F_script03_2"]
)
def test_names_of_dialogues_are_known(tmp_path, name):
    folder = f"Session{name[4]}/dialog"
    line = f"[0.0000 - 1.0000]\t{name}_F001\tsad\t[1.0000, 1.0000, 1.0000]\n"
    write(tree(tmp_path, f"{folder}/avi/DivX/{name}.avi") / folder / "EmoEvaluation" / f"{name}.txt", line)
    (row,) = list_corpus("iemocap", tmp_path).rows
    assert row.metadata["fold"] == name[4] and row.half == ("left" if name[5] == "F" else "right")


# -- MER2023 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", ["{}", "mer2023{}"])
def test_mer2023_names_its_tests_by_their_tracks(tmp_path, folders):
    train, lists = folders.format("train"), "" if folders == "{}" else "test-labels/"
    write(
        tmp_path / train / "train-label.csv", "name,discrete,valence\nsample_00000001,happy,2.5\na,sad,-1\n"
    )
    write(tmp_path / f"{lists}test1-label.csv", "name,discrete,valence\nsample_00000002,worried,-1.25\n")
    write(tmp_path / f"{lists}test3-label.csv", "name,discrete\nsample_00000003.mp4,surprise\n")
    tree(
        tmp_path,
        *(f"{train}/train/sample_00000001.avi", "test1/sample_00000002.mp4", "test2/sample_00000007.avi"),
        *("test3/sample_00000003.mp4", "test3/sample_00000004.mp4", "sample_00000009.avi"),
    )
    listing = list_corpus("mer2023", tmp_path)
    assert {key[-1]: (row.split, row.labels) for key, row in by_id(listing).items()} == {
        "1": ("train", {"emotion": "happy", "valence": 2.5}),
        "2": ("test", {"emotion": "worried", "valence": -1.25}),
        "7": ("test_noise", {}),
        "3": ("test_semi", {"emotion": "surprise"}),
        "4": ("test_semi", {}),
    }
    assert reasons(listing) == {"sample_00000009.avi": "it lies in no folder train, test1, test2, test3"}
    assert listing.notes == [
        "test2-label.csv is not there: its clips have no labels",
        "1 clips of the lists are not there, as train/a",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,discrete\na,glad\n", "train-label.csv, a: 'glad' is none of neutral, angry, happy"),
        ("name,discrete,valence\na,sad,low\n", "train-label.csv, a: 'low' is no valence"),
        ("file,discrete\na,sad\n", "no column name"),
    ],
)
def test_mer2023_refuses_lists_that_are_not_its_own(tmp_path, text, message):
    write(tree(tmp_path, "train/a.avi") / "train-label.csv", text)
    with pytest.raises(DataError, match=message):
        list_corpus("mer2023", tmp_path)


def test_mer2023_without_lists_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no train-label.csv or test1-label.csv in it"):
        list_corpus("mer2023", tree(tmp_path, "train/a.avi"))


# -- AVCAffe -------------------------------------------------------------------------------------------------


def in_avcaffe(root):
    write(root / "ground_truths/arousal.txt", "aiim001_task_1, Calm\naiim003_task_9, Wide-awake\n")
    write(root / "ground_truths/valence.txt", "aiim001_task_1, Pleasant\n")
    write(root / "ground_truths/mental_demand.txt", "\naiim001_task_1, 12.0\n")
    write(root / "info/no_audio_files.txt", "aiim001_task_1_clip_002.avi\n")
    return root


def test_avcaffe_gives_each_segment_the_labels_of_its_task(tmp_path):
    segments = "videos/shorter_segments"
    tree(
        in_avcaffe(tmp_path),
        *(f"{segments}/aiim001/task_1/aiim001_task_1_clip_00{number}.avi" for number in (1, 2)),
        *(f"{segments}/aiim003/task_9/aiim003_task_9_clip_001.avi", f"{segments}/aiim003/task_9/other.avi"),
        "videos/per_participant_per_task/aiim001/aiim001_task_1.mp4",
    )
    listing = list_corpus("avcaffe", tmp_path)
    rows = by_id(listing)
    first, last = rows["aiim001_task_1_clip_001"], rows["aiim003_task_9_clip_001"]
    assert first.labels == {"arousal": "Calm", "valence": "Pleasant", "mental_demand": 12.0}
    assert (first.speaker, first.split, first.metadata) == ("aiim001", "test", {"task": "1"})
    assert last.labels == {"arousal": "Wide-awake"} and (last.speaker, last.split) == ("aiim003", "train")
    assert len(rows) == 2 and reasons(listing) == {
        f"{segments}/aiim001/task_1/aiim001_task_1_clip_002.avi": "nobody speaks in it, by info/no_audio_files.txt",
        f"{segments}/aiim003/task_9/other.avi": "its name is not PERSON_TASK_…, as in aiim001_task_1_…",
    }
    assert len(listing.notes) == 2 and all("is not there" in note for note in listing.notes)


def test_whoever_is_on_a_call_of_avcaffe_with_whom_is_on_the_same_side():
    numbers = sorted(int(person.removeprefix("aiim")) for person in avcaffe.HELD_OUT)
    assert len(numbers) == 20 and numbers[::2] == [number - 1 for number in numbers[1::2]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "arousal",
            "aiim001_task_1, Angry\n",
            "arousal.txt, line 1: .* is not a person's task and its arousal",
        ),
        ("valence", "aiim001, Pleasant\n", "valence.txt, line 1: .* is not a person's task"),
        ("effort", "aiim001_task_1, 22\n", "effort.txt, line 1: .* is not a person's task and its effort"),
    ],
)
def test_avcaffe_refuses_labels_that_are_not_its_own(tmp_path, name, text, message):
    write(tree(in_avcaffe(tmp_path), "aiim001_task_1_x.avi") / "ground_truths" / f"{name}.txt", text)
    with pytest.raises(DataError, match=message):
        list_corpus("avcaffe", tmp_path)


def test_avcaffe_without_its_labels_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no ground_truths/arousal.txt or valence.txt"):
        list_corpus("avcaffe", tree(tmp_path, "aiim001_task_1_x.avi"))


# -- what is learnt of them ----------------------------------------------------------------------------------


def test_the_classes_of_configs_are_names_that_adapters_give():
    classes = {name: load_config(f"finetune/{name}").data.classes for name in CONFIGS}
    assert set(classes["msp_improv"]) < set(msp_improv.EMOTIONS.values())
    assert set(classes["iemocap"]) == set(iemocap.FOUR.values())
    assert classes["dfew"] == dfew.EMOTIONS and classes["mer2023"] == mer2023.EMOTIONS
    assert (classes["avcaffe"], classes["avcaffe_arousal"]) == (avcaffe.VALENCE, avcaffe.AROUSAL)
    compound = classes["mafw_43"]
    assert len(set(compound)) == 43 and compound[:11] == mafw.EMOTIONS
    for name in compound[11:]:  # several emotions each, in the corpus's own order
        order = [mafw.EMOTIONS.index(one) for one in name.split("_")]
        assert len(order) > 1 and order == sorted(order)


# -- to shards -----------------------------------------------------------------------------------------------


def in_msp_improv(root):
    write(root / "Evalution.txt", RATINGS)
    return root


def in_mer2023(root):
    write(root / "train-label.csv", "name,discrete,valence\nsample_00000001,happy,2.5\n")
    return root


@pytest.mark.parametrize(
    ("corpus", "made", "film"),
    [
        (dfew, in_dfew, "Clip/original/1.mp4"),
        (msp_improv, in_msp_improv, "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi"),
        (iemocap, in_iemocap, "Session1/dialog/avi/DivX/Ses01F_impro01.avi"),
        (mer2023, in_mer2023, "train/sample_00000001.avi"),
        (avcaffe, in_avcaffe, "videos/shorter_segments/aiim001/task_1/aiim001_task_1_clip_001.avi"),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2],
)
def test_real_films_in_a_corpus_s_folders_become_records_with_what_its_tables_say(
    tmp_path, corpus, made, film
):
    """The left half of the film is dark and the right one bright."""
    root, name = made(tmp_path / "raw"), corpus.__name__.rpartition(".")[2]
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:, 48:] = 200
    (root / film).parent.mkdir(parents=True)
    sound = tone(48_000, 1.6)
    write_media(root / film, [picture] * 40, sound)
    words = ["prepare", "--corpus", name, "--root", root, "--out", tmp_path / "out", "--workers", 0]
    assert cli.main([*map(str, words)]) == 0
    rows, records = list_corpus(name, root).rows, list(open_records(tmp_path / "out"))
    assert [record.clip_id for record in records] == [row.clip_id for row in rows] and records
    for row, record in zip(rows, records, strict=True):
        assert record.labels == row.labels and record.metadata == row.metadata
        assert (record.speaker, record.split, record.text) == (row.speaker, row.split, row.text)
        seconds = (row.end_s or 1.6) - (row.start_s or 0.0)
        assert abs(record.duration_s - seconds) < 0.1 and abs(len(record.audio) / 16_000 - seconds) < 0.15
        shown = np.asarray(Image.open(io.BytesIO(record.frames[0])).convert("L"), np.float32)
        assert shown.shape == ((48, 48) if row.half else (48, 96))
        if row.half:
            assert (shown.mean() > 100) == (row.half == "right")


def test_a_folder_begun_before_films_could_show_two_people_is_gone_on_with(tmp_path):
    root = in_mer2023(tmp_path / "raw")
    (root / "train").mkdir()
    write_media(root / "train/sample_00000001.avi", [np.zeros((48, 64, 3), np.uint8)] * 9, tone(48_000, 0.4))
    words = ["prepare", "--corpus", "mer2023", "--root", root, "--out", tmp_path / "out", "--workers", 0]
    assert cli.main([*map(str, words)]) == 0
    (row,) = (dataclasses.asdict(row) for row in list_corpus("mer2023", root).rows)
    kept = {key: value for key, value in row.items() if key not in ("half", "audio_path")}
    plan = json.loads((tmp_path / "out" / "prepare" / "plan.json").read_text())
    assert plan["manifest"] == hashlib.sha256(json.dumps([kept]).encode()).hexdigest()
