"""Batch norm against plain loops, on one replica and on two."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import run_on_replicas, two_replicas
from tf_simclr.models import BatchNormalization, update_moving_statistics

pytestmark = pytest.mark.stack

CHANNELS, EPSILON = 3, 1e-5
SHAPES = {"images": (4, 3, 2, CHANNELS), "head": (32, CHANNELS), "one": (1, CHANNELS)}
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


def make_norm(dtype="float64", randomized=True, **kwargs):
    norm = BatchNormalization(dtype=dtype, **kwargs)
    norm.build((None, CHANNELS))
    if randomized:
        rng = np.random.default_rng(1)
        norm.gamma.assign(rng.uniform(0.5, 1.5, CHANNELS))
        norm.moving_mean.assign(rng.normal(size=CHANNELS))
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, CHANNELS))
        if norm.center:
            norm.beta.assign(rng.normal(size=CHANNELS))
    return norm


def make_inputs(shape, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return (1.5 + rng.normal(size=shape) * [0.5, 1.0, 2.0]).astype(dtype)


def moments_oracle(x):
    """Mean and biased variance of each channel, one number at a time."""
    means, variances = [], []
    for channel in range(x.shape[-1]):
        values = [float(value) for value in np.ravel(x[..., channel])]
        mean = sum(values) / len(values)
        means.append(mean)
        variances.append(sum((value - mean) ** 2 for value in values) / len(values))
    return np.array(means), np.array(variances)


def apply_oracle(x, mean, variance, gamma, beta):
    y = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        c = index[-1]
        y[index] = gamma[c] * (float(x[index]) - mean[c]) / np.sqrt(variance[c] + EPSILON) + beta[c]
    return y


def gradient_oracle(x, gamma, cotangent):
    """The derivative written out (arXiv 1502.03167, section 3), channel by channel."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(CHANNELS), np.zeros(CHANNELS)
    mean, variance = moments_oracle(x)
    for c in range(CHANNELS):
        values, g = np.ravel(x[..., c]), np.ravel(cotangent[..., c])
        deviation = np.sqrt(variance[c] + EPSILON)
        normalized = (values - mean[c]) / deviation
        dbeta[c] = sum(g)
        dgamma[c] = sum(g * normalized)
        terms = [
            gamma[c] / deviation * (g[i] - dbeta[c] / len(g) - normalized[i] * dgamma[c] / len(g))
            for i in range(len(g))
        ]
        dx[..., c] = np.reshape(terms, x.shape[:-1])
    return dx, dgamma, dbeta


def values_of(norm):
    beta = np.zeros(CHANNELS) if norm.beta is None else norm.beta.numpy()
    return norm.gamma.numpy(), beta


def gradients_of(norm, x, cotangent):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs, _, _ = norm(x, training=True)
        loss = tf.reduce_sum(outputs * cotangent)
    return tape.gradient(loss, [x, norm.gamma, *([norm.beta] if norm.center else [])])


@pytest.fixture(scope="module")
def strategy():
    return two_replicas()


@every_dtype
@pytest.mark.parametrize("center", [True, False])
@every_shape
def test_call_and_gradient_equal_loops(shape, center, dtype):
    norm, x = make_norm(dtype, center=center), make_inputs(shape, dtype)
    assert len(norm.trainable_variables) == (2 if center else 1)
    outputs, mean, variance = norm(tf.constant(x), training=True)
    assert outputs.dtype == mean.dtype == variance.dtype == dtype
    expected_mean, expected_variance = moments_oracle(x)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(mean, expected_mean, rtol=tolerance)
    np.testing.assert_allclose(variance, expected_variance, rtol=tolerance, atol=1e-15)
    expected = apply_oracle(x, expected_mean, expected_variance, *values_of(norm))
    np.testing.assert_allclose(outputs, expected, rtol=tolerance, atol=tolerance)
    cotangent = np.random.default_rng(2).normal(size=shape).astype(dtype)
    received = gradients_of(norm, tf.constant(x), cotangent)
    wanted = gradient_oracle(x.astype("float64"), norm.gamma.numpy(), cotangent.astype("float64"))
    for ours, theirs in zip(received, wanted, strict=False):
        # One row: the exact derivative by x is 0, the difference of numbers around 1 / sqrt(epsilon).
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=400 * tolerance)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@every_shape
def test_fused_kernel_equals_moments_in_every_mode(shape, jit_compile):
    """In float32 and compiled: N/(N-1) is 3% on a head of 32 rows, so it cannot hide."""
    norm, reference = make_norm("float32"), make_norm("float64")
    x = make_inputs(shape, "float32")
    call = tf.function(lambda inputs: norm(inputs, training=True), jit_compile=jit_compile, autograph=False)
    expected = reference(tf.cast(x, tf.float64), training=True)
    for received, wanted in zip(call(tf.constant(x)), expected, strict=True):
        np.testing.assert_allclose(received, wanted, rtol=2e-5, atol=2e-5)


