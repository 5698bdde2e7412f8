"""Descriptions of clips: facts of clips known by construction, files, tables, writers of one's own."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from avemo_jax.cli import main
from input_pipeline import describing, folders, records, texts
from input_pipeline.describing import facts
from input_pipeline.errors import DataError
from input_pipeline.storing import ClipOptions
from input_pipeline.texts import Described

RATE, SECONDS, FPS = 16000, 2.0, 25


def voice(hertz, decibel, beats, glide=0.0):
    """So many bursts a second of a tone with harmonics, their pitch gliding by ± semitones; int16."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    pitch = hertz * 2 ** (glide / 12 * np.sin(2 * np.pi * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))
    beat = time * beats % 1
    wave = wave * (0.02 + np.exp(-3 * beat) * np.minimum(1, beat / 0.05))
    wave *= 10 ** (decibel / 20) / np.sqrt(np.mean(wave**2))
    return np.int16(np.clip(wave, -1, 1) * 32767)


def record(name, audio=(), step=None):
    """A clip; `step` pixels a frame is how fast its bright square moves, None for no picture."""
    frames = []
    for number in range(int(FPS * SECONDS) if step is not None else 0):
        pixels = np.full((64, 64, 3), 40, np.uint8)
        left = int(number * step) % 40
        pixels[20:44, left : left + 24] = 220
        frames.append(records.encode_picture(pixels, 95))
    return records.Record(name, frames, FPS if frames else 0.0, np.asarray(audio, np.int16), RATE, SECONDS)


class Some:
    """Records in memory; None stands for a damaged one. They are of no folder, unless one is given."""

    def __init__(self, *some, path="nowhere"):
        self.some, self.source = some, path
        self.clip_ids = [one.clip_id if one else f"damaged{n}" for n, one in enumerate(some)]

    def __len__(self):
        return len(self.some)

    def __getitem__(self, index):
        if self.some[index] is None:
            raise DataError("damaged record")
        return self.some[index]


def test_facts_are_those_that_a_clip_was_made_with():
    slow, fast = (
        facts.measure(record("a", voice(120, -30, 2), 0)),
        facts.measure(record("b", voice(240, -20, 5, 3), 2)),
    )
    assert slow["pitch_hz"] == pytest.approx(120, rel=0.03) and fast["pitch_hz"] == pytest.approx(
        240, rel=0.06
    )
    assert fast["loudness_db"] - slow["loudness_db"] == pytest.approx(10, abs=3)
    assert slow["range_semitones"] < 0.5 < 3 < fast["range_semitones"] < 7
    assert slow["rate_hz"] == pytest.approx(2, abs=0.8) and fast["rate_hz"] == pytest.approx(5, abs=1)
    assert slow["motion"] < 0.01 < 0.1 < fast["motion"]


def test_what_a_clip_does_not_have_is_not_described():
    silent = facts.measure(record("a", np.zeros(RATE), 1))
    unseen = facts.measure(record("b", voice(120, -30, 2)))
    assert (
        np.isnan([silent[name] for name in ("loudness_db", "pitch_hz", "rate_hz")]).all()
        and silent["motion"] > 0
    )
    assert np.isnan(unseen["motion"]) and np.isfinite(unseen["pitch_hz"])
    some = Some(record("a", np.zeros(RATE), 0), None, record("b", voice(120, -30, 2)), record("nothing"))
    found = {
        one.clip_id: one.text for one in describing.describe("facts", some, Path(), say=lambda line: None)
    }
    assert found.keys() == {"a", "b"} and "voice" not in found["a"] and "picture" not in found["b"]


@pytest.mark.parametrize(("crop", "seen"), [("face", "face"), ("none", "picture"), ("", "picture")])
def test_what_moves_is_a_face_where_the_folder_was_cut_to_faces(crop, seen, tmp_path):
    if crop:
        (tmp_path / "prepare").mkdir()
        folders.claim(tmp_path, "prepare", dataclasses.asdict(ClipOptions(crop=crop)))
    some = Some(record("a", step=0), record("b", step=2), path=tmp_path)
    still, moving = describing.describe("facts", some, tmp_path, say=lambda line: None)
    assert (still.text, moving.text) == (f"The {seen} hardly moves.", f"The {seen} moves a lot.")
    said = ((f"The {seen} hardly moves.", True), (f"The {seen} moves a lot.", False))
    assert still.statements == said


