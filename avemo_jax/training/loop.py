"""THE loop: one for every task. `train` reads top to bottom, in the order in which a run lives.

Knows the task by its protocol, the loader, the mesh, checkpoints and writers; knows no method.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from avemo_jax import paths
from avemo_jax.batch import Batch
from avemo_jax.config import to_json
from avemo_jax.errors import UserError
from avemo_jax.models.attention import check_platform
from avemo_jax.models.params import Params, merge
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training import state as state_lib
from avemo_jax.training import workdir as workdir_lib
from avemo_jax.training.blame import describe_offenders
from avemo_jax.training.checkpoints import Checkpoints, Record
from avemo_jax.training.feed import DeviceFeed, Fed, Loader
from avemo_jax.training.goodput import Goodput
from avemo_jax.training.heartbeat import HEARTBEAT
from avemo_jax.training.optimizer import make_optimizer
from avemo_jax.training.profiling import Profile
from avemo_jax.training.progress import Progress
from avemo_jax.training.reporting import Reporter
from avemo_jax.training.schedules import schedules_of
from avemo_jax.training.starting import handed_on, placed
from avemo_jax.training.state import TrainState
from avemo_jax.training.step import Given, make_step
from avemo_jax.training.stopping import STOP
from avemo_jax.training.watching import Watch
from avemo_jax.training.writers import make_writers

_PICTURED_CLIPS = 4


class Ending(NamedTuple):
    """How a run ended."""

    step: int
    preempted: bool  # told to stop before its last step; it is saved and can be resumed


class _Flight(NamedTuple):
    """A step that the devices were given and whose numbers were not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    fed: Fed

    def computing(self) -> bool:
        loss: Any = self.metrics["loss"]  # is_ready() is not in the stubs of jax
        return not loss.is_ready()


