"""Meeting of all workers before TensorFlow connects them, because TensorFlow waits for a missing one for ever.

Each worker listens on its own port, as TensorFlow will, and reports to the chief, worker 0. Chief and worker first
prove to each other that they know the token of the run. The report then holds digests of the settings. The chief
compares them, tries every address, and lets all go on or tells all of them what is wrong.
"""

import asyncio
import concurrent.futures
import logging
import secrets
import socket
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from tf_simclr.config import UserError
from tf_simclr.distribution.cluster import Cluster
from tf_simclr.distribution.listening import listening
from tf_simclr.distribution.proofs import TOKEN_VARIABLE, Talk, digest, token_key
from tf_simclr.files import Form, between, listed, one_line

_LOG = logging.getLogger("tf_simclr")
_MAX_BYTES = 2**17
_SECONDS_TO_ANSWER = 5.0
_SECONDS_BETWEEN_TRIES = 0.2
# Hosts of strangers that the log names.
_MAX_NAMED = 64
_HELLO: Form = {"nonce": str}
_REPORT: Form = {"worker": between(0, 2**31), "workers": str, "settings": {str: str}}
_ANSWER: Form = {"seconds": lambda value: isinstance(value, float | int) and 0 <= value < 2**31}
_OUTCOME: Form = {"problem": (str, None)}
_SAME_TOKEN = f"give all workers the same {TOKEN_VARIABLE} and the same list of workers"

Report = dict[str, Any]


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
            problem = _run(_report_to_chief(cluster, key, report, timeout))
        else:
            problem = _run(_Chief(cluster, key, report, timeout).lead(listeners))
    if problem:
        raise UserError(problem)


def _run(coroutine: Coroutine[Any, Any, str | None]) -> str | None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # A notebook has a loop of its own in this thread.
        return pool.submit(asyncio.run, coroutine).result()


# ---- The chief


