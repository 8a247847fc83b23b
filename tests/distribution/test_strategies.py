"""The choice of devices and workers, and how TensorFlow is wired to a TPU and to several workers."""

import functools
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import run_on_replicas
from tf_simclr.config import StrategyConfig, UserError
from tf_simclr.distribution import collectives as distribute
from tf_simclr.distribution import strategies
from tf_simclr.distribution.cluster import Cluster

pytestmark = pytest.mark.stack

TWO_WORKERS = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}'


@pytest.fixture(autouse=True)
def _as_in_a_fresh_process(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(strategies, "_tpu_strategy", functools.cache(strategies._tpu_strategy.__wrapped__))
    monkeypatch.setattr(strategies, "_CONNECTED", [])


@pytest.mark.distributed
def test_runs_one_after_the_other_in_one_process_do_not_mix_up_their_collectives():
    """A second MirroredStrategy would number its collectives like the first."""
    assert strategies.make_strategy(StrategyConfig()).num_replicas_in_sync == 1
    for dtype, shape in (("float32", (4, 3)), ("float64", (8, 1, 2))):
        replicas = strategies.make_strategy(StrategyConfig(strategy="mirrored", use_tpu=False))
        ones = np.ones(shape, dtype)
        for value in run_on_replicas(replicas, distribute.cross_replica_sum, ones):
            np.testing.assert_array_equal(value, 4 * ones[: shape[0] // 4])


# ---- The choice


@pytest.fixture
def taken(monkeypatch):
    """Fakes devices and strategies; returns what `make_strategy` takes of them."""

    def take(config, workers, **counts):
        if workers == 2:
            monkeypatch.setenv("TF_CONFIG", TWO_WORKERS)
        devices = {
            kind: [types.SimpleNamespace(name=f"{kind}:{n}") for n in range(counts.get(kind, 0))]
            for kind in ("TPU", "GPU", "CPU")
        }
        monkeypatch.setattr(tf.config, "list_physical_devices", devices.get)
        monkeypatch.setattr(tf.config, "list_logical_devices", devices.get)
        return strategies.make_strategy(config)

    monkeypatch.setattr(strategies, "_tpu_strategy", lambda config: "tpu")
    monkeypatch.setattr(strategies, "_multi_worker_strategy", lambda config, settings: "multi_worker")
    monkeypatch.setattr(strategies, "_mirrored_strategy", lambda *devices: ("mirrored", *devices))
    monkeypatch.setattr(tf.distribute, "OneDeviceStrategy", lambda device: device)
    return take


@pytest.mark.parametrize(
    ("flags", "devices", "workers", "expected", "line"),
    [
        ({}, {"CPU": 1}, 1, "/cpu:0", "one_device (auto: no TPU and no GPU is here)"),
        ({}, {"GPU": 1}, 1, "/gpu:0", "one_device (auto: one GPU is here)"),
        ({}, {"GPU": 2}, 1, ("mirrored", "GPU:0", "GPU:1"), "mirrored (auto: 2 GPUs are here)"),
        ({}, {"GPU": 2}, 2, "multi_worker", "multi_worker (auto: several workers are named)"),
        ({}, {"TPU": 8, "GPU": 2}, 2, "tpu", "tpu (auto: a TPU is here)"),
        ({"master": "x"}, {}, 1, "tpu", "tpu (auto: a TPU is named)"),
        ({"use_tpu": False}, {"TPU": 8, "GPU": 1}, 1, "/gpu:0", "one_device (auto: one GPU is here)"),
        ({"use_tpu": False, "tpu_name": "x"}, {}, 1, "/cpu:0", "one_device (auto: no TPU and no GPU is here)"),
        ({"use_tpu": True}, {"GPU": 2}, 2, "tpu", "tpu (--use_tpu)"),
        ({"strategy": "one_device"}, {"TPU": 8, "GPU": 2}, 2, "/gpu:0", "one_device (--strategy=one_device)"),
        ({"strategy": "mirrored"}, {"CPU": 1}, 2, ("mirrored", "CPU:0"), "mirrored (--strategy=mirrored)"),
        ({"cluster": "slurm"}, {"GPU": 2}, 1, "multi_worker", "multi_worker (auto: several workers are named)"),
    ],
)
def test_make_strategy_takes_what_is_there_and_says_why(taken, log, flags, devices, workers, expected, line):
    assert taken(StrategyConfig(**flags), workers, **devices) == expected
    assert log.messages == [f"Strategy: {line}."]


# ---- TPU


@pytest.fixture
def tpu_calls(monkeypatch):
    """Fakes TensorFlow's TPUs; returns the calls that are made."""
    calls = []

    def fake(place, name, result):
        def call(*arguments, **settings):
            calls.append((name, *arguments, settings) if settings else (name, *arguments))
            return result

        monkeypatch.setattr(place, name, call)

    fake(tf.distribute.cluster_resolver, "TPUClusterResolver", "resolver")
    fake(tf.config, "experimental_connect_to_cluster", None)
    fake(tf.tpu.experimental, "initialize_tpu_system", None)
    fake(tf.distribute, "TPUStrategy", "strategy")
    return calls


@pytest.mark.parametrize(
    ("flags", "is_here", "expected"),
    [
        ({"tpu_name": "pod", "tpu_zone": "here", "gcp_project": "lab"}, False, ("pod", "here", "lab")),
        ({"tpu_name": "pod", "master": "other"}, False, ("pod", None, None)),
        ({"master": "pod"}, False, ("pod", None, None)),
        ({}, True, ("local", None, None)),
        # TensorFlow then looks for a name in the environment: TPU_NAME.
        ({"use_tpu": True}, False, ("", None, None)),
    ],
)
def test_tpu_is_found_connected_and_initialized_in_this_order_once(tpu_calls, monkeypatch, flags, is_here, expected):
    here = ["TPU:0"] if is_here else []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: here if kind == "TPU" else [])
    for _ in range(2):
        assert strategies.make_strategy(StrategyConfig(**flags)) == "strategy"
    assert tpu_calls == [
        ("TPUClusterResolver", dict(zip(("tpu", "zone", "project"), expected, strict=True))),
        ("experimental_connect_to_cluster", "resolver"),
        ("initialize_tpu_system", "resolver"),
        ("TPUStrategy", "resolver"),
    ]


def test_tpu_addresses_are_tried_before_tensorflow_gets_them(tpu_calls, monkeypatch):
    tried = []

    def connect(place, timeout):
        tried.append(place)
        return types.SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(strategies.socket, "create_connection", connect)
    strategies.make_strategy(StrategyConfig(tpu_name="grpc://10.0.0.1:8471,grpc://10.0.0.2"))
    assert tried == [("10.0.0.1", 8471), ("10.0.0.2", 8470)]
    assert tpu_calls[0][1]["tpu"] == "grpc://10.0.0.1:8471,grpc://10.0.0.2"


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ({"tpu_name": "grpc://127.0.0.1:1"}, "--tpu_name=grpc://127.0.0.1:1"),
        ({"master": "grpc://127.0.0.1:x"}, "--master=grpc://127.0.0.1:x"),
        ({"tpu_name": "nobody"}, "--tpu_name=nobody"),
        ({"use_tpu": True}, "--use_tpu=True"),
        ({"strategy": "tpu"}, "--strategy=tpu"),
        # TensorFlow looks for its chips for 20 seconds.
        pytest.param({"tpu_name": "local"}, "--tpu_name=local", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_tpu_that_does_not_answer_says_how_to_go_on_without(monkeypatch, flags, asked):
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:1")  # No search for Google's machines.
    with pytest.raises(UserError) as caught:
        strategies.make_strategy(StrategyConfig(**flags))
    message = str(caught.value)
    assert message.startswith(f"{asked}: no TPU answers (")
    assert "--use_tpu=False" in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [ValueError, ImportError, RuntimeError, OSError])
def test_tpu_name_that_does_not_resolve_is_one_line_and_is_not_kept(tpu_calls, monkeypatch, error):
    def refuse(*arguments, **settings):
        raise error("Could not lookup TPU metadata from name 'pod'.\nTraceback ...")

    with monkeypatch.context() as patch:
        patch.setattr(tf.tpu.experimental, "initialize_tpu_system", refuse)
        with pytest.raises(UserError) as caught:
            strategies.make_strategy(StrategyConfig(tpu_name="pod"))
    assert str(caught.value) == (
        "--tpu_name=pod: no TPU answers (Could not lookup TPU metadata from name 'pod'.); name one with --tpu_name, "
        "--tpu_name=local on a TPU VM, or use --use_tpu=False."
    )
    assert ("TPUStrategy", "resolver") not in tpu_calls
    assert strategies.make_strategy(StrategyConfig(tpu_name="pod")) == "strategy"


# ---- Several workers


class FakeStrategy:
    """A strategy of several workers."""

    def __init__(self, calls, is_chief=True):
        self.extended = types.SimpleNamespace(should_checkpoint=is_chief)
        self._calls = calls

    def __call__(self, cluster_resolver):
        job = cluster_resolver.cluster_spec().as_dict(), cluster_resolver.task_id
        self._calls.append(("connect", *job))
        return self


@pytest.fixture
def calls(monkeypatch):
    """Fakes the workers' meeting; returns the calls that are made."""
    calls = []
    monkeypatch.setattr(strategies, "meet", lambda *arguments: calls.append(("meet", *arguments)))
    monkeypatch.setenv("TF_CONFIG", TWO_WORKERS)
    return calls


MULTI_WORKER = StrategyConfig(strategy="multi_worker", cluster_timeout=7)


@pytest.mark.parametrize("is_chief", [True, False])
def test_workers_meet_before_they_are_connected_and_once_a_process(calls, monkeypatch, is_chief):
    assert strategies.is_chief_process()
    strategy = FakeStrategy(calls, is_chief)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", strategy)
    for settings in ({"seed": 1}, {"seed": 2}):
        assert strategies.make_strategy(MULTI_WORKER, settings) is strategy
    addresses = ("127.0.0.1:1", "127.0.0.1:2")
    assert calls == [
        ("meet", Cluster(addresses, 1, "TF_CONFIG"), {"seed": 1}, 7),
        ("connect", {"worker": list(addresses)}, 1),
    ]
    assert strategies.is_chief_process() is is_chief


@pytest.mark.parametrize("error", [RuntimeError, lambda text: tf.errors.UnavailableError(None, None, text)])
def test_workers_that_tensorflow_cannot_connect_are_one_line(calls, monkeypatch, error):
    def refuse(*arguments, **settings):
        raise error("Collective ops must be configured at program startup\nmore")

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", refuse)
    with pytest.raises(UserError) as caught:
        strategies.make_strategy(MULTI_WORKER)
    assert str(caught.value) == (
        "TF_CONFIG: TensorFlow cannot connect the workers (Collective ops must be configured at program startup); "
        "start all of them again."
    )
    assert strategies._CONNECTED == []
    monkeypatch.setattr(strategies, "meet", refuse)  # Before which nothing is connected.
    monkeypatch.delattr(tf.distribute, "MultiWorkerMirroredStrategy")
    with pytest.raises((RuntimeError, tf.errors.UnavailableError), match="Collective"):
        strategies.make_strategy(MULTI_WORKER)