def train(
    task: Any,
    loader: Loader,
    config: ConfigDict,
    workdir: str | Path,
    mesh: Mesh | None = None,
    watch: Watch | None = None,
) -> Ending:
    """Runs the task to its last step, from the newest checkpoint in `workdir` if there is one.

    Every process of a run calls it. After a kill at any moment the same call gives the losses of a run that
    was never interrupted.

    Args:
      task: see `tasks.Task`.
      loader: gives this process's rows of each batch, see `mesh.data_share`.
      config: resolved; recorded as `config.json`.
      workdir: the run's folder, on a file system that all processes share or on object storage.
      mesh: that of `config.mesh` on all devices, unless given.
      watch: looks at the run now and then, and may end it early.

    Raises:
      UserError: bad input, a full disk, or losses that stay NaN or infinite (with the offending clips).
    """
    # 1. Where: the mesh; the folder, which is this run's alone.
    workdir, is_first = paths.absolute(workdir), jax.process_index() == 0
    mesh = mesh or mesh_lib.make_mesh(config.mesh)
    check_platform(config, mesh.devices.flat[0].platform)
    say: Callable[[str], None] = print if is_first else _say_nothing
    lock = workdir_lib.claim(workdir) if is_first else None
    goodput = Goodput(workdir if is_first else None, mesh_lib.describe(mesh))
    if is_first:
        workdir_lib.check_config(workdir, config)

    # 2. What: shapes and places of everything, and for how long. Nothing is allocated yet.
    total_steps = count_steps(config, loader.dataset_size)
    init_key, run_key = state_lib.run_keys(config.seed)
    graphdef, params = state_lib.abstract_params(task, init_key)
    schedules = schedules_of(config, total_steps)
    optimizer = make_optimizer(config, params, schedules)
    average = config.ema.decay > 0
    target = state_lib.with_shardings(state_lib.abstract_state(params, optimizer, average=average), mesh)
    batch_shapes = task.batch_shapes()
    batch_shardings = mesh_lib.batch_shardings(batch_shapes, mesh)
    max_bad_steps, pictures_every = config.guard.max_bad_steps, config.log.samples_every_steps

    # 3. From where: the newest whole checkpoint, or the beginning.
    checkpoints = Checkpoints(
        workdir, keep=config.checkpoint.keep, background=config.checkpoint.asynchronous, say=say
    )
    beginning = Record(
        step=0,
        config=json.loads(to_json(config)),
        loader=loader.state(),
        dataset_size=loader.dataset_size,
        run_key=np.asarray(jax.random.key_data(run_key)).tolist(),
    )

    def begin(good_only: bool = False) -> tuple[TrainState, Record]:
        with goodput.on("restoring"):
            restored = checkpoints.restore(target, good_only=good_only)
        if restored is None:
            given = {}
            if config.init.checkpoint:
                given = handed_on(params, config, getattr(task, "handed_on", ()), say)
            with goodput.on("compiling"):  # hardly anything else
                state = state_lib.create_state(task, optimizer, init_key, mesh, average=average)
                if given:
                    started = state.params | placed(given, mesh)
                    state = state_lib.start_from(started, optimizer, mesh, average=average)
            return state, beginning
        state, record = restored
        if not record.loader:
            say("the checkpoint holds parameters only: starting at step 0 with a fresh optimiser")
            return state_lib.start_from(state.params, optimizer, mesh, average=average), beginning
        _check_dataset(record, loader)
        return state, dataclasses.replace(record, config=beginning.config)

    state, record = begin()
    if record.step > total_steps:
        raise UserError(
            f"{workdir} is at step {record.step} already, and only {total_steps} are asked for: raise total_steps, or "
            "choose another work directory"
        )
    if is_first:
        workdir_lib.write_config(workdir, config)
    HEARTBEAT.at(record.step)
    if record.step:
        say(f"resuming at step {record.step} of {total_steps}")
    if watch:
        watch.rewind(record.step)
    ended_early = watch is not None and watch.is_over
    if record.step >= total_steps or ended_early:
        say("nothing left to do; " + ("it was ended early" if ended_early else "for more, raise total_steps"))
        if lock:
            lock.close()
        return Ending(record.step, preempted=False)
    if STOP.reached():  # told to after the last step of a run before this one
        STOP.obeyed()
        if lock:
            lock.close()
        return Ending(record.step, preempted=True)

    # 4. The step, compiled before any clock starts, and what it is given each time.
    began = time.monotonic()
    teacher = getattr(task, "frozen_teacher", None)
    run_bits = np.asarray(record.run_key, np.uint32)
    with HEARTBEAT.busy():
        given = placed(Given(run_bits, schedules, teacher and teacher.load(say)), mesh)
        stepping = make_step(task, graphdef, target, batch_shapes, given, mesh)
        with goodput.on("compiling"):
            step_fn = stepping.lower(target, batch_shapes, given).compile()
    million = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    say(f"{million:.2f} M parameters, {mesh.size} devices, step compiled in {time.monotonic() - began:.1f} s")
    goodput.save()  # from here on a kill is a restart

    def offenders(of: _Flight) -> str:
        batch, names = of.fed.batch, loader.clip_ids
        return describe_offenders(task, graphdef, state.params, batch, of.step, given, mesh, names)

    # 5. The loop. One step is always in flight: its numbers are read while the next one is computed.
    reporter = Reporter(
        make_writers(workdir, config) if is_first else [],
        Progress(total_steps, record.step, shown=is_first),
        batch_size=config.batch_size,
        every_steps=config.log.every_steps,
        last_step=total_steps,
    )
    reporter.start(record.step, record.rollbacks)
    profile = Profile(
        workdir if is_first else None, after=config.profile.after, steps=config.profile.steps, say=say
    )
    loader.restore(record.loader)
    feed = DeviceFeed(loader, batch_shapes, batch_shardings)
    step = record.step
    flight: _Flight | None = None
    try:
        with goodput.on("steps"), STOP:
            stopping = STOP.reached()  # told to while it was compiled
            while step < total_steps and not (stopping or ended_early):
                # 5a. The next step. Everything it takes is on the devices: a hidden transfer is a mistake.
                fed = feed.next(computing=flight.computing if flight else _nothing_computing)
                goodput.waited(feed.idle_s)
                step += 1
                with profile.step(step), jax.transfer_guard("disallow"):
                    state, metrics = step_fn(state, fed.batch, given)
                profile.done(step, metrics)
                HEARTBEAT.at(step)

                # 5b. The numbers of the step before; where this one is saved, its numbers too, and where the weights
                # are looked at, theirs, which may end the run.
                stopping = STOP.reached()
                scores: dict[str, float] = {}
                if watch and watch.is_due(step, total_steps):
                    jax.block_until_ready(metrics)  # they need this step's parameters: that is not looking
                    began = time.monotonic()
                    with goodput.on("looks"):
                        scores = watch.look(step, state, record)
                    reporter.paused(time.monotonic() - began)
                    ended_early = watch.is_over
                due = step == total_steps or step % config.checkpoint.every_steps == 0
                saving = stopping or due or bool(scores)
                before, flight = flight, _Flight(step, metrics, fed)
                landed = [each for each in (before, flight if saving else None) if each is not None]
                reports = [
                    reporter.read(
                        each.step,
                        each.metrics,
                        feed.idle_s,
                        len(loader.unreadable),
                        scores if each.step == step else {},
                    )
                    for each in landed
                ]
                checkpoints.check()

                # 5c. Loss or gradients not finite, too often in a row: back to where they were, once.
                too_bad = [i for i, report in enumerate(reports) if report["bad_steps"] >= max_bad_steps]
                if too_bad and not stopping:
                    culprit = landed[too_bad[0]]
                    trouble = (
                        f"loss or gradients were not finite for {max_bad_steps} steps up to {culprit.step}"
                    )
                    trouble = f"{trouble}; {offenders(culprit)}"
                    if record.rollbacks:
                        raise UserError(f"{trouble} (after a rollback to step {record.step}): stopped")
                    feed.close()
                    state, record = begin(good_only=True)
                    record = _on_other_clips(record, culprit.fed.loader_state)
                    say(f"{trouble}: rolling back to step {record.step}, to go on with other clips")
                    reporter.start(record.step, record.rollbacks)
                    if watch:
                        watch.rewind(record.step)
                        ended_early = watch.is_over
                    loader.restore(record.loader)
                    feed = DeviceFeed(loader, batch_shapes, batch_shardings)
                    step, flight = record.step, None
                    continue

                # 5d. Pictures.
                if pictures_every and step % pictures_every == 0:
                    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(given.run_bits)), step - 1)
                    jax.block_until_ready(metrics)  # they need this step's parameters: that is not drawing
                    with goodput.on("pictures"):
                        reporter.pictures(step, _draw(task, graphdef, state.params, fed.batch, key, mesh))

                # 5e. A checkpoint.
                if saving:
                    flight = None
                    bad_steps = int(reports[-1]["bad_steps"])
                    now = dataclasses.replace(record, step=step, loader=fed.loader_state, bad_steps=bad_steps)
                    if lock:
                        lock.check()
                    with goodput.on("checkpoints"):
                        reporter.flush()  # a resumed run counts on the rows before its checkpoint
                        checkpoints.save(state, now)
                    goodput.save()

            # 6. The end: nothing is left unwritten, in any process.
            with goodput.on("checkpoints"):
                checkpoints.wait()
            multihost_utils.sync_global_devices("run ended")
        preempted = step < total_steps and not ended_early
        if preempted:
            STOP.obeyed()
        return Ending(step, preempted)
    finally:
        profile.close()
        feed.close()
        reporter.close()
        goodput.close(say)
        if lock:
            lock.close()


