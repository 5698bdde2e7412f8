"""Holds a run's processes together, on one host or many: the one program that every launcher runs.

Each host has a `Host` with its processes; the first host leads. The lead hears how every process is, and orders:
run, save and stop (SIGTERM), end, leave. When a process fails, falls silent or a host is gone, all others are ended
within seconds, it is said which one it was and on which host, and all are started again after a pause, from the
newest checkpoint. Not for ever: `Rules.restarts` times without getting past the same step.

How orders and reports travel is `links.py`; a host's processes are `crew.py`.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from .crew import Condition, Crew, Process

PREEMPTED = 128 + signal.SIGTERM  # saved: start again to go on
HOST_LOST = 75  # EX_TEMPFAIL: nothing is wrong with the run itself; start it again on hosts that work
REFUSED = 2  # bad input; would be refused again
_KILLED = 128 + signal.SIGKILL

POLL_S = 0.1
_GOOD_ENDINGS = (0, PREEMPTED, -signal.SIGTERM)  # the last: told to stop before there was anything to save
_INTERRUPT_GRACE_S = 5.0  # after Ctrl-C, which saves nothing
_SETTLE_S = 1.0  # between the first sign of a failure and its judgement: one failure causes others
_STOPPING_S = 30.0  # for processes that were killed to be gone
_LONGEST_PAUSE_S = 300.0


class Rules(NamedTuple):
    """How much is tolerated."""

    heartbeat_s: float = 20.0  # a process or a host that is silent for longer is given up
    stall_s: float = 0.0  # a run that does nothing new for longer is given up; 0: never
    grace_s: float = 60.0  # to save in after SIGTERM
    restarts: int = 0  # at the same step
    backoff_s: float = 5.0  # before the first restart; doubles with each
    join_s: float = 600.0  # for all hosts to come
    memory: Path | None = None  # file that keeps the count of restarts when the lead itself is started again


class Order(NamedTuple):
    """What a host is to do. Repeated until the next one, so that none is lost."""

    kind: str = "wait"  # or run, term, interrupt, end, leave
    round: int = 0  # counts the starts of all processes
    coordinator: str = ""  # host:port of process 0; for "run"
    code: int = 0  # for "leave"
    why: str = ""  # for "leave": said on every host but the first


class Report(NamedTuple):
    """How a host is."""

    round: int
    told: int  # the signal that the host was told to stop with, 0: none
    processes: list[Condition]


class Member(Protocol):
    """A host as the lead sees it."""

    name: str

    def order(self, order: Order) -> None:
        """Gives an order, at once or soon."""

    def report(self) -> Report:
        """The newest one."""

    def lost(self) -> str:
        """Why it is not there any more; empty while it is."""


class Host:
    """This host: obeys orders, reports. SIGTERM and SIGINT are noted while it is used as a context.

    Args:
      make: the processes of a round, from the coordinator's address.
      first_id: the first one's number in the whole run.
    """

    def __init__(self, make: Callable[[str], Sequence[Process]], first_id: int = 0, name: str = ""):
        self.name = name or host_name()
        self._make, self._first_id = make, first_id
        self._crew: Crew | None = None
        self._round, self._told, self._passed_on, self._before = 0, 0, 0, {}

    def __enter__(self) -> Host:
        def note(number, _frame):
            self._told = number

        self._before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        self._end()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def order(self, order: Order) -> None:
        if order.kind == "run" and order.round > self._round:
            self._end()
            self._crew = Crew(self._make(order.coordinator), self._first_id, self.name)
            self._round, self._passed_on = order.round, 0
        elif order.kind in ("term", "interrupt") and self._crew:
            number = signal.SIGTERM if order.kind == "term" else signal.SIGINT
            if self._passed_on != number:
                self._passed_on = number
                self._crew.signal(number)
        elif order.kind in ("end", "leave"):
            self._end()

    def report(self) -> Report:
        return Report(self._round, self._told, self._crew.look() if self._crew else [])

    def lost(self) -> str:
        return ""

    def _end(self) -> None:
        if self._crew:
            self._crew.end()


class _Ending(NamedTuple):
    """How a round ended."""

    code: int
    why: str = ""
    told: bool = False  # to stop, by whoever runs the hosts


class Lead:
    """Decides for all hosts. `run` returns the run's exit code.

    Args:
      members: all hosts, the first one among them, in the order of their numbers.
      coordinator: gives an address for process 0 to listen at, a new one each round.
    """

    def __init__(
        self,
        members: Sequence[Member],
        rules: Rules,
        coordinator: Callable[[], str],
        say: Callable[[str], None],
    ):
        self._members, self._rules, self._coordinator, self._say = members, rules, coordinator, say
        self._round = 0
        self._best_step, self._restarts = _recall(rules.memory)  # restarts since a step beyond the best
        self._step = -1  # of this round

    def run(self) -> int:
        while True:
            ending = self._one_round()
            self._order(Order("end", self._round))
            self._await_end()
            if self._step > self._best_step:
                self._best_step, self._restarts = self._step, 0
            if ending.code == 0 or not (self._rules.restarts or self._rules.memory):
                return self._end_for_good(ending)
            if refusal := self._why_not_again(ending):
                self._say(refusal)
                return self._end_for_good(_Ending(ending.code if 0 < ending.code < HOST_LOST else 1, refusal))
            self._restarts += 1
            self._remember()
            if ending.told or ending.code == HOST_LOST:  # to be started again by whoever started us
                return self._leave(ending)
            pause_s = min(self._rules.backoff_s * 2 ** (self._restarts - 1), _LONGEST_PAUSE_S)
            self._say(
                f"starting all again in {pause_s:g} s (restart {self._restarts} of {self._rules.restarts} "
                f"at {self._where()})"
            )
            if self._told_within(pause_s):
                return self._leave(_Ending(PREEMPTED, "stopped while waiting to start again"))

    def _one_round(self) -> _Ending:
        if self._told():  # before there was anything to stop
            return self._good_end([PREEMPTED], told=True)
        self._round += 1
        self._step = -1
        self._order(Order("run", self._round, self._coordinator()))
        ends_at = 0.0  # when what still runs after a signal is ended
        trouble_at = 0.0  # the first sign of a failure
        while True:
            time.sleep(POLL_S)
            now = time.monotonic()
            processes, there = self._listen()
            told = self._told()
            if told and not ends_at:
                grace_s = self._rules.grace_s if told == signal.SIGTERM else _INTERRUPT_GRACE_S
                ends_at = now + grace_s
                self._order(Order("term" if told == signal.SIGTERM else "interrupt", self._round))
            gone = [(member.name, why) for member in self._members if (why := member.lost())]
            if gone:
                names = " and ".join(f"host {name} {why}" for name, why in gone)
                left = [each for each in processes if each.host not in dict(gone)]
                self._say(f"{names}{self._rest(left)}")
                return _Ending(PREEMPTED if ends_at else HOST_LOST, names, told=bool(ends_at))
            codes = [each.code for each in processes]
            if there and all(code in _GOOD_ENDINGS for code in codes):
                return self._good_end(codes, bool(ends_at))
            if ends_at:
                if now > ends_at:
                    self._say("not all processes ended in time after the signal: ending them")
                if now > ends_at or (there and None not in codes):
                    code = next((_exit_code(c) for c in codes if c not in (None, *_GOOD_ENDINGS)), _KILLED)
                    return _Ending(code, "could not save in time", told=True)
                continue
            bad = [each for each in processes if self._what_is_wrong(each)]
            bad = bad or self._behind(processes)
            trouble_at = (trouble_at or now) if bad else 0.0
            if bad and now - trouble_at >= _SETTLE_S:
                culprit = max(bad, key=_guilt)
                why = f"{culprit.name} {self._what_is_wrong(culprit) or self._stalled(culprit)}"
                self._say(f"{why}{self._rest(processes, culprit)}")
                return _Ending(_exit_code(culprit.code), why)

    def _good_end(self, codes: Sequence[int | None], told: bool) -> _Ending:
        if not any(codes):
            return _Ending(0)
        resumed = self._rules.restarts and not told
        self._say(
            "the processes were told to stop and saved"
            if resumed
            else "stopped: start the same command again to go on"
        )
        return _Ending(PREEMPTED, "told to stop", told=told)

    def _listen(self) -> tuple[list[Condition], bool]:
        """The processes of this round, and whether all hosts have started theirs."""
        reports = [report for member in self._members if (report := member.report()).round == self._round]
        processes = [each for report in reports for each in report.processes]
        self._step = max([self._step, *(each.step for each in processes)])
        return processes, len(reports) == len(self._members)

    def _told(self) -> int:
        return next((told for member in self._members if (told := member.report().told)), 0)

    def _told_within(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self._told():
                return True
            self._order(Order("end", self._round))
            time.sleep(POLL_S)
        return False

    def _what_is_wrong(self, process: Condition) -> str:
        if process.code is None:
            if process.silent_s <= self._rules.heartbeat_s:
                return ""
            stopped = " (it is stopped, as by SIGSTOP)" if process.stopped else ""
            return f"has been silent for {process.silent_s:.0f} s{stopped}"
        if process.code in _GOOD_ENDINGS:
            return ""
        if process.code >= 0:
            return f"failed with exit code {process.code}"
        how = f"was ended by {_signal_name(-process.code)}"
        if process.code == -signal.SIGABRT:
            how += " (JAX gave up on another process: it died, it hangs, or the clock was turned)"
        return how

    def _behind(self, processes: Sequence[Condition]) -> list[Condition]:
        """When nothing moves for too long: who is furthest behind, for whom the others wait."""
        running = [each for each in processes if each.code is None]
        if not self._rules.stall_s or all(each.step < 0 for each in running):  # they are still starting
            return []
        if min(each.still_s for each in running) <= self._rules.stall_s:
            return []
        return [min(running, key=lambda each: each.step)]

    def _stalled(self, process: Condition) -> str:
        where = f"at step {process.step}" if process.step >= 0 else "before its first step"
        return f"is still {where}, nothing was done for {process.still_s:.0f} s"

    def _rest(self, processes: Sequence[Condition], culprit: Condition | None = None) -> str:
        """What becomes of the others."""
        others = [each for each in processes if each is not culprit]
        running = ", ".join(str(each.id) for each in others if each.code is None)
        followed = ", ".join(str(each.id) for each in others if each.code is not None and each.code)
        said = f"; process {followed} failed after it" if followed else ""
        return f"{said}; stopping process {running}, still running" if running else said

    def _why_not_again(self, ending: _Ending) -> str:
        """Why the processes are not started again; empty: they are."""
        if ending.code == REFUSED:
            return f"not started again: {ending.why}: its input is wrong"
        by_others = ending.told or ending.code == HOST_LOST  # who may start us again even where we may not
        most = max(self._rules.restarts, 1) if by_others else self._rules.restarts
        # Without a memory it is not known how often others have started us.
        if self._restarts >= most and (self._rules.memory or not by_others):
            return f"giving up after {self._restarts} restarts at {self._where()}: {ending.why}"
        return ""

    def _where(self) -> str:
        return f"step {self._best_step}" if self._best_step >= 0 else "the beginning, before any step"

    def _order(self, order: Order) -> None:
        for member in self._members:
            member.order(order)

    def _await_end(self) -> None:
        ends = time.monotonic() + _STOPPING_S
        while time.monotonic() < ends:
            processes = [each for m in self._members if not m.lost() for each in m.report().processes]
            if all(each.code is not None for each in processes):
                return
            time.sleep(POLL_S)

    def _leave(self, ending: _Ending) -> int:
        self._order(Order("leave", self._round, code=ending.code, why=ending.why.strip()))
        return ending.code

    def _end_for_good(self, ending: _Ending) -> int:
        if self._rules.memory:  # whoever starts it again by hand starts afresh
            self._rules.memory.unlink(missing_ok=True)
        return self._leave(ending)

    def _remember(self) -> None:
        if self._rules.memory:
            kept = json.dumps({"step": self._best_step, "restarts": self._restarts})
            new = self._rules.memory.with_suffix(".new")
            new.write_text(kept + "\n")
            new.replace(self._rules.memory)


def host_name() -> str:
    """This host's name, as its users know it."""
    return socket.gethostname()


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def say_as(launcher: str) -> Callable[[str], None]:
    """Says lines in a launcher's name, beside the processes' own."""

    def say(line: str) -> None:
        if line.strip():
            with contextlib.suppress(
                OSError
            ):  # nobody reads it any more, or its disk is full: the run goes on
                print(f"avemo launch {launcher}: {line}", file=sys.stderr, flush=True)

    return say


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"


def _guilt(process: Condition) -> int:
    """Of several processes in trouble, which one is likelier to be its cause? One that dies takes others along."""
    if process.code is None:
        return 2  # silent
    if process.code == -signal.SIGABRT:
        return 0  # JAX's way to leave after another one
    if process.code < 0:
        return 4
    return 3 if process.code == REFUSED else 1


def _exit_code(code: int | None) -> int:
    """As a shell gives it: 128 + the signal's number; 1 for what had to be ended while it hung."""
    if code is None:
        return 1
    return 128 - code if code < 0 else code


def _recall(memory: Path | None) -> tuple[int, int]:
    try:
        kept = json.loads(memory.read_text()) if memory else {}
        return int(kept["step"]), int(kept["restarts"])
    except (OSError, ValueError, KeyError, TypeError):
        return -1, 0


def run_here(
    make: Callable[[str], Sequence[Process]], rules: Rules, port: int = 0, name: str = "local"
) -> int:
    """A run whose processes are all on this host; returns its exit code.

    0 when all succeed, 143 when they were told to stop and saved, otherwise the code of the one that failed.
    """
    with Host(make) as host:
        return Lead([host], rules, lambda: f"127.0.0.1:{port or free_port()}", say_as(name)).run()
