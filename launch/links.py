"""Orders and reports between the hosts of a run: one TCP connection from each host to the first, JSON lines on it.

The first host listens at one port that all others reach. Nothing but reports and orders is read from it, and only
from hosts that name the same run.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

from .crew import OWN_PAUSE_S, Condition
from .supervisor import HOST_LOST, POLL_S, PREEMPTED, Host, Order, Report

_AGAIN_S = 1.0  # how often an order is repeated
_MOST_BYTES = 1 << 20  # of one line
_RETRY_S = 1.0
_REPORT_S = 0.5


class RemoteHost:
    """Another host as the lead sees it: made when it has joined."""

    def __init__(self, name: str, connection: socket.socket, lines, heartbeat_s: float):
        self.name = name
        self._connection, self._lines, self._heartbeat_s = connection, lines, heartbeat_s
        self._report = Report(0, 0, [])
        self._heard_at, self._looked_at, self._closed = time.monotonic(), time.monotonic(), False
        self._order, self._sent_at = Order(), 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def order(self, order: Order) -> None:
        if order != self._order:
            self._order, self._sent_at = order, 0.0
        self._repeat()

    def report(self) -> Report:
        self._repeat()
        return self._report

    def lost(self) -> str:
        if self._closed:
            return "is gone"
        now = time.monotonic()
        if now - self._looked_at > OWN_PAUSE_S:  # nobody was heard meanwhile
            self._heard_at = now
        self._looked_at = now
        silent_s = now - self._heard_at
        return f"has been silent for {silent_s:.0f} s" if silent_s > self._heartbeat_s else ""

    def _repeat(self) -> None:
        if self._closed or time.monotonic() - self._sent_at < _AGAIN_S:
            return
        self._sent_at = time.monotonic()
        try:
            self._connection.sendall(json.dumps(self._order._asdict()).encode() + b"\n")
        except OSError:  # a time-out too: it does not read, so it does not run
            self._closed = True

    def _read(self) -> None:
        try:
            for line in iter(lambda: self._lines.readline(_MOST_BYTES), b""):
                told = json.loads(line)
                processes = [Condition(**each) for each in told["processes"]]
                self._report = Report(told["round"], told["told"], processes)
                self._heard_at = time.monotonic()
        except TimeoutError:  # silent for too long: `lost` tells
            return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._closed = True


class Gate:
    """Where the other hosts join the lead.

    Args:
      port: to listen at, on all of this host's addresses.
      run: names the run; a host of another one is turned away.
      count: hosts to expect besides this one.

    Raises:
      OSError: the port is taken.
    """

    def __init__(self, port: int, run: str, count: int, heartbeat_s: float):
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        dual = family == socket.AF_INET6
        self._server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=count + 8)
        self._run, self._count, self._heartbeat_s = run, count, heartbeat_s
        self._joined: dict[int, RemoteHost] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def await_all(self, seconds: float, stop: Callable[[], bool]) -> list[RemoteHost]:
        """The other hosts by their number, or as many of them as came in time; fewer too when told to stop."""
        ends = time.monotonic() + seconds
        while len(self._joined) < self._count and time.monotonic() < ends and not stop():
            for host in list(self._joined.values()):
                host.order(Order())  # so that it sees that we are here
            time.sleep(POLL_S)
        self.close()  # the hosts of a run are those that came before it began
        return [self._joined[index] for index in sorted(self._joined)]

    def missing(self) -> list[int]:
        """The numbers of the hosts that have not joined."""
        return [index for index in range(1, self._count + 1) if index not in self._joined]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        connection.settimeout(self._heartbeat_s)
        lines = connection.makefile("rb")
        try:
            hello = json.loads(lines.readline(_MOST_BYTES))
            index, run, name = int(hello["host"]), hello["run"], str(hello["name"])
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()
            return
        taken = index in self._joined and not self._joined[index].lost()
        if run != self._run or not 1 <= index <= self._count or taken:
            refusal = Order("leave", code=1, why=f"host {index} of run {run} is not expected here")
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(refusal._asdict()).encode() + b"\n")
            connection.close()
            return
        self._joined[index] = RemoteHost(name, connection, lines, self._heartbeat_s)


def follow(host: Host, index: int, lead: tuple[str, int], run: str, rules, say: Callable[[str], None]) -> int:
    """What every host but the first does: obeys, reports, and stops its processes when the lead is gone.

    Args:
      host: this one, as a context that is open.
      index: its number, from 1.
      lead: address and port of the first host.
      rules: `supervisor.Rules`.
    """
    try:
        connection = _connect(lead, rules.join_s, lambda: bool(host.report().told))
    except OSError as error:
        if host.report().told:
            return PREEMPTED
        say(f"host {lead[0]}, which leads, cannot be reached at port {lead[1]} ({error})")
        return HOST_LOST
    connection.settimeout(rules.heartbeat_s)
    newest, gone, heard_at = [Order()], [""], [time.monotonic()]

    def read():
        try:
            for line in iter(lambda: lines.readline(_MOST_BYTES), b""):
                newest[0], heard_at[0] = Order(**json.loads(line)), time.monotonic()
            gone[0] = "is gone"
        except TimeoutError:
            gone[0] = f"has been silent for {time.monotonic() - heard_at[0]:.0f} s"
        except (OSError, ValueError, TypeError) as error:
            gone[0] = f"is gone ({error})"

    with connection, connection.makefile("rb") as lines:
        with contextlib.suppress(OSError):  # the reader says why
            _send(connection, {"host": index, "run": run, "name": host.name})
        threading.Thread(target=read, daemon=True).start()
        sent_at = 0.0
        while True:
            lost = gone[0]  # looked at before the order: the last one may have come just before the end
            order = newest[0]
            host.order(order)
            if order.kind == "leave":
                say(order.why)
                return order.code
            if lost:
                host.order(Order("end"))
                say(f"host {lead[0]}, which leads, {lost}; its processes here were stopped")
                return HOST_LOST
            report = host.report()
            if time.monotonic() - sent_at >= _REPORT_S:
                sent_at = time.monotonic()
                try:
                    conditions = [each.as_json() for each in report.processes]
                    _send(connection, {"round": report.round, "told": report.told, "processes": conditions})
                except OSError:
                    pass  # the reader says why
            time.sleep(POLL_S)


def _connect(lead: tuple[str, int], seconds: float, stop: Callable[[], bool]) -> socket.socket:
    """Tries until the lead listens: hosts start in any order, and names may take a while to be known."""
    ends = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(lead, timeout=5)
        except OSError:
            if time.monotonic() > ends or stop():
                raise
        time.sleep(_RETRY_S)


def _send(connection: socket.socket, message: dict) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")