def test_words_are_those_of_the_lowest_and_highest_third_of_a_corpus():
    values = np.array([3.0, np.nan, 1.0, 2.0, 5.0, 4.0, 6.0])
    assert facts.level(values).tolist() == [0, 0, -1, -1, 1, 0, 1]
    assert not facts.level(np.ones(4)).any() and not facts.level(np.full(3, np.nan)).any()
    levels = {"loudness_db": 1, "pitch_hz": -1, "range_semitones": 0, "rate_hz": 1, "motion": -1}
    assert facts.in_words(levels, "face") == "A loud, low voice speaks quickly. The face hardly moves."
    assert (
        facts.in_words({"loudness_db": 0, "pitch_hz": 0}, "face")
        == "An ordinary voice speaks at an ordinary pace."
    )
    said = dict(facts.statements(levels, "face"))
    assert said["The voice is loud."] and not said["The voice is quiet."] and said["The face hardly moves."]
    assert len(said) == 8 and sum(said.values()) == 4  # the melody is neither, and nothing is said of it


def test_texts_come_back_from_their_file(tmp_path):
    said = [
        Described("a", "A loud voice.", (("It is loud.", True), ("It is not.", False))),
        Described("b", "Ä — ö."),
        Described("c", "Two\u2028lines\x85of one."),
    ]
    (tmp_path / texts.TEXTS).write_text(texts.as_jsonl(said))
    assert texts.read_texts(tmp_path) == said
    (tmp_path / "said.csv").write_text('clip_id,text\na,"A loud, low voice."\n', "utf-8-sig")
    assert texts.read_texts(tmp_path / "said.csv") == [Described("a", "A loud, low voice.")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "", "from a .jsonl or .csv file"),
        ("a.jsonl", '{"clip_id": "a"}\n', "line 1: not a clip_id with a text"),
        ("a.jsonl", '{"clip_id": "a", "text": " "}\n', "line 1"),
        ("a.jsonl", '{"clip_id": "a", "text": "b"}\n[1]\n', "line 2"),
        ("a.jsonl", "\n{\n", "line 2 is no JSON"),
        ("a.jsonl", '{"clip_id": "a", "text": "b", "statements": [["c", 1]]}', "statements are pairs"),
        ("a.jsonl", '{"clip_id": "a", "text": "b"}\n' * 2, "clip a is described twice"),
        ("a.jsonl", "\n", "describes no clip"),
        ("a.csv", "clip_id,words\na,b\n", "has no column text"),
        ("a.csv", "clip_id,text\na\n", "line 2: not a clip_id with a text"),
        ("a.csv", 'clip_id,text\na,"b\nc,d\n', "line 2: not CSV"),
    ],
)
def test_a_file_that_is_no_texts_is_named_with_its_line(name, content, says, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says) as error:
        texts.read_texts(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_table_knows_equal_texts_and_clips_without_one(tmp_path):
    vectors = np.array([[1, 0], [0.5, 2], [1, 0]], np.float32)
    table = texts.make_table(["a", "b", "c"], vectors, "who")
    (tmp_path / texts.TABLE).write_bytes(texts.table_bytes(table))
    read = texts.read_table(tmp_path)
    assert read.digest == "who" and read.dim == 2 and np.array_equal(read.embedding, vectors)
    assert read.number[0] == read.number[2] != read.number[1]
    assert read.rows_of(["c", "x", "a"]).tolist() == [2, -1, 0]
    np.savez(tmp_path / "mine.npz", clip_id=np.array(["a"]), embedding=np.ones((1, 3)))
    assert texts.read_table(tmp_path / "mine.npz").digest == ""
    bad = {
        "shape": {"clip_id": np.array(["a"]), "embedding": np.ones(3)},
        "finite": {"clip_id": np.array(["a"]), "embedding": np.full((1, 3), np.nan)},
        "twice": {"clip_id": np.array(["a", "a"]), "embedding": np.ones((2, 3))},
        "embedding": {"clip_id": np.array(["a"])},
    }
    for words, arrays in bad.items():
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(DataError, match=words):
            texts.read_table(tmp_path / "bad.npz")
    for place, words in (
        (tmp_path / "none.npz", "is no table of texts"),
        (tmp_path.parent, "no embeddings.npz in it"),
    ):
        with pytest.raises(DataError, match=words):
            texts.read_table(place)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("yield Described('a', 'one.')", ""),
        ("yield 'one.'", "it is to give Described"),
        ("yield Described('x', 'one.')", "clip x is not in the data"),
        ("yield from [Described('a', 'one.')] * 2", "clip a is described twice"),
        ("raise OSError('no answer')", "failed after 0 clips: OSError: no answer"),
        ("yield from ()", "describes none of 1 clips"),
    ],
)
def test_a_writer_is_a_file_of_ones_own(body, says, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"from input_pipeline.texts import Described\n\ndef describe(records):\n    {body}\n")
    some = Some(record("a"))
    if not says:
        assert describing.describe(str(file), some, tmp_path, say=lambda line: None) == [
            Described("a", "one.")
        ]
        return
    with pytest.raises(DataError, match=says):
        describing.describe(str(file), some, tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["who=Ann", "times=2", "share=1"], "Ann [2, 1, false] out"),
        (["who=3", "whole=true"], "3 [1, 0.5, true] out"),
        ([], "needs --options who=…"),
        (["who=Ann", "times=two"], "--options times=two: to be such as times=1"),
        (["who=Ann", "times=2.5"], "to be such as times=1"),
        (["who=Ann", "whole=True"], "to be such as whole=false"),
        (["whose=Ann"], "--options whose=Ann: no option of --by"),
        (["Ann"], "--options Ann: no option of --by"),
        (["folder=x"], "--options folder=x: no option of --by"),
    ],
)
def test_options_of_a_writer_are_its_keywords(given, says, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import json\nfrom input_pipeline.texts import Described\n\n"
        "def describe(records, *, folder, who, times=1, share=0.5, whole=False):\n"
        "    yield Described('a', f'{who} {json.dumps([times, share, whole])} {folder.name}')\n"
    )

    def said():
        (one,) = describing.describe(str(file), Some(record("a")), tmp_path / "out", given, lambda line: None)
        return one.text

    if says.endswith("out"):
        assert said() == says
        return
    with pytest.raises(DataError) as error:
        said()
    assert says in str(error.value)


