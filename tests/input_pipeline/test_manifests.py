"""Manifests: columns to rows, and errors that name line and column."""

import pytest

from input_pipeline.errors import DataError
from input_pipeline.manifests import Row, read_manifest


def manifest(folder, text, encoding="utf-8"):
    path = folder / "m.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_become_fields_labels_and_metadata(tmp_path):
    path = manifest(
        tmp_path,
        "path,clip_id,split,speaker,gender,text,start_s,end_s,label_emotion,label_valence,label_votes,label_code,fold\n"
        'a/b.mp4,c1,train,s1,f,"hello, you",0.5,2,ANG,0.25,"{""ANG"": 3}",01,4\n',
    )
    (row,) = read_manifest(path)
    labels = {"emotion": "ANG", "valence": 0.25, "votes": {"ANG": 3}, "code": "01"}
    assert row == Row("a/b.mp4", "c1", "train", "s1", "f", "hello, you", 0.5, 2.0, labels, {"fold": "4"})


def test_what_is_not_given_is_empty(tmp_path):
    first, second = read_manifest(
        manifest(tmp_path, "path,speaker,label_emotion,fold\na.mp4,,,\n\nb.mp4,s2,,1\n")
    )
    assert first == Row("a.mp4", "a.mp4")
    assert second == Row("b.mp4", "b.mp4", speaker="s2", metadata={"fold": "1"})


def test_the_default_name_of_a_clip_tells_containers_and_windows_apart(tmp_path):
    rows = read_manifest(manifest(tmp_path, "path,start_s,end_s\na.mp4,,\na.avi,,\na.mp4,1,2\na.mp4,2,\n"))
    assert len({row.clip_id for row in rows}) == 4


def test_a_spreadsheets_byte_order_mark_and_line_ends_are_read(tmp_path):
    rows = read_manifest(manifest(tmp_path, "path,text\r\na.mp4,ü\r\n", "utf-8-sig"))
    assert rows == [Row("a.mp4", "a.mp4", text="ü")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column `path`"),
        ("file,speaker\na,b\n", "line 1: no column `path`; the columns are: file, speaker"),
        (",".join(f"a{n}" for n in range(999)), "the columns are: a0, a1.{,200} …$"),
        ("path,path\na,b\n", "line 1: column 'path' is there twice"),
        ("path,\na,b\n", "line 1: column '' is without a name"),
        ("path\n", "no clips"),
        ("path,speaker\na.mp4\n", "line 2: 1 values for 2 columns"),
        ("path,speaker\na.mp4,x\n,y\n", "line 3, column path: empty"),
        ("path\n/etc/passwd\n", "line 2, column path: '/etc/passwd' must be relative"),
        ("path\na/../../b.mp4\n", "line 2, column path: .* stay inside"),
        ("path\na.mp4\na.mp4\n", "line 3, column clip_id: 'a.mp4' is the clip of line 2"),
        ("path,clip_id\na.mp4,x\nb.mp4,x\n", "line 3, column clip_id: 'x' is the clip of line 2"),
        ("path,start_s\na.mp4,soon\n", "line 2, column start_s: 'soon' is not a time"),
        ("path,start_s\na.mp4,-1\n", "line 2, column start_s"),
        ("path,end_s\na.mp4,inf\n", "line 2, column end_s"),
        ("path,start_s,end_s\na.mp4,2,1\n", "line 2, column end_s: 1 is not after start_s"),
        ("path,split\na.mp4,my split\n", "line 2, column split: 'my split' may hold"),
        ("path,split\na.mp4,_\n", "line 2, column split: '_' may hold"),
        ("path,split\na.mp4,all\n", "line 2, column split: 'all' may hold .* not be 'all'"),
        ('path,text\na.mp4,"two\nlines"\nb.mp4\n', "line 4: 1 values"),
        ('path,text\na.mp4,x\nb.mp4,"y\nc.mp4,z\n', "line 3: not CSV"),
        ('path,text\na.mp4,"x"\nb.mp4,"y\nc.mp4,"z"\n', "line 3: not CSV"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_column(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(manifest(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "m.csv")) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="not UTF-8"):
        read_manifest(manifest(tmp_path, "path\nü.mp4\n", "latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path)
