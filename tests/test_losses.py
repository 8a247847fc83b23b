"""Losses against plain loops over rows."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.losses import GatheredViews, StoredNegatives, chance_loss, nt_xent_loss

BATCH, DIM, TEMPERATURE = 6, 5, 0.3


@pytest.fixture(params=[False, True], ids=["nt_xent", "decoupled"])
def decoupled(request):
    return request.param


@pytest.fixture(params=[0, 7], ids=["batch", "memory"])
def memory(request):
    """Ten entries; those that do not count are nearer to every row than any that do."""
    if not request.param:
        return None
    rows = make_views(batch=10, seed=5)[0]
    rows[request.param :] = 50.0
    return StoredNegatives(rows, request.param)


def make_views(batch=BATCH, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(2, batch, dim))
    return views / np.linalg.norm(views, axis=2, keepdims=True)


def value_and_gradient(function, *inputs):
    """Returns what a loss computes and its gradient by each input."""
    inputs = [tf.convert_to_tensor(value) for value in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = function(*inputs)
    return loss, *tape.gradient(loss, inputs)


def differences(function, values, step=1e-5):
    """Central differences, one number at a time."""
    gradient = np.zeros_like(values)
    for index in np.ndindex(*values.shape):
        above, below = values.copy(), values.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient


def in_all_modes(function):
    return function, tf.function(function), tf.function(function, jit_compile=True)


def similarity(x, y):
    return math.fsum(x * y) / TEMPERATURE


def oracle(views, decoupled, memory=None):
    """The mean over the rows of a plus the mean over the rows of b; all have the stored negatives too."""
    stored = () if memory is None else memory.rows[: memory.num_valid]
    total = 0.0
    for own, other in (views, views[::-1]):
        for i, (anchor, positive) in enumerate(zip(own, other, strict=True)):
            others = [view[j] for view in views for j in range(len(own)) if j != i]
            terms = [*others, *stored, *([] if decoupled else [positive])]
            share = math.log(math.fsum(math.exp(similarity(anchor, term)) for term in terms))
            total += (share - similarity(anchor, positive)) / len(own)
    return total


@pytest.mark.parametrize("length", [1.0, 3.0])
def test_contrastive_loss_and_gradient_equal_loops(decoupled, memory, length):
    views = length * make_views()
    loss, *gradient = value_and_gradient(
        lambda a, b: nt_xent_loss(a, b, temperature=TEMPERATURE, decoupled=decoupled, memory=memory).loss, *views
    )
    assert loss.dtype == tf.float64
    np.testing.assert_allclose(loss, oracle(views, decoupled, memory), rtol=1e-13)
    np.testing.assert_allclose(
        np.stack(gradient), differences(lambda moved: oracle(moved, decoupled, memory), views), atol=1e-7
    )


def test_nt_xent_is_twice_the_mean_over_all_rows_of_the_paper():
    a, b = make_views()
    rows = np.concatenate([a, b])
    total = 0.0
    for i in range(2 * BATCH):
        partner = (i + BATCH) % (2 * BATCH)
        denominator = sum(math.exp(similarity(rows[i], rows[k])) for k in range(2 * BATCH) if k != i)
        total -= math.log(math.exp(similarity(rows[i], rows[partner])) / denominator)
    loss = nt_xent_loss(a, b, temperature=TEMPERATURE).loss
    np.testing.assert_allclose(loss, 2 * total / (2 * BATCH), rtol=1e-13)


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 6])
def test_outputs_and_gradient_of_replicas_average_to_the_whole(decoupled, memory, num_replicas):
    settings = {"temperature": TEMPERATURE, "decoupled": decoupled, "memory": memory}
    size = BATCH // num_replicas

    def of_replicas(a, b):
        parts = [
            nt_xent_loss(a[row : row + size], b[row : row + size], gathered=GatheredViews(a, b, row), **settings)
            for row in range(0, BATCH, size)
        ]
        return [tf.add_n(values) / num_replicas for values in zip(*parts, strict=True)]

    def whole(a, b):
        return nt_xent_loss(a, b, **settings)

    for number in range(3):
        expected = value_and_gradient(lambda a, b, n=number: whole(a, b)[n], *make_views())
        received = value_and_gradient(lambda a, b, n=number: of_replicas(a, b)[n], *make_views())
        for ours, wanted in zip(received, expected, strict=True):
            if wanted is not None:  # Accuracy has no gradient.
                np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-13)


def test_contrastive_loss_is_equal_eager_graph_and_xla_with_a_dynamic_row_and_memory(decoupled):
    views, stored = make_views(), make_views(batch=10, seed=5)[0]

    def compute(row, num_valid):
        options = {"memory": StoredNegatives(stored, num_valid), "decoupled": decoupled}
        return value_and_gradient(
            lambda a, b, all_a, all_b: (
                nt_xent_loss(a, b, temperature=TEMPERATURE, gathered=GatheredViews(all_a, all_b, row), **options).loss
            ),
            *views[:, 2:4],
            *views,
        )

    eager, *compiled = in_all_modes(compute)
    for numbers in ((2, 0), (1, 3), (2, 7)):
        row, num_valid = map(tf.constant, numbers)
        for function in compiled:
            for received, expected in zip(function(row, num_valid), eager(row, num_valid), strict=True):
                np.testing.assert_allclose(received, expected, rtol=1e-12, atol=1e-14)


def test_contrastive_loss_runs_with_an_unknown_batch_size(decoupled):
    spec = tf.TensorSpec([None, DIM], tf.float64)
    function = tf.function(
        lambda a, b: nt_xent_loss(a, b, temperature=TEMPERATURE, decoupled=decoupled).loss, [spec, spec]
    )
    np.testing.assert_allclose(function(*make_views()), oracle(make_views(), decoupled), rtol=1e-13)


@pytest.mark.parametrize("num_stored", [0, 9])
@pytest.mark.parametrize("batch", [2, 7, 64])
def test_loss_of_equal_projections_is_chance(decoupled, batch, num_stored):
    same = np.tile(make_views(batch=1)[0], (batch, 1))
    stored = StoredNegatives(np.tile(same[:1], (12, 1)), num_stored)
    output = nt_xent_loss(same, same, temperature=0.1, memory=stored, decoupled=decoupled)
    expected = chance_loss(batch, num_stored, decoupled=decoupled)
    assert expected == pytest.approx(2 * math.log(2 * batch - 1 - decoupled + num_stored))
    np.testing.assert_allclose(output.loss, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(output.entropy, math.log(batch), rtol=1e-12, atol=1e-12)
    assert output.accuracy == 1 / batch  # Of equals the first wins.


def test_chance_is_a_number_or_a_tensor():
    assert isinstance(chance_loss(2), float)
    received = chance_loss(4, tf.constant(9.0, tf.float64))
    assert received.dtype == tf.float64
    assert float(received) == pytest.approx(chance_loss(4, 9))
    for batch, decoupled in ((0, False), (1, True)):
        with pytest.raises(ValueError, match=f"received {batch}"):
            chance_loss(batch, decoupled=decoupled)


def test_nt_xent_of_a_solved_task_is_small_and_positive_in_float32():
    rows = np.eye(8, dtype=np.float32)
    output = nt_xent_loss(rows, rows, temperature=0.1)
    assert output.accuracy == 1.0
    # Fourteen negatives of logit 0 against one positive of logit 10, on both sides.
    np.testing.assert_allclose(output.loss, 2 * math.log1p(14 * math.exp(-10)), rtol=1e-5)


def test_contrastive_accuracy_of_ties_in_float32_counts_the_first_row_only(decoupled):
    same = np.tile(make_views(batch=1, dim=37)[0], (8, 1)).astype("float32")
    assert nt_xent_loss(same, same, temperature=0.1, decoupled=decoupled).accuracy == 1 / 8


def test_contrastive_accuracy_ignores_negatives_of_the_same_view():
    a = np.array([[1.0, -0.01], [1.0, 0.01]])  # nearest to each other, and yet not a mistake
    b = np.array([[0.9, -0.1], [0.9, 0.1]])
    assert nt_xent_loss(a, b, temperature=1.0).accuracy == 1.0
    assert nt_xent_loss(a, b[::-1], temperature=1.0).accuracy == 0.0


def test_contrastive_entropy_equals_loops(memory):
    a, b = make_views()
    total = 0.0
    for i in range(BATCH):
        weights = [math.exp(similarity(a[i], b[j])) for j in range(BATCH)]
        total -= sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)
    output = nt_xent_loss(a, b, temperature=TEMPERATURE, memory=memory)
    np.testing.assert_allclose(output.entropy, total / BATCH, rtol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_contrastive_loss_of_half_precision_is_computed_in_float32(decoupled, dtype):
    views = tf.cast(make_views(), dtype)
    received = nt_xent_loss(*views, temperature=0.01, decoupled=decoupled)
    expected = nt_xent_loss(*tf.cast(views, tf.float32), temperature=0.01, decoupled=decoupled)
    assert {t.dtype for t in received} == {tf.float32}
    assert received.loss == expected.loss


def test_contrastive_loss_is_finite_at_a_low_temperature_in_float32(decoupled):
    loss = functools.partial(nt_xent_loss, temperature=1e-3, decoupled=decoupled)
    for value in value_and_gradient(lambda a, b: loss(a, b).loss, *make_views().astype("float32")):
        assert np.all(np.isfinite(value))


def test_empty_memory_changes_nothing_and_no_gradient_reaches_a_memory(decoupled):
    views, rows = make_views().astype("float32"), np.full([10, DIM], 50.0, "float32")

    def loss(a, b, stored, num_valid=0):
        memory = None if num_valid is None else StoredNegatives(stored, num_valid)
        return nt_xent_loss(a, b, temperature=0.01, memory=memory, decoupled=decoupled).loss

    empty, *gradient, of_memory = value_and_gradient(loss, *views, rows)
    without, *expected, _ = value_and_gradient(lambda a, b, stored: loss(a, b, stored, None), *views, rows)
    assert empty == without
    np.testing.assert_allclose(np.stack(gradient), np.stack(expected), rtol=1e-5, atol=4e-6)
    assert of_memory is None


ROWS = np.zeros([4, 3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"view_a": ROWS[0]}, r"\[rows, dimensions\].*received view_a float64\(3,\)"),
        ({"view_b": ROWS[:2]}, r"equal shapes; received .*view_b float64\(2, 3\)"),
        ({"view_b": ROWS.astype(np.float32)}, "of one dtype; received .*view_b float32"),
        ({"view_a": ROWS.astype(np.int32)}, "view_a must be floating point; received int32"),
        ({"gathered": GatheredViews(ROWS, ROWS[:3])}, r"equal shapes; received .*all_b float64\(3, 3\)"),
        ({"gathered": GatheredViews(ROWS[:, :2], ROWS[:, :2])}, r"equally wide; received .*all_a float64\(4, 2\)"),
        ({"gathered": GatheredViews(ROWS[:2], ROWS[:2])}, "received 4 rows from first_row=0 on, of 2"),
        ({"gathered": GatheredViews(ROWS, ROWS, 1)}, "received 4 rows from first_row=1 on, of 4"),
        ({"gathered": GatheredViews(ROWS, ROWS, -1)}, "first_row=-1"),
        ({"temperature": 0.0}, "greater than 0; received 0.0"),
        (
            {"memory": StoredNegatives(ROWS[:, :2], 1)},
            r"as wide as the projections; received \(4, 2\) beside \(8, 3\)",
        ),
        ({"view_a": ROWS[:1], "view_b": ROWS[:1], "decoupled": True}, "at least 2 images"),
    ],
)
def test_contrastive_loss_names_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        nt_xent_loss(**{"view_a": ROWS, "view_b": ROWS, "temperature": 0.1} | arguments)
