"""Corpora as they are published: folders and file names → rows of a manifest, one file a corpus.

    listing = list_corpus("crema_d", root)      # rows, files that are refused with the reason, notes

An adapter reads names and the corpus's own tables, never the media. It gives what the corpus publishes and
invents nothing; files that are no clips of it are refused, one reason each. Not here: decoding (prepare).
"""

from __future__ import annotations

import os
import pkgutil
from pathlib import Path

from input_pipeline import own_files
from input_pipeline.corpora.listing import Listing as Listing
from input_pipeline.errors import DataError

# Each is a module here with `list_clips(root) -> Listing`.
CORPORA = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "listing"))


def list_corpus(name: str, root: str | os.PathLike, *, layout: str = "") -> Listing:
    """The clips of a corpus that lies in `root` as it was unpacked.

    name: one of `CORPORA`, or a Python file of one's own with `list_clips(root) -> Listing`.
    layout: for `folder` alone: what the folders between `root` and the files say (see `folder`).

    Raises:
      DataError: no such corpus or folder, a table of the corpus is missing or damaged, or no clip is found.
    """
    adapter = own_files.find(name, "--corpus", __name__, CORPORA, "list_clips(root)")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (--root)")
    if layout and name != "folder":
        raise DataError(f"--layout is for --corpus folder: {name} has a layout of its own")
    listing = adapter.list_clips(root, layout) if name == "folder" else adapter.list_clips(root)
    if not listing.rows:
        refused = listing.refused
        why = f": {len(refused)} files were refused, the first ({refused[0].path}): {refused[0].reason}"
        raise DataError(
            f"{root}: no clip of --corpus {name} in it{why if refused else ''}; see docs/corpora.md"
        )
    return listing
