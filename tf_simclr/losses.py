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


class ContrastiveOutput(NamedTuple):
    """Result of a contrastive loss: scalars over this replica's rows, in the loss's dtype.

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


class GatheredViews(NamedTuple):
    """Projections of all replicas in the same order, those of this replica among them.

    Attributes:
        view_a: floating `[B, d]`, first views.
        view_b: same dtype and shape, second views.
        first_row: integer or integer tensor `[]` (may be dynamic) in [0, B - b]: the row at which this replica's
            rows start.
    """

    view_a: tf.Tensor
    view_b: tf.Tensor
    first_row: int | tf.Tensor = 0


def nt_xent_loss(
    view_a: tf.Tensor,
    view_b: tf.Tensor,
    *,
    temperature: float,
    gathered: GatheredViews | None = None,
    memory: StoredNegatives | None = None,
    decoupled: bool = False,
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
        gathered: the views of all replicas; None if this replica has all of them.
        memory: more negatives in the denominators of both directions, equal on all replicas (SimCLRv2,
            arXiv 2006.10029, section 2.1); None for those of the batch alone.
        decoupled: leave the positive pair out of the denominators: decoupled contrastive learning (arXiv
            2110.06848), the loss L_DC, without the weights of L_DCW. It has no lower bound.

    Returns:
        A `ContrastiveOutput` of scalars.

    Raises:
        ValueError: if dtypes, ranks, shapes, temperature or first row do not fit together, or if the loss is
            decoupled and B is known to be 1, which leaves no negatives.
    """
    views = _checked_views(view_a, view_b, gathered)
    if decoupled and views[-1].shape[0] == 1:
        raise ValueError("the decoupled loss needs at least 2 images over all replicas; received 1.")
    if not tf.is_tensor(temperature) and not temperature > 0:
        raise ValueError(f"temperature must be greater than 0; received {temperature}.")
    margins, between_views, rows = _compare(views, temperature, gathered.first_row if gathered else 0, memory)
    # Softplus is log(exp(positive) + sum of exp(negatives)) - positive, without cancellation when it is near 0.
    row_losses = margins if decoupled else tf.math.softplus(margins)
    accuracy, entropy = _measure(between_views, rows)
    return ContrastiveOutput(tf.reduce_sum(tf.reduce_mean(row_losses, axis=1)), accuracy, entropy)


def chance_loss(
    global_batch_size: int, num_stored: int | tf.Tensor = 0, *, decoupled: bool = False
) -> float | tf.Tensor:
    """NT-Xent of a network that tells no image from another: 2 ln(2B - 1 + M), decoupled 2 ln(2B - 2 + M).

    SimCLR (arXiv 2002.05709), equation 1 with equal similarities, in the scale of `nt_xent_loss`.

    Args:
        global_batch_size: B, images over all replicas, >= 1, decoupled >= 2.
        num_stored: M, negatives in a memory that count, >= 0; an integer or a floating tensor `[]`.
        decoupled: as for `nt_xent_loss`.

    Returns:
        The loss in nats: a number, or a tensor like `num_stored`.

    Raises:
        ValueError: if `global_batch_size` is too small.
    """
    if global_batch_size < 1 + decoupled:
        raise ValueError(f"global_batch_size must be at least {1 + decoupled}; received {global_batch_size}.")
    num_compared = num_stored + (2 * global_batch_size - 1 - decoupled)
    return 2.0 * (tf.math.log(num_compared) if tf.is_tensor(num_compared) else math.log(num_compared))


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


def _checked_views(view_a: Any, view_b: Any, gathered: GatheredViews | None) -> tuple[tf.Tensor, ...]:
    """Returns the own and the gathered views, at least float32; raises ValueError if they do not fit together."""
    everyone = gathered or GatheredViews(view_a, view_b)
    given = {"view_a": view_a, "view_b": view_b, "all_a": everyone.view_a, "all_b": everyone.view_b}
    views = tuple(_at_least_float32(view, name) for name, view in given.items())
    received = ", ".join(f"{name} {t.dtype.name}{t.shape}" for name, t in zip(given, views, strict=True))
    if any(t.shape.rank != 2 for t in views) or len({t.dtype for t in views}) > 1:
        raise ValueError(f"projections must be [rows, dimensions] of one dtype; received {received}.")
    own, other, all_own, all_other = (t.shape for t in views)
    if not (own.is_compatible_with(other) and all_own.is_compatible_with(all_other)):
        raise ValueError(f"the two views must have equal shapes; received {received}.")
    if not own[1:].is_compatible_with(all_own[1:]):
        raise ValueError(f"own and gathered projections must be equally wide; received {received}.")
    first = everyone.first_row if isinstance(everyone.first_row, int) else 0
    if own[0] is not None and all_own[0] is not None and not 0 <= first <= all_own[0] - own[0]:
        raise ValueError(
            f"the own rows must lie inside the gathered ones; "
            f"received {own[0]} rows from first_row={everyone.first_row} on, of {all_own[0]}."
        )
    return views


def _compare(
    views: tuple[tf.Tensor, ...], temperature: float, first_row: int | tf.Tensor, memory: StoredNegatives | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compares the own rows of both views with all rows of both views, and with the memory.

    Returns:
        How far each row's negatives together lie above its positive, `[2, b]`: the log of their summed exponentials
        minus the positive. Logits of view a against view b, `[b, B]`. The numbers of the own rows among all, `[b]`.
    """
    view_a, view_b, all_a, all_b = views
    num_rows, num_all_rows = tf.shape(view_a)[0], tf.shape(all_a)[0]
    scaled_a = view_a / temperature
    own = tf.concat([scaled_a, view_b / temperature], axis=0)
    logits = tf.matmul(own, tf.concat([all_a, all_b], axis=0), transpose_b=True)
    logits = tf.reshape(logits, [2, num_rows, 2, num_all_rows])
    positives = tf.reduce_sum(scaled_a * view_b, axis=1)

    rows = tf.range(num_rows) + tf.cast(first_row, tf.int32)
    # One mask hides both the row itself and its positive, which has the same number in the other view.
    same_image = rows[:, tf.newaxis] == tf.range(num_all_rows)[tf.newaxis, :]
    masked = tf.where(same_image[tf.newaxis, :, tf.newaxis, :], tf.cast(_MASKED_LOGIT, logits.dtype), logits)
    negatives = tf.reduce_logsumexp(masked, axis=[2, 3])
    if memory is not None:
        stored = tf.reshape(_stored_logsumexp(own, memory), [2, num_rows])
        negatives = tf.reduce_logsumexp(tf.stack([negatives, stored]), axis=0)
    return negatives - positives, logits[0, :, 1, :], rows


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


def _measure(between_views: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns accuracy and entropy of the similarities `[b, B]` of view a with view b; `rows` are the own ones."""
    # From the matrix product alone: a positive that was summed in another order would win every tie by
    # rounding, and collapsed projections would look perfectly matched.
    correct = tf.argmax(between_views, axis=1, output_type=tf.int32) == rows
    log_shares = tf.nn.log_softmax(between_views, axis=1)
    entropies = -tf.reduce_sum(tf.exp(log_shares) * log_shares, axis=1)
    return tf.reduce_mean(tf.cast(correct, between_views.dtype)), tf.reduce_mean(entropies)
