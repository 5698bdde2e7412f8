"""Frame and sound indices against numbers recorded from the reference, and properties for every length."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline import sampling

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "frames.json").read_text())
counts, frame_numbers, strides = st.integers(1, 400), st.integers(2, 32), st.integers(1, 6)


def case_id(case):
    return "-".join(str(v) for v in case.values() if isinstance(v, int))


@pytest.mark.parametrize("case", RECORDED["pretrain_seeded"] + RECORDED["pretrain_given_start"], ids=case_id)
def test_pretraining_takes_the_recorded_frames_and_samples(case):
    count, frames, stride = case["duration"], case["num_frames"], case["sampling_rate"]
    indices = sampling.pretrain_frames(count, case["start0"], frames, stride)
    assert indices.tolist() == case["frame_ids"]
    assert sampling.pretrain_sound(indices, count, stride, 25.0) == (
        case["audio_offset_samples"],
        case["audio_num_samples"],
    )
    if "n_possible_starts" in case:
        assert sampling.pretrain_starts(count, frames, stride) == case["n_possible_starts"]


@pytest.mark.parametrize("case", RECORDED["finetune_train_or_validation"], ids=case_id)
def test_finetuning_takes_the_recorded_frames_and_relative_sound(case):
    count, frames, stride = case["n_frames_on_disk"], case["num_frames"], case["sampling_rate"]
    start = case["audio_start_frame"]
    assert sampling.finetune_frames(count, start, frames, stride).tolist() == case["frame_ids"]
    samples = 1_000_000
    begin, length = sampling.relative_sound(start, start + frames * stride, count, samples)
    assert begin == int(case["audio_rel_start"] * samples)
    assert begin + length == int(case["audio_rel_end"] * samples)


@pytest.mark.parametrize("case", RECORDED["finetune_test"], ids=case_id)
def test_test_views_take_the_recorded_frames_and_relative_sound(case):
    count, frames, stride = case["n_frames_on_disk"], case["num_frames"], case["sampling_rate"]
    for view in case["views"]:
        indices = sampling.test_frames(count, view["segment"], case["test_num_segment"], frames, stride)
        assert indices.tolist() == view["clip_frame_ids"]
        begin, length = sampling.relative_sound(indices[0], indices[-1] + stride, count, 1_000_000)
        assert begin == int(view["audio_rel_start"] * 1_000_000)
        assert begin + length == int(view["audio_rel_end"] * 1_000_000)


def test_test_views_are_spread_over_the_clip_and_a_single_one_is_its_middle():
    assert [sampling.view_start(9, segment, 4) for segment in range(4)] == [0, 3, 6, 9]
    assert sampling.view_start(9, 0, 1) == 4
    assert sampling.test_frames(75, 0, 1, 4, 12).tolist() == [12, 24, 36, 48]


@given(counts, frame_numbers, strides, st.data())
def test_every_rule_stays_inside_the_clip_in_order_and_gives_the_wanted_number(count, frames, stride, data):
    pretrain_start = data.draw(st.integers(0, sampling.pretrain_starts(count, frames, stride) - 1))
    finetune_start = data.draw(st.integers(0, sampling.finetune_starts(count, frames, stride) - 1))
    segments = data.draw(st.integers(1, 5))
    segment = data.draw(st.integers(0, segments - 1))
    centre = sampling.centre_start(count, frames, stride)
    for indices in (
        sampling.pretrain_frames(count, pretrain_start, frames, stride),
        sampling.pretrain_frames(count, centre, frames, stride),
        sampling.finetune_frames(count, finetune_start, frames, stride),
        sampling.test_frames(count, segment, segments, frames, stride),
    ):
        assert len(indices) == frames
        assert (np.diff(indices) >= 0).all()
        assert indices[0] >= 0 and indices[-1] < count


@given(counts, frame_numbers, strides, st.data())
def test_a_long_enough_clip_gives_evenly_spaced_frames_from_every_start(count, frames, stride, data):
    starts = sampling.pretrain_starts(count, frames, stride)
    start = data.draw(st.integers(0, starts - 1))
    indices = sampling.pretrain_frames(count, start, frames, stride)
    if (
        count > frames * stride and start + (frames - 1) * stride < count - 1
    ):  # never onto the very last frame
        assert (np.diff(indices) == stride).all()
        assert indices[0] == start
    assert 0 <= sampling.centre_start(count, frames, stride) < starts


@given(counts, frame_numbers, strides, st.sampled_from([11.9, 24.0, 25.0, 29.97, 30.0, 50.0]), st.data())
def test_the_sound_covers_the_frames_taken_and_never_leaves_the_clip(count, frames, stride, fps, data):
    start = data.draw(st.integers(0, sampling.pretrain_starts(count, frames, stride) - 1))
    indices = sampling.pretrain_frames(count, start, frames, stride)
    first, length = sampling.pretrain_sound(indices, count, stride, fps)
    assert abs(first - indices[0] / fps * 16_000) <= 1.5
    assert first + length <= count / fps * 16_000 + 2
    assert first + length >= (indices[-1] + 1) / fps * 16_000 - 2


def test_a_slice_of_sound_that_is_too_short_becomes_the_whole_of_a_short_clip_or_an_error():
    assert sampling.relative_sound(0, 1, 100, 30_000) == (0, 30_000)
    with pytest.raises(ValueError, match="samples of sound"):
        sampling.relative_sound(0, 1, 1000, 500_000)
