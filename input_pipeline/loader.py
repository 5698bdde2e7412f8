"""A prepared folder, or several → batches of NumPy arrays (grain): endless and shuffled to train, once to evaluate.

The global batch of step s holds the same clips, cut the same way, in the same order for any number of hosts
and workers: which clip row r of step s is, and every random draw for it, follow from (seed, s · B + r) alone.
State is therefore a seed and a step; grain's own iterator state is per worker and is not used. Not here: which
clip a row takes (orders); what an example takes from a record (examples); normalising, log-mel and masks, which
are the device's.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain.python as grain
import numpy as np
from absl import flags

from input_pipeline.errors import DataError, LostWorker
from input_pipeline.examples import TIMES, Cut, Example
from input_pipeline.mixtures import Mixture, open_data
from input_pipeline.orders import Chosen, Draw
from input_pipeline.processes import start_worker
from input_pipeline.randaugment import rand_augment_of
from input_pipeline.record import Record
from input_pipeline.records import Records, open_records
from input_pipeline.targets import target_of

Batch = dict[str, np.ndarray]

_log = logging.getLogger(__name__)
_ATTEMPTS = 8  # clips tried for one row; all unreadable means that the data is gone, not damaged
_UNREADABLE = "unreadable"  # a worker's report, taken out again: positions it could not read, or −1


class Share(NamedTuple):
    """Which of the equal parts of each global batch a process reads, in the order of its own rows.

    They need not be neighbours: a mesh follows the wires between chips, not the numbers of hosts (`mesh.data_share`).
    """

    parts: tuple[int, ...] = (0,)
    of: int = 1

    def size(self, batch_size: int) -> int:
        """Rows of a batch that are the process's."""
        return batch_size // self.of * len(self.parts)

    def row(self, local_row: int, batch_size: int) -> int:
        """The row in the stream of all processes that the process's own row is."""
        step, within = divmod(local_row, self.size(batch_size))
        part, row = divmod(within, batch_size // self.of)
        return step * batch_size + self.parts[part] * (batch_size // self.of) + row


WHOLE = Share()


class Loader:
    """Endless training batches; its `state()` can be given to `restore` of another loader of the same data.

    Each batch: `video` uint8 [B, T, H, W, 3] (whole frames, with `box` int32 [B, 4] and `flip` bool [B], where the cut
    says so), `waveform` int16 [B, S], `waveform_length` int32 [B], `waveform_mean` float32 [B], `position` int32 [B],
    and for fine-tuning `label`, int32 [B] or float32 [B, K] as its target says, where B is this process's share of the
    global batch.

    positions: only these records are drawn from; None: all.
    tables: further fields of a batch by name, arrays whose rows are positions: each clip's row.
    unreadable: {position: reason} of the records met so far that cannot be read; others took their place.
    """

    def __init__(
        self,
        records: Records | Mixture,
        cut: Cut,
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[float] = (),
        balance: str = "",
        per_group: int = 1,
        share: Share = WHOLE,
        start_step: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        max_unreadable_share: float = 0.01,
        positions: Sequence[int] | None = None,
        tables: Mapping[str, np.ndarray] | None = None,
    ):
        _check_share(batch_size, share)
        self.unreadable: dict[int, str] = {}
        self._records, self._cut, self._tables = records, cut, dict(tables or {})
        chosen = None if positions is None else np.asarray(positions, np.int64) - records.first_position
        self._draw = Draw(records, weights, balance, per_group, chosen)
        self._batch_size, self._share = batch_size, share
        self._workers, self._prefetch = workers, prefetch
        self._max_unreadable_share, self._drawn = max_unreadable_share, 0
        self._state: dict[str, Any] = {"seed": seed, "step": start_step, "data_offset": 0}
        if len(records.sizes) > 1:  # of another order of folders each position would be another clip
            self._state["folder_sizes"] = list(records.sizes)
        self._iterator: Any = None

    @property
    def dataset_size(self) -> int:
        """Clips that are drawn from."""
        return self._draw.count

    def state(self) -> dict:
        """seed; step: batches given so far; data_offset: steps to skip, raised to move on to other data;
        folder_sizes: of several folders."""
        return dict(self._state)

    def restore(self, state: dict) -> None:
        """The next `iter()` goes on from there; raises DataError when the state is of other folders."""
        sizes = list(state.get("folder_sizes", self._records.sizes))
        if sizes != list(self._records.sizes):
            raise DataError(
                f"data.paths holds folders of {_counts(self._records.sizes)} clips, the run was begun with "
                f"{_counts(sizes)}: give it the same folders in the same order, or choose another work directory"
            )
        numbers = {key: int(value) for key, value in state.items() if key != "folder_sizes"}
        self._state = {**self._state, **numbers}
        self.close()

    def clip_ids(self, positions: Sequence[int]) -> list[str]:
        """Names of clips by their `position` in a batch."""
        return _names(self._records, positions)

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        seed = self._state["seed"]
        order = self._draw.order(seed)
        rows = _TrainingRows(self._records, self._cut, seed, order, self._batch_size, self._share)
        first = self._state["step"] + self._state["data_offset"]
        self._iterator = _batches(
            rows, self._share.size(self._batch_size), first, self._workers, self._prefetch
        )
        for batch in self._iterator:
            self._account(batch.pop(_UNREADABLE))
            self._state["step"] += 1
            yield batch | {name: table[batch["position"]] for name, table in self._tables.items()}

    def close(self) -> None:
        """Ends the workers."""
        if self._iterator is not None:
            with contextlib.suppress(
                ValueError
            ):  # it is being asked for a batch, in a thread that will not ask again
                self._iterator.close()
            self._iterator = None

    def _account(self, reported):
        for position in np.unique(reported[reported >= 0]).tolist():
            if position not in self.unreadable:
                (name,) = self.clip_ids([position])
                reason = _reason(self._records, position, self._cut)
                self.unreadable[position] = reason
                _log.warning("clip %s is unreadable, another takes its place: %s", name, reason)
        self._drawn += len(reported) + int((reported >= 0).sum())
        drawn = min(self._drawn, self.dataset_size)
        if len(self.unreadable) > most_unreadable(self._max_unreadable_share, self.dataset_size, drawn):
            names = ", ".join(self.clip_ids(list(self.unreadable)[:5]))
            raise DataError(
                f"{self._records.path}: {len(self.unreadable)} of {drawn} clips that were drawn are unreadable "
                f"({names}, …), more than data.max_unreadable_share allows; prepare the folder again"
            )


def most_unreadable(share: float, size: int, drawn: int) -> float:
    """How many unreadable clips may be met among so many drawn, of a dataset of this size.

    One, or the share of the dataset; before all of it was drawn, which of many hosts none does in an epoch, the share
    of what was, and four standard deviations of chance.
    """
    expected = share * min(drawn, size)
    return max(1.0, min(share * size, expected + 4 * math.sqrt(expected)))


def make_loader(
    data: Any,
    *,
    frames: int,
    image_size: int,
    audio_frames: int,
    batch_size: int,
    seed: int,
    share: Share = WHOLE,
    start_step: int = 0,
    max_unreadable_share: float = 0.01,
    positions: Sequence[int] | None = None,
    tables: Mapping[str, np.ndarray] | None = None,
) -> Loader:
    """The training loader of a config.

    data: an object with `path`, `frame_stride`, `crop`, `flip`, `workers`, `prefetch`; for fine-tuning also
      `label`, `classes` and `target` (see `targets.Target`), and `rand_augment`; `split` limits it to one split;
      `paths` instead of `path` for several folders, `weights`, `balance` and `per_group` of them (see `orders.Draw`);
      `device_crop` where the device is to cut and resize; `allow_missing` where clips may lack picture or sound.
    batch_size: of the global batch; this process gives the rows of its share.
    max_unreadable_share: of the clips; when more are unreadable (one always may be), or so many of those drawn that
      it cannot be chance, iterating raises DataError.
    positions: only these records of the data; None: all.
    tables: further fields, looked up by position (see `Loader`); with `label` among them, in place of a target of the
      config, examples follow the rules of fine-tuning.
    """
    records = open_data(data)
    cut = Cut(
        frames=frames,
        image_size=image_size,
        audio_frames=audio_frames,
        frame_stride=data.frame_stride,
        crop=data.crop,
        flip=data.flip,
        whole=tuple(getattr(data, "device_crop", ())),
        target=target_of(data),
        rand_augment=rand_augment_of(data),
        allow_missing=getattr(data, "allow_missing", False),
        fine_tuning="label" in (tables or {}),
    )
    _check_first(records, cut)
    return Loader(
        records,
        cut,
        batch_size=batch_size,
        seed=seed,
        weights=getattr(data, "weights", ()),
        balance=getattr(data, "balance", ""),
        per_group=getattr(data, "per_group", 1),
        share=share,
        start_step=start_step,
        workers=data.workers,
        prefetch=data.prefetch,
        max_unreadable_share=max_unreadable_share,
        positions=positions,
        tables=tables,
    )


def eval_batches(
    path: str,
    *,
    frames: int,
    image_size: int,
    audio_frames: int,
    batch_size: int,
    frame_stride: int = 4,
    crop: str = "multi_scale",
    view: str = "center",
    segment: tuple[int, int] = (0, 1),
    draw: int = 0,
    split: str = "",
    positions: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
    allow_missing: bool = False,
    share: Share = WHOLE,
    workers: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Every record once, in order; a training batch without labels, and `valid` bool [B].

    positions: only these records, in this order.
    starts: where `Cut.window` begins in each, instead of `view`; batches then have the `examples.TIMES` too, float32
      [B].
    view: "center": the middle of the clip; "segment": the reference's test view `segment` = (index, count);
      "random": time and crop as in training, drawn from `draw` and the clip's position alone.
    allow_missing: as in training; the middle of a clip does without either in any case.
    crop: that of training; "multi_scale" gives the largest square in the middle, "none" the whole frame.
    The last batch is filled up with rows that are not valid (position −1); an unreadable record is not valid
    either.
    """
    _check_share(batch_size, share)
    if view not in ("center", "segment", "random"):
        raise DataError(f"view {view!r}: there are 'center', 'segment' and 'random'")
    records = open_records(path, split)
    cut = Cut(frames, image_size, audio_frames, frame_stride, crop, allow_missing=allow_missing)
    drawn = draw if view == "random" else None
    chosen = segment if view == "segment" else None
    if positions is None:
        positions = range(records.first_position, records.first_position + len(records))
    rows = _EvaluationRows(records, positions, starts, cut, chosen, drawn, batch_size, share)
    for batch in _batches(rows, share.size(batch_size), 0, workers, prefetch):
        for position in batch["position"][~batch["valid"] & (batch["position"] >= 0)].tolist():
            (name,) = _names(records, [position])
            _log.warning("clip %s is unreadable: %s", name, _reason(records, position, cut))
        yield batch


class _TrainingRows:
    """A process's rows of the endless stream, by index (a grain source)."""

    def __init__(
        self,
        records: Records | Mixture,
        cut: Cut,
        seed: int,
        order: Chosen,
        batch_size: int,
        share: Share,
    ):
        self._records, self._cut, self._seed, self._order = records, cut, seed, order
        self._batch_size, self._share = batch_size, share

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, local_row: int) -> Example:
        row = self._share.row(local_row, self._batch_size)
        index = self._order[row]
        unreadable = np.full(_ATTEMPTS, -1, np.int32)
        for attempt in range(_ATTEMPTS):
            try:
                record = self._records[index]
                example = self._cut.train(record, np.random.default_rng([self._seed, row, attempt]))
            except (DataError, OSError, ValueError) as error:
                unreadable[attempt] = self._records.first_position + index
                reason = error
                # Any other clip will do, as long as every host and every run takes the same one.
                index = self._order.another([self._seed, index, attempt])
                continue
            return {
                **example,
                **self._cut.label_of(record),
                "position": np.int32(self._records.first_position + index),
                _UNREADABLE: unreadable,
            }
        names = ", ".join(_names(self._records, unreadable.tolist()))
        raise DataError(
            f"{self._records.path}: {_ATTEMPTS} clips in a row are unreadable ({names}): {reason}"
        )


class _EvaluationRows:
    """A process's rows of one pass, filled up to whole batches (a grain source)."""

    def __init__(self, records, positions, starts, cut, segment, draw, batch_size, share):
        self._records, self._positions, self._cut, self._segment = records, positions, cut, segment
        self._starts, self._draw = starts, draw
        self._batch_size, self._share = batch_size, share

    def __len__(self) -> int:
        return -(-len(self._positions) // self._batch_size) * self._share.size(self._batch_size)

    def __getitem__(self, local_row: int) -> Example:
        row = self._share.row(local_row, self._batch_size)
        if row >= len(self._positions):
            return {**self._nothing(), "position": np.int32(-1), "valid": np.bool_(False)}
        position = np.int32(self._positions[row])
        try:
            record = self._records[int(position) - self._records.first_position]
            example = self._example(record, row)
        except (DataError, OSError, ValueError):
            return {**self._nothing(), "position": position, "valid": np.bool_(False)}
        return {**example, "position": position, "valid": np.bool_(True)}

    def _example(self, record: Record, row: int) -> Example:
        if self._starts is not None:
            return self._cut.window(record, int(self._starts[row]))
        if self._segment is not None:
            return self._cut.segment(record, *self._segment)
        if self._draw is not None:
            rng = np.random.default_rng([self._draw, int(self._positions[row])])
            return self._cut.train(record, rng)
        return self._cut.centre(record)

    def _nothing(self) -> Example:
        times = {} if self._starts is None else dict.fromkeys(TIMES, np.float32(0))
        return self._cut.empty() | times


def _batches(rows, batch_size, first_batch, workers, prefetch) -> Iterator[Batch]:
    """Batches of a row source from `first_batch` on, made by `workers` processes (0: by a thread)."""
    if not flags.FLAGS.is_parsed():  # grain's workers copy absl flags, which only absl programs parse
        flags.FLAGS.mark_as_parsed()
    batches = grain.MapDataset.source(rows).batch(batch_size)[first_batch:]
    threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1 if workers else max(1, prefetch))
    dataset = batches.to_iter_dataset(threads)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch))
        dataset = dataset.mp_prefetch(options, worker_init_fn=_start_grain_worker)
    iterator = iter(dataset)
    try:
        yield from map(_copied, iterator)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        what = str(error).split(". Search")[0]
        raise LostWorker(
            f"a loader process died ({what}); if memory is short, lower data.workers or batch_size"
        ) from error
    finally:
        iterator.close()
        del iterator
        if workers:
            _free_shared_memory()


