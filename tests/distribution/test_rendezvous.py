"""Workers that come together: threads on localhost stand for them."""

import concurrent.futures
import contextlib
import logging
import socket
import time

import pytest

from tests.support.runs import free_addresses
from tf_simclr.config import UserError
from tf_simclr.distribution import proofs, rendezvous
from tf_simclr.distribution.cluster import Cluster

TOKEN = "0123456789abcdef0123"
SAME = "give all workers the same TF_SIMCLR_CLUSTER_TOKEN and the same list of workers"
IGNORED = (
    "Ignored a connection from 127.0.0.1 at the meeting of the workers: it did not prove that it belongs to this run. "
    f"If it is a worker, {SAME}."
)
SETTINGS = {"temperature": 0.1, "train_batch_size": 32, "teacher": None}


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(rendezvous, "_SECONDS_TO_ANSWER", 0.2)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: sorted(record.getMessage() for record in caplog.records)


def place(address):
    host, _, port = address.partition(":")
    return host, int(port)


def settled(*futures):
    """The outcome for each worker: None, or the line that refused it."""
    errors = [future.exception(timeout=20) for future in futures]
    assert all(error is None or isinstance(error, UserError) for error in errors), errors
    assert not any("\n" in str(error) for error in errors)
    return [error and str(error) for error in errors]


class Workers:
    """Workers of one cluster, each in a thread."""

    def __init__(self, pool, addresses):
        self.addresses = addresses
        self._pool = pool

    def start(self, index, settings=None, timeout=10.0, addresses=None):
        cluster = Cluster(addresses or self.addresses, index, "TF_CONFIG")
        return self._pool.submit(rendezvous.meet, cluster, settings or SETTINGS, timeout)

    def serve(self, index):
        """Opens a worker's port."""
        return socket.create_server(place(self.addresses[index]))

    def missing(self, index, timeout, strange=False):
        other = f", but a program that did not prove that it belongs to this run answered there: {SAME}"
        return (
            f"--cluster_timeout={timeout}: worker {index} ({self.addresses[index]}) of TF_CONFIG has not come"
            f"{other * strange}; start it, check its index, its address and the firewall, or wait longer."
        )


@pytest.fixture
def make_workers(monkeypatch):
    monkeypatch.setattr(rendezvous, "_SECONDS_BETWEEN_TRIES", 0.02)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield lambda count: Workers(pool, free_addresses(count))


def connect(workers):
    """Connects to the chief as soon as it listens."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(place(workers.addresses[0]), timeout=10)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def reported(index, workers):
    """A worker's report, taken by the chief; yields a function that hears what the chief says next."""
    key, ours = proofs.token_key(workers.addresses), "0123456789abcdef" * 2
    settings = {name: proofs.digest(key, (name, value)) for name, value in SETTINGS.items()}
    with connect(workers) as connection:

        def hear(talk, purpose):
            line = b""
            while not line.endswith(b"\n"):
                line += connection.recv(1) or b"closed\n"
            return talk.read(purpose, line, object)

        connection.sendall(ours.encode() + b"\n")
        talk = proofs.Talk(key, ours + hear(proofs.Talk(key, ours), "hello")["nonce"])
        report = {"worker": index, "workers": proofs.digest(key, workers.addresses), "settings": settings}
        connection.sendall(talk.write("report", report))
        assert 0 < hear(talk, "answer")["seconds"] <= 10
        yield lambda: hear(talk, "outcome")["problem"]


# ---- All come


@pytest.mark.parametrize("order", [(0,), (0, 1), (1, 0), (2, 0, 1)], ids=str)
def test_workers_meet_in_any_order_and_none_leaves_before_the_last_has_come(make_workers, order):
    workers = make_workers(len(order))
    *first, last = order
    waiting = [workers.start(index) for index in first]
    time.sleep(0.2 if first else 0)
    assert not any(future.done() for future in waiting)
    assert settled(*waiting, workers.start(last)) == [None] * len(order)
    for index in order:  # TensorFlow takes the ports next.
        workers.serve(index).close()


def test_worker_that_went_away_is_waited_for_again(make_workers):
    workers = make_workers(3)
    chief = workers.start(0)
    with workers.serve(1), reported(1, workers):
        pass  # It is killed while the chief still waits for the other one.
    with workers.serve(2), reported(2, workers) as outcome:
        time.sleep(0.1)
        assert not chief.done()
        assert settled(workers.start(1), chief) == [None, None]
        assert outcome() is None


# ---- Somebody is missing


def test_worker_missing_is_named_at_the_chief_and_at_the_others_who_wait_as_long(make_workers):
    """The time-out of a worker that came earlier would end while the chief is there, and name the wrong one."""
    workers = make_workers(3)
    early = workers.start(1, timeout=1)
    time.sleep(0.6)
    start = time.monotonic()
    assert settled(workers.start(0, timeout=1), early) == [workers.missing(2, timeout=1)] * 2
    assert 1 <= time.monotonic() - start < 3


# The answer of gRPC's server to a line that is not HTTP/2: its settings.
GRPC = b"\x00\x00\x18\x04\x00\x00\x00\x00\x00\x00\x04\x00?\xff\xff"


def test_chief_is_tried_again_after_an_older_process_at_its_port_and_after_its_death(make_workers):
    workers = make_workers(2)
    worker, key = workers.start(1), proofs.token_key(workers.addresses)
    with workers.serve(0) as listener:
        for part in ("gRPC", "closed", "hello", "answer"):
            connection, _ = listener.accept()
            theirs = connection.recv(100).decode().strip()  # All of it, or closing would take back the answer.
            if part == "gRPC":
                connection.sendall(GRPC)
            if part in ("hello", "answer"):
                connection.sendall(proofs.Talk(key, theirs).write("hello", {"nonce": "0"}))
            if part == "answer":
                connection.sendall(proofs.Talk(key, theirs + "0").write("answer", {"seconds": 100}))
            connection.close()
    assert settled(workers.start(0), worker) == [None, None]


