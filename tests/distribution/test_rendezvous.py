"""Workers that come together: threads on localhost stand for them."""

import concurrent.futures
import contextlib
import json
import logging
import socket
import threading
import time

import pytest

from tests.support.runs import free_addresses
from tf_simclr.config import UserError
from tf_simclr.distribution import listening as listening_module
from tf_simclr.distribution import proofs
from tf_simclr.distribution import rendezvous as meeting
from tf_simclr.distribution.cluster import Cluster
from tf_simclr.distribution.listening import listening as listening_at

TOKEN = "0123456789abcdef0123"
IGNORED = (
    "Ignored a connection from 127.0.0.1 at the meeting of the workers: it did not prove that it belongs to this run. "
    "If it is a worker, give all workers the same TF_SIMCLR_CLUSTER_TOKEN and the same list of workers."
)
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

    def missing(self, index, timeout, strange=False):
        other = (
            ", but a program that did not prove that it belongs to this run answered there: give all workers the same "
            "TF_SIMCLR_CLUSTER_TOKEN and the same list of workers"
        )
        return (
            f"--cluster_timeout={timeout}: worker {index} ({self.addresses[index]}) of TF_CONFIG has not come"
            f"{other * strange}; start it, check its index, its address and the firewall, or wait longer."
        )


@pytest.fixture
def make_workers():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield lambda count: Workers(pool, free_addresses(count))


def report_of(index, workers, settings=None, key=None):
    """The report of a worker, as it is before it is written."""
    key = key or proofs.token_key(workers.addresses)
    return {
        "worker": index,
        "workers": proofs.digest(key, workers.addresses),
        "settings": {name: proofs.digest(key, (name, value)) for name, value in (settings or SETTINGS).items()},
    }


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


class Visitor:
    """A connection to the chief that speaks line by line."""

    def __init__(self, connection, workers, key=None):
        self._connection = connection
        self._key = key or proofs.token_key(workers.addresses)

    def greet(self):
        """Greets the chief; returns whether it proved that it knows the token."""
        ours = "0123456789abcdef" * 2
        self._connection.sendall(ours.encode() + b"\n")
        line = proofs.receive_line(self._connection, 10)
        theirs = json.loads(line.decode().partition(" ")[2])["nonce"]
        self._talk = proofs.Talk(self._key, ours + theirs)
        return line == proofs.Talk(self._key, ours).write("hello", {"nonce": theirs})

    def say(self, purpose, content):
        self._connection.sendall(self._talk.write(purpose, content))

    def hear(self, purpose):
        return self._talk.read(purpose, proofs.receive_line(self._connection, 10), object)


@contextlib.contextmanager
def reported(index, workers):
    """A worker's report, taken by the chief."""
    with connect(workers.addresses[0]) as connection:
        visitor = Visitor(connection, workers)
        assert visitor.greet()
        visitor.say("report", report_of(index, workers))
        assert 0 < visitor.hear("answer")["seconds"] <= 10
        yield visitor


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
        assert answers.hear("outcome") == {"problem": None}
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
        key = proofs.token_key(workers.addresses)
        theirs = proofs.receive_line(connection, 10).decode().strip()
        connection.sendall(proofs.Talk(key, theirs).write("hello", {"nonce": "0"}))
        connection.sendall(proofs.Talk(key, theirs + "0").write("answer", {"seconds": 100}))
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
            "--teacher, --temperature: not the same at worker 0 and worker 2; start all workers with the same flags."
        )


def test_settings_that_differ_are_told_to_those_who_come_a_little_later(make_workers):
    workers = make_workers(3)
    early = [workers.start(0), workers.start(1, SETTINGS | {"temperature": 0.5})]
    time.sleep(0.2)
    messages = [settled(future) for future in [*early, workers.start(2)]]
    assert messages[0].startswith("--temperature: not the same at worker 0 and worker 1; ")
    assert messages == messages[:1] * 3


def test_settings_are_compared_as_json_has_them(make_workers):
    workers = make_workers(2)
    futures = [workers.start(index, {"sizes": (1, 2)}) for index in range(2)]
    assert [settled(future) for future in futures] == [None, None]


def test_lists_of_workers_that_differ_are_refused(make_workers, monkeypatch):
    monkeypatch.setenv("TF_SIMCLR_CLUSTER_TOKEN", TOKEN)
    workers = make_workers(3)
    a, b, c = workers.addresses
    futures = [workers.start(0, addresses=(a, b)), workers.start(1, addresses=(a, b, c))]
    for future in futures:
        assert settled(future) == (
            "TF_CONFIG: worker 1 names other workers than worker 0; name the same everywhere, in the same order."
        )


