"""Meeting of all workers before TensorFlow connects them, because TensorFlow waits for a missing one for ever.

Each worker listens on its own port, as TensorFlow will, and reports to the chief, worker 0. Chief and worker first
prove to each other that they know the token of the run. The report then holds digests of the settings. The chief
compares them, tries every address, and lets all go on or tells all of them what is wrong.
"""

import contextlib
import dataclasses
import functools
import logging
import secrets
import selectors
import socket
import time
from collections.abc import Mapping
from typing import Any

from tf_simclr.config import UserError
from tf_simclr.distribution.cluster import Cluster
from tf_simclr.distribution.listening import listening
from tf_simclr.distribution.proofs import MAX_BYTES, TOKEN_VARIABLE, Talk, digest, receive_line, token_key
from tf_simclr.files import Form, between, listed, one_line

_LOG = logging.getLogger("tf_simclr")
_SECONDS_TO_ANSWER = 5.0
_SECONDS_BETWEEN_TRIES = 0.2
# Connections without a proof that the chief holds at once, besides one for each worker.
_MAX_STRANGERS = 64
_HELLO: Form = {"nonce": str}
_REPORT: Form = {"worker": between(0, 2**31), "workers": str, "settings": {str: str}}
_ANSWER: Form = {"seconds": lambda value: isinstance(value, float | int) and 0 <= value < 2**31}
_OUTCOME: Form = {"problem": (str, None)}
_SAME_TOKEN = f"give all workers the same {TOKEN_VARIABLE} and the same list of workers"


def meet(cluster: Cluster, settings: Mapping[str, Any], timeout: float) -> None:
    """Waits until every worker has come, and leaves only together with them.

    Args:
        cluster: The workers.
        settings: Settings of the run, which must be the same everywhere; values that JSON can hold. Only digests
            of them leave this process.
        timeout: Seconds to wait for the chief, and there for all others.

    Raises:
        UserError: A worker does not come, was started with other settings, or the port is in use.
    """
    key = token_key(cluster.addresses)
    report = {
        "worker": cluster.index,
        "workers": digest(key, cluster.addresses),
        "settings": {name: digest(key, (name, value)) for name, value in settings.items()},
    }
    _LOG.info("Waiting for all workers: %s.", listed(cluster.addresses))
    with listening(cluster) as listeners:
        if cluster.index:
            problem = _report_to_chief(cluster, key, report, timeout)
        else:
            problem = _Chief(cluster, key, report, timeout).lead(listeners)
    if problem:
        raise UserError(problem)


# ---- The chief


@dataclasses.dataclass(eq=False)
class _Guest:
    """A connection to the chief.

    Attributes:
        connection: The socket, non-blocking.
        host: Where it comes from.
        deadline: When its report must be here.
        received: What has come of the next line.
        talk: How to read the report, None before the first line.
        worker: The number of the worker, None before its report.
    """

    connection: socket.socket
    host: str
    deadline: float
    received: bytearray = dataclasses.field(default_factory=bytearray)
    talk: Talk | None = None
    worker: int | None = None


