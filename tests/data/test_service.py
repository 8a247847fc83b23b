"""Batches from a tf.data service whose dispatcher and data workers run on this machine."""

import collections
import hashlib
import itertools
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.data.kinds import KINDS, SEED, DrawsView, make_source, positions_of
from tests.support.marks import usual
from tf_simclr.augment.views import TrainView
from tf_simclr.config import UserError
from tf_simclr.data import (
    BatchPlan,
    DataService,
    check_service,
    mix_labelled,
    random_access,
    service,
    stream_source,
    train_dataset,
)

NUM_EXAMPLES = 23
PLAN = BatchPlan(global_batch_size=12, num_replicas=2, total_replicas=2)
VIEW = TrainView(image_size=8)
_servers = tf.data.experimental.service


def start_dispatcher():
    return _servers.DispatchServer(_servers.DispatcherConfig(port=0))


def start_data_worker(dispatcher):
    address = dispatcher.target.partition("://")[2]
    return _servers.WorkerServer(_servers.WorkerConfig(dispatcher_address=address, port=0))


@pytest.fixture(autouse=True)
def _plain_decoding(monkeypatch):
    """Decodes images by one operation, which is quick to trace."""
    for module in (random_access, stream_source):
        monkeypatch.setattr(module, "decode_image", lambda encoded: tf.io.decode_png(encoded, 3))


@pytest.fixture
def address():
    """A service of its own for each test, because stopping takes as long as the jobs have lasted."""
    dispatcher = start_dispatcher()
    data_workers = [start_data_worker(dispatcher) for _ in range(2)]
    yield dispatcher.target
    del data_workers


def served(source, address, name, *, view=VIEW, plan=PLAN, **kwargs):
    dataset = train_dataset(source, view, plan=plan, seed=SEED, service=DataService(address, name), **kwargs)
    return dataset.as_numpy_iterator()


def digest(batch):
    return hashlib.sha1(b"".join(np.asarray(part).tobytes() for part in tf.nest.flatten(batch))).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("kind", usual("array", also=["encoded"]))
def test_service_makes_the_batches_of_a_run_each_once(address, kind):
    source = make_source(kind, NUM_EXAMPLES, bad=(5,))
    local = train_dataset(source, VIEW, plan=PLAN, seed=SEED, first_step=2)
    # 3 epochs of 23 in batches of 6.
    expected = {digest(batch) for batch in local.take(12).as_numpy_iterator()}
    assert len(expected) == 12
    received = collections.Counter()
    for batch in served(source, address, kind, first_step=2):
        received[digest(batch)] += 1
        if expected <= received.keys():
            break
    assert set(received.values()) == {1}


@pytest.mark.slow
def test_service_shows_each_record_once_an_epoch_in_fresh_views(address, tmp_path):
    """Also to a resumed run, which begins an epoch."""
    source = make_source("stream", NUM_EXAMPLES, tmp_path)
    batches = served(source, address, "epochs", view=DrawsView(), first_step=2)
    seen = {}  # Position of a row in the run, to its label.
    wanted = set(range(2 * NUM_EXAMPLES, 4 * NUM_EXAMPLES))
    while not wanted <= seen.keys():
        batch = next(batches)
        places = positions_of(batch["views"][0])
        assert not seen.keys() & set(places) and len(set(places)) == 6
        seen |= zip(places, batch["labels"], strict=True)
    assert min(seen) >= 2 * NUM_EXAMPLES
    epochs = np.array([seen[position] for position in sorted(wanted)]).reshape(2, NUM_EXAMPLES)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), [range(NUM_EXAMPLES)] * 2)


@pytest.mark.slow
def test_service_shares_batches_among_training_workers(address):
    source = make_source("array", NUM_EXAMPLES)
    plans = [BatchPlan(global_batch_size=12, first_replica=replica, total_replicas=2) for replica in range(2)]
    iterators = [served(source, address, "shared", view=DrawsView(), plan=plan) for plan in plans]
    places = [positions_of(next(batches)["views"][0]) for _ in range(10) for batches in iterators]
    assert len({place for batch in places for place in batch}) == 20 * 6


