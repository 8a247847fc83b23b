"""Workers that come together: threads on localhost stand for them."""

import concurrent.futures
import contextlib
import json
import socket
import threading
import time

import pytest

from tests.runs import free_addresses
from tf_simclr import meeting
from tf_simclr.cluster import Cluster
from tf_simclr.config import UserError

SETTINGS = {"temperature": 0.1, "train_batch_size": 32, "teacher": None}


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(meeting, "_SECONDS_TO_ANSWER", 0.2)


@pytest.fixture(autouse=True)
def _try_often(monkeypatch):
    monkeypatch.setattr(meeting, "_SECONDS_BETWEEN_TRIES", 0.02)


def place(address):
    host, _, port = address.partition(":")
    return host, int(port)


def settled(future):
    """What came of a worker: None, or the line that it was refused with."""
    error = future.exception(timeout=20)
    assert error is None or isinstance(error, UserError), repr(error)
    assert error is None or "\n" not in str(error)
    return None if error is None else str(error)


class Workers:
    """Workers of one cluster, each in a thread."""

    def __init__(self, pool, addresses):
        self.addresses = addresses
        self._pool = pool

    def start(self, index, settings=None, timeout=10.0, addresses=None):
        cluster = Cluster(addresses or self.addresses, index, "TF_CONFIG")
        return self._pool.submit(meeting.meet, cluster, settings or SETTINGS, timeout)

    def missing(self, index, timeout):
        return (
            f"--cluster_timeout={timeout}: worker {index} ({self.addresses[index]}) of TF_CONFIG has not come; "
            "start it, check its index, its address and the firewall, or wait longer."
        )


@pytest.fixture
def make_workers():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield lambda count: Workers(pool, free_addresses(count))


def report_of(index, workers, settings=None):
    content = {"worker": index, "settings": settings or SETTINGS, "addresses": list(workers.addresses)}
    return json.dumps(content).encode() + b"\n"


def connect(address):
    """Connects as soon as something listens there."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(place(address), timeout=10)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listening(index, workers):
    """A worker's port, open."""
    return socket.create_server(place(workers.addresses[index]))


@contextlib.contextmanager
def reported(index, workers):
    """A worker's report, taken by the chief."""
    with connect(workers.addresses[0]) as connection, connection.makefile("rb") as answers:
        connection.sendall(report_of(index, workers))
        assert 0 < json.loads(answers.readline())["seconds"] <= 10
        yield answers


# ---- All come


@pytest.mark.parametrize("order", [(0,), (0, 1), (1, 0), (0, 1, 2), (2, 0, 1), (2, 1, 0)], ids=str)
def test_workers_meet_in_any_order_and_none_leaves_before_the_last_has_come(make_workers, order):
    workers = make_workers(len(order))
    *first, last = order
    waiting = [workers.start(index) for index in first]
    time.sleep(0.2 if first else 0)
    assert not any(future.done() for future in waiting)
    assert [settled(future) for future in [*waiting, workers.start(last)]] == [None] * len(order)


def test_ports_are_free_again_after_the_meeting(make_workers):
    workers = make_workers(2)
    for _ in range(2):
        assert [settled(future) for future in [workers.start(0), workers.start(1)]] == [None, None]


def test_worker_that_went_away_is_waited_for_again(make_workers):
    workers = make_workers(3)
    chief = workers.start(0)
    with listening(1, workers), reported(1, workers):
        pass  # Killed, while the chief still waits for the other one.
    with listening(2, workers), reported(2, workers) as answers:
        time.sleep(0.1)
        assert not chief.done()
        assert settled(workers.start(1)) is None
        assert json.loads(answers.readline()) == {"problem": None}
    assert settled(chief) is None


# ---- Somebody does not come


@pytest.mark.parametrize("absent", [1, 2])
def test_worker_missing_is_named_at_the_chief_and_at_the_others(make_workers, absent):
    workers = make_workers(3)
    start = time.monotonic()
    futures = [workers.start(index, timeout=1) for index in range(3) if index != absent]
    assert [settled(future) for future in futures] == [workers.missing(absent, timeout=1)] * 2
    assert 1 <= time.monotonic() - start < 4


def test_worker_that_came_earlier_waits_as_long_as_the_chief(make_workers):
    """Its own time-out would end while the chief is there, and name the wrong one."""
    workers = make_workers(3)
    early = workers.start(1, timeout=1)
    time.sleep(0.7)
    assert settled(workers.start(0, timeout=1)) == settled(early) == workers.missing(2, timeout=1)


def test_chief_missing_is_named_at_the_others(make_workers):
    workers = make_workers(3)
    start = time.monotonic()
    futures = [workers.start(index, timeout=0.5) for index in (1, 2)]
    assert [settled(future) for future in futures] == [workers.missing(0, timeout=0.5)] * 2
    assert 0.5 <= time.monotonic() - start < 3


def test_chief_that_dies_is_tried_again_until_the_time_out(make_workers):
    workers = make_workers(2)
    worker = workers.start(1, timeout=2)
    with socket.create_server(place(workers.addresses[0])) as listener:
        connection, _ = listener.accept()
        connection.sendall(b'{"seconds": 100}\n')
        connection.close()
    assert settled(workers.start(0)) is None
    assert settled(worker) is None


