"""Learning rate, work and chance level of a run; the note on a warm-up that does not fit."""

import math

import pytest

from tf_simclr import losses
from tf_simclr.config import ContrastConfig, ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig
from tf_simclr.training.loop import LoopPlan
from tf_simclr.training.loop_plan import chance_loss, long_warmup, make_schedule, relative_work


def schedule_of(warmup, total_steps, num_examples=1347):
    config = ExperimentConfig(optimizer=OptimizerConfig(warmup_epochs=warmup), train=TrainConfig(train_batch_size=256))
    schedule = make_schedule(config, num_examples, total_steps)
    return schedule, long_warmup(config, schedule)


@pytest.mark.parametrize(
    ("warmup", "total_steps", "warmup_steps"),
    [(10, 2105, 52), ("2.5%", 2105, 52), ("2.5%", 6, 0), ("29%", 100, 29), ("0%", 9, 0), ("100%", 7, 7)],
)
def test_warmup_is_counted_in_epochs_or_as_a_share_of_the_run(warmup, total_steps, warmup_steps):
    assert schedule_of(warmup, total_steps)[0].warmup_steps == warmup_steps


def test_warmup_of_the_paper_is_the_same_in_epochs_and_as_a_share():
    total_steps = 250_228
    config = ExperimentConfig(optimizer=OptimizerConfig(warmup_epochs=40), train=TrainConfig(train_batch_size=4096))
    in_epochs = make_schedule(config, 1_281_167, total_steps)
    assert in_epochs.warmup_steps == schedule_of("5%", total_steps)[0].warmup_steps == 12_511


@pytest.mark.parametrize(
    ("warmup", "total_steps", "effect"),
    [
        (10, 6, "still rises at the last step, to 12% of its peak, because the warm-up takes 52 steps and the run 6"),
        (10, 104, "rises for 52 of the 104 steps"),
    ],
)
def test_warmup_of_half_of_the_run_or_more_is_told(warmup, total_steps, effect):
    assert schedule_of(warmup, total_steps)[1] == (
        f"--warmup_epochs=10: the learning rate {effect}; --warmup_epochs=5% fits any run."
    )


@pytest.mark.parametrize("warmup", [0, 10, "5%"])
def test_shorter_warmup_is_not_mentioned(warmup):
    assert schedule_of(warmup, 105)[1] is None


def test_chance_loss_is_that_of_the_configuration():
    def of(**contrast):
        return ExperimentConfig(contrast=ContrastConfig(**contrast), train=TrainConfig(train_batch_size=32))

    assert chance_loss(of()) == pytest.approx(2 * math.log(2 * 32 - 1)) == losses.chance_loss(32)
    decoupled = of(contrastive_loss="decoupled_nt_xent", memory_size=100)
    assert chance_loss(decoupled) == pytest.approx(2 * math.log(2 * 32 - 2 + 100))


def test_relative_work_counts_steps_views_network_and_teacher():
    def work(train_mode, width=1.0, teacher=None, steps=10):
        config = ExperimentConfig(
            model=ModelConfig(resnet_depth=50, width_multiplier=width), train=TrainConfig(train_mode=train_mode)
        )
        plan = LoopPlan(total_steps=steps, checkpoint_steps=1, steps_per_loop=1, global_batch_size=8)
        return relative_work(config, plan, teacher)

    assert work("pretrain") == 2 * work("supervised")
    assert work("supervised", steps=30) == 3 * work("supervised")
    assert work("supervised", width=2.0) == 4 * work("supervised")
    teacher = ModelConfig(resnet_depth=50, width_multiplier=1.0)
    assert work("distill", teacher=teacher) == pytest.approx(4 / 3 * work("supervised"))
