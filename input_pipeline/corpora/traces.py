"""Recordings with continuous ratings (as in MuSe: Stappen et al. 2021): videos, and beside each NAME.csv with traces.

The CSV has a column `time_s` and one for each trace, as `valence`; an empty cell is not rated. A recording becomes
windows that overlap by half, whose labels are the means of what was rated in them. A clip is named RECORDING@START-END,
by which predictions are joined again (`avemo finetune`, `data.stitch`). The speaker is the folder that a video lies in,
or without one the recording. Windows of another length: a manifest with names of the same form.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from input_pipeline.corpora.listing import VIDEO, WESTERN, Listing, media_files, table
from input_pipeline.errors import DataError
from input_pipeline.manifests import Row

WINDOW_S, HOP_S = 3.0, 1.5
_TIME = "time_s"


def list_clips(root: Path) -> Listing:
    """The windows of every video below `root` that has traces."""
    listing = Listing()
    for path in media_files(root, listing, VIDEO):
        traces = root / path.with_suffix(".csv")
        if not traces.exists():
            listing.refuse(str(path), "no traces beside it (a CSV file of the same name)")
            continue
        times, values = read_traces(traces)
        recording = str(path.with_suffix(""))
        speaker = path.parent.name or recording
        for start, end, means in windows(times, values):
            name = f"{recording}@{start:.3f}-{end:.3f}"
            listing.take(Row(str(path), name, speaker=speaker, start_s=start, end_s=end, labels=dict(means)))
    return listing


def read_traces(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times [T] in seconds, and each trace [T], NaN where nothing was rated.

    Raises:
      DataError: no times or traces, text among the numbers, or times that do not rise.
    """
    rows = table(path, (_TIME,), WESTERN)
    names = [name for name in (rows[0] if rows else {}) if name != _TIME]
    if not names:
        raise DataError(f"{path}: no traces beside {_TIME}")
    try:
        times = np.array([float(row[_TIME]) for row in rows])
        values = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if not (np.diff(times) > 0).all():
        raise DataError(f"{path}: {_TIME} does not rise from row to row")
    return times, values


def windows(
    times: np.ndarray, values: dict[str, np.ndarray], window_s: float = WINDOW_S, hop_s: float = HOP_S
) -> Iterator[tuple[float, float, dict[str, float]]]:
    """(start, end, mean of each trace) of windows from the first time on; those in which a trace was not rated at all
    are left out, and so is a last one that the times do not fill."""
    start = float(times[0])
    while start + window_s <= times[-1] + 1e-9:
        inside = (times >= start) & (times < start + window_s)
        rated = {name: trace[inside & np.isfinite(trace)] for name, trace in values.items()}
        if all(len(found) for found in rated.values()):
            yield start, start + window_s, {name: float(found.mean()) for name, found in rated.items()}
        start += hop_s