class _Chief:
    """Worker 0 at the meeting, at which no connection can hold it up.

    Args:
        cluster: The workers.
        key: The hash of the token.
        own: The chief's report.
        timeout: Seconds to wait for the others.
    """

    def __init__(self, cluster: Cluster, key: bytes, own: Report, timeout: float):
        self._cluster = cluster
        self._key = key
        self._own = own
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._problem: str | None = None
        self._changed = asyncio.Event()
        self._workers: dict[asyncio.StreamWriter, tuple[int, Talk]] = {}
        self._named_strangers: set[str] = set()

    async def lead(self, listeners: list[socket.socket]) -> str | None:
        """Receives the report of every other worker; returns what is wrong, which it has told them."""
        for listener in listeners:
            await asyncio.start_server(self._receive, sock=listener, limit=_MAX_BYTES)
        while (absent := self._absent()) and (seconds := self._deadline - time.monotonic()) > 0:
            self._changed.clear()
            await asyncio.wait([asyncio.ensure_future(self._changed.wait())], timeout=seconds)
        problem = self._problem or (_missing(self._cluster, absent, self._timeout) if absent else None)
        for writer, (_, talk) in self._workers.items():
            writer.write(talk.write("outcome", {"problem": problem}))
        return problem

    def _absent(self) -> set[int]:
        return set(range(1, len(self._cluster.addresses))) - {number for number, _ in self._workers.values()}

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the report of one connection, which then stays open until the outcome is known."""
        try:
            talk, report = await asyncio.wait_for(self._read_report(reader, writer), _SECONDS_TO_ANSWER)
            problem = await self._find_problem(report)
            self._workers[writer] = report["worker"], talk
            if problem and not self._problem:
                self._problem = problem
                # Those who come a little later are told too, instead of waiting for a chief that has gone.
                self._deadline = min(self._deadline, time.monotonic() + _SECONDS_TO_ANSWER)
            writer.write(talk.write("answer", {"seconds": max(self._deadline - time.monotonic(), 0)}))
            self._changed.set()
            await reader.read(1)  # A worker that ends has gone, and may come again.
        except (ValueError, asyncio.TimeoutError):
            self._name_stranger(writer.get_extra_info("peername")[0])
        except (OSError, asyncio.CancelledError):
            pass  # It has gone, or the meeting is over.
        finally:
            self._workers.pop(writer, None)
            writer.close()

    async def _read_report(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Talk, Report]:
        line, ours = await reader.readline(), secrets.token_hex(16)
        theirs = line.decode().strip()
        if not line:
            raise ConnectionResetError("It only looked whether somebody listens.")
        if len(theirs) != len(ours):
            raise ValueError("no greeting")
        writer.write(Talk(self._key, theirs).write("hello", {"nonce": ours}))
        talk = Talk(self._key, theirs + ours)
        return talk, talk.read("report", await reader.readline(), _REPORT)

    async def _find_problem(self, report: Report) -> str | None:
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
        if number in self._absent():
            address = self._cluster.host_and_port(number)
            try:
                probe = await asyncio.to_thread(socket.create_connection, address, _SECONDS_TO_ANSWER / 2)
                probe.close()
            except OSError as error:
                return (
                    f"{where} has come, but nothing answers at its address {self._cluster.addresses[number]} "
                    f"({error.strerror or error}); fix the address or the firewall."
                )
        if number not in self._absent():  # Its twin may have come in the meantime.
            return f"{where} was started twice, or is not in the list; start each worker once, with its own index."
        return None

    def _name_stranger(self, host: str) -> None:
        if host not in self._named_strangers and len(self._named_strangers) < _MAX_NAMED:
            self._named_strangers.add(host)
            _LOG.warning(
                "Ignored a connection from %s at the meeting of the workers: it did not prove that it belongs to this "
                "run. If it is a worker, %s.",
                one_line(host),
                _SAME_TOKEN,
            )


# ---- The other workers


async def _report_to_chief(cluster: Cluster, key: bytes, report: Report, timeout: float) -> str | None:
    """Reports to the chief as soon as it is there; returns what is wrong."""
    deadline = time.monotonic() + timeout
    is_strange = False
    while (seconds_left := deadline - time.monotonic()) > 0:
        patience = min(seconds_left, _SECONDS_TO_ANSWER)
        try:
            address = cluster.host_and_port(0)
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*address, limit=_MAX_BYTES), patience)
            try:
                return await _talk_to_chief(reader, writer, key, report, patience)
            finally:
                writer.close()
        except (OSError, asyncio.TimeoutError):
            pass  # Nobody is there yet.
        except ValueError:
            if not is_strange:
                _LOG.warning(
                    "The program at %s, the address of worker 0, did not prove that it belongs to this run; trying "
                    "again. If it is worker 0, %s.",
                    cluster.addresses[0],
                    _SAME_TOKEN,
                )
            is_strange = True
        await asyncio.sleep(_SECONDS_BETWEEN_TRIES)
    return _missing(cluster, {0}, timeout, is_strange)


async def _talk_to_chief(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, report: Report, patience: float
) -> str | None:
    ours = secrets.token_hex(16)
    writer.write(f"{ours}\n".encode())
    hello = Talk(key, ours).read("hello", await _read_line(reader, patience), _HELLO)
    talk = Talk(key, ours + hello["nonce"])
    writer.write(talk.write("report", report))
    answer = talk.read("answer", await _read_line(reader, patience), _ANSWER)
    # The answer is proved, so the chief does wait this long.
    line = await _read_line(reader, answer["seconds"] + _SECONDS_TO_ANSWER)
    problem = talk.read("outcome", line, _OUTCOME)["problem"]
    return problem and one_line(problem)


async def _read_line(reader: asyncio.StreamReader, seconds: float) -> bytes:
    """Returns the next line; raises OSError if the other end has gone, ValueError or TimeoutError if it is no line."""
    line = await asyncio.wait_for(reader.readline(), seconds)
    if not line:
        raise ConnectionResetError("closed")
    return line


def _missing(cluster: Cluster, absent: set[int], timeout: float, is_strange: bool = False) -> str:
    workers = listed(f"{number} ({cluster.addresses[number]})" for number in sorted(absent))
    other = f", but a program that did not prove that it belongs to this run answered there: {_SAME_TOKEN}"
    return (
        f"--cluster_timeout={timeout:g}: worker {workers} of {cluster.source} has not come{other * is_strange}; start "
        "it, check its index, its address and the firewall, or wait longer."
    )
