"""Shards made on Apache Beam: by processes of this machine, or by Dataflow, Flink or Spark.

A shard is one piece of work: one worker makes it whole, from videos to a file and its note, in a folder that every
worker sees. So a piece that is repeated, or done twice at once, changes nothing, and what was finished before a
pipeline failed stays finished.

The pipeline is built and watched in a process of its own: Beam's local runner waits for ever for a worker that was
killed, and cannot be stopped from within. What Beam says goes to a log.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from input_pipeline.errors import DataError
from input_pipeline.processes import end_with_parent, keep_to_cpu

_NAMESPACE = "avemo_prepare"  # of the counters
_LOOK_EVERY_S = 1.0


class PipelineFailed(DataError):
    """A pipeline ended before its work was done: a worker was lost, or the runner gave up."""


def check(arguments: Sequence[str]) -> None:
    """Raises DataError where Beam is not installed or does not know an option."""
    logging.disable(logging.WARNING)  # it tells at length which clouds it has no packages for
    try:
        from apache_beam.options.pipeline_options import PipelineOptions

        known = PipelineOptions(list(arguments)).get_all_options()
    except ImportError:
        raise DataError("Apache Beam is not installed: pip install 'avemo_jax[beam]'") from None
    except SystemExit:  # of argparse, which has said why
        raise DataError(f"--beam_options {' '.join(arguments)}: Beam does not take them") from None
    finally:
        logging.disable(logging.NOTSET)
    for argument in arguments:
        name = argument.removeprefix("--").removeprefix("no_").split("=")[0]
        if argument.startswith("--") and name not in known:
            raise DataError(f"--beam_options {argument}: Beam has no such option")


def run(
    make: Callable[[Any], dict[str, int]],
    jobs: Sequence[Any],
    arguments: Sequence[str],
    log: Path,
    while_running: Callable[[], None],
) -> None:
    """Calls `make` for every job on Beam's workers.

    make: a function of a module, which may be called again for a job that it has done. The counts that it returns
      become Beam's counters, which its runners show while they work.
    arguments: as Beam takes them: `--runner=DataflowRunner`, `--direct_num_workers=4`, ….
    log: the file to which everything that Beam and its workers say is added.
    while_running: called now and then.

    Raises:
      PipelineFailed: with the reason.
    """
    here, there = multiprocessing.Pipe()
    pipeline = multiprocessing.get_context("spawn").Process(
        target=_pipeline, args=(there, make, jobs, arguments, log)
    )
    pipeline.start()
    there.close()
    try:
        while not here.poll(_LOOK_EVERY_S):
            while_running()
        failure = here.recv()
    except EOFError:
        failure = "its process ended"
    finally:
        pipeline.kill()  # and Beam's workers end with it
        pipeline.join()
    while_running()
    if failure:
        raise PipelineFailed(f"Beam's pipeline failed: {failure} ({log} says more); what is finished stays")


def _pipeline(answer: Connection, make, jobs, arguments, log) -> None:
    """The process of the pipeline: sends why it failed, or nothing when all is made."""
    end_with_parent()
    keep_to_cpu()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)

    def fail(error):
        said = error.details() if hasattr(error, "details") else str(error)  # gRPC's have details alone
        lines = [line.strip() for line in (said or "").splitlines() if line.strip()]
        answer.send((lines or [type(error).__name__])[-1][:200])
        os._exit(1)

    # Beam's threads wait for the workers; where one is killed, its thread raises and nobody else hears of it.
    threading.excepthook = lambda raised: fail(raised.exc_value)
    try:
        _make_all(make, jobs, arguments)
        answer.send("")
    except Exception as error:  # of gRPC, of the runner, of a worker: each has its own
        fail(error)


def _make_all(make, jobs, arguments) -> None:
    import apache_beam as beam
    from apache_beam.metrics import Metrics
    from apache_beam.options.pipeline_options import PipelineOptions

    def counted(job):
        keep_to_cpu()
        for name, count in make(job).items():
            Metrics.counter(_NAMESPACE, name).inc(count)

    pipeline = beam.Pipeline(options=PipelineOptions(list(arguments)))
    # Without the shuffle Beam would fuse both steps, and one worker would do everything.
    _ = pipeline | "shards" >> beam.Create(list(jobs)) | beam.Reshuffle() | "make" >> beam.Map(counted)
    pipeline.run().wait_until_finish()
