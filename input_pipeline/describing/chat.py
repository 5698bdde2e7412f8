"""Descriptions by a multimodal language model, here or far away, behind an address that speaks OpenAI's chat protocol
(POST /chat/completions): vLLM, llama.cpp, Ollama, `transformers serve` and most services do.

A clip is asked about once: its pictures, evenly over its time, and on request its sound, with one prompt. Answers are
kept in `ANSWERS` as they come, by what was asked, so a call that was stopped, or has more clips, asks the rest alone.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import threading
import urllib.error
import urllib.request
import wave
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.describing import readable
from input_pipeline.errors import DataError
from input_pipeline.record import Record
from input_pipeline.records import Records
from input_pipeline.texts import Described

ANSWERS = "answers.jsonl"  # in the folder of `avemo describe`
PROMPT = (
    "This is one short clip of a person. First reason about what can be seen{heard}. Then end with a line that begins "
    "with 'Description:' and says in one or two sentences how the person looks{sounds} and which emotion that suggests."
)
_ENDS_IN = "Description:"
_TIMEOUT_S = 600.0
_WAITS_S = (1.0, 4.0, 16.0, 60.0)  # between tries of what may go well later


def describe(
    records: Records,
    *,
    folder: Path,
    model: str,
    address: str = "http://localhost:8000/v1",
    prompt: str = "",
    pictures: int = 4,
    sound: bool = False,
    parallel: int = 4,
    temperature: float = 0.0,
    request: str = "{}",
) -> Iterator[Described]:
    """What the model says of every clip that has a picture or, where sound is sent, a sound.

    Args:
      folder: where answers are kept.
      model: its name at the address.
      address: in front of /chat/completions. The key, where one is needed, is OPENAI_API_KEY of the environment.
      prompt: instead of `PROMPT`. Of an answer what follows its last "Description:" counts, or else all of it.
      pictures: how many of a clip.
      sound: send it too, as WAV, to a model that takes `input_audio`.
      parallel: clips that are asked about at once.
      temperature: 0 is the likeliest answer.
      request: further fields of the request, a JSON object: {"max_tokens": 300}.

    Raises:
      DataError: options that ask nothing, no answer, one that refuses, or one that is none.
    """
    if pictures < 0 or parallel < 1 or not (pictures or sound):
        raise DataError("--by chat: nothing to ask with; --options pictures=4 parallel=4, or sound=true")
    if not address.startswith(("http://", "https://")):
        raise DataError(f"--options address={address}: to begin with http:// or https://")
    more = _fields(request)
    prompt = prompt or PROMPT.format(
        heard=" and heard" if sound else "", sounds=" and sounds" if sound else ""
    )
    url = f"{address.rstrip('/')}/chat/completions"
    kept, stop = _Answers(folder / ANSWERS), threading.Event()
    waiting: deque[tuple[str, Future[str]]] = deque()
    pool, anybody_there = ThreadPoolExecutor(parallel), False

    def ask(clip_id: str, asked: str, body: bytes, waits: Sequence[float]) -> str:
        answer = _ask(url, body, waits, stop)
        kept.keep(clip_id, asked, answer)  # at once: of those asked before it one may fail
        return answer

    try:
        for record in readable(records):
            parts = _parts(record, pictures, sound)
            if not parts:
                continue
            message = {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}
            fields = {"temperature": temperature, **more, "model": model, "messages": [message]}
            body = json.dumps(fields, sort_keys=True).encode()
            asked = hashlib.sha256(body).hexdigest()
            if asked in kept.answers:
                yield from _described(record.clip_id, kept.answers[asked])
                continue
            # The first question is asked alone and once: a wrong address is then said at once.
            waits = _WAITS_S if anybody_there else ()
            waiting.append((record.clip_id, pool.submit(ask, record.clip_id, asked, body, waits)))
            if not anybody_there or len(waiting) >= 2 * parallel:
                yield from _next(waiting)
                anybody_there = True
        while waiting:
            yield from _next(waiting)
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _fields(request: str) -> dict[str, Any]:
    try:
        fields = json.loads(request)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise DataError(
            f"--options request={request}: to be a JSON object, such as request='{{\"max_tokens\": 300}}'"
        )
    return fields


class _Answers:
    """Answers by what was asked, in memory and in a file that grows by a line for each, from any thread."""

    def __init__(self, path: Path):
        self.path, self.answers, self._lock = path, dict[str, str](), threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
        for line in filter(None, lines):
            try:
                row = json.loads(line)
                self.answers[row["asked"]] = row["answer"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off in its writing: that clip is asked about again
        if lines[-1]:
            self._append("\n")

    def keep(self, clip_id: str, asked: str, answer: str) -> None:
        row = {"clip_id": clip_id, "asked": asked, "answer": answer}
        with self._lock:
            self.answers[asked] = answer
            self._append(json.dumps(row, ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def _next(waiting: deque[tuple[str, Future[str]]]) -> Iterator[Described]:
    clip_id, answer = waiting.popleft()
    yield from _described(clip_id, answer.result())


def _described(clip_id: str, answer: str) -> Iterator[Described]:
    """The description in an answer; none where a model says nothing."""
    text = " ".join(answer.rpartition(_ENDS_IN)[2].strip("* \n").split())
    if text:
        yield Described(clip_id, text)


def _parts(record: Record, pictures: int, sound: bool) -> list[dict[str, Any]]:
    """The parts of a message that show a clip; none where it has neither picture nor sound to send."""
    parts: list[dict[str, Any]] = []
    if pictures and len(record.frames):
        middles = (np.arange(pictures) + 0.5) * len(record.frames) / pictures
        for index in sorted(set(middles.astype(int).tolist())):
            data = base64.b64encode(record.frames[index]).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    if sound and len(record.audio):
        data = base64.b64encode(_wav(record)).decode()
        parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    return parts


def _wav(record: Record) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(record.audio_rate)
        file.writeframes(record.audio.astype("<i2").tobytes())
    return buffer.getvalue()


def _ask(url: str, body: bytes, waits: Sequence[float], stop: threading.Event) -> str:
    """The answer's text, empty where there is none; asked again after each of `waits` where it may go well later."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    for wait in (*waits, None):
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers), timeout=_TIMEOUT_S
            ) as answer:
                return _text_of(answer.read(), url)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.reason}: {_reason(error)}"
            if error.code != 429 and error.code < 500:
                raise DataError(f"--by chat: {url} refuses: {why}") from error
        except (OSError, http.client.HTTPException) as error:
            why = str(getattr(error, "reason", "") or error or type(error).__name__)
        if wait is None or stop.wait(wait):
            break
    raise DataError(
        f"--by chat: {url} does not answer: {' '.join(why.split())}; answers so far are kept, and the same command "
        "goes on"
    )


def _text_of(answer: bytes, url: str) -> str:
    try:
        return json.loads(answer)["choices"][0]["message"]["content"] or ""
    except (ValueError, LookupError, TypeError) as error:
        said = " ".join(answer[:200].decode(errors="replace").split())
        raise DataError(f"--by chat: {url} answers what is no chat completion: {said}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """What the body of an error says, as one line."""
    text = error.read(2000).decode(errors="replace")
    try:
        said = json.loads(text)
        said = said.get("error", said)
        text = said.get("message", text) if isinstance(said, dict) else str(said)
    except (ValueError, AttributeError):
        pass
    return " ".join(str(text).split())[:300]
