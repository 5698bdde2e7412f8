"""What a check says: one line a finding, and how to mend what is wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """level: "ok", "note" (good to know, nothing fails) or "wrong". mend: what to do, for a wrong one."""

    level: str
    topic: str
    text: str
    mend: str = ""


def ok(topic: str, text: str) -> Finding:
    return Finding("ok", topic, text)


def note(topic: str, text: str, mend: str = "") -> Finding:
    return Finding("note", topic, text, mend)


def wrong(topic: str, text: str, mend: str) -> Finding:
    return Finding("wrong", topic, text, mend)