def test_gradient_oracle_equals_finite_differences():
    shape, step = SHAPES["images"], 1e-6
    x, cotangent = make_inputs(shape), np.random.default_rng(2).normal(size=shape)
    gamma, beta = values_of(make_norm())

    def loss(inputs):
        return np.sum(apply_oracle(inputs, *moments_oracle(inputs), gamma, beta) * cotangent)

    expected = gradient_oracle(x, gamma, cotangent)[0]
    for index in np.ndindex(*shape):
        above, below = x.copy(), x.copy()
        above[index] += step
        below[index] -= step
        np.testing.assert_allclose((loss(above) - loss(below)) / (2 * step), expected[index], atol=1e-7)


@every_dtype
@every_shape
def test_inference_and_a_frozen_layer_use_the_moving_averages(shape, dtype):
    norm, x = make_norm(dtype), make_inputs(shape, dtype)
    averages = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    outputs, mean, variance = norm(tf.constant(x), training=False)
    np.testing.assert_array_equal(mean, averages[0])
    np.testing.assert_array_equal(variance, averages[1])
    expected = apply_oracle(x, *averages, *values_of(norm))
    np.testing.assert_allclose(outputs, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    norm.trainable = False
    for ours, wanted in zip(norm(x, training=True), (outputs, mean, variance), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    update_moving_statistics([norm], [(tf.zeros_like(mean), tf.zeros_like(variance))])
    np.testing.assert_array_equal(norm.moving_mean, averages[0])
    np.testing.assert_array_equal(norm.moving_variance, averages[1])


def test_call_changes_nothing_and_statistics_have_no_gradient():
    norm, x = make_norm(), tf.constant(make_inputs(SHAPES["images"]))
    before = [v.numpy() for v in norm.variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, mean, variance = norm(x, training=True)
        total = tf.reduce_sum(mean) + tf.reduce_sum(variance)
    assert tape.gradient(total, x) is None
    for variable, value in zip(norm.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@every_dtype
def test_update_is_the_recurrence_of_the_biased_variance(dtype):
    norm = make_norm(dtype, momentum=0.7, randomized=False)
    mean, variance = np.zeros(CHANNELS), np.ones(CHANNELS)
    for step in range(3):
        x = make_inputs(SHAPES["head"], dtype, seed=step)
        _, *statistics = norm(tf.constant(x), training=True)
        update_moving_statistics([norm], [tuple(statistics)])
        batch_mean, batch_variance = moments_oracle(x)
        mean = 0.7 * mean + 0.3 * batch_mean
        variance = 0.7 * variance + 0.3 * batch_variance
        np.testing.assert_allclose(norm.moving_mean, mean, rtol=TOLERANCE[dtype])
        np.testing.assert_allclose(norm.moving_variance, variance, rtol=TOLERANCE[dtype])


def test_constant_channels_stay_finite():
    for dtype in TOLERANCE:
        x = tf.fill(SHAPES["images"], tf.constant(1000.1, dtype))
        outputs, _, variance = make_norm(dtype)(x, training=True)
        assert np.all(np.isfinite(outputs))
        assert np.all(np.asarray(variance) >= 0)


@pytest.mark.distributed
@pytest.mark.parametrize("shape", [SHAPES["images"], SHAPES["head"]], ids=["images", "head"])
def test_synchronized_replicas_equal_one_with_the_whole_batch(strategy, shape):
    x, cotangent = make_inputs(shape), np.random.default_rng(2).normal(size=shape)
    alone = make_norm()
    wanted = alone(tf.constant(x), training=True)
    wanted_gradients = gradients_of(alone, tf.constant(x), cotangent)
    update_moving_statistics([alone], [wanted[1:]])
    with strategy.scope():
        norm = make_norm()

    def step(batch):
        inputs, cotangents = batch
        outputs = norm(inputs, training=True)
        gradients = gradients_of(norm, inputs, cotangents)
        update_moving_statistics([norm], [outputs[1:]])
        return (*outputs, *gradients)

    first, second = run_on_replicas(strategy, step, (x, cotangent))
    np.testing.assert_allclose(np.concatenate([first[0], second[0]]), wanted[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([first[3], second[3]]), wanted_gradients[0], rtol=0, atol=1e-12)
    for i in (1, 2):
        np.testing.assert_array_equal(first[i], second[i])
        np.testing.assert_allclose(first[i], wanted[i], rtol=1e-12)
        np.testing.assert_allclose(first[3 + i] + second[3 + i], wanted_gradients[i], rtol=0, atol=1e-12)
    for ours, theirs in zip(norm.non_trainable_variables, alone.non_trainable_variables, strict=True):
        for copy in strategy.experimental_local_results(ours):
            np.testing.assert_allclose(copy, theirs, rtol=1e-12)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.distributed)])
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_takes_and_returns_16_bits_and_computes_in_float32(strategy, monkeypatch, precision, replicas):
    """Fused on one replica; moments, in one all-reduce forwards and one backwards, on two."""
    dtype = tf.as_dtype(precision.removeprefix("mixed_"))
    shape, reduced, all_reduce = (64, 3, 2, CHANNELS), [], tf.distribute.ReplicaContext.all_reduce
    x = tf.cast(20 + make_inputs(shape), dtype).numpy()  # Far from 0, where 16 bits would lose the moments.
    cotangent = tf.cast(np.random.default_rng(2).normal(size=shape), dtype).numpy()
    with strategy.scope() if replicas > 1 else contextlib.nullcontext():
        norm = make_norm(precision)
    norm.moving_mean.assign(np.full(CHANNELS, 21.0))  # As training would have it.
    assert {variable.dtype for variable in norm.variables} == {tf.float32}

    def count(context, operation, value, *arguments, **options):
        reduced.extend((tensor.dtype, tuple(tensor.shape)) for tensor in tf.nest.flatten(value))
        return all_reduce(context, operation, value, *arguments, **options)

    def step(batch):
        outputs, mean, variance = norm(batch[0], training=True)
        return outputs, mean, variance, *gradients_of(norm, *batch)

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", count)
    batch = (x, cotangent)
    alone = tf.nest.map_structure(tf.constant, batch)
    parts = run_on_replicas(strategy, step, batch) if replicas > 1 else [step(alone)]
    assert set(reduced) == ({(tf.float32, (2, CHANNELS))} if replicas > 1 else set())
    x, cotangent = x.astype("float64"), cotangent.astype("float64")
    mean, variance = moments_oracle(x)
    outputs, dx = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 3))
    assert outputs.dtype == dx.dtype == dtype.as_numpy_dtype
    last_bit = np.finfo("float16").eps if dtype == tf.float16 else 2**-7
    expected = apply_oracle(x, mean, variance, *values_of(norm))
    np.testing.assert_allclose(outputs.astype("float64"), expected, rtol=last_bit, atol=1e-4)
    wanted = gradient_oracle(x, norm.gamma.numpy(), cotangent)
    np.testing.assert_allclose(dx.astype("float64"), wanted[0], rtol=last_bit, atol=last_bit)
    for i in (1, 2):
        received = sum(np.asarray(part[3 + i]) for part in parts)
        assert received.dtype == np.float32
        np.testing.assert_allclose(received, wanted[i], rtol=0, atol=2e-3)
    for part in parts:
        np.testing.assert_allclose(part[1], mean, rtol=1e-5)
        np.testing.assert_allclose(part[2], variance, rtol=1e-4)