@pytest.mark.usefixtures("_impatient")
def test_lists_of_workers_that_differ_without_a_token_are_strangers_to_each_other(make_workers, caplog):
    caplog.set_level(logging.WARNING)
    workers = make_workers(3)
    a, b, _ = workers.addresses
    chief, worker = workers.start(0, addresses=(a, b), timeout=0.7), workers.start(1, timeout=0.5)
    assert settled(worker) == workers.missing(0, timeout=0.5, strange=True)
    assert settled(chief) == workers.missing(1, timeout=0.7)
    assert sorted(record.getMessage() for record in caplog.records) == [
        IGNORED,
        f"What answers at {a}, the address of worker 0, did not prove that it belongs to this run; trying again. If "
        "it is worker 0, give all workers the same TF_SIMCLR_CLUSTER_TOKEN and the same list of workers.",
    ]


@pytest.mark.usefixtures("_impatient")
def test_same_index_twice_is_refused(make_workers):
    workers = make_workers(3)
    chief = workers.start(0)
    with listening(1, workers), reported(1, workers) as first, reported(1, workers) as second:
        told = [answers.hear("outcome")["problem"] for answers in (first, second)]
    message = "TF_CONFIG: worker 1 was started twice, or is not in the list; "
    message += "start each worker once, with its own index."
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
        told = answers.hear("outcome")["problem"]
    assert settled(chief) == told
    assert told == (
        f"TF_CONFIG: worker 1 has come, but nothing answers at its address {workers.addresses[1]} (Connection "
        "refused); fix the address or the firewall."
    )


FOREIGN = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\xff\x00",
    b"\xff\n",
    b"[" * 50_000 + b"\n",
    b'{"worker": 77, "settings": {}, "addresses": []}\n',
    b'{"worker": 1',
    b"\x1b]0;owned\x07\n" * 3,
    b"0" * 32 + b"\n" + b"[" * 50_000 + b"\n",
]


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: str(content[:20]))
def test_foreign_program_does_not_hold_up_the_chief(make_workers, content, caplog):
    caplog.set_level(logging.WARNING)
    workers = make_workers(2)
    chief = workers.start(0)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(workers.addresses[0])).sendall(content)
        start = time.monotonic()
        assert [settled(workers.start(1)), settled(chief)] == [None, None]
        assert time.monotonic() - start < 5
    assert {record.getMessage() for record in caplog.records} <= {IGNORED}
    assert len(caplog.records) <= 1


def test_foreign_program_that_never_ends_its_line_is_cut_off(make_workers, monkeypatch):
    monkeypatch.setattr(meeting, "MAX_BYTES", 2000)
    workers = make_workers(2)
    chief = workers.start(0)
    with connect(workers.addresses[0]) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(b"x" * 1000)
            time.sleep(0.001)
    assert [settled(workers.start(1)), settled(chief)] == [None, None]


@pytest.mark.usefixtures("_impatient")
def test_silent_program_is_cut_off_and_named_once(make_workers, caplog):
    caplog.set_level(logging.WARNING)
    workers = make_workers(2)
    chief = workers.start(0)
    for _ in range(2):
        with connect(workers.addresses[0]) as connection:
            start = time.monotonic()
            assert connection.recv(1) == b""
            assert 0.1 < time.monotonic() - start < 3
    assert [settled(workers.start(1)), settled(chief)] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [IGNORED]


def test_program_that_only_looks_whether_somebody_listens_is_no_line(make_workers, caplog):
    caplog.set_level(logging.WARNING)
    workers = make_workers(2)
    chief = workers.start(0)
    connect(workers.addresses[0]).close()
    assert [settled(workers.start(1)), settled(chief)] == [None, None]
    assert not caplog.records


def test_oldest_stranger_makes_room_where_there_are_many(make_workers, monkeypatch):
    monkeypatch.setattr(meeting, "_MAX_STRANGERS", 1)
    workers = make_workers(2)
    chief = workers.start(0)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(workers.addresses[0]))
        for _ in range(3):
            stack.enter_context(connect(workers.addresses[0]))
        assert first.recv(1) == b""
        assert [settled(workers.start(1)), settled(chief)] == [None, None]


# ---- The token


def test_workers_with_one_token_meet_and_send_no_values(make_workers, monkeypatch):
    monkeypatch.setenv("TF_SIMCLR_CLUSTER_TOKEN", TOKEN)
    sent, write = [], proofs.Talk.write
    monkeypatch.setattr(proofs.Talk, "write", lambda *args: sent.append(write(*args)) or sent[-1])
    workers = make_workers(2)
    settings = {"model_dir": "/home/me/secret"}
    futures = [workers.start(0, settings), workers.start(1, settings | {"data_dir": "/private"})]
    message = "--data_dir: not the same at worker 0 and worker 1; start all workers with the same flags."
    assert [settled(future) for future in futures] == [message] * 2
    said = b"".join(sent)
    assert b"model_dir" in said
    assert not any(word in said for word in (b"secret", b"private", TOKEN.encode(), workers.addresses[0].encode()))


