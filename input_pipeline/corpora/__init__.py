"""Corpora as they are published: folders and file names → rows of a manifest, one file a corpus.

    listing = list_corpus("crema_d", root)      # rows, files that are refused with the reason, notes

An adapter reads names and the corpus's own tables, never the media. It gives what the corpus publishes and
invents nothing; files that are no clips of it are refused, one reason each. Not here: decoding (prepare).
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from input_pipeline.corpora.listing import Listing as Listing
from input_pipeline.errors import DataError

# Each is a module here with `list_clips(root) -> Listing`.
CORPORA = {
    "folder": "any folder",
    "voxceleb2": "VoxCeleb2",
    "crema_d": "CREMA-D",
    "ravdess": "RAVDESS",
    "grid": "GRID",
    "mafw": "MAFW",
    "werewolf_xl": "Werewolf-XL",
    "traces": "recordings with continuous ratings",
}


def list_corpus(name: str, root: str | os.PathLike, *, layout: str = "") -> Listing:
    """The clips of a corpus that lies in `root` as it was unpacked.

    layout: for `folder` alone: what the folders between `root` and the files say (see `folder`).

    Raises:
      DataError: no such corpus or folder, a table of the corpus is missing or damaged, or no clip is found.
    """
    if name not in CORPORA:
        raise DataError(f"--corpus {name}: there are {', '.join(CORPORA)}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (--root)")
    if layout and name != "folder":
        raise DataError(f"--layout is for --corpus folder: {name} has a layout of its own")
    adapter = importlib.import_module(f"input_pipeline.corpora.{name}")
    listing = adapter.list_clips(root, layout) if name == "folder" else adapter.list_clips(root)
    if not listing.rows:
        refused = listing.refused
        why = f": {len(refused)} files were refused, the first ({refused[0].path}): {refused[0].reason}"
        raise DataError(
            f"{root}: no clip of {CORPORA[name]} in it{why if refused else ''}; see docs/corpora.md"
        )
    return listing
