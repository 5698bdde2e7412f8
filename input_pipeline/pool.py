"""A function over many jobs in worker processes: results in the order of the jobs, whatever dies."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from input_pipeline.processes import start_worker

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4  # jobs under way for each worker: enough to keep it busy, few enough to fit in memory


def results_in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int, on_crash: Callable[[Job], Result]
) -> Iterator[Result]:
    """Yields function(job) for each job.

    workers: processes; 0 calls the function in this one.
    on_crash: the result of a job that takes its process down (decoders are C code).
    """
    if workers < 1:
        yield from map(function, jobs)
        return
    jobs = iter(jobs)
    waiting: deque[Job] = deque()
    while True:
        crashed = False
        with _pool(workers) as pool:
            futures = deque(pool.submit(function, job) for job in waiting)
            while not crashed:
                try:
                    for job in itertools.islice(jobs, workers * _AHEAD - len(waiting)):
                        waiting.append(job)  # first: it is not lost where the pool takes no more
                        futures.append(pool.submit(function, job))
                    if not waiting:
                        return
                    result = futures[0].result()
                except BrokenProcessPool:
                    crashed = True
                else:
                    futures.popleft()
                    waiting.popleft()
                    yield result
        # A job under way ended its process, and with it the pool. Alone, each shows whether it was the one.
        for _ in range(len(waiting)):
            yield _alone(function, waiting.popleft(), on_crash)


def _alone(function, job, on_crash):
    with _pool(1) as pool:
        try:
            return pool.submit(function, job).result()
        except BrokenProcessPool:
            return on_crash(job)


class _pool:
    """A process pool that is stopped at once when its block is left, instead of finishing its queue."""

    def __init__(self, workers):
        self._pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker
        )

    def __enter__(self):
        return self._pool

    def __exit__(self, *_):
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
