"""Which question a row of results answers: rows of different questions are never mixed or compared."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

# The keys that say so, with what is usual, which is also what rows of earlier versions, without the key, are.
QUESTION = {
    "loudness": "as_recorded",
    "head": "linear",
    "missing": "none",
    "views": "cached",
    "selection": "inner_folds",
}


def question(row: Row) -> Row:
    """The row's values of `QUESTION`."""
    return {key: row.get(key, usual) for key, usual in QUESTION.items()}


def manner(row: Row, name_head: bool = False) -> list[str]:
    """What is unusual about the question, in words; the head also where it is the usual one, if asked for."""
    asked = question(row)
    words = {
        "loudness": "at equal loudness",
        "head": f"{asked['head']} head",
        "missing": f"without {asked['missing']}",
        "views": f"{asked['views']} views",
        "selection": "legacy, chosen on test clips",
    }
    return [
        words[key] for key, usual in QUESTION.items() if asked[key] != usual or (key == "head" and name_head)
    ]
