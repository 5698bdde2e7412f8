"""Folders named as corpora are, and what adapters make of them, for tests."""

from __future__ import annotations

from pathlib import Path

from input_pipeline.corpora.listing import Listing


def tree(root: Path, *names: str) -> Path:
    """Empty files of these names: adapters never open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding)


def by_id(listing: Listing) -> dict:
    return {row.clip_id: row for row in listing.rows}


def reasons(listing: Listing) -> dict[str, str]:
    assert all(file.reason and "\n" not in file.reason for file in listing.refused)
    return {file.path: file.reason for file in listing.refused}
