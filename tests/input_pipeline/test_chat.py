"""Descriptions by a model behind an address: what it is asked, what is kept of its answers, what goes wrong."""

import base64
import io
import json
import threading
import time
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from input_pipeline import describing
from input_pipeline.describing import chat
from input_pipeline.errors import DataError
from tests.input_pipeline.test_describing import Some, record, voice


class Model(ThreadingHTTPServer):
    """Speaks the protocol. `answers` are (status, body), texts or functions of the request's body that give such, one a
    request; the last one again and again."""

    def __init__(self, *answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.requests, self.headers = list(answers), [], []
        self.lock = threading.Lock()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append(dict(self.headers))
            answers = self.server.answers
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, str):
            answer = (200, {"choices": [{"message": {"role": "assistant", "content": answer}}]})
        status, said = (404, "no such path") if self.path != "/v1/chat/completions" else answer
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def ask(model, folder, *options, some=None):
    some = some or Some(record("a", voice(120, -20, 3), 1))
    options = (f"address={getattr(model, 'address', model)}", "model=some-vl", *options)
    found = describing.describe("chat", some, folder, options, say=lambda line: None)
    return {one.clip_id: one.text for one in found}


def test_a_model_is_shown_pictures_over_the_clips_time_and_its_sound(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    clip = record("a", voice(120, -20, 3), 1)
    options = ["pictures=2", "sound=true", "prompt=What is it?", "temperature=1", 'request={"max_tokens": 9}']
    with Model("A person.\n speaks. ") as model:
        assert ask(model, tmp_path, *options, some=Some(clip)) == {"a": "A person. speaks."}
    (request,) = model.requests
    assert {key: request[key] for key in ("model", "temperature", "max_tokens")} == {
        "model": "some-vl",
        "temperature": 1,
        "max_tokens": 9,
    }
    (message,) = request["messages"]
    *pictures, sound, text = message["content"]
    assert message["role"] == "user" and text == {"type": "text", "text": "What is it?"}
    shown = [one["image_url"]["url"].partition("base64,") for one in pictures]
    assert {kind for kind, _, _ in shown} == {"data:image/jpeg;"}
    middles = [len(clip.frames) // 4, 3 * len(clip.frames) // 4]
    assert [base64.b64decode(data) for _, _, data in shown] == [clip.frames[n] for n in middles]
    assert Image.open(io.BytesIO(clip.frames[0])).size == (64, 64)
    assert sound["input_audio"]["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(sound["input_audio"]["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        assert np.array_equal(np.frombuffer(file.readframes(10**6), "<i2"), clip.audio)
    assert model.headers[0]["Authorization"] == "Bearer secret"


def test_what_counts_is_said_after_the_reasons_and_what_says_nothing_is_no_description(tmp_path):
    some = Some(record("a", step=0), None, record("b", step=1), record("dark", voice(120, -20, 3)))
    with Model("It smiles.\n**Description:** A smiling\nperson.", "") as model:
        assert ask(model, tmp_path, some=some) == {"a": "A smiling person."}
    assert len(model.requests) == 2  # the damaged one cannot be shown, the one without a picture is not
    assert "Description:" in model.requests[0]["messages"][0]["content"][-1]["text"]


def test_answers_are_kept_and_only_what_is_new_is_asked(tmp_path):
    first, second = record("a", step=0), record("b", step=1)
    with Model("One.") as model:
        assert ask(model, tmp_path, some=Some(first)) == {"a": "One."}
        kept = tmp_path / chat.ANSWERS
        kept.write_text(kept.read_text() + '{"clip_id": "b", "asked": "cut o')
        model.answers = ["Two."]
        assert ask(model, tmp_path, some=Some(first, second)) == {"a": "One.", "b": "Two."}
        assert ask(model, tmp_path, some=Some(first, second)) == {"a": "One.", "b": "Two."}
        assert len(model.requests) == 2
        assert ask(model, tmp_path, "pictures=1", some=Some(first)) == {"a": "Two."}  # another question
    assert len(model.requests) == 3 and len(kept.read_text().splitlines()) == 4


def test_a_model_that_is_busy_is_asked_again_and_one_that_goes_away_costs_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "_WAITS_S", (0.01, 0.01))
    some = Some(*[record(f"clip{n}", step=n) for n in range(4)])
    busy = (503, {"error": {"message": "loading"}})
    with Model("One.", (429, "slowly"), busy, "More.") as model:
        found = ask(model, tmp_path, "parallel=1", some=some)
    assert found == {"clip0": "One.", "clip1": "More.", "clip2": "More.", "clip3": "More."}
    assert len(model.requests) == 6
    gone = tmp_path / "gone"
    with (
        Model("One.", busy) as model,
        pytest.raises(DataError, match=r"does not answer: 503 .*: loading; answers"),
    ):
        ask(model, gone, "parallel=1", some=some)
    with Model("Two.") as model:
        assert ask(model, gone, some=some) == {
            "clip0": "One.",
            **dict.fromkeys(("clip1", "clip2", "clip3"), "Two."),
        }
    assert len(model.requests) == 3


def test_answers_that_came_are_kept_though_one_asked_before_them_fails(tmp_path):
    clips = [record(f"clip{n}", step=n) for n in range(4)]
    last_shown = clips[1].frames[7 * len(clips[1].frames) // 8]
    kept, second = tmp_path / chat.ANSWERS, base64.b64encode(last_shown).decode()

    def late_and_bad(body):
        if second not in json.dumps(body):
            return "One."
        end = time.monotonic() + 5
        while len(kept.read_text().splitlines()) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        return 400, "no pictures"

    with Model(late_and_bad) as model, pytest.raises(DataError, match="refuses: 400"):
        ask(model, tmp_path, some=Some(*clips))
    rows = map(json.loads, kept.read_text().splitlines())
    assert sorted(row["clip_id"] for row in rows) == ["clip0", "clip2", "clip3"]
    with Model("Two.") as model:
        assert ask(model, tmp_path, some=Some(*clips))["clip1"] == "Two."
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            (400, {"error": {"message": "no pictures,\nplease"}}),
            "refuses: 400 Bad Request: no pictures, please",
        ),
        ((401, "who?"), "refuses: 401 Unauthorized: who?"),
        ((503, {"error": "loading"}), "does not answer: 503 Service Unavailable: loading"),
        ((200, "<html>"), "answers what is no chat completion: <html>"),
        ((200, {"choices": []}), "answers what is no chat completion"),
    ],
)
def test_a_model_that_does_not_answer_is_said_in_one_line(answer, says, tmp_path):
    with Model(answer) as model, pytest.raises(DataError) as error:
        ask(model, tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert len(model.requests) == 1 and not (tmp_path / chat.ANSWERS).exists()


@pytest.mark.parametrize(
    ("address", "options", "says"),
    [
        ("http://127.0.0.1:1/v1", [], "http://127.0.0.1:1/v1/chat/completions does not answer: "),
        ("localhost:8000", [], "address=localhost:8000: to begin with http"),
        ("http://127.0.0.1:1", ["pictures=0"], "nothing to ask with"),
        ("http://127.0.0.1:1", ["parallel=0"], "nothing to ask with"),
        ("http://127.0.0.1:1", ["request=[1]"], "request=[1]: to be a JSON object"),
        ("http://127.0.0.1:1", ["request={"], "request={: to be a JSON object"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(address, options, says, tmp_path):
    with pytest.raises(DataError) as error:
        ask(address, tmp_path, *options)
    assert says in str(error.value)
