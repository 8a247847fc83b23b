"""Every field refuses what makes no sense, in one line that names flag, value and fix."""

import dataclasses
import os

import pytest

from tests.config.refusal import assert_refused
from tf_simclr import config
from tf_simclr.config import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
    UserError,
    absolute_dataset,
)


@pytest.mark.parametrize(
    ("group", "values", "flag", "fix"),
    [
        (ModelConfig, {"width_multiplier": 0.001}, "width_multiplier", "0.25"),
        (ModelConfig, {"ft_proj_selector": 4}, "ft_proj_selector", "0 (encoder output) to 3, or -1"),
        (ModelConfig, {"ft_proj_selector": -5}, "ft_proj_selector", "0 (encoder output) to 3, or -1"),
        (config.OptimizerConfig, {"warmup_epochs": 1e300}, "warmup_epochs", "at most 1048576"),
        (ModelConfig, {"width_multiplier": 100.0}, "width_multiplier", "at most 32"),
        (TrainConfig, {"profile_steps": "2," + "9" * 5000}, "profile_steps", "such as 10,20"),
        (config.OptimizerConfig, {"warmup_epochs": "101%"}, "warmup_epochs", "up to 100%, such as 5%"),
        (config.OptimizerConfig, {"warmup_epochs": "-1%"}, "warmup_epochs", "up to 100%, such as 5%"),
        (config.OptimizerConfig, {"warmup_epochs": "5"}, "warmup_epochs", "up to 100%, such as 5%"),
        (DataConfig, {"data_service": "localhost:5000"}, "data_service", "grpc://HOST:PORT"),
        (DataConfig, {"data_service": "grpc://localhost"}, "data_service", "grpc://HOST:PORT"),
        (DataConfig, {"data_service": "grpc://:5000"}, "data_service", "grpc://HOST:PORT"),
        (DataConfig, {"data_service": "grpc://localhost:70000"}, "data_service", "grpc://HOST:PORT"),
        (DataConfig, {"dataset": ""}, "dataset", "digits"),
        (DataConfig, {"dataset": "digits,"}, "dataset", "one comma between two"),
        (DataConfig, {"mix": "1"}, "mix", "there is one source, imagenet2012; leave it out"),
        (DataConfig, {"mix": "1,x", "dataset": "a,b"}, "mix", "such as 0.7,0.3"),
        (DataConfig, {"mix": "1,0", "dataset": "a,b"}, "mix", "a number above 0 for each source"),
        (DataConfig, {"mix": "1,-2", "dataset": "a,b"}, "mix", "a number above 0 for each source"),
        (DataConfig, {"mix": "1,inf", "dataset": "a,b"}, "mix", "a number above 0 for each source"),
        (
            DataConfig,
            {"mix": "1,2,3", "dataset": "a,folder:b,c"},
            "mix",
            "use 2 numbers, one for each source: a, f",
        ),
        (DataConfig, {"tfrecord_image_key": ""}, "tfrecord_image_key", "such as image"),
        (DataConfig, {"tfds_image_key": ""}, "tfds_image_key", "such as image"),
        (DataConfig, {"train_split": ""}, "train_split", "train"),
        (TrainConfig, {"train_batch_size": 1}, "train_batch_size", "at least 2"),
        (TrainConfig, {"checkpoint": ""}, "checkpoint", "name a checkpoint"),
        (EvaluationConfig, {"eval_name": "a/b"}, "eval_name", "file names"),
        (EvaluationConfig, {"eval_name": "knn_eval"}, "eval_name", "result files of that mode"),
        (ExperimentConfig, {"model_dir": ""}, "model_dir", "name a directory"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_value_out_of_range_names_the_range(group, values, flag, fix):
    assert_refused(lambda: group(**values), flag, values[flag], fix)


def test_several_sources_are_refused_where_labels_are_needed():
    data = DataConfig(dataset="digits,folder:x")
    for train_mode, alpha, fix in (
        ("finetune", 1.0, "--train_mode=finetune needs; name one of them."),
        ("supervised", 1.0, "--train_mode=supervised needs"),
        ("distill", 0.5, "--train_mode=distill with --distill_alpha below 1 needs"),
    ):
        settings = {
            "train": TrainConfig(train_mode=train_mode),
            "distill": config.DistillConfig(distill_alpha=alpha),
        }
        assert_refused(lambda settings=settings: ExperimentConfig(data=data, **settings), "dataset", data.dataset, fix)
    for train_mode in ("pretrain", "distill"):
        ExperimentConfig(data=data, train=TrainConfig(train_mode=train_mode))


@pytest.mark.parametrize(("mode", "layers"), [("none", 0), ("linear", 1), ("nonlinear", 2)])
def test_ft_proj_selector_reaches_every_layer_of_the_head(mode, layers):
    for selector in range(-1, layers + 1):
        ModelConfig(proj_head_mode=mode, num_proj_layers=2, ft_proj_selector=selector)
    with pytest.raises(UserError, match=rf"--proj_head_mode={mode}\) has {layers} layer"):
        ModelConfig(proj_head_mode=mode, num_proj_layers=2, ft_proj_selector=layers + 1)


def test_fine_tune_after_block_is_refused_in_pretraining():
    make = lambda: ExperimentConfig(model=ModelConfig(fine_tune_after_block=2))  # noqa: E731
    assert_refused(make, "fine_tune_after_block", 2, "--train_mode=pretrain trains the whole network")


@pytest.mark.parametrize("train_mode", ["finetune", "distill", "supervised"])
def test_contrast_chunks_are_refused_where_there_is_no_contrast(train_mode):
    def make():
        return ExperimentConfig(
            contrast=config.ContrastConfig(contrast_chunks=4), train=TrainConfig(train_mode=train_mode)
        )

    assert_refused(make, "contrast_chunks", 4, f"--train_mode={train_mode} has no contrastive loss; leave it")


def test_contrast_chunks_are_refused_with_batch_norm_over_the_whole_batch():
    make = lambda: ExperimentConfig(contrast=config.ContrastConfig(contrast_chunks=4))  # noqa: E731
    assert_refused(make, "contrast_chunks", 4, "contradicts --global_bn=True")
    assert_refused(make, "contrast_chunks", 4, "use --global_bn=False, or --contrast_chunks=1.")


@pytest.mark.parametrize(
    ("contrast", "train", "flag", "fix"),
    [
        (
            {"memory_size": 64},
            {"train_mode": "finetune"},
            "memory_size",
            "has no contrastive loss; leave it out",
        ),
        ({"memory_size": 64, "contrast_chunks": 4}, {}, "memory_size", "contradicts --contrast_chunks=4"),
        ({"memory_size": 63}, {}, "memory_size", "than the 64 projections of a batch of 32; use 64 or more"),
        ({"memory_momentum": 0.9}, {}, "memory_momentum", "has no effect without a memory; leave it out"),
    ],
)
def test_memory_is_refused_where_it_makes_no_sense(contrast, train, flag, fix):
    def make():
        return ExperimentConfig(
            model=ModelConfig(global_bn=False),
            contrast=config.ContrastConfig(**contrast),
            train=TrainConfig(**({"train_batch_size": 32} | train)),
        )

    assert_refused(make, flag, contrast[flag], fix)


@pytest.mark.parametrize(("use_tpu", "strategy"), [(True, "mirrored"), (True, "one_device"), (False, "tpu")])
def test_strategy_contradicting_use_tpu_is_refused(use_tpu, strategy):
    assert_refused(lambda: StrategyConfig(use_tpu=use_tpu, strategy=strategy), "use_tpu", use_tpu, strategy)


@pytest.mark.parametrize("strategy", ["one_device", "mirrored", "tpu"])
@pytest.mark.parametrize("cluster", ["tf_config", "slurm"])
def test_cluster_contradicting_the_strategy_is_refused(strategy, cluster):
    make = lambda: StrategyConfig(strategy=strategy, cluster=cluster)  # noqa: E731
    assert_refused(make, "cluster", cluster, f"contradicts --strategy={strategy}; leave one of them out")


def test_strategy_multi_worker_contradicts_use_tpu_alone():
    StrategyConfig(strategy="multi_worker", use_tpu=False)
    assert_refused(
        lambda: StrategyConfig(strategy="multi_worker", use_tpu=True),
        "use_tpu",
        True,
        "--strategy=multi_worker",
    )


def test_settings_that_weights_depend_on_are_not_free():
    for group in (ModelConfig, config.ContrastConfig, OptimizerConfig):
        assert not config.FREE_SETTINGS & config.settings_of(group).keys()
    assert not config.FREE_SETTINGS & {"seed", "dataset", "train_batch_size", "train_steps", "checkpoint", "teacher"}


def test_evaluation_takes_neither_code_nor_places_from_a_directory():
    own = {name for name, setting in config.settings_of(ExperimentConfig).items() if not setting.inherited}
    assert own >= {"checkpoint", "teacher", "allow_remote_teacher", "data_dir", "data_service", "tpu_name", "model_dir"}


def test_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig().mode = "eval"


def test_model_dir_unset_is_named_after_data_and_stage():
    assert ExperimentConfig(data=DataConfig(dataset="digits")).model_dir == "runs/digits-pretrain"


@pytest.mark.parametrize(
    ("dataset", "directory"),
    [
        ("digits", "digits"),
        ("imagenet2012_subset/1pct", "imagenet2012_subset_1pct"),
        ("folder:/home/me/my photos/", "my_photos"),
        ("folder:/data/fold[1]", "fold_1_"),
        ("folder:/", "folder"),
        ("tfrecord:/data/photos", "photos"),
        ("tfrecord:/data/photos/{split}-*", "photos"),
        ("tfrecord:gs://bucket/*/x-*.tfrecord", "bucket"),
        ("digits,folder:/a/b", "digits_b"),
    ],
)
def test_default_directory_is_named_after_the_data(dataset, directory):
    assert ExperimentConfig(data=DataConfig(dataset=dataset)).model_dir == f"runs/{directory}-pretrain"


def test_to_dict_has_every_flag_once():
    flat = ExperimentConfig().to_dict()
    assert sorted(flat) == sorted(config.settings_of(ExperimentConfig))
    assert flat["temperature"] == 0.1


def test_remote_teacher_needs_to_be_allowed():
    handle = "https://models.example/r50/1"
    assert_refused(lambda: config.DistillConfig(teacher=handle), "teacher", handle, "--allow_remote_teacher=True")
    assert config.DistillConfig(teacher=handle, allow_remote_teacher=True).teacher == handle


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("digits", "digits"),
        ("cifar10:3.0.2", "cifar10:3.0.2"),
        ("folder:photos", "folder:/here/photos"),
        ("digits,folder:a,b,tfrecord:../c/*.tfrecord", "digits,folder:/here/a,b,tfrecord:/c/*.tfrecord"),
        ("tfrecord:gs://bucket/x", "tfrecord:gs://bucket/x"),
        ("folder:/photos/", "folder:/photos"),
    ],
)
def test_absolute_dataset(dataset, expected, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    assert absolute_dataset(dataset) == expected
