"""The distillation step: equations 2 and 3, and a teacher that only looks."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import assert_identical, is_statistic, randomize, snapshot, tiny_config
from tests.tasks import steps
from tests.tasks.steps import BATCH, CLASSES, DECAY, check_metrics, shares, tensors
from tf_simclr.config import DistillConfig, OptimizerConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.distill import DistillTask

STUDENT = {"width_multiplier": 0.0625, "ft_proj_selector": 1}


@functools.cache
def teacher_network():
    """One network for all tests: no step may change it."""
    return randomize(build_simclr_model(tiny_config(), CLASSES), seed=7)


def teacher_logits(images):
    return teacher_network().forward(images, training=False).endpoints["logits_sup"]


def make_task(*, teacher=teacher_logits, optimizer="lars", num_labelled=0, **distill):
    teacher_network()  # It is made outside of any graph.
    student = build_simclr_model(tiny_config(**STUDENT), CLASSES)
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
    """The last rows are labelled; without any there are no labels, because nothing may look at them."""
    batch = steps.make_batch()
    batch["labels"][: BATCH - num_labelled] = -1
    return batch if num_labelled else {"views": batch["views"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "temperature", "num_labelled", "factor"),
    [(1.0, 0.1, 0, 1), (0.7, 0.5, 3, 1), (0.0, 0.5, 1, 1), (0.5, 0.5, 8, 1), (0.6, 0.3, 2, 0.3**2)],
    ids=["equation 2", "equation 3", "labels alone", "all labelled", "square of the temperature"],
)
def test_losses_are_those_of_the_equations(alpha, temperature, num_labelled, factor):
    """Equation 3 divided by the number of images: the first rows stand for all of them."""
    settings = {"distill_temperature": temperature, "distill_tau_squared": factor != 1}
    task = make_task(distill_alpha=alpha, num_labelled=num_labelled, **settings)
    batch, taught = make_batch(num_labelled), BATCH - num_labelled or BATCH
    images = tf.constant(batch["views"][0])
    theirs = teacher_logits(images).numpy()
    ours = task.model.forward(images, training=True).endpoints["logits_sup"].numpy()
    distill = agree = labelled = right = 0.0
    for row in range(taught):
        wanted, received = (shares(logits[row], temperature) for logits in (theirs, ours))
        distill -= factor * np.sum(wanted * np.log(received)) / taught
        agree += (wanted.argmax() == received.argmax()) / taught
    for row in range(BATCH - num_labelled, BATCH):
        labelled -= np.log(shares(ours[row])[batch["labels"][row]])
        right += ours[row].argmax() == batch["labels"][row]
    decay = DECAY * np.sum(snapshot(task.model)["supervised_head/kernel"] ** 2) / 2
    metrics = {
        "distill_loss": distill,
        "teacher_agreement": agree,
        "weight_decay": decay,
        "total_loss": alpha * distill + (1 - alpha) * labelled / BATCH + decay,
    }
    if num_labelled:
        metrics |= {"supervised_loss": labelled / num_labelled, "supervised_acc": right / num_labelled}
    check_metrics(task.train_step(tensors(batch)), metrics, task)


@pytest.mark.slow
def test_gradient_of_the_student_is_that_of_the_equation():
    """Nesterov momentum 0.9 multiplies the first step by 1.9; LARS would leave out the decay of the bias."""
    alpha, temperature, labelled = 0.6, 0.3, 3
    task = make_task(optimizer="momentum", distill_alpha=alpha, distill_temperature=temperature, num_labelled=labelled)
    batch, before = make_batch(labelled), snapshot(task.model)["supervised_head/bias"]
    images = tf.constant(batch["views"][0])
    theirs = teacher_logits(images).numpy()
    ours = task.model.forward(images, training=True).endpoints["logits_sup"].numpy()
    gradient = DECAY * before
    for row in range(BATCH - labelled):
        difference = shares(ours[row], temperature) - shares(theirs[row], temperature)
        gradient += alpha * difference / temperature / (BATCH - labelled)
    for row in range(BATCH - labelled, BATCH):
        gradient += (1 - alpha) * (shares(ours[row]) - np.eye(CLASSES)[batch["labels"][row]]) / BATCH
    task.train_step(tensors(batch))
    change = snapshot(task.model)["supervised_head/bias"] - before
    np.testing.assert_allclose(change, -1.9 * 0.05 * gradient, rtol=1e-7)


@pytest.mark.slow
def test_teacher_stays_bit_equal_and_sees_the_same_images_in_inference_mode():
    seen = []

    def watch(images):
        seen.append(images.numpy())
        return teacher_logits(images)

    before, task, batch = snapshot(teacher_network()), make_task(teacher=watch), make_batch()
    student_before = snapshot(task.model)
    for _ in range(2):
        task.train_step(tensors(batch))
    assert_identical(snapshot(teacher_network()), before)
    np.testing.assert_array_equal(seen, [batch["views"][0]] * 2)
    assert {id(v) for v in task.model.trainable_variables}.isdisjoint(map(id, teacher_network().variables))
    after = snapshot(task.model)
    used = [name for name in after if not name.startswith(("projection_head/layer2", "projection_head/layer3"))]
    unused = after.keys() - set(used)
    assert len(unused) == 9  # Two layers: kernels, batch norms; the last has no offset.
    assert_identical({n: after[n] for n in unused}, {n: student_before[n] for n in unused})
    assert all(np.any(after[name] != student_before[name]) for name in used)
    assert any(is_statistic(name) for name in used)
