"""The factor of the loss: when it halves, when it doubles, and that replicas agree on it."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import run_on_replicas, two_replicas
from tf_simclr.loss_scale import LossScale

GOOD = [tf.ones([2, 2]), tf.zeros([3])]


def overflowed(value):
    return [tf.ones([2, 2]), tf.stack([0.0, value, 1.0])]


def test_scale_starts_where_it_is_usual():
    loss_scale = LossScale()
    assert float(loss_scale.scale) == 32768
    assert loss_scale._growth_interval == 2000


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_scale_doubles_after_good_steps_in_a_row_and_halves_on_overflow(jit_compile):
    loss_scale = LossScale(initial=8.0, growth_interval=3)
    update = tf.function(lambda *g: loss_scale.update(g), jit_compile=jit_compile, autograph=False)
    bad = overflowed(np.inf)
    outcomes = [GOOD, GOOD, bad, GOOD, GOOD, GOOD, GOOD, bad, bad]
    expected = [8, 8, 4, 4, 4, 8, 8, 4, 2]
    for gradients, scale in zip(outcomes, expected, strict=True):
        used = float(loss_scale.scale)
        taken, reported = update(*gradients)
        assert bool(taken) == (gradients is GOOD)
        assert float(reported) == used
        assert float(loss_scale.scale) == scale


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_number_that_is_not_finite_is_an_overflow(value):
    loss_scale = LossScale()
    assert not loss_scale.update(overflowed(value)).taken
    assert float(loss_scale.scale) == 16384


def test_overflow_without_any_scale_is_reported_as_nan():
    """Nothing can fix it; the loop stops at a metric that is not finite."""
    loss_scale = LossScale(initial=2.0)
    assert float(loss_scale.update(overflowed(np.inf)).scale) == 2
    assert np.isnan(loss_scale.update(overflowed(np.inf)).scale)
    assert float(loss_scale.scale) == 1
    assert float(loss_scale.update(GOOD).scale) == 1


def test_scale_stays_finite_where_nothing_overflows():
    loss_scale = LossScale(growth_interval=1)
    for _ in range(20):
        loss_scale.update(GOOD)
    assert float(loss_scale.scale) == 2**24


def test_unscaled_gradients_are_those_of_the_loss():
    loss_scale, weight = LossScale(), tf.Variable([3.0, -1.0])
    with tf.GradientTape() as tape:
        loss = loss_scale.scale_loss(tf.reduce_sum(weight**3))
    (gradient,) = loss_scale.unscale(tape.gradient(loss, [weight]))
    np.testing.assert_array_equal(gradient, [27.0, 3.0])


@pytest.mark.distributed
def test_replicas_keep_the_same_scale():
    strategy = two_replicas()
    with strategy.scope():
        loss_scale = LossScale(initial=8.0, growth_interval=2)

    def step(value):
        loss_scale.update(overflowed(tf.reduce_mean(value)))
        return tf.identity(loss_scale.scale)

    assert run_on_replicas(strategy, step, np.full([2], np.inf, "float32")) == [4, 4]
    for scale in (4, 8):
        assert run_on_replicas(strategy, step, np.zeros([2], "float32")) == [scale, scale]
    assert [float(copy) for copy in strategy.experimental_local_results(loss_scale.scale)] == [8, 8]