@pytest.mark.distributed
@every_dtype
def test_unsynchronized_replicas_use_their_own_rows_and_average_the_moving_averages(strategy, dtype):
    x = make_inputs((6, 2, 2, CHANNELS), dtype)
    x[3:] += 2
    with strategy.scope():
        norm = make_norm(dtype, synchronized=False, randomized=False)

    def step(inputs):
        outputs, *statistics = norm(inputs, training=True)
        update_moving_statistics([norm], [tuple(statistics)])
        return outputs

    received = run_on_replicas(strategy, step, x)
    moments = [moments_oracle(half) for half in (x[:3], x[3:])]
    for outputs, half, pair in zip(received, (x[:3], x[3:]), moments, strict=True):
        expected = apply_oracle(half, *pair, np.ones(CHANNELS), np.zeros(CHANNELS))
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=TOLERANCE[dtype])
    mean, variance = np.mean(moments, axis=0)
    for copies, expected in ((norm.moving_mean, 0.1 * mean), (norm.moving_variance, 0.9 + 0.1 * variance)):
        for copy in strategy.experimental_local_results(copies):
            np.testing.assert_allclose(copy, expected, rtol=TOLERANCE[dtype])


@pytest.mark.distributed
def test_synchronized_variance_of_shifted_values_stays_accurate_in_float32(strategy):
    """Two replicas have no fused kernel: moments around 0 would lose the variance here."""
    x = (100 + 0.1 * np.random.default_rng(0).normal(size=(64, CHANNELS))).astype("float32")
    with strategy.scope():
        norm = make_norm("float32", randomized=False)
    norm.moving_mean.assign(np.full(CHANNELS, 90.0, "float32"))
    _, _, variance = run_on_replicas(strategy, lambda inputs: norm(inputs, training=True), x)[0]
    np.testing.assert_allclose(variance, moments_oracle(x)[1], rtol=1e-2)
