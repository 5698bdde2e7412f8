"""Decoding, with real files: as they are found, and put into containers of every kind."""

import os
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input_pipeline.errors import MediaError
from input_pipeline.media import AUDIO_RATE, is_even, lay_on_grid, read_clip
from tests import real_clips
from tests.input_pipeline import containers
from tests.input_pipeline.containers import FORMATS, strongest_hertz, tone, write


@pytest.fixture(scope="module")
def clip():
    """50 real frames, 176 pixels wide at most and of even size, and the clip's sound at 16 kHz."""
    whole = real_clips.decode(real_clips.talking_file(), end_s=2.0)
    frames = [frame[: 2 * (len(frame) // 4) : 1, : frame.shape[1] // 4 * 2] for frame in whole.frames]
    return frames[:50], whole.audio


@pytest.fixture(scope="module")
def marked(clip):
    """The frames with their number written in as brightness of the left half, to be read back."""
    frames = []
    for i, frame in enumerate(clip[0]):
        frame = frame.copy()
        frame[:, : frame.shape[1] // 2] = i * 5
        frames.append(frame)
    return frames


def number(frame):
    return round(float(frame[:, : frame.shape[1] // 2 - 8].mean()) / 5)


def test_every_real_file_gives_frames_on_a_plausible_grid_and_sound_of_the_same_length():
    assert len(real_clips.media_files()) >= 2
    for path in real_clips.media_files():
        with av.open(str(path)) as container:
            own_frames = sum(1 for _ in container.decode(video=0))
            has_sound = bool(container.streams.audio)
        clip = real_clips.decode(path, on_frame=lambda frame: frame.shape)
        assert 5 <= clip.fps <= 120, path
        assert abs(len(clip.frames) - own_frames) <= 0.1 * own_frames, path
        assert len(set(clip.frames)) == 1, path
        assert clip.audio.dtype == np.int16
        assert bool(len(clip.audio)) == has_sound, path


def test_a_constant_rate_file_gives_exactly_its_own_frames():
    path = real_clips.talking_file()
    with av.open(str(path)) as container:
        own = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rate = float(container.streams.video[0].average_rate)
    clip = real_clips.decode(path)
    assert clip.fps == pytest.approx(rate, rel=1e-3)
    assert len(clip.frames) == len(own)
    assert all(np.array_equal(a, b) for a, b in zip(clip.frames, own, strict=True))


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_container_keeps_the_number_order_and_rate_of_frames_and_the_sound(tmp_path, marked, suffix):
    path = write(tmp_path / f"clip.{suffix}", marked, tone(48_000, 2.0))
    clip = read_clip(path)
    assert clip.fps == pytest.approx(25.0, rel=1e-3)
    assert [number(frame) for frame in clip.frames] == list(range(len(marked)))
    assert clip.audio_s == pytest.approx(2.0, abs=0.08)
    assert strongest_hertz(clip.audio) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_mono_or_stereo_becomes_16_khz_mono(tmp_path, rate, channels):
    sound = np.stack([tone(rate, 1.0)] * channels)
    path = write(
        tmp_path / "sound.mov", None, sound, audio_rate=rate, channels=channels, codecs=("", "pcm_s16le")
    )
    clip = read_clip(path)
    assert clip.frames == [] and clip.fps == 0.0
    assert len(clip.audio) == pytest.approx(AUDIO_RATE, abs=40)
    assert strongest_hertz(clip.audio) == pytest.approx(440, abs=2)
    assert np.abs(clip.audio.astype(int)).max() == pytest.approx(16_384, rel=0.02)


def test_sound_that_is_16_khz_mono_already_keeps_its_samples(tmp_path, clip):
    path = write(tmp_path / "sound.mkv", None, clip[1], audio_rate=16_000)
    np.testing.assert_array_equal(read_clip(path).audio, clip[1])


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    left, right = tone(16_000, 1.0), np.zeros(16_000, np.int16)
    path = write(tmp_path / "s.mkv", None, np.stack([left, right]), audio_rate=16_000, channels=2)
    np.testing.assert_allclose(read_clip(path).audio, left / 2, atol=1)


def test_a_file_without_sound_gives_frames_and_no_samples(tmp_path, marked):
    clip = read_clip(write(tmp_path / "mute.mp4", marked, None))
    assert len(clip.frames) == len(marked) and len(clip.audio) == 0


def test_a_variable_rate_is_laid_on_an_even_grid_by_time_stamps(tmp_path, marked):
    # The first 20 frames at 25 a second, then each shown for 120 ms.
    times = [40 * i for i in range(20)] + [800 + 120 * i for i in range(10)]
    path = write(tmp_path / "vfr.mkv", marked[:30], tone(48_000, 2.0), times_ms=times)
    clip = read_clip(path)
    shown = [number(frame) for frame in clip.frames]
    for k, frame in enumerate(shown):
        at_ms = 1000 * k / clip.fps
        assert abs(times[frame] - at_ms) <= 121 and times[frame] <= at_ms + 3, (k, frame)
    assert shown == sorted(shown)
    assert clip.video_s == pytest.approx(2.0, abs=0.15)
    assert shown[-1] >= 28


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_display_rotation_and_mirror_are_applied(tmp_path, marked, rotation, mirrored):
    path = write(tmp_path / "turned.mp4", marked[:2], None, rotation=rotation, mirrored=mirrored)
    upright = read_clip(write(tmp_path / "upright.mp4", marked[:2], None)).frames
    for a, b in zip(read_clip(path).frames, upright, strict=True):
        turned = np.rot90(b, rotation // 90)
        np.testing.assert_array_equal(a, turned[:, ::-1] if mirrored else turned)


def test_a_phone_clip_filmed_sideways_comes_out_upright(tmp_path, marked):
    # A display matrix of −90° asks the player for a clockwise quarter turn.
    path = write(tmp_path / "phone.mp4", marked[:2], None, rotation=-90)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == -90
    frame = read_clip(path).frames[0]
    plain = read_clip(write(tmp_path / "plain.mp4", marked[:2], None)).frames[0]
    np.testing.assert_array_equal(frame[0], plain[::-1, 0])  # its left edge, read upwards, is the top now


def test_a_window_takes_the_frames_and_the_sound_between_two_times(tmp_path, marked):
    sound = np.concatenate([tone(48_000, 1.0, 300), tone(48_000, 1.0, 600)])
    for suffix in ("mp4", "mkv", "webm", "mpg", "avi"):
        path = write(tmp_path / f"window.{suffix}", marked, sound)
        clip = read_clip(path, start_s=1.0, end_s=1.8)
        numbers = [number(frame) for frame in clip.frames]
        assert len(numbers) in (20, 21), suffix
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), suffix
        assert abs(numbers[0] - 25) <= 1, suffix
        assert clip.audio_s == pytest.approx(0.8, abs=0.05), suffix
        assert strongest_hertz(clip.audio[1600:]) == pytest.approx(600, abs=5), suffix


@pytest.mark.parametrize(
    ("name", "codecs", "keyframes_every"),
    [
        ("a.mpg", ("mpeg1video", "mp2"), 100),
        ("a.ts", ("libx264", "mp2"), 250),
        ("a.mts", ("mpeg2video", "mp2"), 12),
    ],
)
def test_a_window_of_a_stream_without_an_index_has_all_of_its_frames_each_decoded_once(
    tmp_path, marked, name, codecs, keyframes_every
):
    path = write(
        tmp_path / name, marked * 8, tone(48_000, 16.0), codecs=codecs, keyframes_every=keyframes_every
    )
    called = []
    clip = read_clip(path, start_s=14.2, end_s=15.4, on_frame=lambda frame: called.append(frame) or frame)
    numbers = [number(frame) for frame in clip.frames]
    assert len(numbers) == pytest.approx(30, abs=1) and abs(numbers[0] - 14.2 * 25 % len(marked)) <= 2
    assert {(number(b) - number(a)) % len(marked) for a, b in pairwise(called)} == {1}
    assert clip.audio_s == pytest.approx(1.2, abs=0.05)


def test_windows_of_a_real_file_are_slices_of_the_whole():
    path = real_clips.talking_file()
    whole, part = real_clips.decode(path), real_clips.decode(path, start_s=0.8, end_s=1.6)
    first = next(i for i, frame in enumerate(whole.frames) if np.array_equal(frame, part.frames[0]))
    assert first == pytest.approx(0.8 * whole.fps, abs=1)
    for a, b in zip(part.frames, whole.frames[first:], strict=False):
        np.testing.assert_array_equal(a, b)
    at = round(first / whole.fps * AUDIO_RATE)
    a, b = part.audio[800:8000].astype(float), whole.audio[at + 800 : at + 8000].astype(float)
    assert np.abs(a - b).max() <= 0.02 * np.abs(b).max() + 4  # the resampler started elsewhere


def test_sound_that_starts_later_than_the_picture_is_preceded_by_silence(tmp_path, marked):
    path = write(tmp_path / "late.mkv", marked, tone(16_000, 1.0), audio_rate=16_000, sound_starts_s=0.5)
    audio = read_clip(path).audio
    assert not audio[:7900].any()
    assert np.abs(audio[8100:8500].astype(int)).max() > 10_000
    assert len(audio) == pytest.approx(24_000, abs=20)


@pytest.mark.parametrize("start_s", [None, 0.6])
@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_sound_that_begins_before_the_clock_of_a_stream_is_cut_there_and_stays_in_time(
    tmp_path, marked, name, start_s
):
    rate, early_s = 48_000, 12.0
    audio = np.concatenate(
        [np.zeros(round((early_s + 1) * rate), np.int16), tone(rate, 0.05), np.zeros(rate, np.int16)]
    )
    # So long a picture is written before any sound, and nothing is shifted.
    frames, codecs = marked[:1] * 275, ("mpeg2video", "mp2")
    path = write(tmp_path / name, frames, audio, codecs=codecs, sound_starts_s=-early_s)
    clip = read_clip(path, start_s=start_s)
    at = np.flatnonzero(np.abs(clip.audio.astype(int)) > 5_000)[0] / AUDIO_RATE
    assert len(clip.frames) / 25 - at == pytest.approx(11 - 1, abs=0.01)


def test_one_frame_and_a_moment_of_sound_are_a_clip_too(tmp_path, marked):
    clip = read_clip(write(tmp_path / "short.mp4", marked[:1], tone(48_000, 0.05)))
    assert len(clip.frames) == 1
    assert 0 < clip.audio_s < 0.2


@pytest.mark.parametrize("suffix", ["mkv", "avi", "flv", "webm", "mpg"])
def test_a_file_that_was_cut_off_gives_what_is_left_of_it(tmp_path, marked, suffix):
    path = write(tmp_path / f"whole.{suffix}", marked, tone(48_000, 2.0))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = read_clip(cut)
    assert 5 <= len(clip.frames) < 50
    assert [number(frame) for frame in clip.frames[:5]] == [0, 1, 2, 3, 4]


def test_a_damaged_middle_does_not_end_the_clip(tmp_path, marked):
    path = write(tmp_path / "clip.avi", marked, tone(48_000, 2.0), codecs=("mjpeg", "pcm_s16le"))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = os.urandom(300)
    path.write_bytes(data)
    assert len(read_clip(path).frames) >= 40


def files_that_are_no_clips(folder, marked):
    """(path, what the reason says)"""
    empty = folder / "empty.mp4"
    empty.touch()
    yield empty, "empty"
    text = folder / "text.mp4"
    text.write_text("this is not a video " * 100)
    yield text, "not a readable video"
    yield folder / "absent.mp4", "no such file"
    yield folder, "folder"
    whole = write(folder / "whole.mp4", marked, tone(48_000, 2.0))
    cut = folder / "cut.mp4"  # the index of an MP4 stands at its end
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    yield cut, "not a readable video"
    playlist = folder / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nwhole.mp4\n#EXT-X-ENDLIST\n")
    yield playlist, "list of other files|not a readable video"


def test_a_file_that_is_no_clip_is_one_error_with_a_short_reason(tmp_path, marked):
    for path, reason in files_that_are_no_clips(tmp_path, marked):
        with pytest.raises(MediaError, match=reason) as caught:
            read_clip(path)
        text = str(caught.value)
        assert len(text) < 120 and "\n" not in text and str(tmp_path) not in text


def test_a_window_after_the_end_says_so(tmp_path, marked):
    path = write(tmp_path / "clip.mp4", marked, tone(48_000, 2.0))
    with pytest.raises(MediaError, match=r"nothing between 5 s and 6 s"):
        read_clip(path, start_s=5.0, end_s=6.0)


@given(
    st.lists(st.integers(5, 200), min_size=1, max_size=60),
    st.sampled_from([10.0, 23.976, 25.0, 29.97, 60.0]),
)
def test_the_grid_shows_at_each_point_the_newest_frame(gaps_ms, rate):
    times = np.concatenate([[0], np.cumsum(gaps_ms)]) / 1000
    indices = lay_on_grid(times, rate, last_s=1 / rate)
    assert indices[0] == 0
    assert indices == sorted(indices)
    assert len(indices) == pytest.approx((times[-1] + 1 / rate) * rate, abs=0.51)
    for k, index in enumerate(indices):
        assert times[index] <= k / rate + 0.0021
        assert index == len(times) - 1 or times[index + 1] > k / rate + 0.0019


@given(st.integers(2, 400), st.sampled_from([11.9, 24.0, 25.0, 29.97, 50.0]), st.integers(0, 10_000))
def test_a_constant_rate_is_recognised_through_millisecond_stamps_and_keeps_every_frame(
    count, rate, start_ms
):
    times = np.round(start_ms + 1000 * np.arange(count) / rate) / 1000
    assert is_even(times)
    assert lay_on_grid(np.arange(count) / rate, rate, 1 / rate) == list(range(count))


@given(st.integers(5, 200), st.data())
def test_one_dropped_frame_makes_the_rate_variable(count, data):
    times = [i / 25 for i in range(count)]
    del times[data.draw(st.integers(1, count - 2))]
    assert not is_even(times)


def test_the_formats_here_are_those_that_are_promised():
    assert set(containers.FORMATS) == {"mp4", "avi", "flv", "mkv", "mov", "webm", "mpg"}
