"""Schedules at their corners and against plain Python."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import schedules

PEAK, WARMUP, TOTAL = 2.0, 4, 20


def oracle(step, peak=PEAK, warmup=WARMUP, total=TOTAL):
    if step < warmup:
        return peak * step / warmup
    if step >= total:
        return 0.0
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize(("warmup", "total"), [(4, 20), (0, 20), (20, 20), (30, 20), (1, 2), (0, 1), (40_000, 250_228)])
def test_warmup_cosine_equals_python_at_all_corners(warmup, total, dtype, tolerance):
    schedule = schedules.WarmupCosine(PEAK, warmup, total, dtype=dtype)
    steps = {
        0,
        1,
        warmup // 2,
        warmup - 1,
        warmup,
        warmup + 1,
        total // 2,
        total - 1,
        total,
        total + 1,
        10**6,
    }
    for step in sorted(step for step in steps if step >= 0):
        received = schedule(tf.constant(step, tf.int64))
        assert received.dtype == dtype
        np.testing.assert_allclose(received, oracle(step, PEAK, warmup, total), rtol=0, atol=PEAK * tolerance)


def test_warmup_cosine_has_exact_corners():
    schedule = schedules.WarmupCosine(PEAK, WARMUP, TOTAL)
    assert [float(schedule(step)) for step in (0, 1, WARMUP, TOTAL, TOTAL + 1)] == [0.0, 0.5, PEAK, 0.0, 0.0]


def test_warmup_cosine_without_warmup_starts_at_the_peak():
    assert float(schedules.WarmupCosine(PEAK, 0, TOTAL)(0)) == PEAK


def test_warmup_cosine_longer_than_the_run_only_rises():
    schedule = schedules.WarmupCosine(PEAK, 40, 20)
    rates = [float(schedule(step)) for step in range(21)]
    np.testing.assert_allclose(rates, [PEAK * step / 40 for step in range(21)], rtol=1e-6)


@pytest.mark.parametrize("step_dtype", ["float32", "float64"])
def test_warmup_cosine_keeps_the_dtype_of_a_floating_step(step_dtype):
    rate = schedules.WarmupCosine(PEAK, WARMUP, TOTAL)(tf.constant(7.0, step_dtype))
    assert rate.dtype == step_dtype
    np.testing.assert_allclose(rate, oracle(7), rtol=1e-6)


def test_warmup_cosine_is_equal_eager_graph_and_xla():
    schedule = schedules.WarmupCosine(PEAK, WARMUP, TOTAL, dtype="float64")
    graph, xla = tf.function(schedule), tf.function(schedule, jit_compile=True)
    for step in tf.constant([0, 3, 4, 11, 20, 25], tf.int64):
        np.testing.assert_allclose(graph(step), schedule(step), rtol=1e-14)
        np.testing.assert_allclose(xla(step), schedule(step), rtol=1e-14)


def test_warmup_cosine_survives_serialisation():
    serialisation = tf.keras.optimizers.schedules
    schedule = schedules.WarmupCosine(PEAK, WARMUP, TOTAL, dtype="float64")
    copy = serialisation.deserialize(serialisation.serialize(schedule))
    assert isinstance(copy, schedules.WarmupCosine)
    assert copy.get_config() == schedule.get_config()
    assert copy(9) == schedule(9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 0, 1), "peak .* received -1.0"),
        ((math.nan, 0, 1), "peak .* received nan"),
        ((1.0, -1, 1), "received -1 and 1"),
        ((1.0, 0, 0), "received 0 and 0"),
        ((1.0, 0, 1, "float16"), "received 'float16'"),
    ],
)
def test_warmup_cosine_names_what_is_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedules.WarmupCosine(*arguments)


def test_scale_learning_rate_follows_the_papers():
    assert schedules.scale_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert schedules.scale_learning_rate(0.1, 4096, "sqrt") == pytest.approx(6.4)
    with pytest.raises(ValueError, match="received 'cubic'"):
        schedules.scale_learning_rate(0.1, 4096, "cubic")
    with pytest.raises(ValueError, match="received 0"):
        schedules.scale_learning_rate(0.1, 0, "sqrt")


@pytest.mark.parametrize(
    ("num_examples", "epochs", "batch_size", "expected"),
    [
        (1_281_167, 800, 4096, 250_228),
        (12_811, 60, 1024, 751),
        (128_116, 30, 1024, 3_754),
        (1_281_167, 30, 1024, 37_535),
    ],
)
def test_num_train_steps_equals_the_released_checkpoints(num_examples, epochs, batch_size, expected):
    assert schedules.num_train_steps(num_examples, epochs, batch_size) == expected


def test_num_train_steps_prefers_steps():
    assert schedules.num_train_steps(1000, 10, 10, steps=7) == 7
    with pytest.raises(ValueError, match="received -1"):
        schedules.num_train_steps(1000, 10, 10, steps=-1)


@pytest.mark.parametrize(
    ("epochs", "num_examples", "batch_size", "expected"),
    [(10, 50_000, 512, 976), (0, 50_000, 512, 0), (0.5, 1000, 100, 5), (0.25, 1000, 64, 3), (1, 10, 64, 0)],
)
def test_num_warmup_steps_rounds_down(epochs, num_examples, batch_size, expected):
    steps = schedules.num_warmup_steps(epochs, num_examples, batch_size)
    assert (steps, type(steps)) == (expected, int)


def test_num_warmup_steps_names_what_is_out_of_range():
    with pytest.raises(ValueError, match="received -1, 10 and 5"):
        schedules.num_warmup_steps(-1, 10, 5)
