"""Losses of labels and of a teacher against plain loops over rows."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.test_losses import BATCH, differences, in_all_modes, value_and_gradient
from tf_simclr import losses
from tf_simclr.losses import distillation_loss

ROWS = np.zeros([4, 3])


def log_shares(row, temperature=1.0):
    scaled = np.asarray(row) / temperature
    return scaled - math.log(math.fsum(np.exp(scaled)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_supervised_loss_equals_loops_eagerly_and_under_xla(dtype):
    logits, labels = np.random.default_rng(1).normal(size=(5, 4)).astype(dtype), [0, 3, 1, 1, 2]
    expected = -np.mean([log_shares(row)[label] for row, label in zip(logits, labels, strict=True)])
    for function in (losses.supervised_loss, tf.function(losses.supervised_loss, jit_compile=True)):
        loss = function(tf.constant(labels, tf.int64), logits)
        assert loss.dtype == tf.as_dtype(dtype)
        np.testing.assert_allclose(loss, expected, rtol=1e-6 if dtype == np.float32 else 1e-13)


def test_supervised_loss_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"received \(4, 3\) and \(3,\)"):
        losses.supervised_loss([0, 1, 2], ROWS)
    with pytest.raises(ValueError, match=r"received \(4, 3\) and \(4, 1\)"):
        losses.supervised_loss(np.zeros([4, 1], np.int32), ROWS)
    with pytest.raises(ValueError, match=r"labels must be integers.*received float64"):
        losses.supervised_loss(ROWS[:, 0], ROWS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_l2_loss_is_half_the_sum_of_squares(dtype):
    variables = [tf.Variable([1.0, 2.0], dtype=dtype), tf.Variable([[3.0]], dtype=dtype)]
    with tf.GradientTape() as tape:
        loss = losses.l2_loss(variables)
    assert (loss.dtype, loss.numpy()) == (dtype, 7.0)
    np.testing.assert_array_equal(tape.gradient(loss, variables[0]), [1.0, 2.0])
    assert (tf.constant(1.5, dtype) + losses.l2_loss([])).dtype == dtype


def make_logits(classes=4):
    """Logits of a teacher and a student."""
    return 2 * np.random.default_rng(0).normal(size=(2, BATCH, classes))


def distillation_oracle(teacher, student, temperature):
    """Equation 2 of SimCLRv2 in loops, as a mean over the images."""
    total = 0.0
    for wanted, received in zip(teacher, student, strict=True):
        total -= math.fsum(np.exp(log_shares(wanted, temperature)) * log_shares(received, temperature))
    return total / len(teacher)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.5])
def test_distillation_loss_and_gradient_equal_loops_and_leave_the_teacher_out(temperature):
    teacher, student = make_logits()
    loss, of_teacher, gradient = value_and_gradient(
        lambda theirs, ours: distillation_loss(theirs, ours, temperature=temperature), teacher, student
    )
    assert loss.dtype == tf.float64
    np.testing.assert_allclose(loss, distillation_oracle(teacher, student, temperature), rtol=1e-12)
    expected = differences(lambda moved: distillation_oracle(teacher, moved, temperature), student)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)
    assert of_teacher is None
    scaled = distillation_loss(teacher, student, temperature=temperature, tau_squared=True)
    np.testing.assert_allclose(scaled, temperature**2 * loss, rtol=1e-12)


def test_distillation_loss_is_least_and_the_teachers_entropy_where_the_student_agrees():
    teacher, student = make_logits()
    # Logits are free up to a constant for each image.
    agreeing = distillation_loss(teacher, teacher + np.arange(BATCH)[:, None], temperature=0.7)
    np.testing.assert_allclose(agreeing, distillation_oracle(teacher, teacher, 0.7), rtol=1e-12)
    assert distillation_loss(teacher, student, temperature=0.7) > agreeing


@pytest.mark.parametrize(
    ("teacher_dtype", "dtype", "expected"),
    [("float16", "bfloat16", "float32"), ("float64", "float32", "float32"), ("float32", "float64", "float64")],
)
def test_distillation_loss_has_the_students_precision_but_no_half(teacher_dtype, dtype, expected):
    teacher, student = make_logits()
    teacher, student = tf.cast(teacher, teacher_dtype), tf.cast(student, dtype)
    loss = distillation_loss(teacher, student, temperature=0.05)
    assert loss.dtype == expected
    wanted = distillation_oracle(tf.cast(teacher, "float64").numpy(), tf.cast(student, "float64").numpy(), 0.05)
    np.testing.assert_allclose(loss, wanted, rtol=2e-6)


def test_distillation_loss_is_finite_for_huge_logits_in_float32():
    teacher, student = (1e4 * make_logits()).astype("float32")
    for value in value_and_gradient(lambda logits: distillation_loss(teacher, logits, temperature=0.1), student):
        assert np.all(np.isfinite(value))


def test_distillation_loss_is_equal_eager_graph_and_xla():
    teacher, student = map(tf.constant, make_logits())

    def compute(logits):
        return value_and_gradient(
            lambda ours: distillation_loss(teacher, ours, temperature=0.3, tau_squared=True), logits
        )

    eager, *compiled = (function(student) for function in in_all_modes(compute))
    for received in compiled:
        np.testing.assert_allclose(received[0], eager[0], rtol=1e-12)
        np.testing.assert_allclose(received[1], eager[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher_logits": ROWS[:2]}, r"must be \[B, K\]; received \(2, 3\) and \(4, 3\)"),
        ({"teacher_logits": ROWS[:, :2]}, r"must be \[B, K\]; received \(4, 2\) and \(4, 3\)"),
        ({"teacher_logits": ROWS[0], "logits": ROWS[0]}, r"received \(3,\) and \(3,\)"),
        ({"teacher_logits": ROWS.astype(int)}, "teacher_logits must be floating point; received int64"),
        ({"logits": ROWS.astype(np.int32)}, "logits must be floating point; received int32"),
        ({"temperature": 0.0}, "greater than 0; received 0.0"),
        ({"temperature": float("nan")}, "greater than 0; received nan"),
    ],
)
def test_distillation_loss_names_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(**{"teacher_logits": ROWS, "logits": ROWS, "temperature": 0.1} | arguments)
