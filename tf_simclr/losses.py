"""Losses of SimCLRv2 as pure functions of tensors: no state, no devices, no collectives.

Everything is computed in float32 or float64 (half-precision inputs are widened first) and compiles
under XLA with static shapes.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# Far below every logit and still finite: the exponential is exactly 0, and no gradient becomes NaN.
_MASKED_LOGIT = -1e9


class _Views(NamedTuple):
    """The projections of one replica, `[b, d]`, and of all, `[B, d]`."""

    view_a: tf.Tensor
    view_b: tf.Tensor
    all_a: tf.Tensor
    all_b: tf.Tensor


class _Margins(NamedTuple):
    """How far each row's negatives together lie above its positive."""

    values: tf.Tensor  # [2, b], log of the summed exponentials of the negatives, minus the positive
    between_views: tf.Tensor  # [b, B], logits of view a against view b
    rows: tf.Tensor  # int32 [b], the numbers of the own rows among all


class ContrastiveOutput(NamedTuple):
    """What a contrastive loss returns: scalars over this replica's rows, in the loss's dtype.

    Attributes:
        loss: `[]`, mean cross entropy of the rows of view a plus that of the rows of view b, in nats.
        accuracy: `[]` in [0, 1], share of the rows of view a whose most similar row of view b is their
            own (negatives of the same view and stored ones do not count; of equals the first wins).
        entropy: `[]` in [0, ln B], mean entropy in nats of the softmax over those similarities, with rows
            of view b alone.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor
    entropy: tf.Tensor


class StoredNegatives(NamedTuple):
    """Projections of earlier batches, negatives of every row; no gradient reaches them.

    Attributes:
        rows: floating `[M, d]`; computed in the dtype of the views.
        num_valid: integer or integer tensor `[]` (may be dynamic) in [0, M]: so many of the rows count, the
            first ones.
    """

    rows: Any
    num_valid: int | tf.Tensor


def nt_xent_loss(
    view_a: tf.Tensor,
    view_b: tf.Tensor,
    *,
    temperature: float,
    all_a: tf.Tensor | None = None,
    all_b: tf.Tensor | None = None,
    first_row: int | tf.Tensor = 0,
    memory: StoredNegatives | None = None,
) -> ContrastiveOutput:
    """Contrastive cross entropy between two views of the same images (NT-Xent).

    SimCLR (arXiv 2002.05709), equation 1 and algorithm 1. It differs from them in scale: the mean over
    the rows of view a plus the mean over the rows of view b, as in the authors' code, twice the paper's
    1/(2N) form. Rows are not normalised here (`hidden_norm` is the caller's business).

    The mean of the loss over R replicas, each with its own rows and the gathered rows of all, is the
    loss of one replica with the whole batch.

    Args:
        view_a: floating `[b, d]`, projections of the first views of this replica's images.
        view_b: same dtype and shape, projections of the second views; row i belongs to row i of `view_a`.
        temperature: divides the similarities, > 0; the paper uses 0.1.
        all_a: `[B, d]`, first views of all replicas, `view_a` among them; default: `view_a`.
        all_b: `[B, d]`, second views of all replicas in the same order; default: `view_b`.
        first_row: integer or integer tensor `[]` (may be dynamic) in [0, B - b]: the row of `all_a` and
            `all_b` at which this replica's rows start.
        memory: more negatives in the denominators of both directions, equal on all replicas (SimCLRv2,
            arXiv 2006.10029, section 2.1); None for those of the batch alone.

    Returns:
        A `ContrastiveOutput` of scalars.

    Raises:
        ValueError: if dtypes, ranks, shapes, temperature or first row do not fit together.
    """
    margins = _margins(_make_views(view_a, view_b, all_a, all_b), temperature, first_row, memory)
    # log(exp(positive) + sum of exp(negatives)) - positive, without cancellation when it is near 0.
    return _contrastive_output(tf.math.softplus(margins.values), margins.between_views, margins.rows)


def decoupled_nt_xent_loss(
    view_a: tf.Tensor,
    view_b: tf.Tensor,
    *,
    temperature: float,
    all_a: tf.Tensor | None = None,
    all_b: tf.Tensor | None = None,
    first_row: int | tf.Tensor = 0,
    memory: StoredNegatives | None = None,
) -> ContrastiveOutput:
    """NT-Xent without the positive pair in the denominator.

    Decoupled contrastive learning (arXiv 2110.06848), the loss L_DC, without the weights of L_DCW. It
    differs in scale: the sum of two means, as in `nt_xent_loss`, whose arguments it shares. The loss
    has no lower bound; where nothing is learnt it is 2 ln(2B - 2), with M stored negatives 2 ln(2B - 2 + M).

    Args:
        view_a: floating `[b, d]`, projections of the first views of this replica's images.
        view_b: same dtype and shape, projections of the second views; row i belongs to row i of `view_a`.
        temperature: divides the similarities, > 0.
        all_a: `[B, d]`, first views of all replicas, `view_a` among them; default: `view_a`.
        all_b: `[B, d]`, second views of all replicas in the same order; default: `view_b`.
        first_row: integer or integer tensor `[]` (may be dynamic) in [0, B - b]: the row of `all_a` and
            `all_b` at which this replica's rows start.
        memory: more negatives, as in `nt_xent_loss`.

    Returns:
        A `ContrastiveOutput` of scalars.

    Raises:
        ValueError: if dtypes, ranks, shapes, temperature or first row do not fit together, or if B is
            known to be 1, which leaves no negatives.
    """
    views = _make_views(view_a, view_b, all_a, all_b)
    if views.all_a.shape[0] == 1:
        raise ValueError("decoupled_nt_xent_loss needs at least 2 images over all replicas; received 1.")
    margins = _margins(views, temperature, first_row, memory)
    return _contrastive_output(margins.values, margins.between_views, margins.rows)


def chance_loss(global_batch_size: int, num_stored: int = 0) -> float:
    """NT-Xent of a network that tells no image from another: 2 ln(2B - 1 + M).

    SimCLR (arXiv 2002.05709), equation 1 with equal similarities, in the scale of `nt_xent_loss`.

    Args:
        global_batch_size: B, images over all replicas, >= 1.
        num_stored: M, negatives in a memory that count, >= 0.

    Returns:
        The loss in nats.

    Raises:
        ValueError: if `global_batch_size` is less than 1.
    """
    if global_batch_size < 1:
        raise ValueError(f"global_batch_size must be at least 1; received {global_batch_size}.")
    return 2.0 * math.log(2 * global_batch_size - 1 + num_stored)


def supervised_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean softmax cross entropy of integer labels, in nats.

    As the supervised loss of the authors' code, without one-hot labels.

    Args:
        labels: integer `[B]` in [0, K).
        logits: floating `[B, K]`; half precision is computed in float32.

    Returns:
        Scalar `[]` in the logits' dtype, at least float32.

    Raises:
        ValueError: if dtypes or shapes do not fit together.
    """
    labels = tf.convert_to_tensor(labels)
    logits = _at_least_float32(logits, "logits")
    if logits.shape.rank != 2 or not logits.shape[:1].is_compatible_with(labels.shape):
        raise ValueError(f"logits must be [B, K] and labels [B]; received {logits.shape} and {labels.shape}.")
    if not labels.dtype.is_integer:
        raise ValueError(f"labels must be integers, the numbers of the classes; received {labels.dtype.name}.")
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def distillation_loss(
    teacher_logits: tf.Tensor, logits: tf.Tensor, *, temperature: float, tau_squared: bool = False
) -> tf.Tensor:
    """Mean cross entropy of the student's classes under the teacher's, in nats.

    SimCLRv2 (arXiv 2006.10029), equation 2, as a mean over the images: P = softmax(f / temperature),
    L = -mean_x sum_y P_teacher(y|x) log P_student(y|x). No gradient reaches the teacher. It is least, and
    equal to the teacher's entropy, where the student agrees. A second loss on labels is the caller's.

    Args:
        teacher_logits: floating `[B, K]`.
        logits: floating `[B, K]`, of the student; half precision is computed in float32.
        temperature: tau, > 0; divides the logits of both.
        tau_squared: multiply with tau^2, which keeps the size of the gradient; the paper's equation has
            no such factor.

    Returns:
        Scalar `[]` in the student's dtype, at least float32.

    Raises:
        ValueError: if dtypes, shapes or temperature do not fit.
    """
    logits = _at_least_float32(logits, "logits")
    teacher_logits = tf.cast(_at_least_float32(teacher_logits, "teacher_logits"), logits.dtype)
    if logits.shape.rank != 2 or not logits.shape.is_compatible_with(teacher_logits.shape):
        raise ValueError(
            f"the logits of teacher and student must be [B, K]; received {teacher_logits.shape} and {logits.shape}."
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0; received {temperature}.")
    targets = tf.stop_gradient(tf.nn.softmax(teacher_logits / temperature))
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits / temperature))
    return loss * temperature**2 if tau_squared else loss