@pytest.mark.slow
def test_service_mixes_labelled_and_unlabelled(address):
    parts = [
        train_dataset(
            make_source("array", num_examples),
            DrawsView(),
            plan=BatchPlan(global_batch_size=6),
            seed=SEED,
            service=DataService(address, f"mix {num_examples}"),
        )
        for num_examples in (NUM_EXAMPLES, 3)
    ]
    for batch in mix_labelled(*parts).take(4).as_numpy_iterator():
        np.testing.assert_array_equal(np.sort(batch["labels"]), [-1] * 6 + [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_service_refuses_more_in_memory_than_can_be_sent(kind, tmp_path, monkeypatch):
    source = make_source(kind, NUM_EXAMPLES, tmp_path)
    assert (source.bytes_in_memory == 0) == (kind == "stream")
    nowhere = DataService("grpc://localhost:1", "none")
    monkeypatch.setattr(service, "_MAX_BYTES_SENT", source.bytes_in_memory)
    nowhere.check_fits(source)
    monkeypatch.setattr(service, "_MAX_BYTES_SENT", source.bytes_in_memory - 1)
    message = r"^--data_service=grpc://localhost:1: some holds .* can be sent to data workers; use --cache_"
    with pytest.raises(UserError, match=message):
        train_dataset(source, VIEW, plan=PLAN, seed=SEED, service=nowhere)


@pytest.mark.slow
@pytest.mark.parametrize("kind", usual("encoded", also=["stream"]))
def test_service_in_another_process_counts_unreadable_images(kind, tmp_path):
    """Another process cannot call Python functions of this one, such as the one that records names."""
    dispatcher = start_dispatcher()
    code = (
        "import tensorflow as tf; service = tf.data.experimental.service;"
        f"config = service.WorkerConfig(dispatcher_address={dispatcher.target.partition('://')[2]!r}, port=0);"
        "service.WorkerServer(config).join()"
    )
    data_worker = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        check_service(dispatcher.target)
        source = make_source(kind, NUM_EXAMPLES, tmp_path, bad=(5, 17))
        batches = list(itertools.islice(served(source, dispatcher.target, "process"), 23))
        # Six epochs, from one data worker in order.
        assert sum(batch["bad_images"] for batch in batches) == 2 * 6
        assert not {5, 17} & {label for batch in batches for label in batch["labels"]}
        assert source.bad_image_names() == ()
    finally:
        data_worker.kill()
        data_worker.wait()


# ---- A service that does not work


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(service, "_DISPATCHER_SECONDS", 1)
    monkeypatch.setattr(service, "_DATA_WORKER_SECONDS", 1)


def refusal(address):
    with pytest.raises(UserError) as error:
        check_service(address)
    message = str(error.value)
    assert message.startswith(f"--data_service={address}: ") and "\n" not in message
    assert message.endswith("docs/scaling.md, Data service), or leave the flag out.")
    return message.removeprefix(f"--data_service={address}: ")


@pytest.mark.slow
def test_check_service_refuses_an_address_that_does_not_answer(impatient):
    with socket.create_server(("localhost", 0)) as silent:
        address = f"grpc://localhost:{silent.getsockname()[1]}"
        assert refusal(address).startswith("no dispatcher answers within 1 s; start one (")
    assert refusal(address).startswith("no dispatcher answers (Connection refused); start one (")
    assert refusal("grpc://no.such.host.invalid:5000").startswith("no dispatcher answers (")


@pytest.mark.slow
def test_check_service_refuses_a_dispatcher_without_data_workers(impatient):
    dispatcher = start_dispatcher()
    assert refusal(dispatcher.target).startswith("no data worker answers within 1 s; start one (")


def test_check_service_refuses_the_address_of_a_data_worker(impatient):
    dispatcher = start_dispatcher()
    data_worker = start_data_worker(dispatcher)
    address = f"grpc://{data_worker._address}"
    assert refusal(address).startswith("cannot make this run's batches (")