def describe(folder, capsys, *more):
    """`avemo describe --texts` of three labelled clips: what it printed, or its error."""
    data = folder / "data"
    labels = [{"level": n, "valence": n / 4, "votes": {"HAP": n}, "blank": ""} for n in range(3)]
    some = [dataclasses.replace(record(f"clip{n}"), labels=of) for n, of in enumerate(labels)]
    if not data.exists():
        data.mkdir()
        rows = [
            {"position": n, "clip_id": one.clip_id, "labels": json.dumps(one.labels)}
            for n, one in enumerate(some)
        ]
        records.write_shard(data / records.shard_name("clips", 0, 1), list(map(records.encode, some)))
        records.write_dataset(data, {"clips": ([3], 1)}, rows)
    said = folder / "said.csv"
    said.write_text("clip_id,text\nclip0,One.\nclip1,Two.\nclip2,Three.\n")
    words = ["--data", data, "--texts", said, "--out", folder / "out", "--template", "It is {}.", *more]
    done = main(["describe", *map(str, words)])
    return "".join(capsys.readouterr()) if done else texts.read_texts(folder / "out")


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("level", ["One. It is 0.", "Two. It is 1.", "Three. It is 2."]),
        ("votes", "--label votes: it holds votes or numbers, not classes"),
        ("valence", "--label valence: it holds votes or numbers, not classes"),
        ("blank", "--label blank: no described clip has it"),
        ("other", "--label other: no described clip has it"),
    ],
)
def test_a_label_is_said_where_it_is_a_class(label, says, tmp_path, capsys):
    found = describe(tmp_path, capsys, "--label", label)
    assert says in found if isinstance(found, str) else [one.text for one in found] == says


def test_vectors_of_earlier_texts_go_when_new_texts_are_written(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / texts.TABLE).write_bytes(b"earlier vectors")
    describe(tmp_path, capsys)
    with pytest.raises(DataError, match=f"no {texts.TABLE} in it"):
        texts.read_table(tmp_path / "out")