# ---- Something differs


def test_settings_that_differ_are_told_to_all_also_to_those_who_come_a_little_later(make_workers):
    workers = make_workers(4)
    early = [workers.start(0), workers.start(1)]
    time.sleep(0.1)
    early.append(workers.start(2, SETTINGS | {"temperature": 0.5, "teacher": "x"}))
    time.sleep(0.1)
    message = "--teacher, --temperature: not the same at worker 0 and worker 2; start all workers with the same flags."
    assert settled(*early, workers.start(3)) == [message] * 4


def test_lists_of_workers_that_differ_are_refused(make_workers, monkeypatch):
    monkeypatch.setenv("TF_SIMCLR_CLUSTER_TOKEN", TOKEN)
    workers = make_workers(3)
    message = "TF_CONFIG: worker 1 names other workers than worker 0; name the same everywhere, in the same order."
    assert settled(workers.start(0, addresses=workers.addresses[:2]), workers.start(1)) == [message] * 2


@pytest.mark.usefixtures("_impatient")
def test_lists_of_workers_that_differ_without_a_token_are_strangers_to_each_other(make_workers, warnings):
    workers = make_workers(3)
    a, b, _ = workers.addresses
    chief, worker = workers.start(0, addresses=(a, b), timeout=0.7), workers.start(1, timeout=0.5)
    assert settled(worker) == [workers.missing(0, timeout=0.5, strange=True)]
    assert settled(chief) == [workers.missing(1, timeout=0.7)]
    assert warnings() == [
        IGNORED,
        f"The program at {a}, the address of worker 0, did not prove that it belongs to this run; trying again. If "
        f"it is worker 0, {SAME}.",
    ]


@pytest.mark.usefixtures("_impatient")
def test_index_that_comes_twice_or_is_not_in_the_list_is_told_to_all(make_workers):
    workers = make_workers(3)
    message = (
        "TF_CONFIG: worker {} was started twice, or is not in the list; start each worker once, with its own index."
    )
    chief = workers.start(0)
    with workers.serve(1), reported(1, workers) as first, reported(1, workers) as second:
        told = [first(), second()]
    assert [*settled(chief), *told] == [message.format(1)] * 3
    chief = workers.start(0)
    with reported(77, workers) as outcome:
        assert outcome() == message.format(77)
    assert settled(chief) == [message.format(77)]


# ---- Ports and addresses


def test_port_in_use_is_named(make_workers):
    workers = make_workers(2)
    host, port = place(workers.addresses[1])
    with workers.serve(1):
        assert settled(workers.start(1)) == [
            f"TF_CONFIG: port {port} of this worker ({host}:{port}) cannot be used (Address already in use); stop "
            "what uses it - an earlier worker? - or choose another port."
        ]


def test_address_where_nothing_answers_is_told_to_all(make_workers):
    workers = make_workers(2)
    chief = workers.start(0)
    with reported(1, workers) as outcome:
        told = outcome()
    assert settled(chief) == [told]
    assert told == (
        f"TF_CONFIG: worker 1 has come, but nothing answers at its address {workers.addresses[1]} (Connection "
        "refused); fix the address or the firewall."
    )


# ---- Strangers at the chief's port


# The third is too long for a line.
FOREIGN = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff\n",
    b"[" * 200_000,
    b'{"worker": 1',
    b"0" * 32 + b"\n" + b"[" * 50_000 + b"\n",
)


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: str(content[:20]))
def test_foreign_program_does_not_hold_up_the_chief(make_workers, content, warnings):
    workers = make_workers(2)
    chief = workers.start(0)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(connect(workers)).sendall(content)
        start = time.monotonic()
        assert settled(workers.start(1), chief) == [None, None]
        assert time.monotonic() - start < 5
    assert warnings() in ([], [IGNORED])


@pytest.mark.usefixtures("_impatient")
def test_silent_program_is_cut_off_and_named_once(make_workers, warnings):
    workers = make_workers(2)
    chief = workers.start(0)
    for _ in range(2):
        with connect(workers) as connection:
            start = time.monotonic()
            assert connection.recv(1) == b""
            assert 0.1 < time.monotonic() - start < 3
    assert settled(workers.start(1), chief) == [None, None]
    assert warnings() == [IGNORED]


def test_program_that_only_looks_whether_somebody_listens_is_no_line(make_workers, warnings):
    workers = make_workers(2)
    chief = workers.start(0)
    connect(workers).close()
    assert settled(workers.start(1), chief) == [None, None]
    assert warnings() == []


# ---- The token


def test_workers_with_one_token_meet_and_send_no_values(make_workers, monkeypatch):
    monkeypatch.setenv("TF_SIMCLR_CLUSTER_TOKEN", TOKEN)
    sent, write = [], proofs.Talk.write
    monkeypatch.setattr(proofs.Talk, "write", lambda *args: sent.append(write(*args)) or sent[-1])
    workers = make_workers(2)
    settings = {"model_dir": "/home/me/secret"}
    message = "--data_dir: not the same at worker 0 and worker 1; start all workers with the same flags."
    other = settings | {"data_dir": "/private"}
    assert settled(workers.start(0, settings), workers.start(1, other)) == [message] * 2
    said = b"".join(sent)
    assert b"model_dir" in said
    assert not any(word in said for word in (b"secret", b"private", TOKEN.encode(), workers.addresses[0].encode()))


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
