"""Steps and learning rates of a run, from its configuration and the size of its data."""

import tensorflow as tf

from tf_simclr import losses, schedules
from tf_simclr.config import ExperimentConfig, ModelConfig, check
from tf_simclr.files import counted
from tf_simclr.training.loop import LoopPlan

_MAX_RESTORES = 3


def make_plan(config: ExperimentConfig, num_examples: int) -> LoopPlan:
    """Returns the steps of a run on `num_examples` examples.

    Raises:
        UserError: the steps to profile are not among those of the run.
    """
    settings = config.train
    batch = settings.train_batch_size
    steps_per_epoch = max(1, round(num_examples / batch))
    checkpoint_steps = settings.checkpoint_steps or settings.checkpoint_epochs * steps_per_epoch
    on_accelerator = bool(tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU"))
    total_steps = schedules.num_train_steps(num_examples, settings.train_epochs, batch, settings.train_steps)
    profile = settings.profile_range
    check(
        profile is None or profile[1] <= total_steps,
        "profile_steps",
        settings.profile_steps,
        f"the run has {counted(total_steps, 'step')}; name some of these.",
    )
    return LoopPlan(
        total_steps=total_steps,
        checkpoint_steps=checkpoint_steps,
        steps_per_loop=settings.steps_per_loop or (100 if on_accelerator else 10),
        global_batch_size=batch,
        max_restores=_MAX_RESTORES if settings.on_non_finite == "restore" else 0,
        stops=() if profile is None else (profile[0] - 1, profile[1]),
    )


def make_schedule(config: ExperimentConfig, num_examples: int, total_steps: int) -> schedules.WarmupCosine:
    """Returns the learning rate of every step."""
    optimizer, batch = config.optimizer, config.train.train_batch_size
    if optimizer.warmup_percent is None:
        warmup_steps = schedules.num_warmup_steps(float(optimizer.warmup_epochs), num_examples, batch)
    else:
        warmup_steps = int(optimizer.warmup_percent * total_steps / 100)
    return schedules.WarmupCosine(
        schedules.scale_learning_rate(optimizer.learning_rate, batch, optimizer.learning_rate_scaling),
        warmup_steps,
        total_steps,
        dtype=config.model.variable_dtype,
    )


def long_warmup(config: ExperimentConfig, schedule: schedules.WarmupCosine) -> str | None:
    """Returns a line for the user if the warm-up takes half of the run or more; None if it is shorter."""
    warmup, total = schedule.warmup_steps, schedule.total_steps
    if not warmup or 2 * warmup < total:
        return None
    if warmup < total:
        effect = f"the learning rate rises for {warmup} of the {total} steps"
    else:
        effect = (
            f"the learning rate still rises at the last step, to {total / warmup:.0%} of its peak, because the "
            f"warm-up takes {warmup} steps and the run {total}"
        )
    epochs = str(config.optimizer.warmup_epochs).removesuffix(".0")
    return f"--warmup_epochs={epochs}: {effect}; --warmup_epochs=5% fits any run."


def relative_work(config: ExperimentConfig, plan: LoopPlan, teacher: ModelConfig | None = None) -> float:
    """Returns roughly the work of a run, in no unit, to compare it with other runs.

    A step is a forward pass and a backward pass of twice its work for each view, and a forward pass of the teacher.

    Args:
        config: of the run.
        plan: of the run.
        teacher: the network that is followed; None without one.
    """

    def of_image(model: ModelConfig) -> float:
        return model.resnet_depth * model.width_multiplier**2 * model.image_size**2

    work = 3 * config.train.num_views * of_image(config.model) + (of_image(teacher) if teacher else 0)
    return plan.total_steps * plan.global_batch_size * work


def chance_loss(config: ExperimentConfig) -> float | None:
    """Returns the contrastive loss of a network that knows nothing, its memory full; None without such a loss."""
    if not config.train.is_contrastive:
        return None
    decoupled = config.contrast.contrastive_loss == "decoupled_nt_xent"
    return losses.chance_loss(config.train.train_batch_size, config.contrast.memory_size, decoupled=decoupled)
