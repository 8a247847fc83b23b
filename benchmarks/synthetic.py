"""Training run without data: configuration, task with the complete step, and a batch."""

import dataclasses
from typing import Any

from tf_simclr.config import BenchmarkConfig, ExperimentConfig, ModelConfig


def training_of(config: BenchmarkConfig) -> ExperimentConfig:
    """Returns the training that a benchmark measures, starting from random weights.

    Raises:
        UserError: if its settings contradict each other.
    """
    train = dataclasses.replace(config.train, train_batch_size=config.benchmark_batch_size, checkpoint=None)
    return ExperimentConfig(
        model=config.model,
        augment=config.augment,
        data=config.data,
        contrast=config.contrast,
        distill=dataclasses.replace(config.distill, teacher=None),
        optimizer=config.optimizer,
        train=train,
        strategy=config.strategy,
    )


def count_classes(config: ModelConfig) -> int:
    """Returns the number of classes of CIFAR-10 or ImageNet, by the size of the images."""
    return 10 if config.cifar_stem else 1000


def make_task(config: ExperimentConfig, num_classes: int) -> Any:
    """Makes the task of `config.train.train_mode` with random weights; call it in the strategy's scope.

    Pretraining has its probe, unless that is switched off; distillation has a teacher with the network of the
    student.
    """
    from tf_simclr.models import build_simclr_model
    from tf_simclr.schedules import WarmupCosine
    from tf_simclr.tasks.distill import DistillTask
    from tf_simclr.tasks.finetune import FinetuneTask
    from tf_simclr.tasks.pretrain import MemoryPretrainTask, PretrainTask

    pretrains = config.train.is_contrastive
    has_head = not pretrains or config.train.lineareval_while_pretraining
    model = build_simclr_model(config.model, num_classes if has_head else None)
    model.recompute = config.train.recompute
    schedule = WarmupCosine(0.1, 10, 1000, dtype=config.model.variable_dtype)
    if pretrains:
        task = MemoryPretrainTask if config.contrast.memory_size else PretrainTask
        return task(model, config.optimizer, schedule, config.contrast)
    model.freeze_for_finetuning(config.model.fine_tune_after_block)
    if config.train.train_mode != "distill":
        return FinetuneTask(model, config.optimizer, schedule)
    teacher = build_simclr_model(config.model, num_classes)
    return DistillTask(
        model,
        config.optimizer,
        schedule,
        config.distill,
        teacher=lambda images: teacher.forward(images, training=False).endpoints["logits_sup"],
    )


def make_batch(task: Any, config: ExperimentConfig, num_classes: int) -> dict[str, Any]:
    """Makes one random batch for `task`."""
    import tensorflow as tf

    batch, size = config.train.train_batch_size, config.model.image_size
    return {
        "views": tuple(tf.random.uniform([batch, size, size, 3]) for _ in range(task.num_views)),
        "labels": tf.random.uniform([batch], maxval=num_classes, dtype=tf.int32),
        "bad_images": tf.constant(0),
    }
