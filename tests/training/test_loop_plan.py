"""The learning rate of a run follows its length, and a warm-up that does not fit is told."""

import pytest

from tf_simclr.config import ExperimentConfig, ModelConfig, OptimizerConfig, TrainConfig
from tf_simclr.training.loop import LoopPlan
from tf_simclr.training.loop_plan import long_warmup, make_schedule, relative_work


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


def test_warmup_longer_than_the_run_is_told():
    assert schedule_of(10, 6)[1] == (
        "--warmup_epochs=10: the learning rate still rises at the last step, to 12% of its peak, because the "
        "warm-up takes 52 steps and the run 6; --warmup_epochs=5% fits any run."
    )


def test_warmup_of_half_of_the_run_is_told():
    assert schedule_of(10, 104)[1] == (
        "--warmup_epochs=10: the learning rate rises for 52 of the 104 steps; --warmup_epochs=5% fits any run."
    )


@pytest.mark.parametrize("warmup", [0, 10, "5%"])
def test_shorter_warmup_is_not_mentioned(warmup):
    assert schedule_of(warmup, 105)[1] is None


def test_relative_work_counts_steps_views_network_and_teacher():
    def work(train_mode, width=1.0, teacher=None, steps=10):
        config = ExperimentConfig(
            model=ModelConfig(resnet_depth=50, width_multiplier=width),
            train=TrainConfig(train_mode=train_mode),
        )
        plan = LoopPlan(total_steps=steps, checkpoint_steps=1, steps_per_loop=1, global_batch_size=8)
        return relative_work(config, plan, teacher)

    assert work("pretrain") == 2 * work("supervised")
    assert work("supervised", steps=30) == 3 * work("supervised")
    assert work("supervised", width=2.0) == 4 * work("supervised")
    teacher = ModelConfig(resnet_depth=50, width_multiplier=1.0)
    assert work("distill", teacher=teacher) == pytest.approx(4 / 3 * work("supervised"))
