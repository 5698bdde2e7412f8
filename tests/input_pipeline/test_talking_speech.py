"""Spoken sentences: the same samples whatever was said before, phonemes in time, lips that close."""

import itertools
import sys

import numpy as np
import pytest

from input_pipeline.errors import DataError
from input_pipeline.talking_faces.speech import (
    MANNERS,
    RATE,
    SENTENCES,
    VOICES,
    Delivery,
    deliver,
    lips,
    speak,
    tilted,
)

PLAIN = Delivery(pitch=50, pitch_range=50, rate=175, volume=60, word_gap=0)


def level_db(audio):
    return 20 * np.log10(np.sqrt(np.mean(np.square(audio))))


def test_a_sentence_sounds_the_same_whatever_was_said_before_it():
    first = speak(SENTENCES["river"], "f3", PLAIN)
    speak(SENTENCES["music"], "m1", PLAIN._replace(pitch=20))
    again = speak(SENTENCES["river"], "f3", PLAIN)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.phonemes == again.phonemes


def test_every_voice_sounds_different():
    voices = [*VOICES["f"], *VOICES["m"]]
    assert len({speak("A boat.", voice, PLAIN).audio.tobytes() for voice in voices}) == len(voices) == 16


def test_phonemes_follow_one_another_within_the_sound():
    for text in SENTENCES.values():
        speech = speak(text, "m3", PLAIN)
        starts = [start for start, _ in speech.phonemes]
        assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] <= speech.duration_s
        assert 1.4 < speech.duration_s < 2.6


def test_rate_volume_and_pauses_do_what_they_say():
    text = SENTENCES["kettle"]
    plain = speak(text, "f1", PLAIN)
    assert speak(text, "f1", PLAIN._replace(rate=220)).duration_s < 0.85 * plain.duration_s
    assert speak(text, "f1", PLAIN._replace(word_gap=3)).duration_s > plain.duration_s + 0.1
    louder = speak(text, "f1", PLAIN._replace(volume=85)).audio
    assert level_db(louder) - level_db(plain.audio) == pytest.approx(3, abs=0.5)
    assert np.abs(speak(text, "m7", PLAIN._replace(volume=100)).audio).max() < 0.99


def test_pitch_raises_the_fundamental():
    def fundamental(pitch):
        audio = speak(SENTENCES["river"], "m3", PLAIN._replace(pitch=pitch)).audio
        power = np.abs(np.fft.rfft(audio, 2 * len(audio))) ** 2
        similar = np.fft.irfft(power)[RATE // 300 : RATE // 60]
        return RATE / (np.argmax(similar) + RATE // 300)

    assert fundamental(30) < 0.93 * fundamental(50) < 0.87 * fundamental(70)


def test_tilt_changes_the_balance_and_not_1_khz():
    time = np.arange(RATE) / RATE
    for hertz, change_db in ((500, -3), (1000, 0), (4000, 6)):
        tone = np.sin(2 * np.pi * hertz * time)
        assert level_db(tilted(tone, 3)) - level_db(tone) == pytest.approx(change_db, abs=0.1)


def test_an_emotion_changes_the_delivery_by_its_strength_and_leaves_neutral_alone():
    still = np.zeros(5)
    assert deliver(PLAIN, "neutral", 0.0, still) == PLAIN
    for emotion in set(MANNERS) - {"neutral"}:
        weak, strong = (deliver(PLAIN, emotion, strength, still) for strength in (0.4, 1.0))
        assert abs(strong.pitch - 50) > abs(weak.pitch - 50) > 0
    for one, other in itertools.combinations(MANNERS, 2):
        assert deliver(PLAIN, one, 1.0, still) != deliver(PLAIN, other, 1.0, still)


def test_lips_close_for_m_b_and_p_open_for_vowels_and_rest_in_silence():
    speech = speak(SENTENCES["garden"], "f1", PLAIN)
    times = np.arange(-0.2, speech.duration_s + 0.2, 0.005)
    opening = lips(speech, times)[:, 0]
    assert opening.min() >= 0 and opening.max() <= 1
    assert not opening[times < 0].any() and not opening[times > speech.duration_s].any()
    ends = [*(start for start, _ in speech.phonemes[1:]), speech.duration_s]
    for (start, name), end in zip(speech.phonemes, ends, strict=True):
        inside = opening[(times >= start) & (times <= end)]
        if name in "mbp":
            assert inside.min() < 0.03, name
        if name.strip("',").startswith(("a", "O", "0", "3", "I")) and end - start > 0.06:
            assert inside.max() > 0.25, name


def test_a_missing_espeak_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(DataError, match=r"not installed: pip install 'avemo_jax\[demo\]'"):
        speak("A boat.", "f1", PLAIN)


@pytest.mark.parametrize(
    ("broken", "said"),
    [("get_library_path", "cannot be loaded"), ("get_data_path", "does not start with its data")],
)
def test_a_damaged_espeak_is_one_line(broken, said, monkeypatch, tmp_path):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, broken, lambda: str(tmp_path / "nowhere" / "file"))
    with pytest.raises(DataError, match=said) as caught:
        speak("A boat.", "f1", PLAIN)
    assert "\n" not in str(caught.value)


def test_an_unknown_voice_is_refused():
    with pytest.raises(DataError, match="there is no voice 'f99'"):
        speak("A boat.", "f99", PLAIN)
