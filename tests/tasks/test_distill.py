"""The distillation step: equations 2 and 3, a teacher that only looks, and any number of replicas."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import (
    assert_close,
    assert_identical,
    is_statistic,
    random_images,
    randomize,
    replicate,
    snapshot,
    tiny_config,
    two_replicas,
)
from tf_simclr.config import DistillConfig, OptimizerConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.distill import DistillTask

BATCH, CLASSES, DECAY = 8, 4, 0.01
STUDENT = {"width_multiplier": 0.0625, "ft_proj_selector": 1}


@functools.cache
def teacher():
    """One network for all tests: no step may change it."""
    return randomize(build_simclr_model(tiny_config(), CLASSES), seed=7)


@pytest.fixture(autouse=True)
def _teacher_is_made_outside_of_any_graph():
    teacher()


def teacher_logits(images):
    return teacher().forward(images, training=False).endpoints["logits_sup"]


def make_task(*, teacher=teacher_logits, optimizer="lars", num_labelled=0, model=None, **distill):
    student = build_simclr_model(tiny_config(**(STUDENT | (model or {}))), CLASSES)
    student.freeze_for_finetuning()
    task = DistillTask(
        student,
        OptimizerConfig(optimizer=optimizer, weight_decay=DECAY),
        WarmupCosine(0.05, 0, 100, dtype="float64"),
        DistillConfig(**distill),
        teacher=teacher,
        num_labelled=num_labelled,
    )
    randomize(student, seed=1)
    return task


def make_batch(num_labelled=0):
    labels = (np.arange(BATCH) % CLASSES).astype("int32")
    labels[: BATCH - num_labelled] = -1
    return {"views": (random_images(BATCH, 16, 16),), "labels": labels}


def tensors(batch):
    return tf.nest.map_structure(tf.constant, batch)


def shares(row, temperature=1.0):
    weights = [np.exp(logit / temperature) for logit in row]
    return [weight / sum(weights) for weight in weights]


def oracle(task, batch, *, alpha, temperature, num_labelled, factor=1.0):
    """Equation 3 divided by the number of images: the first rows stand for all of them."""
    images = tf.constant(batch["views"][0])
    wanted = teacher_logits(images).numpy()
    received = task.model.forward(images, training=True).endpoints["logits_sup"].numpy()
    distill = labelled = right = agree = 0.0
    taught = BATCH - num_labelled or BATCH
    for number, (ours, theirs) in enumerate(zip(received, wanted, strict=True)):
        pairs = zip(shares(theirs, temperature), shares(ours, temperature), strict=True)
        if number < taught:
            distill -= factor * sum(p * np.log(q) for p, q in pairs) / taught
            agree += (ours.argmax() == theirs.argmax()) / taught
        if number >= BATCH - num_labelled:
            labelled -= np.log(shares(ours)[batch["labels"][number]])
            right += ours.argmax() == batch["labels"][number]
    decay = DECAY * np.sum(snapshot(task.model)["supervised_head/kernel"] ** 2) / 2
    metrics = {
        "distill_loss": distill,
        "teacher_agreement": agree,
        "weight_decay": decay,
        "total_loss": alpha * distill + (1 - alpha) * labelled / BATCH + decay,
    }
    if num_labelled:
        metrics |= {"supervised_loss": labelled / num_labelled, "supervised_acc": right / num_labelled}
    return metrics


def check_metrics(task, batch, **settings):
    expected = oracle(task, batch, **settings)
    received = task.train_step(tensors(batch))
    assert set(received) == set(expected) == set(task.metric_names)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=1e-6, err_msg=name)


# ---- What it computes


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_without_labels_the_loss_is_equation_2(temperature):
    task = make_task(distill_temperature=temperature)
    check_metrics(task, make_batch(), alpha=1.0, temperature=temperature, num_labelled=0)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "num_labelled"), [(0.7, 3), (0.0, 1), (0.25, 7), (0.5, 8)])
def test_with_labels_the_loss_is_equation_3(alpha, num_labelled):
    task = make_task(distill_alpha=alpha, distill_temperature=0.5, num_labelled=num_labelled)
    batch = make_batch(num_labelled)
    check_metrics(task, batch, alpha=alpha, temperature=0.5, num_labelled=num_labelled)


def test_square_of_the_temperature_multiplies_the_teachers_term_alone():
    settings = {"alpha": 0.6, "temperature": 0.3, "num_labelled": 2}
    task = make_task(distill_alpha=0.6, distill_temperature=0.3, distill_tau_squared=True, num_labelled=2)
    check_metrics(task, make_batch(2), factor=0.09, **settings)


@pytest.mark.slow
def test_labels_are_not_looked_at_without_the_label_term():
    batch = make_batch()
    of_data, without = batch | {"labels": np.zeros(BATCH, "int32")}, {"views": batch["views"]}
    task = make_task()
    results = [task.compute_losses(tensors(one))[1] for one in (batch, of_data, without)]
    assert len({float(metrics["total_loss"]) for metrics in results}) == 1


@pytest.mark.slow
def test_gradient_of_the_student_is_that_of_the_equation():
    """Nesterov momentum 0.9 multiplies the first step by 1.9; the bias of the head has no decay here."""
    task = make_task(optimizer="momentum", distill_alpha=0.6, distill_temperature=0.3, num_labelled=3)
    batch, alpha, temperature = make_batch(3), 0.6, 0.3
    images, before = tf.constant(batch["views"][0]), snapshot(task.model)
    bias, received = (
        np.zeros(CLASSES),
        task.model.forward(images, training=True).endpoints["logits_sup"].numpy(),
    )
    for number, (ours, theirs) in enumerate(zip(received, teacher_logits(images).numpy(), strict=True)):
        difference = np.subtract(shares(ours, temperature), shares(theirs, temperature))
        if number < BATCH - 3:
            bias += alpha * difference / temperature / (BATCH - 3)
        if number >= BATCH - 3:
            bias += (1 - alpha) * (shares(ours) - np.eye(CLASSES)[batch["labels"][number]]) / BATCH
    bias += DECAY * before["supervised_head/bias"]
    task.train_step(tensors(batch))
    change = snapshot(task.model)["supervised_head/bias"] - before["supervised_head/bias"]
    np.testing.assert_allclose(change, -1.9 * 0.05 * bias, rtol=1e-7)


# ---- What it leaves alone


@pytest.mark.slow
def test_teacher_stays_bit_equal_and_sees_the_same_images_in_inference_mode():
    seen = []

    def watch(images):
        seen.append(images.numpy())
        return teacher_logits(images)

    before, task, batch = snapshot(teacher()), make_task(teacher=watch), make_batch()
    student_before = snapshot(task.model)
    for _ in range(2):
        task.train_step(tensors(batch))
    assert_identical(snapshot(teacher()), before)
    np.testing.assert_array_equal(seen, [batch["views"][0]] * 2)
    assert {id(v) for v in task.model.trainable_variables}.isdisjoint(map(id, teacher().variables))
    after = snapshot(task.model)
    used = [name for name in after if not name.startswith(("projection_head/layer2", "projection_head/layer3"))]
    unused = after.keys() - set(used)
    assert len(unused) == 9  # Two layers: kernels, batch norms; the last has no offset.
    assert_identical({n: after[n] for n in unused}, {n: student_before[n] for n in unused})
    assert all(np.any(after[name] != student_before[name]) for name in used)
    assert any(is_statistic(name) for name in used)


def test_no_gradient_flows_into_a_teacher_that_shares_the_students_weights():
    """Self-distillation of a network from itself at temperature 1: it agrees, and has no reason to move."""
    task = make_task(optimizer="momentum")
    kernel = task.model.supervised_head.kernel
    task._teacher = lambda images: task.model.forward(images, training=True).endpoints["logits_sup"]
    with tf.GradientTape() as tape:
        _, metrics = task.compute_losses(tensors(make_batch()))
    assert float(metrics["teacher_agreement"]) == 1.0
    np.testing.assert_allclose(tape.gradient(metrics["total_loss"], kernel), 0, atol=1e-15)


@pytest.mark.slow
def test_student_learns_to_agree():
    task, batch = make_task(optimizer="adam", distill_temperature=0.5), tensors(make_batch())
    step = tf.function(task.train_step, autograph=False)
    losses = [float(step(batch)["distill_loss"]) for _ in range(12)]
    rows = [shares(row, 0.5) for row in teacher_logits(batch["views"][0]).numpy()]
    entropy = -np.mean([sum(p * np.log(p) for p in row) for row in rows])
    assert losses[-1] - entropy < 0.3 * (losses[0] - entropy)
    assert min(losses) > entropy


# ---- The same on two replicas, compiled or not


STEPS = 2
MIXED = {"distill_alpha": 0.6, "distill_temperature": 0.5}


def colours(images):
    """A teacher without weights: it looks at the mean colours."""
    return 20 * tf.reduce_mean(images, axis=[1, 2]) @ tf.constant(np.random.default_rng(5).normal(size=(3, CLASSES)))


def run(task, step):
    metrics = [{name: float(value) for name, value in step().items()} for _ in range(STEPS)]
    return metrics, snapshot(task.model)


def check_two_replicas(make_teacher):
    # The labelled rows are the last ones of each replica.
    batch = make_batch() | {"labels": np.array([-1, -1, 2, 0, -1, -1, 1, 3], "int32")}
    order = [0, 1, 4, 5, 2, 3, 6, 7]
    whole = tensors({"views": (batch["views"][0][order],), "labels": batch["labels"][order]})
    task = make_task(teacher=make_teacher(), num_labelled=4, **MIXED)
    expected, wanted = run(task, lambda: task.train_step(whole))
    strategy = two_replicas()
    with strategy.scope():
        task = make_task(teacher=make_teacher(), num_labelled=2, **MIXED)
    run_step = replicate(strategy, task.train_step, batch, graph=False)

    def step():
        first, second = run_step()
        assert first == second
        return first

    received, variables = run(task, step)
    for ours, theirs in zip(received, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert_close(variables, wanted, 1e-9)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_replicas_equal_one_with_the_whole_batch():
    check_two_replicas(lambda: colours)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_replicas_with_a_teacher_in_their_scope_equal_one_and_leave_it_bit_equal():
    networks = []

    def make_teacher():
        networks.append(randomize(build_simclr_model(tiny_config(), CLASSES), seed=7))
        return lambda images: networks[-1].forward(images, training=False).endpoints["logits_sup"]

    check_two_replicas(make_teacher)
    for network in networks:
        assert_identical(snapshot(network), snapshot(teacher()))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_step_is_the_same_under_xla():
    results = []
    for jit_compile in (False, True):
        task = make_task(num_labelled=4, **MIXED)
        step = tf.function(task.train_step, autograph=False, jit_compile=jit_compile)
        results.append(run(task, lambda step=step: step(tensors(make_batch(4)))))
    for ours, theirs in zip(*[metrics for metrics, _ in results], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert_close(results[1][1], results[0][1], 1e-9)
