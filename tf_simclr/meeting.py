"""All workers of a run come together before TensorFlow connects them: it would wait for a missing one for ever.

Each worker listens on its own port, where TensorFlow will, and reports to the chief, worker 0: a line of JSON
each way, and then one with the outcome. The chief compares the reports, tries every address, and lets all go
on or tells all of them what is wrong.
"""

import contextlib
import functools
import json
import logging
import os
import selectors
import socket
import time
from collections.abc import Mapping
from typing import IO, Any

from tf_simclr.cluster import Cluster
from tf_simclr.config import UserError
from tf_simclr.files import listed

_LOG = logging.getLogger("tf_simclr")
_SECONDS_TO_ANSWER = 5.0
_SECONDS_BETWEEN_TRIES = 0.2
_MAX_BYTES = 2**20


def meet(cluster: Cluster, settings: Mapping[str, Any], timeout: float) -> None:
    """Waits until every worker has come, and leaves only together with them.

    Args:
        cluster: the workers.
        settings: of the run, which have to be the same everywhere; values that JSON can hold.
        timeout: seconds to wait for the chief, and there for all others.

    Raises:
        UserError: a worker does not come, was started with other settings, or the port is in use.
    """
    report = {"worker": cluster.index, "settings": dict(settings), "addresses": list(cluster.addresses)}
    _LOG.info("Waiting for all workers: %s.", listed(cluster.addresses))
    with _listen(cluster) as listener:
        if cluster.index:
            problem = _report_to_chief(cluster, report, timeout)
        else:
            problem = _Chief(cluster, report, listener, timeout).lead()
    if problem:
        raise UserError(problem)


def _listen(cluster: Cluster) -> socket.socket:
    port = cluster.host_and_port(cluster.index)[1]
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=dual)
    except OSError as error:
        raise UserError(
            f"{cluster.source}: port {port} of this worker ({cluster.addresses[cluster.index]}) cannot be used "
            f"({os.strerror(error.errno or 0)}); stop what uses it - an earlier worker? - or choose another port."
        ) from error


class _Chief:
    """Worker 0 at the meeting. No connection can hold it up: it reads what is there.

    Args:
        cluster: the workers.
        own: the chief's report.
        listener: where the others connect.
        timeout: seconds to wait for them.
    """

    def __init__(self, cluster: Cluster, own: dict, listener: socket.socket, timeout: float):
        self._cluster = cluster
        self._own = json.loads(json.dumps(own))  # As the others' look.
        self._listener = listener
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._present: dict[socket.socket, int] = {}

    def lead(self) -> str | None:
        """Receives the report of every other worker; returns what is wrong, which it has told them."""
        with contextlib.ExitStack() as self._connections:
            self._selector = self._connections.enter_context(selectors.DefaultSelector())
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            problem = self._receive_reports()
            for connection in self._present:
                with contextlib.suppress(OSError):
                    _send(connection, {"problem": problem})
            return problem

    def _receive_reports(self) -> str | None:
        problem = None
        while absent := set(range(1, len(self._cluster.addresses))) - set(self._present.values()):
            if self._seconds_left() == 0:
                return problem or _missing(self._cluster, absent, self._timeout)
            for key, _ in self._selector.select(self._seconds_left()):
                found = key.data()
                if found and not problem:
                    problem = found
                    # Those who come a little later are told too, instead of waiting for a chief that has gone.
                    self._deadline = min(self._deadline, time.monotonic() + _SECONDS_TO_ANSWER)
        return problem

    def _seconds_left(self) -> float:
        return max(self._deadline - time.monotonic(), 0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            self._connections.enter_context(connection)
            connection.setblocking(False)
            read = functools.partial(self._read, connection, bytearray())
            self._selector.register(connection, selectors.EVENT_READ, read)

    def _read(self, connection: socket.socket, received: bytearray) -> str | None:
        """Takes what a connection has sent; returns what is wrong with the report, once that is whole."""
        try:
            part = connection.recv(_MAX_BYTES)
        except OSError:
            part = b""
        received += part
        is_whole = b"\n" in part
        report = _parse_report(received) if is_whole and connection not in self._present else None
        if report is not None:
            problem = self._check(report)
            self._present[connection] = report["worker"]
            with contextlib.suppress(OSError):
                _send(connection, {"seconds": self._seconds_left()})
            return problem
        if is_whole or not part or len(received) > _MAX_BYTES:
            # It has gone, and may come again, or it is none of ours.
            self._present.pop(connection, None)
            self._selector.unregister(connection)
            connection.close()
        return None

    def _check(self, report: dict) -> str | None:
        problem = _difference(self._own, report, self._cluster.source)
        if problem:
            return problem
        number = report["worker"]
        where = f"{self._cluster.source}: worker {number}"
        if number in {0, *self._present.values()}:
            return f"{where} has come twice; start each worker once, with its own index."
        try:
            address = self._cluster.host_and_port(number)
            socket.create_connection(address, timeout=_SECONDS_TO_ANSWER / 2).close()
        except OSError as error:
            return (
                f"{where} has come, but nothing answers at its address {self._cluster.addresses[number]} "
                f"({error.strerror or error}); mend the address or the firewall."
            )
        return None


def _report_to_chief(cluster: Cluster, report: dict, timeout: float) -> str | None:
    """Reports to the chief as soon as it is there; returns what is wrong."""
    address, deadline = cluster.host_and_port(0), time.monotonic() + timeout
    while (seconds_left := deadline - time.monotonic()) > 0:
        # Nobody is there yet, or another program, such as a worker of an earlier start.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            patience = min(seconds_left, _SECONDS_TO_ANSWER)
            with (
                socket.create_connection(address, patience) as connection,
                connection.makefile("rb") as answers,
            ):
                _send(connection, report)
                seconds = _receive(answers)["seconds"]
                connection.settimeout(seconds + _SECONDS_TO_ANSWER)
                return _receive(answers)["problem"]
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return _missing(cluster, {0}, timeout)


def _missing(cluster: Cluster, absent: set[int], timeout: float) -> str:
    workers = listed(f"{number} ({cluster.addresses[number]})" for number in sorted(absent))
    return (
        f"--cluster_timeout={timeout:g}: worker {workers} of {cluster.source} has not come; start it, check its "
        "index, its address and the firewall, or wait longer."
    )


def _difference(ours: dict, theirs: dict, source: str) -> str | None:
    number = theirs["worker"]
    if ours["addresses"] != theirs["addresses"]:
        return (
            f"{source}: names the workers {', '.join(ours['addresses'])} at worker 0, "
            f"{', '.join(map(str, theirs['addresses']))} at worker {number}; name the same everywhere."
        )
    mine, others = ours["settings"], theirs["settings"]
    changed = [
        f"--{name}={mine.get(name)} at worker 0, {others.get(name)} at worker {number}"
        for name in sorted(mine.keys() | others.keys())
        if mine.get(name) != others.get(name)
    ]
    return f"{listed(changed)}; start all workers with the same flags." if changed else None


def _parse_report(line: bytearray) -> dict | None:
    """Returns a worker's report, None where it is something else."""
    with contextlib.suppress(ValueError):
        match report := json.loads(line):
            case {"worker": int(), "settings": dict(), "addresses": list()}:
                return report
    return None


def _send(connection: socket.socket, content: dict) -> None:
    connection.sendall(json.dumps(content).encode() + b"\n")


def _receive(answers: IO[bytes]) -> dict:
    return json.loads(answers.readline(_MAX_BYTES))
