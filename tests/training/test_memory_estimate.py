"""The estimate of memory against measured peaks; warnings and refusals that follow from it."""

import dataclasses

import pytest

from tests.support.runs import tiny_config
from tf_simclr import train_and_evaluate
from tf_simclr.config import (
    ContrastConfig,
    EvaluationConfig,
    ExperimentConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    UserError,
)
from tf_simclr.training import experiment
from tf_simclr.training.memory_estimate import (
    MemoryNeed,
    check_need,
    evaluation_need,
    features_need,
    training_need,
    what_helps,
)

GB = 10**9
SK = {"sk_ratio": 0.0625}
R18 = {"resnet_depth": 18, "image_size": 32}
NO_SYNC = {"global_bn": False}
PARTS = {"model": ModelConfig, "train": TrainConfig, "contrast": ContrastConfig, "optimizer": OptimizerConfig}


def config_of(**parts) -> ExperimentConfig:
    return ExperimentConfig(**{name: PARTS[name](**settings) for name, settings in parts.items()})


def need_of(num_classes=None, num_replicas=1, **parts) -> MemoryNeed:
    return training_need(config_of(**parts), num_classes, num_replicas)


# Peaks of docs/performance.md and docs/scaling.md in GB, TensorFlow (0.47 GB) included.
@pytest.mark.parametrize(
    ("peak", "model", "train", "contrast"),
    [
        (2.76, {}, {"train_batch_size": 8}, {}),
        (13.6, NO_SYNC, {"train_batch_size": 64}, {}),
        (3.48, NO_SYNC, {"train_batch_size": 64}, {"contrast_chunks": 8}),
        (2.31, NO_SYNC, {"train_batch_size": 64, "recompute": True}, {"contrast_chunks": 8}),
        (3.69, SK, {"train_batch_size": 8}, {}),
        (5.82, SK, {"train_batch_size": 16}, {}),
        (2.90, SK, {"train_batch_size": 16, "recompute": True}, {}),
        (1.59, R18, {"train_batch_size": 64}, {}),
        (1.88, R18, {"train_batch_size": 64}, {"memory_size": 65536}),
        (1.41, R18 | {"width_multiplier": 0.25}, {"train_batch_size": 256}, {}),
    ],
)
def test_measured_peak_is_near_the_estimate(peak, model, train, contrast):
    need = need_of(1000 if not model.get("resnet_depth") else 10, model=model, train=train, contrast=contrast)
    assert 1.05 < (peak - 0.47) * GB / need.total < 1.5


def test_weights_count_with_slots_gradients_and_copies():
    one = need_of(model=R18, optimizer={"optimizer": "lars"}).weights // 3  # Weights, velocities, gradients.
    assert need_of(model=R18, optimizer={"optimizer": "adam"}).weights == 4 * one
    assert need_of(model=R18, contrast={"memory_size": 4096}).weights == 4 * one
    assert need_of(model=R18 | NO_SYNC, contrast={"contrast_chunks": 2}).weights == 4 * one
    assert need_of(model=R18 | {"precision": "float64"}).weights == 6 * one
    assert need_of(10, model=R18).weights == 3 * (one + 4 * 513 * 10)


def test_activations_shrink_with_what_saves_memory():
    train = {"train_batch_size": 64}
    whole = need_of(model=NO_SYNC, train=train).activations
    assert need_of(model=NO_SYNC, train=train, num_replicas=4).activations == pytest.approx(whole / 4, rel=0.01)
    assert need_of(model=NO_SYNC | {"precision": "mixed_bfloat16"}, train=train).activations < 0.52 * whole
    assert need_of(model=NO_SYNC, train=train, contrast={"contrast_chunks": 8}).activations < 0.15 * whole
    assert need_of(model=NO_SYNC, train=train | {"recompute": True}).activations < 0.5 * whole
    supervised = need_of(model=NO_SYNC, train=train | {"train_mode": "supervised"}).activations
    assert supervised == pytest.approx(whole / 2, rel=0.01)


def test_frozen_blocks_keep_nothing_for_the_gradient():
    train = {"train_mode": "finetune", "train_batch_size": 8}
    needs = [need_of(model={"fine_tune_after_block": block}, train=train).activations for block in (-1, 2, 4)]
    assert needs == sorted(needs, reverse=True)
    assert needs[2] < 0.05 * needs[0]


def test_evaluation_needs_less_than_training_of_the_same_batch_and_grows_with_it():
    config = config_of(train={"train_batch_size": 64})
    small, large = (
        evaluation_need(dataclasses.replace(config, evaluation=EvaluationConfig(eval_batch_size=size)), None, 1)
        for size in (64, 640)
    )
    assert small.activations < training_need(config, None, 1).activations / 2
    assert large.activations == 10 * small.activations
    assert features_need(224, [(112, 112, 64), (2048,)], 64).activations == small.activations


def check(total, available, weights=0.0):
    need = MemoryNeed(int(weights * GB), int((total - weights) * GB))
    check_need(need, available, flag="train_batch_size", value=512, fix="use a smaller one or --recompute")


def test_need_that_may_not_fit_is_a_line(log):
    check(10, None)
    check(6, 10 * GB)
    assert log.messages == []
    check(19, 10 * GB, weights=1)
    assert log.messages == [
        "--train_batch_size=512: needs about 19 GB of memory (1 GB for weights, slots and gradients, 18 GB for a "
        "batch), and 10 GB are free; use a smaller one or --recompute. It may still fit: this is an estimate."
    ]


def test_need_that_is_too_big_by_far_is_refused():
    with pytest.raises(UserError, match=r"and 10 GB are free; use a smaller one or --recompute\.$"):
        check(21, 10 * GB)
    with pytest.raises(UserError, match=r"; use a smaller network: --width_multiplier, "):
        check(21, 10 * GB, weights=15)


def test_what_helps_names_what_is_not_yet_used():
    assert what_helps(config_of()) == (
        "use a smaller one, --recompute, --contrast_chunks (with --global_bn=False) or --precision=mixed_bfloat16"
    )
    train = {"train_mode": "supervised", "recompute": True}
    assert what_helps(config_of(train=train)) == "use a smaller one or --precision=mixed_bfloat16"
    assert what_helps(config_of(train=train, model={"precision": "mixed_float16"})) == "use a smaller one"


@pytest.mark.parametrize(("name", "size"), [("train_batch_size", 1000), ("eval_batch_size", 10**5)])
def test_run_that_cannot_fit_is_refused_before_anything_is_built(monkeypatch, tmp_path, name, size):
    monkeypatch.setattr(experiment, "device_memory", lambda devices: GB // 20)
    with pytest.raises(UserError, match=rf"^--{name}={size}: needs about .* are free; use a smaller one"):
        train_and_evaluate(tiny_config(tmp_path / "run", **{name: size}))
    assert not (tmp_path / "run").exists()