# ---- Something differs


def test_settings_that_differ_are_told_to_all_who_have_come(make_workers):
    workers = make_workers(3)
    waiting = [workers.start(0), workers.start(1)]
    time.sleep(0.1)
    other = SETTINGS | {"temperature": 0.5, "teacher": "x"}
    for future in [workers.start(2, other), *waiting]:
        assert settled(future) == (
            "--teacher=None at worker 0, x at worker 2, --temperature=0.1 at worker 0, 0.5 at worker 2; start all "
            "workers with the same flags."
        )


def test_settings_that_differ_are_told_to_those_who_come_a_little_later(make_workers):
    workers = make_workers(3)
    early = [workers.start(0), workers.start(1, SETTINGS | {"temperature": 0.5})]
    time.sleep(0.2)
    messages = [settled(future) for future in [*early, workers.start(2)]]
    assert messages[0].startswith("--temperature=0.1 at worker 0, 0.5 at worker 1; ")
    assert messages == messages[:1] * 3


def test_settings_are_compared_as_json_has_them(make_workers):
    workers = make_workers(2)
    futures = [workers.start(index, {"sizes": (1, 2)}) for index in range(2)]
    assert [settled(future) for future in futures] == [None, None]


def test_lists_of_workers_that_differ_are_refused(make_workers):
    workers = make_workers(3)
    a, b, c = workers.addresses
    futures = [workers.start(0, addresses=(a, b)), workers.start(1, addresses=(a, b, c))]
    for future in futures:
        assert settled(future) == (
            f"TF_CONFIG: names the workers {a}, {b} at worker 0, {a}, {b}, {c} at worker 1; name the same "
            "everywhere."
        )


@pytest.mark.usefixtures("_impatient")
def test_same_index_twice_is_refused(make_workers):
    workers = make_workers(3)
    chief = workers.start(0)
    with listening(1, workers), reported(1, workers) as first, reported(1, workers) as second:
        told = [json.loads(answers.readline())["problem"] for answers in (first, second)]
    message = "TF_CONFIG: worker 1 has come twice; start each worker once, with its own index."
    assert [settled(chief), *told] == [message] * 3


# ---- Ports and addresses


@pytest.mark.parametrize("index", [0, 1])
def test_port_in_use_is_named(make_workers, index):
    workers = make_workers(2)
    host, port = place(workers.addresses[index])
    with socket.create_server((host, port)):
        assert settled(workers.start(index)) == (
            f"TF_CONFIG: port {port} of this worker ({host}:{port}) cannot be used (Address already in use); stop "
            "what uses it - an earlier worker? - or choose another port."
        )


def test_address_where_nothing_answers_is_told_to_all(make_workers):
    workers = make_workers(2)
    chief = workers.start(0)
    with reported(1, workers) as answers:
        told = json.loads(answers.readline())["problem"]
    assert settled(chief) == told
    assert told == (
        f"TF_CONFIG: worker 1 has come, but nothing answers at its address {workers.addresses[1]} (Connection "
        "refused); mend the address or the firewall."
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\xff\x00",
        b"[1]\n",
        b'{"worker": "1"}\n',
        b'{"worker": 1',
    ],
    ids=str,
)
def test_foreign_program_does_not_hold_up_the_chief(make_workers, content):
    workers = make_workers(2)
    chief = workers.start(0)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(workers.addresses[0])).sendall(content)
        start = time.monotonic()
        assert [settled(workers.start(1)), settled(chief)] == [None, None]
        assert time.monotonic() - start < 5


def test_foreign_program_that_never_ends_its_line_is_cut_off(make_workers, monkeypatch):
    monkeypatch.setattr(meeting, "_MAX_BYTES", 2000)
    workers = make_workers(2)
    chief = workers.start(0)
    with connect(workers.addresses[0]) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(b"x" * 1000)
            time.sleep(0.001)
    assert [settled(workers.start(1)), settled(chief)] == [None, None]


@contextlib.contextmanager
def foreign_server(address, answer):
    """An older process on a port: it answers each connection with `answer` and closes it, None: is silent."""
    kept = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                if answer is not None:
                    connection.recv(1)
                    connection.sendall(answer)
                    connection.close()

    with socket.create_server(place(address)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield kept
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


# What gRPC's server says to a line that is not HTTP/2: its settings.
GRPC = b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00?\xff\xff"


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("answer", [GRPC, b"[]\n", b'{"seconds": "x"}\n', b"", None], ids=str)
def test_older_process_at_the_port_of_the_chief_is_tried_until_the_time_out(make_workers, answer):
    workers = make_workers(2)
    with foreign_server(workers.addresses[0], answer) as connections:
        start = time.monotonic()
        assert settled(workers.start(1, timeout=0.7)) == workers.missing(0, timeout=0.7)
        assert 0.7 <= time.monotonic() - start < 3
        assert len(connections) > 1


def test_worker_finds_the_chief_once_an_older_process_has_gone(make_workers):
    workers = make_workers(2)
    with foreign_server(workers.addresses[0], GRPC):
        worker = workers.start(1)
        time.sleep(0.1)
    assert [settled(workers.start(0)), settled(worker)] == [None, None]
