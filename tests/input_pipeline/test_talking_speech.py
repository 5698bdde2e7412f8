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
)

PLAIN = Delivery(pitch=50, pitch_range=50, rate=175, volume=60, word_gap=0)


def duration_s(speech):
    return len(speech.audio) / RATE


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
        assert starts == sorted(starts) and starts[0] >= 0
        assert 1.4 < duration_s(speech) < 2.6 and speech.phonemes[-1] == (duration_s(speech), "")


def test_rate_volume_and_pauses_do_what_they_say():
    text = SENTENCES["kettle"]
    plain = speak(text, "f1", PLAIN)
    assert duration_s(speak(text, "f1", PLAIN._replace(rate=220))) < 0.85 * duration_s(plain)
    assert duration_s(speak(text, "f1", PLAIN._replace(word_gap=3))) > duration_s(plain) + 0.1
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
    ends_s = duration_s(speech)
    times = np.arange(-0.2, ends_s + 0.2, 0.005)
    opening = lips(speech, times)[:, 0]
    assert opening.min() >= 0 and opening.max() <= 1
    assert not opening[times < 0].any() and not opening[times > ends_s].any()
    for (start, name), (end, _) in itertools.pairwise(speech.phonemes):
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
    [("get_library_path", "cannot be loaded"), ("get_data_path", "does not start in")],
)
def test_a_damaged_espeak_is_one_line(broken, said, monkeypatch, tmp_path):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, broken, lambda: str(tmp_path / "nowhere" / "file"))
    with pytest.raises(DataError, match=said) as caught:
        speak("A boat.", "f1", PLAIN)
    assert "\n" not in str(caught.value)
