"""Collectives on two replicas."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import run_on_replicas, two_replicas
from tf_simclr.distribution import collectives as distribute

pytestmark = pytest.mark.stack

ROWS = np.random.default_rng(0).normal(size=(6, 4))
WEIGHTS = np.random.default_rng(1).normal(size=(2, 6, 4))


@pytest.fixture(scope="module")
def strategy():
    return two_replicas()


def in_replica(function, batch):
    """Runs `function` on one replica."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    return run_on_replicas(strategy, function, batch)[0]


@pytest.mark.parametrize("where", ["outside", "one_device"])
def test_collectives_are_the_identity_on_one_replica(where):
    def collect(x):
        return (
            distribute.cross_replica_mean([x])[0],
            distribute.cross_replica_sum({"x": x})["x"],
            distribute.all_gather_batch(x),
            tf.constant(distribute.replica_id()),
            tf.constant(distribute.num_replicas()),
        )

    *received, number, count = collect(tf.constant(ROWS)) if where == "outside" else in_replica(collect, ROWS)
    for value in received:
        np.testing.assert_array_equal(value, ROWS)
    assert (int(number), int(count)) == (0, 1)


def test_num_replicas_is_1_in_the_scope_of_a_strategy_outside_its_replicas(strategy):
    with strategy.scope():
        assert distribute.num_replicas() == 1
        assert distribute.replica_id() == 0


@pytest.mark.distributed
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_replicas_know_their_number(strategy, graph):
    def numbers(x):
        return tf.identity(distribute.replica_id()), tf.constant(distribute.num_replicas()), x[0, 0]

    received = run_on_replicas(strategy, numbers, ROWS, graph=graph)
    assert [int(number) for number, _, _ in received] == [0, 1]
    assert [int(count) for _, count, _ in received] == [2, 2]
    assert [first for _, _, first in received] == [ROWS[0, 0], ROWS[3, 0]]


def with_gradient(function, use):
    """On each replica: the value of `function`, and the gradient of `use` of it by the replica's rows."""

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
            loss = use(value)
        return value, tape.gradient(loss, x)

    return run


def own_weights(shape):
    """A cotangent that differs between the replicas: W[r] on replica r."""
    return tf.gather(tf.constant(WEIGHTS)[:, : shape[0]], distribute.replica_id())


@pytest.mark.distributed
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
def test_all_gather_batch_is_all_rows_with_the_exact_gradient(strategy, graph):
    run = with_gradient(distribute.all_gather_batch, lambda y: tf.reduce_sum(y * own_weights(y.shape)))
    received = run_on_replicas(strategy, run, ROWS, graph=graph)
    # Each replica's rows are used by both losses.
    total = WEIGHTS[0] + WEIGHTS[1]
    for replica, (value, gradient) in enumerate(received):
        np.testing.assert_array_equal(value, ROWS)
        np.testing.assert_allclose(gradient, total[3 * replica : 3 * replica + 3], rtol=1e-14)


@pytest.mark.distributed
@pytest.mark.parametrize(("shape", "dtype"), [((4,), "float32"), ((4, 2, 3, 2), "float64")])
def test_all_gather_batch_takes_any_rank_and_has_a_static_shape(strategy, shape, dtype):
    rows = np.random.default_rng(0).normal(size=shape).astype(dtype)

    def gather(x):
        gathered = distribute.all_gather_batch(x)
        assert gathered.shape == shape
        return gathered

    for value in run_on_replicas(strategy, gather, rows):
        np.testing.assert_array_equal(value, rows)


@pytest.mark.distributed
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize(
    ("collective", "scale"), [(distribute.cross_replica_mean, 0.5), (distribute.cross_replica_sum, 1.0)]
)
def test_reductions_have_their_values_and_gradients(strategy, collective, scale, graph):
    run = with_gradient(collective, lambda y: tf.reduce_sum(y * own_weights(y.shape)))
    gradient = scale * (WEIGHTS[0, :3] + WEIGHTS[1, :3])
    for value, received in run_on_replicas(strategy, run, ROWS, graph=graph):
        np.testing.assert_allclose(value, scale * (ROWS[:3] + ROWS[3:]), rtol=1e-14)
        np.testing.assert_allclose(received, gradient, rtol=1e-14)


@pytest.mark.distributed
def test_reductions_keep_the_structure(strategy):
    def reduce(x):
        return distribute.cross_replica_mean({"a": x, "b": (x[0], [2 * x])})

    for received in run_on_replicas(strategy, reduce, ROWS):
        mean = (ROWS[:3] + ROWS[3:]) / 2
        np.testing.assert_allclose(received["a"], mean)
        np.testing.assert_allclose(received["b"][0], mean[0])
        np.testing.assert_allclose(received["b"][1][0], 2 * mean)
