"""Which methods are compared, for how long each is trained, and the commands that do it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from avemo_jax import frontend
from avemo_jax.comparing.counting import Counted, count
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.paths import to_path
from avemo_jax.stages import Stage, words

NOTE = "compare.json"  # in the results' folder: the commands that are done, and for which methods
RETRIEVAL = "retrieval"  # in a method's folder

_NAME = re.compile(r"[\w.+-]+")


class Budget(NamedTuple):
    """What every method may use: clips seen (each as often as it is read), or FLOPs of its training steps."""

    amount: float
    unit: str  # "clips" or "flops"

    def steps(self, batch_size: int, flops: int) -> int:
        """As many steps as come nearest to it, at least one."""
        return max(1, round(self.amount / (batch_size if self.unit == "clips" else flops)))


class Method(NamedTuple):
    """name: of its row and folder; config: with all overrides; given: those beside the path of the data; counted: of
    one of its `steps` steps."""

    name: str
    config_name: str
    given: tuple[str, ...]
    config: ConfigDict
    counted: Counted
    steps: int

    @property
    def clips(self) -> int:
        """Clips seen in all its steps."""
        return self.steps * self.config.batch_size

    @property
    def flops(self) -> int:
        """Of all its steps."""
        return self.steps * self.counted.flops


class Asked(NamedTuple):
    """How every method is judged: the flags of `avemo probe` beside checkpoint, label and folder."""

    data: str
    labels: tuple[str, ...]
    probe_flags: tuple[str, ...]
    random_seeds: int


def read_budget(text: str) -> Budget:
    """`30400` or `30400clips`, `2e15flops`.

    Raises:
      UserError: neither.
    """
    found = re.fullmatch(r"([\d.]+(?:e\+?\d+)?)\s*(clips|flops)?", text.strip().lower().replace(",", ""))
    try:
        amount = float(found[1]) if found else 0.0
    except ValueError:
        amount = 0.0
    if not found or amount <= 0:
        raise UserError(
            f"--budget is '{text}': give clips, 30400, or FLOPs of each method's training, 2e15flops"
        )
    return Budget(amount, found[2] or "clips")


def read_methods(texts: Sequence[str], everywhere: Sequence[str], data: str, budget: Budget) -> list[Method]:
    """Each `[NAME=]CONFIG [key.path=value …]`, as one word of the command line.

    Args:
      everywhere: overrides of all of them, before their own.
      data: prepared folder that all are trained on.

    Raises:
      UserError: a config or override that is not known, none that pretrains, or a name that stands twice.
    """
    named: dict[str, tuple[str, tuple[str, ...], ConfigDict]] = {}
    for text in texts:
        try:
            first, *own = shlex.split(text) or [""]
        except ValueError as error:
            raise UserError(f"--configs: {text!r} cannot be read: {str(error).lower()}") from error
        name, _, config_name = first.rpartition("=")
        name = name or re.sub(r"[^\w.+-]+", "_", "_".join([config_name, *own]))
        if not _NAME.fullmatch(name):
            raise UserError(f"--configs: '{name}' is the name of a folder: letters, digits and . + - _ only")
        if name in named:
            raise UserError(
                f"--configs: two are called {name}: give one a name of its own, as in NAME={config_name}"
            )
        given = (*everywhere, *own)
        config = load_config(config_name, (*given, f"data.path={data}"))
        if config.task != "pretrain":
            raise UserError(
                f"--configs: {config_name} is of task '{config.task}': only pretraining is compared"
            )
        named[name] = config_name, given, config
    methods = []
    for name, (config_name, given, config) in named.items():
        counted = count(config)
        steps = budget.steps(config.batch_size, counted.flops)
        methods.append(Method(name, config_name, given, config, counted, steps))
    return methods


def plan(methods: Sequence[Method], asked: Asked, out: Path) -> list[Stage]:
    """The commands, method after method."""
    stages = []
    for method in methods:
        run = out / method.name
        train = words("train", "--config", method.config_name, "--workdir", run)
        length = (f"data.path={asked.data}", f"total_steps={method.steps}")
        train += [f"--config.{override}" for override in (*method.given, *length)]
        title = f"{method.name}: {method.clips:,} clips, {method.steps:,} steps of {method.config.batch_size}"
        stages.append(Stage(title, train, run / "checkpoints" / f"{method.steps:08d}"))
        seeds = ["--random_seeds", str(asked.random_seeds)]
        for label in asked.labels:
            place = probe_folder(run, label)
            flags = words("--checkpoint", run, "--data", asked.data, "--label", label, "--out", place)
            probe = ["probe", *flags, "--cache", str(out / "features"), *seeds, *asked.probe_flags]
            stages.append(Stage(f"{method.name}: probe of {label}", probe, place / "rows.json"))
        if len(frontend.token_grids(method.config.model)) == 2:
            place = run / RETRIEVAL
            flags = words("--checkpoint", run, "--suite", "retrieval", "--data", asked.data, "--out", place)
            stages.append(
                Stage(f"{method.name}: retrieval", ["evaluate", *flags, *seeds], place / "suites.json")
            )
    return stages


def probe_folder(run: Path, label: str) -> Path:
    """Where a run's probe of a label is."""
    return run / f"probe_{label}"


def facts(data: str) -> dict[str, str]:
    """What tells a comparison on this data from another's: a digest of what `avemo prepare` noted of it."""
    note = to_path(data) / "dataset_info.json"
    if not note.is_file():
        raise UserError(
            f"--data {data} is no prepared folder (no {note.name} in it): `avemo prepare` makes one"
        )
    content = json.dumps(json.loads(note.read_text(encoding="utf-8")), sort_keys=True)
    return {"data": hashlib.sha256(content.encode()).hexdigest()}


def describe(methods: Sequence[Method], budget: Budget) -> str:
    """What each method has of the budget."""
    lines = [f"budget: {budget.amount:g} {budget.unit} each"]
    width = max(len(method.name) for method in methods)
    lines += [
        f"  {method.name:<{width}}  {method.counted.parameters / 1e6:7.2f} M parameters, {method.clips:,} clips, "
        f"{_rounded(method.flops)} FLOPs"
        for method in methods
    ]
    return "\n".join(lines)


def _rounded(flops: int) -> str:
    exponent = int(math.log10(max(flops, 1)))
    return f"{flops / 10**exponent:.2f}e{exponent}"
