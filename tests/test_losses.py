"""Losses against plain loops over rows."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import losses

BATCH, DIM, TEMPERATURE = 6, 5, 0.3
CONTRASTIVE = {"nt_xent": losses.nt_xent_loss, "decoupled": losses.decoupled_nt_xent_loss}


@pytest.fixture(params=CONTRASTIVE)
def kind(request):
    return request.param


def make_views(batch=BATCH, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(2, batch, dim))
    return views / np.linalg.norm(views, axis=2, keepdims=True)


def similarity(x, y, temperature):
    total = 0.0
    for x_k, y_k in zip(x, y, strict=True):
        total += x_k * y_k
    return total / temperature


def row_loss(anchor, positive, negatives, temperature, kind):
    terms = [math.exp(similarity(anchor, other, temperature)) for other in negatives]
    if kind == "nt_xent":
        terms.append(math.exp(similarity(anchor, positive, temperature)))
    return math.log(math.fsum(terms)) - similarity(anchor, positive, temperature)


def oracle(view_a, view_b, temperature, kind, stored=()):
    """The mean over the rows of a plus the mean over the rows of b; all have the stored negatives too."""
    total = 0.0
    for own, other in ((view_a, view_b), (view_b, view_a)):
        for i in range(len(own)):
            negatives = [view[j] for view in (own, other) for j in range(len(own)) if j != i] + [*stored]
            total += row_loss(own[i], other[i], negatives, temperature, kind) / len(own)
    return total


def oracle_gradient(views, temperature, kind, stored=(), step=1e-5):
    """Central differences, one number at a time."""
    gradient = np.zeros_like(views)
    for index in np.ndindex(*views.shape):
        moved = views.copy()
        moved[index] += step
        above = oracle(*moved, temperature, kind, stored)
        moved[index] -= 2 * step
        gradient[index] = (above - oracle(*moved, temperature, kind, stored)) / (2 * step)
    return gradient


def test_contrastive_loss_equals_loops(kind):
    a, b = make_views()
    loss = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE).loss
    assert loss.dtype == tf.float64
    np.testing.assert_allclose(loss, oracle(a, b, TEMPERATURE, kind), rtol=1e-13)


def test_contrastive_loss_takes_rows_that_are_not_normalised(kind):
    a, b = 3.0 * make_views()
    loss = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE).loss
    np.testing.assert_allclose(loss, oracle(a, b, TEMPERATURE, kind), rtol=1e-13)


def test_contrastive_gradient_equals_finite_differences(kind):
    views = make_views()
    a, b = tf.constant(views[0]), tf.constant(views[1])
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        loss = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE).loss
    gradient = np.stack(tape.gradient(loss, [a, b]))
    np.testing.assert_allclose(gradient, oracle_gradient(views, TEMPERATURE, kind), atol=1e-8)


def test_nt_xent_is_twice_the_mean_over_all_rows_of_the_paper():
    a, b = make_views()
    rows = np.concatenate([a, b])
    total = 0.0
    for i in range(2 * BATCH):
        partner = (i + BATCH) % (2 * BATCH)
        denominator = sum(math.exp(similarity(rows[i], rows[k], TEMPERATURE)) for k in range(2 * BATCH) if k != i)
        total -= math.log(math.exp(similarity(rows[i], rows[partner], TEMPERATURE)) / denominator)
    loss = losses.nt_xent_loss(a, b, temperature=TEMPERATURE).loss
    np.testing.assert_allclose(loss, 2 * total / (2 * BATCH), rtol=1e-13)


def replica_outputs(kind, a, b, num_replicas, **options):
    size = len(a) // num_replicas
    return [
        CONTRASTIVE[kind](
            a[first : first + size],
            b[first : first + size],
            temperature=TEMPERATURE,
            all_a=a,
            all_b=b,
            first_row=first,
            **options,
        )
        for first in range(0, len(a), size)
    ]


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 6])
def test_contrastive_loss_of_replicas_averages_to_the_whole(kind, num_replicas):
    a, b = make_views()
    whole = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE)
    parts = replica_outputs(kind, a, b, num_replicas)
    for name in losses.ContrastiveOutput._fields:
        mean = np.mean([getattr(part, name) for part in parts])
        np.testing.assert_allclose(mean, getattr(whole, name), rtol=1e-12)


def test_contrastive_gradient_of_replicas_sums_to_the_whole(kind):
    a, b = map(tf.constant, make_views())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([a, b])
        whole = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE).loss
        parts = tf.add_n([part.loss for part in replica_outputs(kind, a, b, 3)]) / 3
    for expected, received in zip(tape.gradient(whole, [a, b]), tape.gradient(parts, [a, b]), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-13)


def test_contrastive_loss_is_equal_eager_graph_and_xla_with_a_dynamic_first_row(kind):
    views = make_views()
    own = views[:, 2:4]

    def compute(first_row):
        a, b = tf.constant(own[0]), tf.constant(own[1])
        all_a, all_b = tf.constant(views[0]), tf.constant(views[1])
        with tf.GradientTape() as tape:
            tape.watch([a, b, all_a, all_b])
            output = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE, all_a=all_a, all_b=all_b, first_row=first_row)
        return tuple(output) + tuple(tape.gradient(output.loss, [a, b, all_a, all_b]))

    eager = compute(2)
    row = tf.constant(2)
    for compiled in (tf.function(compute)(row), tf.function(compute, jit_compile=True)(row)):
        for expected, received in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(received, expected, rtol=1e-12, atol=1e-14)


def test_contrastive_loss_runs_with_an_unknown_batch_size(kind):
    spec = tf.TensorSpec([None, DIM], tf.float64)
    function = tf.function(lambda a, b: CONTRASTIVE[kind](a, b, temperature=TEMPERATURE).loss, [spec, spec])
    a, b = make_views()
    np.testing.assert_allclose(function(a, b), oracle(a, b, TEMPERATURE, kind), rtol=1e-13)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_nt_xent_of_equal_projections_is_chance(batch):
    same = np.tile(make_views(batch=1)[0], (batch, 1))
    output = losses.nt_xent_loss(same, same, temperature=0.1)
    np.testing.assert_allclose(output.loss, losses.chance_loss(batch), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(output.entropy, math.log(batch), rtol=1e-12, atol=1e-12)


def test_nt_xent_of_orthogonal_projections_is_chance():
    rows = np.eye(8)
    loss = losses.nt_xent_loss(rows[:4], rows[4:], temperature=0.1).loss
    np.testing.assert_allclose(loss, 2 * math.log(7), rtol=1e-13)


def test_decoupled_loss_of_equal_projections_lacks_the_positive():
    same = np.tile(make_views(batch=1)[0], (4, 1))
    loss = losses.decoupled_nt_xent_loss(same, same, temperature=0.1).loss
    np.testing.assert_allclose(loss, 2 * math.log(6), rtol=1e-12)


def test_nt_xent_of_a_solved_task_is_small_and_positive_in_float32():
    rows = np.eye(8, dtype=np.float32)
    output = losses.nt_xent_loss(rows, rows, temperature=0.1)
    assert output.accuracy == 1.0
    # Fourteen negatives of logit 0 against one positive of logit 10, on both sides.
    np.testing.assert_allclose(output.loss, 2 * math.log1p(14 * math.exp(-10)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contrastive_accuracy_of_ties_counts_the_first_row_only(kind, dtype):
    same = np.tile(make_views(batch=1, dim=37)[0], (8, 1)).astype(dtype)
    assert CONTRASTIVE[kind](same, same, temperature=0.1).accuracy == 1 / 8


def test_contrastive_accuracy_ignores_negatives_of_the_same_view():
    a = np.array([[1.0, -0.01], [1.0, 0.01]])  # nearest to each other, and yet not a mistake
    b = np.array([[0.9, -0.1], [0.9, 0.1]])
    assert losses.nt_xent_loss(a, b, temperature=1.0).accuracy == 1.0
    assert losses.nt_xent_loss(a, b[::-1], temperature=1.0).accuracy == 0.0


def test_contrastive_entropy_equals_loops():
    a, b = make_views()
    total = 0.0
    for i in range(BATCH):
        weights = [math.exp(similarity(a[i], b[j], TEMPERATURE)) for j in range(BATCH)]
        total -= sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    output = losses.nt_xent_loss(a, b, temperature=TEMPERATURE)
    np.testing.assert_allclose(output.entropy, total / BATCH, rtol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_contrastive_loss_of_half_precision_is_computed_in_float32(kind, dtype):
    a, b = (tf.cast(view, dtype) for view in make_views())
    received = CONTRASTIVE[kind](a, b, temperature=0.01)
    expected = CONTRASTIVE[kind](tf.cast(a, tf.float32), tf.cast(b, tf.float32), temperature=0.01)
    assert {t.dtype for t in received} == {tf.float32}
    assert received.loss == expected.loss


def test_contrastive_loss_is_finite_at_a_low_temperature_in_float32(kind):
    a, b = (tf.constant(view, tf.float32) for view in make_views())
    with tf.GradientTape() as tape:
        tape.watch(a)
        loss = CONTRASTIVE[kind](a, b, temperature=1e-3).loss
    assert np.isfinite(loss)
    assert np.all(np.isfinite(tape.gradient(loss, a)))


ROWS = np.zeros([4, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view_a": ROWS[0]}, r"\[rows, dimensions\].*received view_a float64\(3,\)"),
        ({"view_b": ROWS[:2]}, r"equal shapes; received .*view_b float64\(2, 3\)"),
        ({"view_b": ROWS.astype(np.float32)}, "of one dtype; received .*view_b float32"),
        ({"view_a": ROWS.astype(np.int32)}, "view_a must be floating point; received int32"),
        ({"all_a": ROWS}, "go together; received only all_a"),
        ({"all_a": ROWS, "all_b": ROWS[:3]}, r"equal shapes; received .*all_b float64\(3, 3\)"),
        ({"all_a": ROWS[:, :2], "all_b": ROWS[:, :2]}, r"equally wide; received .*all_a float64\(4, 2\)"),
        ({"all_a": ROWS[:2], "all_b": ROWS[:2]}, "received 4 rows from first_row=0 on, of 2"),
        ({"first_row": 1}, "received 4 rows from first_row=1 on, of 4"),
        ({"first_row": -1}, "first_row=-1"),
        ({"temperature": 0.0}, "greater than 0; received 0.0"),
    ],
)
def test_contrastive_loss_names_what_does_not_fit(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        CONTRASTIVE[kind](**{"view_a": ROWS, "view_b": ROWS, "temperature": 0.1} | arguments)


def test_decoupled_loss_refuses_one_image():
    with pytest.raises(ValueError, match="at least 2 images"):
        losses.decoupled_nt_xent_loss(ROWS[:1], ROWS[:1], temperature=0.1)


def test_chance_loss_is_two_log_of_all_other_rows():
    assert losses.chance_loss(4096) == pytest.approx(2 * math.log(8191))
    assert isinstance(losses.chance_loss(2), float)
    with pytest.raises(ValueError, match="received 0"):
        losses.chance_loss(0)


def make_memory(num_valid=7, size=10):
    """Ten entries; those that do not count are nearer to every row than any that do."""
    rows = make_views(batch=size, seed=5)[0]
    rows[num_valid:] = 50.0
    return losses.StoredNegatives(rows, num_valid)


def test_contrastive_loss_with_a_memory_equals_loops(kind):
    (a, b), memory = make_views(), make_memory()
    output = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE, memory=memory)
    expected = oracle(a, b, TEMPERATURE, kind, memory.rows[:7])
    assert expected > oracle(a, b, TEMPERATURE, kind) + 0.1
    np.testing.assert_allclose(output.loss, expected, rtol=1e-13)
    alone = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE)
    assert (output.accuracy, output.entropy) == (alone.accuracy, alone.entropy)


def test_contrastive_gradient_with_a_memory_equals_finite_differences_and_leaves_the_memory_out(kind):
    views, memory = make_views(), make_memory()
    a, b, rows = tf.constant(views[0]), tf.constant(views[1]), tf.constant(memory.rows)
    with tf.GradientTape() as tape:
        tape.watch([a, b, rows])
        stored = losses.StoredNegatives(rows, memory.num_valid)
        loss = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE, memory=stored).loss
    *gradient, of_memory = tape.gradient(loss, [a, b, rows])
    expected = oracle_gradient(views, TEMPERATURE, kind, memory.rows[:7])
    np.testing.assert_allclose(np.stack(gradient), expected, atol=1e-8)
    assert of_memory is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_memory_changes_nothing(kind, dtype):
    a, b = (tf.constant(view, dtype) for view in make_views())
    results = []
    for memory in (None, make_memory(num_valid=0)):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            loss = CONTRASTIVE[kind](a, b, temperature=0.01, memory=memory).loss
        results.append([loss, *tape.gradient(loss, [a, b])])
    (loss, *gradient), (expected_loss, *expected) = results
    assert loss == expected_loss
    np.testing.assert_allclose(np.stack(gradient), np.stack(expected), rtol=1e-5, atol=4e-6)


def test_contrastive_loss_with_a_memory_averages_over_replicas_to_the_whole(kind):
    (a, b), memory = make_views(), make_memory()
    whole = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE, memory=memory).loss
    parts = [part.loss for part in replica_outputs(kind, a, b, 3, memory=memory)]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-12)


def test_contrastive_loss_with_a_filling_memory_is_equal_eager_graph_and_xla(kind):
    a, b = map(tf.constant, make_views())
    rows = tf.constant(make_memory().rows)

    def compute(num_valid):
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            memory = losses.StoredNegatives(rows, num_valid)
            loss = CONTRASTIVE[kind](a, b, temperature=TEMPERATURE, memory=memory).loss
        return (loss, *tape.gradient(loss, [a, b]))

    compiled = tf.function(compute), tf.function(compute, jit_compile=True)
    for num_valid in (0, 3, 7):
        for function in compiled:
            received = function(tf.constant(num_valid))
            for ours, expected in zip(received, compute(num_valid), strict=True):
                np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


def test_loss_of_equal_projections_with_a_memory_is_chance():
    same = np.tile(make_views(batch=1)[0], (4, 1))
    memory = losses.StoredNegatives(np.tile(same, (3, 1)), 9)
    loss = losses.nt_xent_loss(same, same, temperature=0.1, memory=memory).loss
    np.testing.assert_allclose(loss, losses.chance_loss(4, 9), rtol=1e-12)
    loss = losses.decoupled_nt_xent_loss(same, same, temperature=0.1, memory=memory).loss
    np.testing.assert_allclose(loss, 2 * math.log(6 + 9), rtol=1e-12)


def test_memory_of_other_width_is_refused(kind):
    memory = losses.StoredNegatives(ROWS[:, :2], 1)
    with pytest.raises(ValueError, match=r"as wide as the projections; received \(4, 2\) beside \(8, 3\)"):
        CONTRASTIVE[kind](ROWS, ROWS, temperature=0.1, memory=memory)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_supervised_loss_equals_loops(dtype):
    logits = np.random.default_rng(1).normal(size=(5, 4)).astype(dtype)
    labels = [0, 3, 1, 1, 2]
    expected = np.mean(
        [math.log(sum(math.exp(x) for x in row)) - row[label] for row, label in zip(logits, labels, strict=True)]
    )
    loss = losses.supervised_loss(tf.constant(labels, tf.int64), logits)
    assert loss.dtype == tf.as_dtype(dtype)
    np.testing.assert_allclose(loss, expected, rtol=1e-6 if dtype == np.float32 else 1e-13)


def test_supervised_loss_is_equal_under_xla():
    logits, labels = tf.constant(make_views()[0]), tf.range(BATCH) % DIM
    compiled = tf.function(losses.supervised_loss, jit_compile=True)(labels, logits)
    np.testing.assert_allclose(compiled, losses.supervised_loss(labels, logits), rtol=1e-13)


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
    assert loss.dtype == dtype
    assert loss.numpy() == 7.0
    np.testing.assert_array_equal(tape.gradient(loss, variables[0]), [1.0, 2.0])


def test_l2_loss_of_nothing_adds_to_any_dtype():
    for dtype in (tf.float32, tf.float64):
        assert (tf.constant(1.5, dtype) + losses.l2_loss([])).dtype == dtype


CLASSES = 4


def make_logits(seed=0):
    """Logits of a teacher and a student."""
    return 2 * np.random.default_rng(seed).normal(size=(2, BATCH, CLASSES))


def shares(row, temperature):
    weights = [math.exp(logit / temperature) for logit in row]
    return [weight / math.fsum(weights) for weight in weights]


def distillation_oracle(teacher, student, temperature):
    """Equation 2 of SimCLRv2 in loops, as a mean over the images."""
    total = 0.0
    for teacher_row, student_row in zip(teacher, student, strict=True):
        pairs = zip(shares(teacher_row, temperature), shares(student_row, temperature), strict=True)
        total -= sum(wanted * math.log(received) for wanted, received in pairs)
    return total / len(teacher)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 2.5])
def test_distillation_loss_and_gradient_equal_loops(temperature):
    teacher, student = make_logits()
    variable = tf.Variable(student)
    with tf.GradientTape() as tape:
        loss = losses.distillation_loss(tf.constant(teacher), variable, temperature=temperature)
    assert loss.dtype == tf.float64
    np.testing.assert_allclose(loss, distillation_oracle(teacher, student, temperature), rtol=1e-12)
    gradient, step = np.zeros_like(student), 1e-5
    for index in np.ndindex(*student.shape):
        above, below = student.copy(), student.copy()
        above[index] += step
        below[index] -= step
        rise = distillation_oracle(teacher, above, temperature)
        gradient[index] = (rise - distillation_oracle(teacher, below, temperature)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(loss, variable), gradient, atol=1e-7)
    exact = [
        (np.array(shares(s, temperature)) - shares(t, temperature)) / (temperature * BATCH)
        for t, s in zip(teacher, student, strict=True)
    ]
    np.testing.assert_allclose(gradient, exact, atol=1e-7)


def test_distillation_loss_takes_the_square_of_the_temperature_only_if_asked():
    teacher, student = make_logits()
    plain = losses.distillation_loss(teacher, student, temperature=0.3)
    scaled = losses.distillation_loss(teacher, student, temperature=0.3, tau_squared=True)
    np.testing.assert_allclose(scaled, 0.09 * plain, rtol=1e-12)


def test_distillation_loss_is_least_and_the_teachers_entropy_where_the_student_agrees():
    teacher, student = make_logits()
    rows = [shares(row, 0.7) for row in teacher]
    entropy = -np.mean([sum(p * math.log(p) for p in row) for row in rows])
    # Logits are free up to a constant for each image.
    agreeing = losses.distillation_loss(teacher, teacher + np.arange(BATCH)[:, None], temperature=0.7)
    np.testing.assert_allclose(agreeing, entropy, rtol=1e-12)
    assert losses.distillation_loss(teacher, student, temperature=0.7) > entropy


def test_distillation_loss_gives_no_gradient_to_the_teacher():
    teacher, student = (tf.Variable(logits) for logits in make_logits())
    with tf.GradientTape() as tape:
        loss = losses.distillation_loss(teacher, student, temperature=0.5)
    of_teacher, of_student = tape.gradient(loss, [teacher, student])
    assert of_teacher is None
    assert np.abs(of_student).max() > 0


@pytest.mark.parametrize(
    ("teacher_dtype", "dtype", "expected"),
    [
        ("float16", "bfloat16", "float32"),
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
    ],
)
def test_distillation_loss_has_the_students_precision_but_no_half(teacher_dtype, dtype, expected):
    teacher, student = make_logits()
    teacher, student = tf.cast(teacher, teacher_dtype), tf.cast(student, dtype)
    loss = losses.distillation_loss(teacher, student, temperature=0.05)
    assert loss.dtype == expected
    wanted = distillation_oracle(tf.cast(teacher, "float64").numpy(), tf.cast(student, "float64").numpy(), 0.05)
    np.testing.assert_allclose(loss, wanted, rtol=2e-6)


def test_distillation_loss_is_finite_for_huge_logits_in_float32():
    teacher, student = (tf.constant(1e4 * logits, tf.float32) for logits in make_logits())
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = losses.distillation_loss(teacher, student, temperature=0.1)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(tape.gradient(loss, student)))


def test_distillation_loss_is_equal_eager_graph_and_xla():
    teacher, student = map(tf.constant, make_logits())

    def compute(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = losses.distillation_loss(teacher, logits, temperature=0.3, tau_squared=True)
        return loss, tape.gradient(loss, logits)

    eager = compute(student)
    for compiled in (tf.function(compute), tf.function(compute, jit_compile=True)):
        for received, expected in zip(compiled(student), eager, strict=True):
            np.testing.assert_allclose(received, expected, rtol=1e-12, atol=1e-14)


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
        losses.distillation_loss(**{"teacher_logits": ROWS, "logits": ROWS, "temperature": 0.1} | arguments)
