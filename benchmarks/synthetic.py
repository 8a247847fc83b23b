"""Training run without data: configuration, task with the complete step, and a batch."""

import dataclasses
from typing import Any

from tf_simclr.config import BenchmarkConfig, ExperimentConfig, ModelConfig
from tf_simclr.config.experiment import TrainingConfig


def training_of(config: BenchmarkConfig) -> ExperimentConfig:
    """Returns the training that a benchmark measures, starting from random weights.

    Raises:
        UserError: if its settings contradict each other.
    """
    groups = {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainingConfig)}
    groups["distill"] = dataclasses.replace(config.distill, teacher=None)
    groups["train"] = dataclasses.replace(config.train, train_batch_size=config.benchmark_batch_size, checkpoint=None)
    return ExperimentConfig(**groups)


def count_classes(config: ModelConfig) -> int:
    """Returns the number of classes of CIFAR-10 or ImageNet, by the size of the images."""
    return 10 if config.cifar_stem else 1000


def make_task(config: ExperimentConfig) -> Any:
    """Makes the task of `config.train.train_mode` with random weights; call it in the strategy's scope.

    Pretraining has its probe, unless that is switched off; the teacher of distillation has the student's network.
    """
    from tf_simclr.models import build_simclr_model
    from tf_simclr.schedules import WarmupCosine
    from tf_simclr.tasks.distill import DistillTask
    from tf_simclr.tasks.finetune import FinetuneTask
    from tf_simclr.tasks.pretrain import MemoryPretrainTask, PretrainTask

    num_classes = count_classes(config.model)
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
    network = build_simclr_model(config.model, num_classes)

    def teacher(images: Any) -> Any:
        return network.forward(images, training=False).endpoints["logits_sup"]

    return DistillTask(model, config.optimizer, schedule, config.distill, teacher=teacher)


def make_batch(task: Any, config: ExperimentConfig) -> dict[str, Any]:
    """Makes one random batch for `task`."""
    import tensorflow as tf

    batch, size = config.train.train_batch_size, config.model.image_size
    return {
        "views": tuple(tf.random.uniform([batch, size, size, 3]) for _ in range(task.num_views)),
        "labels": tf.random.uniform([batch], maxval=count_classes(config.model), dtype=tf.int32),
        "bad_images": tf.constant(0),
    }
