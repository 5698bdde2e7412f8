"""Records that lack picture or sound: refused unless asked for, and then as clips whose stream was dropped."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from avemo_jax import augmentation
from input_pipeline.audio import samples_for
from input_pipeline.errors import DataError
from input_pipeline.examples import Cut
from input_pipeline.loader import eval_batches, make_loader
from input_pipeline.records import open_records
from tests.evaluation import synthetic

SIZES = {"frames": 4, "image_size": 32, "audio_frames": 64}
LACKING = {1: "sound", 2: "picture"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same clips whole, and every eighth without sound, every eighth without picture."""
    place = tmp_path_factory.mktemp("missing")
    synthetic.write_folder(place / "whole")
    synthetic.write_folder(place / "lacking", lambda number: LACKING.get(number % 8, ""))
    return place


def records_of(folders):
    return open_records(folders / "whole"), open_records(folders / "lacking")


def test_they_are_refused_unless_asked_for(folders):
    _, lacking = records_of(folders)
    cut = Cut(**SIZES)
    for number, reason in ((1, "no sound"), (2, "no picture")):
        with pytest.raises(DataError, match=reason):
            cut.train(lacking[number], np.random.default_rng(0))
        with pytest.raises(DataError, match=reason):
            cut.segment(lacking[number], 0, 2)


@pytest.mark.parametrize("whole", [(), (36, 48)])
def test_without_sound_it_is_the_clip_whose_sound_was_dropped(folders, whole):
    full, lacking = records_of(folders)
    cut = Cut(**SIZES, whole=whole, allow_missing=True)
    for make in (
        lambda record: cut.train(record, np.random.default_rng(5)),
        *([lambda record: cut.segment(record, 1, 2)] if not whole else []),
    ):
        batch = jax.tree.map(lambda x: np.asarray(x)[None], make(full[1]))
        dropped = augmentation.without(batch, np.array([False]), np.array([True]))
        found = make(lacking[1])
        assert found.keys() == dropped.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, dropped[name][0], err_msg=name)


@pytest.mark.parametrize("whole", [(), (36, 48)])
def test_without_picture_it_is_black_and_its_sound_a_random_part_of_the_clips(folders, whole):
    full, lacking = records_of(folders)
    cut = Cut(**SIZES, whole=whole, allow_missing=True)
    starts = set()
    for seed in range(8):
        example = cut.train(lacking[2], np.random.default_rng(seed))
        assert not example["video"].any()
        assert example["waveform_length"] == samples_for(64)
        windows = np.lib.stride_tricks.sliding_window_view(full[2].audio, samples_for(64))
        (start,) = np.flatnonzero((windows == example["waveform"]).all(1))
        starts.add(int(start))
        expected = example["waveform"].astype(np.float64).mean() / 32768
        assert example["waveform_mean"] == pytest.approx(expected, abs=1e-7)
    assert len(starts) > 4
    if not whole:
        first, last = (cut.segment(lacking[2], k, 2)["waveform"] for k in (0, 1))
        np.testing.assert_array_equal(first, full[2].audio[: samples_for(64)])
        np.testing.assert_array_equal(last, full[2].audio[-samples_for(64) :])


def test_training_batches_hold_them_only_when_asked(folders):
    data = SimpleNamespace(
        path=str(folders / "lacking"), frame_stride=4, crop="none", flip=False, workers=0, prefetch=1
    )
    found = {}
    for allowed in (False, True):
        data.allow_missing = allowed
        loader = make_loader(data, **SIZES, batch_size=48, seed=0, max_unreadable_share=1.0)
        batch = next(iter(loader))
        loader.close()
        found[allowed] = {
            what: int((batch["position"] % 8 == number).sum()) for number, what in LACKING.items()
        }
        assert len(loader.unreadable) == (0 if allowed else 12)
    assert found == {False: {"sound": 0, "picture": 0}, True: {"sound": 6, "picture": 6}}


def test_test_views_hold_them_only_when_asked(folders):
    for allowed, readable in ((False, 36), (True, 48)):
        (batch,) = eval_batches(
            str(folders / "lacking"),
            **SIZES,
            batch_size=48,
            view="segment",
            segment=(0, 2),
            allow_missing=allowed,
        )
        assert batch["valid"].sum() == readable


def test_a_record_with_neither_is_never_taken(folders):
    record = records_of(folders)[1][1]
    record.frames = []
    with pytest.raises(DataError, match="neither picture nor sound"):
        Cut(**SIZES, allow_missing=True).train(record, np.random.default_rng(0))


def test_what_a_clip_has_alone_is_never_dropped(folders):
    _, lacking = records_of(folders)
    cut = Cut(**SIZES, allow_missing=True)
    numbers = [*range(1, 48, 8), *range(2, 48, 8), *range(3, 48, 8)]
    examples = [cut.train(lacking[number], np.random.default_rng(number)) for number in numbers]
    batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
    dropped = augmentation.drop_modalities(
        batch, jax.random.split(jax.random.key(0), 18), video=0.5, audio=0.5
    )
    seen = np.asarray(dropped["video"]).any((1, 2, 3, 4))
    heard = np.asarray(dropped["waveform_length"]) > 0
    np.testing.assert_array_equal(seen[:12], [True] * 6 + [False] * 6)
    np.testing.assert_array_equal(heard[:12], ~seen[:12])
    assert (seen[12:] != heard[12:]).all()  # of these one of both is drawn