def count_steps(config: ConfigDict, dataset_size: int) -> int:
    """`total_steps`, or as many as fill `epochs` with whole batches.

    Raises:
      UserError: neither is set, or the dataset has less than one batch.
    """
    if config.total_steps > 0:
        return config.total_steps
    if config.epochs <= 0:
        raise UserError("nothing to do: set total_steps or epochs in the config")
    if dataset_size < config.batch_size:
        raise UserError(
            f"epochs={config.epochs} of {dataset_size} clips with batch_size {config.batch_size} hold no whole batch: "
            "make batch_size smaller, or set total_steps"
        )
    return config.epochs * (dataset_size // config.batch_size)


def _check_dataset(record: Record, loader: Loader) -> None:
    if record.dataset_size != loader.dataset_size:
        raise UserError(
            f"the data holds {loader.dataset_size} clips, the run was begun with {record.dataset_size}: its order of "
            "clips would be another. Give it the same data, or choose another work directory"
        )


def _on_other_clips(record: Record, reached: dict[str, Any]) -> Record:
    """The record to roll back to, so that the next clips are those after the ones reached, not the same again."""
    passed = reached["step"] + reached["data_offset"] - record.loader["step"]
    return dataclasses.replace(record, rollbacks=1, loader={**record.loader, "data_offset": passed})


def _draw(
    task: Any, graphdef: nnx.GraphDef, params: Params, batch: Batch, key: jax.Array, mesh: Mesh
) -> dict[str, np.ndarray]:
    """The task's pictures of some clips of the batch, drawn by the first process on its own device."""
    whole = _gather(mesh)(params, batch)
    if jax.process_index() != 0:
        return {}
    params, batch = jax.tree.map(lambda leaf: jnp.asarray(leaf.addressable_data(0)), whole)
    return task.figures(
        merge(graphdef, params), batch, jax.device_put(jax.device_get(key), jax.local_devices()[0])
    )


@functools.cache
def _gather(mesh: Mesh) -> Callable[[Params, Batch], tuple[Params, Batch]]:
    """All parameters and some clips, whole on every device."""
    return jax.jit(
        lambda params, batch: (params, jax.tree.map(lambda field: field[:_PICTURED_CLIPS], batch)),
        out_shardings=mesh_lib.replicated(mesh),
    )


def _nothing_computing() -> bool:
    return False


def _say_nothing(_: str) -> None:
    """What processes other than the first say."""