class _Chief:
    """Worker 0 at the meeting. No connection can hold it up: it reads what is there.

    Args:
        cluster: The workers.
        key: The hash of the token.
        own: The chief's report.
        timeout: Seconds to wait for the others.
    """

    def __init__(self, cluster: Cluster, key: bytes, own: dict, timeout: float):
        self._cluster = cluster
        self._key = key
        self._own = own
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._guests: list[_Guest] = []
        self._named_strangers: set[str] = set()

    def lead(self, listeners: list[socket.socket]) -> str | None:
        """Receives the report of every other worker; returns what is wrong, which it has told them."""
        with selectors.DefaultSelector() as self._selector:
            for listener in listeners:
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, functools.partial(self._accept, listener))
            try:
                problem = self._receive_reports()
                for guest in self._guests:
                    if guest.talk and guest.worker is not None:
                        _send(guest, guest.talk.write("outcome", {"problem": problem}))
            finally:
                for guest in self._guests:
                    guest.connection.close()
            return problem

    def _receive_reports(self) -> str | None:
        problem = None
        while absent := self._absent():
            now = time.monotonic()
            if now >= self._deadline:
                return problem or _missing(self._cluster, absent, self._timeout)
            waiting = [guest for guest in self._guests if guest.worker is None]
            for guest in waiting:
                if now >= guest.deadline:
                    self._ignore(guest)
            first_deadline = min([self._deadline, *(guest.deadline for guest in waiting)])
            for key, _ in self._selector.select(max(first_deadline - now, 0)):
                found = key.data()
                if found and not problem:
                    problem = found
                    # Those who come a little later are told too, instead of waiting for a chief that has gone.
                    self._deadline = min(self._deadline, time.monotonic() + _SECONDS_TO_ANSWER)
        return problem

    def _absent(self) -> set[int]:
        return set(range(1, len(self._cluster.addresses))) - {guest.worker for guest in self._guests}

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, address = listener.accept()
            connection.setblocking(False)
            guest = _Guest(connection, address[0], time.monotonic() + _SECONDS_TO_ANSWER)
            self._guests.append(guest)
            self._selector.register(connection, selectors.EVENT_READ, functools.partial(self._receive, guest))
            strangers = [other for other in self._guests if other.worker is None]
            if len(strangers) > _MAX_STRANGERS + len(self._cluster.addresses):
                self._ignore(strangers[0])

    def _receive(self, guest: _Guest) -> str | None:
        """Takes what a guest has sent; returns what is wrong with the report, once that is whole."""
        if guest not in self._guests:  # It was dropped since the selector found it.
            return None
        try:
            part = guest.connection.recv(MAX_BYTES)
        except OSError:
            part = b""
        if guest.worker is not None or not (part or guest.received or guest.talk):
            # It has gone, and may come again, or it only looked whether somebody listens.
            self._drop(guest)
            return None
        guest.received += part
        if not part or len(guest.received) > MAX_BYTES:
            self._ignore(guest)
            return None
        if b"\n" not in part:
            return None
        line, guest.received = bytes(guest.received), bytearray()
        try:
            return self._answer(guest, line)
        except ValueError:
            self._ignore(guest)
            return None

    def _answer(self, guest: _Guest, line: bytes) -> str | None:
        if guest.talk is None:
            theirs, ours = line.decode().strip(), secrets.token_hex(16)
            if len(theirs) != len(ours):
                raise ValueError("no greeting")
            guest.talk = Talk(self._key, theirs + ours)
            _send(guest, Talk(self._key, theirs).write("hello", {"nonce": ours}))
            return None
        report = guest.talk.read("report", line, _REPORT)
        problem = self._check(report)
        guest.worker = report["worker"]
        seconds = max(self._deadline - time.monotonic(), 0)
        _send(guest, guest.talk.write("answer", {"seconds": seconds}))
        return problem

    def _check(self, report: dict) -> str | None:
        number, where = report["worker"], f"{self._cluster.source}: worker {report['worker']}"
        if report["workers"] != self._own["workers"]:
            return f"{where} names other workers than worker 0; name the same everywhere, in the same order."
        ours, theirs = self._own["settings"], report["settings"]
        differing = [f"--{n}" for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)]
        if differing:
            return (
                f"{listed(map(one_line, differing))}: not the same at worker 0 and worker {number}; start all "
                "workers with the same flags."
            )
        if number not in self._absent():
            return f"{where} was started twice, or is not in the list; start each worker once, with its own index."
        try:
            address = self._cluster.host_and_port(number)
            socket.create_connection(address, timeout=_SECONDS_TO_ANSWER / 2).close()
        except OSError as error:
            return (
                f"{where} has come, but nothing answers at its address {self._cluster.addresses[number]} "
                f"({error.strerror or error}); fix the address or the firewall."
            )
        return None

    def _ignore(self, stranger: _Guest) -> None:
        self._drop(stranger)
        if stranger.host not in self._named_strangers and len(self._named_strangers) < _MAX_STRANGERS:
            self._named_strangers.add(stranger.host)
            _LOG.warning(
                "Ignored a connection from %s at the meeting of the workers: it did not prove that it belongs to this "
                "run. If it is a worker, %s.",
                one_line(stranger.host),
                _SAME_TOKEN,
            )

    def _drop(self, guest: _Guest) -> None:
        self._guests.remove(guest)
        self._selector.unregister(guest.connection)
        guest.connection.close()


def _send(guest: _Guest, line: bytes) -> None:
    with contextlib.suppress(OSError):  # It has gone, which reading from it will show.
        guest.connection.sendall(line)


# ---- The other workers


def _report_to_chief(cluster: Cluster, key: bytes, report: dict, timeout: float) -> str | None:
    """Reports to the chief as soon as it is there; returns what is wrong."""
    address, deadline = cluster.host_and_port(0), time.monotonic() + timeout
    is_strange = False
    while (seconds_left := deadline - time.monotonic()) > 0:
        try:
            patience = min(seconds_left, _SECONDS_TO_ANSWER)
            with socket.create_connection(address, patience) as connection:
                return _talk_to_chief(connection, key, report, patience)
        except OSError:
            pass  # Nobody is there yet.
        except ValueError:
            if not is_strange:
                _LOG.warning(
                    "What answers at %s, the address of worker 0, did not prove that it belongs to this run; trying "
                    "again. If it is worker 0, %s.",
                    cluster.addresses[0],
                    _SAME_TOKEN,
                )
            is_strange = True
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return _missing(cluster, {0}, timeout, is_strange)


def _talk_to_chief(connection: socket.socket, key: bytes, report: dict, patience: float) -> str | None:
    ours = secrets.token_hex(16)
    connection.sendall(f"{ours}\n".encode())
    hello = Talk(key, ours).read("hello", receive_line(connection, patience), _HELLO)
    talk = Talk(key, ours + hello["nonce"])
    connection.sendall(talk.write("report", report))
    answer = talk.read("answer", receive_line(connection, patience), _ANSWER)
    # The answer is proved, so the seconds are those that the chief waits.
    outcome = talk.read("outcome", receive_line(connection, answer["seconds"] + _SECONDS_TO_ANSWER), _OUTCOME)
    return outcome["problem"] and one_line(outcome["problem"])


def _missing(cluster: Cluster, absent: set[int], timeout: float, is_strange: bool = False) -> str:
    workers = listed(f"{number} ({cluster.addresses[number]})" for number in sorted(absent))
    other = (
        f", but a program that did not prove that it belongs to this run answered there: {_SAME_TOKEN}"
        if is_strange
        else ""
    )
    return (
        f"--cluster_timeout={timeout:g}: worker {workers} of {cluster.source} has not come{other}; start it, check its "
        "index, its address and the firewall, or wait longer."
    )