def l2_loss(variables: Sequence[Any]) -> tf.Tensor | float:
    """Half the sum of squares, sum |v|^2 / 2, whose gradient is v.

    Weight decay as a part of the loss, as in the authors' code; the caller chooses the variables and
    multiplies with the decay.

    Args:
        variables: variables or tensors, all float32 or all float64, of any shapes.

    Returns:
        Scalar `[]` in the variables' dtype; the Python number 0.0, which adds to any dtype, for none.
    """
    halves = [tf.nn.l2_loss(variable) for variable in variables]
    return tf.add_n(halves) if halves else 0.0


def _at_least_float32(value: Any, name: str) -> tf.Tensor:
    tensor = tf.convert_to_tensor(value)
    if not tensor.dtype.is_floating:
        raise ValueError(f"{name} must be floating point; received {tensor.dtype.name}.")
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < tf.float32.size else tensor


def _check_views(views: _Views) -> None:
    """Raises ValueError unless the shapes and dtypes of the views fit together."""
    received = ", ".join(f"{name} {t.dtype.name}{t.shape}" for name, t in views._asdict().items())
    own, everyone = views.view_a.shape, views.all_a.shape
    if any(t.shape.rank != 2 for t in views) or len({t.dtype for t in views}) > 1:
        raise ValueError(f"projections must be [rows, dimensions] of one dtype; received {received}.")
    if not (own.is_compatible_with(views.view_b.shape) and everyone.is_compatible_with(views.all_b.shape)):
        raise ValueError(f"the two views must have equal shapes; received {received}.")
    if not own[1:].is_compatible_with(everyone[1:]):
        raise ValueError(f"own and gathered projections must be equally wide; received {received}.")