def _copied(batch):
    """Out of the worker's shared memory, which is then free at once and not when Python exits."""
    return {key: np.array(value) for key, value in batch.items()}


def _free_shared_memory():
    """Frees batches that nobody took: grain does so in a thread, which Python's exit would cut short."""
    gc.collect()
    with contextlib.suppress(ImportError, AttributeError):  # not public: another grain may do without it
        from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

        SharedMemoryArray._del_thread_pool.apply(int)  # after all that it was asked before


def _start_grain_worker(worker_index: int, worker_count: int) -> None:
    start_worker()


def _check_share(batch_size, share):
    if batch_size < 1 or batch_size % share.of:
        raise DataError(
            f"batch_size {batch_size} cannot be divided into {share.of} parts; make it a multiple"
        )


def _check_first(records, cut):
    """Refuses a size of frames that is not the data's before anything is compiled for it."""
    for index in range(min(_ATTEMPTS, len(records))):
        try:
            record = records[index]
        except (DataError, OSError, ValueError):
            continue  # unreadable
        return cut.check_size(record)


def _counts(sizes):
    return ", ".join(map(str, sizes))


def _names(records, positions):
    ids = records.clip_ids
    return [ids[position - records.first_position] for position in positions]


def _reason(records, position, cut):
    try:
        record = records[position - records.first_position]
        cut.check_streams(record)
        record.pictures(range(len(record.frames)))
    except (DataError, OSError, ValueError) as error:
        return str(error)
    return "its sound is too short where the frames were drawn"