def test_stranger_with_another_token_learns_nothing_and_is_ignored(make_workers, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("TF_SIMCLR_CLUSTER_TOKEN", TOKEN)
    workers = make_workers(2)
    chief = workers.start(0)
    with connect(workers.addresses[0]) as connection:
        stranger = Visitor(connection, workers, key=b"another")
        assert not stranger.greet()
        stranger.say("report", report_of(1, workers, {}, key=b"another"))
        assert connection.recv(1) == b""
    assert [settled(workers.start(1)), settled(chief)] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [IGNORED]


@pytest.mark.parametrize(
    "change",
    [{"worker": "1"}, {"worker": -1}, {"settings": []}, {"settings": {"a": 1}}, {"workers": None}],
    ids=str,
)
def test_report_of_another_form_is_ignored(make_workers, change):
    workers = make_workers(2)
    chief = workers.start(0)
    with connect(workers.addresses[0]) as connection:
        visitor = Visitor(connection, workers)
        assert visitor.greet()
        visitor.say("report", report_of(1, workers) | change)
        assert connection.recv(1) == b""
    assert [settled(workers.start(1)), settled(chief)] == [None, None]


@pytest.mark.usefixtures("_impatient")
def test_report_of_a_worker_that_is_not_in_the_list_is_told(make_workers):
    workers = make_workers(2)
    chief = workers.start(0)
    with reported(77, workers) as visitor:
        message = visitor.hear("outcome")["problem"]
    assert settled(chief) == message
    assert message.startswith("TF_CONFIG: worker 77 was started twice, or is not in the list; ")


def test_message_counts_in_its_own_connection_and_for_its_own_purpose_only():
    key = b"key"
    line = proofs.Talk(key, "1").write("report", {"a": 1})
    assert proofs.Talk(key, "1").read("report", line, {"a": int}) == {"a": 1}
    for talk, purpose in ((proofs.Talk(key, "2"), "report"), (proofs.Talk(key, "1"), "outcome")):
        with pytest.raises(ValueError, match="no proof"):
            talk.read(purpose, line, object)
    with pytest.raises(ValueError, match="no proof"):
        proofs.Talk(key, "1").read("report", line.replace(b"1}", b"2}"), object)


def test_token_that_is_too_short_is_refused(monkeypatch):
    monkeypatch.setenv("TF_SIMCLR_CLUSTER_TOKEN", "secret")
    with pytest.raises(UserError) as caught:
        proofs.token_key(("host0:1",))
    assert str(caught.value) == (
        "TF_SIMCLR_CLUSTER_TOKEN: has 6 characters; use at least 16, such as those that openssl rand -hex 16 prints."
    )


# ---- The interfaces


@pytest.mark.parametrize(
    ("host", "known_as", "others", "bound"),
    [
        ("127.0.0.1", "127.0.0.1", "10.0.0.2", "127.0.0.1"),
        ("localhost", "127.0.0.1", "10.0.0.2", "127.0.0.1"),
        ("host0", "127.0.0.1", "host0", "127.0.0.1"),
        ("host0", "127.0.1.1", "host1", "all"),  # Its own name is a loopback address here, as on Debian.
        ("host0", "192.0.2.1", "host1", "all"),  # No address of this machine: behind a mapped port.
        ("host0", None, "host1", "all"),
    ],
)
def test_worker_listens_at_the_address_that_names_it(monkeypatch, host, known_as, others, bound):
    def resolve(name, port, **others):
        if known_as is None:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known_as, port))]

    monkeypatch.setattr(listening_module.socket, "getaddrinfo", resolve)
    port = place(free_addresses(1)[0])[1]
    with listening_at(Cluster((f"{host}:{port}", f"{others}:{port + 1}"), 0, "TF_CONFIG")) as listeners:
        assert [listener.getsockname()[1] for listener in listeners] == [port]
        address = listeners[0].getsockname()[0]
        assert address == bound or (bound == "all" and address in ("::", "0.0.0.0"))


# ---- An older process at the chief's port


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
                    connection.recv(100)  # All of it, or closing would take back the answer.
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
        is_strange = answer not in (b"", None)
        assert settled(workers.start(1, timeout=0.7)) == workers.missing(0, 0.7, is_strange)
        assert 0.7 <= time.monotonic() - start < 3
        assert len(connections) > 1


def test_worker_finds_the_chief_once_an_older_process_has_gone(make_workers):
    workers = make_workers(2)
    with foreign_server(workers.addresses[0], GRPC):
        worker = workers.start(1)
        time.sleep(0.1)
    assert [settled(workers.start(0)), settled(worker)] == [None, None]