def _check_rows(num_rows: int | None, num_all_rows: int | None, first_row: int | tf.Tensor) -> None:
    """Raises ValueError if the own rows are known to reach beyond all rows."""
    if num_rows is None or num_all_rows is None:
        return
    last = num_all_rows - num_rows
    if last < 0 or (isinstance(first_row, int) and not 0 <= first_row <= last):
        raise ValueError(
            f"the own rows must lie inside the gathered ones; "
            f"received {num_rows} rows from first_row={first_row} on, of {num_all_rows}."
        )


def _make_views(view_a: Any, view_b: Any, all_a: Any, all_b: Any) -> _Views:
    """Fills in the defaults, widens half precision and checks that everything fits."""
    if (all_a is None) != (all_b is None):
        raise ValueError(f"all_a and all_b go together; received only {'all_a' if all_b is None else 'all_b'}.")
    if all_a is None:
        all_a, all_b = view_a, view_b
    tensors = (_at_least_float32(t, n) for t, n in zip((view_a, view_b, all_a, all_b), _Views._fields, strict=True))
    views = _Views(*tensors)
    _check_views(views)
    return views


def _margins(views: _Views, temperature: float, first_row: int | tf.Tensor, memory: StoredNegatives | None) -> _Margins:
    """Compares the own rows of both views with all rows of both views, and with the memory."""
    if not tf.is_tensor(temperature) and not temperature > 0:
        raise ValueError(f"temperature must be greater than 0; received {temperature}.")
    _check_rows(views.view_a.shape[0], views.all_a.shape[0], first_row)
    view_a, view_b = views.view_a / temperature, views.view_b / temperature
    num_rows, num_all_rows = tf.shape(view_a)[0], tf.shape(views.all_a)[0]
    own = tf.concat([view_a, view_b], axis=0)
    logits = tf.matmul(own, tf.concat([views.all_a, views.all_b], axis=0), transpose_b=True)
    logits = tf.reshape(logits, [2, num_rows, 2, num_all_rows])
    positives = tf.reduce_sum(view_a * views.view_b, axis=1)

    rows = tf.range(num_rows) + tf.cast(first_row, tf.int32)
    # One mask hides both the row itself and its positive, which has the same number in the other view.
    same_image = rows[:, tf.newaxis] == tf.range(num_all_rows)[tf.newaxis, :]
    masked = tf.where(same_image[tf.newaxis, :, tf.newaxis, :], tf.cast(_MASKED_LOGIT, logits.dtype), logits)
    negatives = tf.reduce_logsumexp(masked, axis=[2, 3])
    if memory is not None:
        stored = tf.reshape(_stored_logsumexp(own, memory), [2, num_rows])
        negatives = tf.reduce_logsumexp(tf.stack([negatives, stored]), axis=0)
    return _Margins(negatives - positives, logits[0, :, 1, :], rows)


def _stored_logsumexp(own: tf.Tensor, memory: StoredNegatives) -> tf.Tensor:
    """Returns `[2b]`, log of the summed exponentials of the stored negatives of the rows `own`, `[2b, d]`."""
    stored = tf.stop_gradient(tf.cast(_at_least_float32(memory.rows, "memory.rows"), own.dtype))
    if stored.shape.rank != 2 or not stored.shape[1:].is_compatible_with(own.shape[1:]):
        raise ValueError(
            f"memory.rows must be [rows, dimensions], as wide as the projections; received {stored.shape} "
            f"beside {own.shape}."
        )
    counts = tf.range(tf.shape(stored)[0]) < tf.cast(memory.num_valid, tf.int32)
    logits = tf.matmul(own, stored, transpose_b=True)
    return tf.reduce_logsumexp(tf.where(counts, logits, tf.cast(_MASKED_LOGIT, logits.dtype)), axis=1)


def _contrastive_output(row_losses: tf.Tensor, between_views: tf.Tensor, rows: tf.Tensor) -> ContrastiveOutput:
    """Averages the losses `[2, b]` of the rows and measures the similarities `[b, B]` of a with b."""
    # From the matrix product alone: a positive that was summed in another order would win every tie by
    # rounding, and collapsed projections would look perfectly matched.
    correct = tf.argmax(between_views, axis=1, output_type=tf.int32) == rows
    log_shares = tf.nn.log_softmax(between_views, axis=1)
    entropies = -tf.reduce_sum(tf.exp(log_shares) * log_shares, axis=1)
    return ContrastiveOutput(
        loss=tf.reduce_sum(tf.reduce_mean(row_losses, axis=1)),
        accuracy=tf.reduce_mean(tf.cast(correct, row_losses.dtype)),
        entropy=tf.reduce_mean(entropies),
    )
