"""Windows of recordings joined to sequences: against plain loops, and against the truth where that is known."""

import csv
import io

import numpy as np
import pytest
from scipy import stats

from avemo_jax.errors import UserError
from avemo_jax.evaluation import stitching
from input_pipeline.corpora import list_corpus
from input_pipeline.corpora.traces import windows
from input_pipeline.errors import DataError

RNG = np.random.default_rng(0)
START = np.array([0.0, 1.5, 3.0, 8.0])
END = START + 3


def by_loop(values, times, weight):
    """Weighted means of the windows that cover each time."""
    rows = []
    for time in times:
        inside = [k for k in range(len(START)) if START[k] <= time < END[k]]
        weights = [weight(abs(time - (START[k] + END[k]) / 2) / 1.5) for k in inside]
        rows.append(
            np.average(values[inside], axis=0, weights=weights) if inside else [np.nan] * values.shape[1]
        )
    return np.array(rows)


@pytest.mark.parametrize(
    ("rule", "weight"), [("mean", lambda away: 1.0), ("triangle", lambda away: 1 - away)]
)
def test_overlapping_windows_are_averaged_and_gaps_stay_empty(rule, weight):
    values, times = RNG.standard_normal((4, 2)), np.arange(0.25, 11, 0.5)
    found = stitching.stitch(START, END, values, times, rule)
    np.testing.assert_allclose(found, by_loop(values, times, weight), rtol=1e-9)
    assert np.isnan(found[(times > 6) & (times < 8)]).all()


def test_a_windows_own_value_holds_where_it_is_alone_even_at_its_ends():
    found = stitching.stitch(START[:1], END[:1], np.array([[7.0]]), np.array([0.0, 1.5, 2.999]), "triangle")
    np.testing.assert_allclose(found, 7.0)


def test_by_centres_a_straight_line_is_kept():
    middle = (START + END) / 2
    times = np.linspace(middle[0], middle[-1], 40)
    found = stitching.stitch(START, END, 2 * middle[:, None] + 1, times, "centre")
    covered = ((times[:, None] >= START) & (times[:, None] < END)).any(1)
    np.testing.assert_allclose(found[:, 0], np.where(covered, 2 * times + 1, np.nan), rtol=1e-12)
    assert stitching.stitch(START, END, middle[:, None], np.array([0.0]), "centre") == middle[0]


@pytest.mark.parametrize("rule", stitching.RULES)
def test_where_no_window_is_there_is_nothing(rule):
    start, end = np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 7.0])
    found = stitching.stitch(start, end, np.ones((3, 1)), np.array([0.5, 2.5, 4.0, 6.0]), rule)[:, 0]
    np.testing.assert_array_equal(found, [1, 1, np.nan, 1])


def names_of(recordings):
    return [f"{name}@{a:.3f}-{b:.3f}" for name in recordings for a, b in zip(START, END, strict=True)]


def test_whole_recordings_are_scored_apart_and_one_behind_the_other():
    clips = names_of(["day/one", "two", "x@y"])
    truth = RNG.standard_normal((12, 2))
    predicted = 0.5 * truth + 0.3 * RNG.standard_normal((12, 2)) + 0.2
    order = RNG.permutation(12)
    found = stitching.sequences([clips[k] for k in order], truth[order], predicted[order], "mean", 0.5)
    assert [one.recording for one in found] == ["day/one", "two", "x@y"]
    assert all(len(one.times) == 18 for one in found)  # 9 s rated of 11
    row = stitching.judged(found, ("valence", "arousal"))
    p, t = (np.concatenate([getattr(one, part) for one in found])[:, 1] for part in ("predicted", "truth"))
    assert row["pcc_arousal"] == pytest.approx(stats.pearsonr(p, t)[0])
    shift = (p.mean() - t.mean()) ** 2
    ccc = 2 * np.cov(p, t)[0, 1] / (p.var(ddof=1) + t.var(ddof=1) + shift)
    assert row["ccc_arousal"] == pytest.approx(ccc)
    each = [stats.pearsonr(one.predicted[:, k], one.truth[:, k])[0] for one in found for k in (0, 1)]
    assert row["mean_pcc"] == pytest.approx(np.mean(each)) and row["recordings"] == 3
    assert row["ccc_ci95"][0] <= row["ccc"] <= row["ccc_ci95"][1]
    lines = list(csv.DictReader(io.StringIO(stitching.as_csv(found, ("valence", "arousal")))))
    assert len(lines) == 54 and lines[0]["recording"] == "day/one" and float(lines[0]["time_s"]) == 0.25
    assert float(lines[0]["p_arousal"]) == pytest.approx(found[0].predicted[0, 1], rel=1e-5)
    assert "3 whole recordings: CCC" in stitching.in_words(row)


def test_clips_of_other_names_are_refused():
    for name in ("clip7", "a@3-2", "a@x-2"):
        with pytest.raises(UserError, match=f"clip {name}: data.stitch needs clips that are named"):
            stitching.places([name])


def test_windows_have_the_means_of_what_was_rated_in_them():
    times = np.arange(0, 10.5, 0.5)
    valence = np.sin(times)
    valence[3] = np.nan
    arousal = np.where(times < 4, np.nan, times)
    found = list(windows(times, {"valence": valence, "arousal": arousal}, 3.0, 1.5))
    assert [start for start, _, _ in found] == [
        1.5,
        3.0,
        4.5,
        6.0,
    ]  # the first has no arousal, the next ends beyond
    _, end, means = found[0]
    assert end == 4.5 and means["arousal"] == pytest.approx(4.0)
    assert means["valence"] == pytest.approx(np.sin([2, 2.5, 3, 3.5, 4]).mean())


def test_a_folder_of_recordings_with_traces_is_a_corpus(tmp_path):
    for name in ("anna/talk.mp4", "anna/silent.mp4", "solo.mp4", "train/ben/talk.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    lines = "time_s,valence,arousal\n" + "".join(
        f"{t / 2},{t},\n" if t < 2 else f"{t / 2},{t},1\n" for t in range(13)
    )
    for name in ("anna/talk.csv", "solo.csv", "train/ben/talk.csv"):
        (tmp_path / name).write_text(lines)
    listing = list_corpus("traces", tmp_path)
    assert [row.clip_id for row in listing.rows][3:5] == ["anna/talk@0.000-3.000", "anna/talk@1.500-4.500"]
    assert [row.speaker for row in listing.rows] == ["solo"] * 3 + ["anna"] * 3 + ["ben"] * 3
    assert listing.rows[0].labels == {"valence": 2.5, "arousal": 1.0} and listing.rows[1].end_s == 4.5
    assert [refused.path for refused in listing.refused] == ["anna/silent.mp4"]
    recording, start, _ = stitching.places([row.clip_id for row in listing.rows])
    assert set(recording) == {"anna/talk", "solo", "train/ben/talk"} and start[1] == 1.5
    for text, hint in (
        ("time_s\n1\n", "no traces"),
        ("time_s,v\n2,1\n1,1\n", "does not rise"),
        ("time_s,v\nx,1\n", "x"),
    ):
        (tmp_path / "solo.csv").write_text(text)
        with pytest.raises(DataError, match=hint):
            list_corpus("traces", tmp_path)
