"""Batches, on the devices before they are needed: a thread reads and transfers while the step computes.

Also measures how long the devices had nothing to do but wait for data.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from avemo_jax.errors import UserError

_POLL_S = 0.002


class Loader(Protocol):
    """What the loop knows of a loader: an endless stream of host batches with a position."""

    dataset_size: int
    unreadable: Mapping[int, str]  # position → why that clip could not be read, so far

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Batches (this process's rows) from the current state on."""

    def state(self) -> dict:
        """Small and JSON: `step` batches were handed out, the stream began `data_offset` batches in."""

    def restore(self, state: dict) -> None:
        """The next iterator begins after the batch of this state."""

    def clip_ids(self, positions) -> list[str]:
        """The names of the clips at these places of the dataset."""


class Fed(NamedTuple):
    """One global batch on the devices, and the loader's state after it."""

    batch: dict[str, Array]
    loader_state: dict


class DeviceFeed:
    """Reads a loader ahead, by one batch on the devices and one on its way there.

    Args:
      loader: gives this process's rows.
      shapes: of the global batch; only these fields are transferred.
      shardings: where they go.
    """

    def __init__(
        self,
        loader: Loader,
        shapes: Mapping[str, jax.ShapeDtypeStruct],
        shardings: Mapping[str, NamedSharding],
    ):
        self.idle_s = 0.0  # time in which nothing was computed for want of data
        self._loader, self._shapes, self._shardings = loader, shapes, shardings
        self._queue: queue.Queue[Fed | BaseException] = queue.Queue(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)
        self._thread.start()

    def next(self, computing: Callable[[], bool]) -> Fed:
        """The next batch; counts as idle the time spent here while `computing` says no.

        Raises:
          whatever the loader raised.
        """
        item = None
        while item is None:
            began = time.monotonic()
            with contextlib.suppress(queue.Empty):
                item = self._queue.get(timeout=_POLL_S)
            if not computing():
                self.idle_s += time.monotonic() - began
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stops reading; what was read ahead is dropped."""
        self._closed.set()
        self._thread.join(timeout=10)

    def _fill(self) -> None:
        try:
            batches = iter(self._loader)
            while not self._closed.is_set():
                batch = self._transfer(next(batches))
                self._put(Fed(batch, self._loader.state()))
        except StopIteration:
            self._put(UserError("the loader ran out of batches: it is to repeat the dataset without end"))
        except BaseException as error:
            self._put(error)

    def _transfer(self, host: Mapping[str, np.ndarray]) -> dict[str, Array]:
        batch = {}
        for name, shape in self._shapes.items():
            field = host.get(name)
            if field is None or field.dtype != shape.dtype or field.shape[1:] != shape.shape[1:]:
                got = "nothing" if field is None else f"{field.dtype}{list(field.shape)}"
                raise UserError(
                    f"batch field '{name}': the task takes {shape.dtype}{list(shape.shape)}, got {got}"
                )
            batch[name] = jax.make_array_from_process_local_data(self._shardings[name], field, shape.shape)
        return batch

    def _put(self, item: Fed | BaseException) -> None:
        while not self._closed.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
