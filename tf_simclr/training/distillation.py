"""Distillation: the labelled rows of a batch, and a teacher whose classes fit."""

import logging

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, UserError
from tf_simclr.data import BatchPlan, Source, class_list, class_numbers, few_labels
from tf_simclr.models import SimCLRModel
from tf_simclr.training.teacher import Teacher, load_teacher, network_class_names

_LOG = logging.getLogger("tf_simclr")


def labelled_rows(config: ExperimentConfig, source: Source, plan: BatchPlan) -> tuple[Source | None, int]:
    """Returns the images that the labelled rows of a batch are drawn from, None for the batch itself; their number."""
    if config.distill.distill_alpha == 1:
        return None, 0
    labelled = few_labels(source, config.data)
    batch_size, asked = plan.global_batch_size, config.distill.distill_labeled_share
    all_are = labelled is source and not asked
    share = asked or labelled.num_examples / source.num_examples
    num_labelled, replicas = max(1, int(share * batch_size + 0.5)), plan.total_replicas
    if num_labelled % replicas:
        lower = num_labelled // replicas * replicas
        nearest = [f"{count / batch_size:.4g}" for count in (lower, lower + replicas) if count]
        raise UserError(
            f"--distill_labeled_share={share:.4g}: {num_labelled} labelled images of a batch of {batch_size} cannot "
            f"be shared out evenly over {replicas} replicas; use {' or '.join(nearest)}."
        )
    if num_labelled >= batch_size and not all_are:
        raise UserError(
            f"--distill_labeled_share={share:.4g}: leaves no place for unlabelled images in a batch of "
            f"{batch_size}; use a smaller share or a larger --train_batch_size."
        )
    return None if all_are else labelled, num_labelled


def load_fitting_teacher(config: ExperimentConfig, source: Source) -> Teacher:
    """Loads the teacher; its logits get the order of the images' classes.

    Raises:
        UserError: there is no such teacher, or it has other classes than the images.
    """
    named, allowed = str(config.distill.teacher), config.distill.allow_remote_teacher
    teacher = load_teacher(named, config.model.image_size, allow_remote=allowed)
    ours, theirs = source.class_names, network_class_names(named, "teacher")
    if ours is None or (theirs is None and len(ours) == teacher.num_classes):
        return teacher
    numbers = theirs and class_numbers(ours, theirs)
    if theirs is None or numbers is None or len(ours) != len(theirs):
        both = f"{teacher.num_classes} classes, {source.name} has {len(ours)}"
        if theirs is not None:
            both = f"{class_list(theirs, ours)}, {source.name} {class_list(ours, theirs)}"
        raise UserError(f"--teacher={named}: has {both}; use a teacher of the same classes.")
    if ours == tuple(theirs):
        return teacher
    return teacher._replace(logits=lambda images: tf.gather(teacher.logits(images), numbers, axis=-1))


def compare_sizes(student: SimCLRModel, teacher: Teacher) -> None:
    """Tells the user if the student is bigger than its teacher."""
    ours, theirs = student.num_used_weights, teacher.num_weights
    if theirs is not None and ours > theirs:
        _LOG.info("The student is bigger than its teacher: %.2f M against %.2f M weights.", ours / 1e6, theirs / 1e6)
