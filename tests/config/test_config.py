"""Settings refuse what makes no sense, in one line with flag, value and fix; what follows from others follows."""

import dataclasses
import os

import pytest

from tests.config.refusal import assert_refused
from tf_simclr import config
from tf_simclr.config import DataConfig, ExperimentConfig, ModelConfig, absolute_dataset, settings_of


def make(**settings):
    """The configuration of a run with these settings, whatever group they are in."""
    arguments = {name: settings[name] for name in ("mode", "model_dir") if name in settings}
    for field in dataclasses.fields(ExperimentConfig):
        if dataclasses.is_dataclass(group := field.type):
            arguments[field.name] = group(**{name: settings[name] for name in settings if name in settings_of(group)})
    return ExperimentConfig(**arguments)


@pytest.mark.parametrize(
    ("settings", "fix"),  # The first setting is the one that is refused.
    [
        ({"width_multiplier": 0.001}, "0.25"),
        ({"width_multiplier": 100.0}, "at most 32"),
        ({"ft_proj_selector": 4}, "0 (encoder output) to 3, or -1"),
        ({"ft_proj_selector": -5}, "0 (encoder output) to 3, or -1"),
        ({"fine_tune_after_block": 2}, "--train_mode=pretrain trains the whole network"),
        ({"warmup_epochs": 1e300}, "at most 1048576"),
        ({"warmup_epochs": "101%"}, "up to 100%, such as 5%"),
        ({"warmup_epochs": "-1%"}, "up to 100%, such as 5%"),
        ({"warmup_epochs": "5"}, "up to 100%, such as 5%"),
        ({"profile_steps": "2," + "9" * 5000}, "such as 10,20"),
        ({"train_batch_size": 1}, "at least 2"),
        ({"checkpoint": ""}, "name a checkpoint"),
        ({"checkpoint": "x", "train_mode": "supervised"}, "the supervised baseline starts from scratch"),
        ({"eval_name": "a/b"}, "file names"),
        ({"eval_name": "knn_eval"}, "result files of that mode"),
        ({"model_dir": ""}, "name a directory"),
        # Data
        ({"data_service": "localhost:5000"}, "grpc://HOST:PORT"),
        ({"data_service": "grpc://localhost"}, "grpc://HOST:PORT"),
        ({"data_service": "grpc://:5000"}, "grpc://HOST:PORT"),
        ({"data_service": "grpc://localhost:70000"}, "grpc://HOST:PORT"),
        ({"dataset": ""}, "digits"),
        ({"dataset": "digits,"}, "one comma between two"),
        ({"mix": "1"}, "there is one source, imagenet2012; leave it out"),
        ({"mix": "1,x", "dataset": "a,b"}, "such as 0.7,0.3"),
        ({"mix": "1,0", "dataset": "a,b"}, "a number above 0 for each source"),
        ({"mix": "1,-2", "dataset": "a,b"}, "a number above 0 for each source"),
        ({"mix": "1,inf", "dataset": "a,b"}, "a number above 0 for each source"),
        ({"mix": "1,2,3", "dataset": "a,folder:b,c"}, "use 2 numbers, one for each source: a, f"),
        ({"tfrecord_image_key": ""}, "such as image"),
        ({"train_split": ""}, "train"),
        ({"dataset": "a,folder:x", "train_mode": "finetune"}, "--train_mode=finetune needs; name one of them."),
        ({"dataset": "a,folder:x", "train_mode": "supervised"}, "--train_mode=supervised needs"),
        (
            {"dataset": "a,folder:x", "train_mode": "distill", "distill_alpha": 0.5},
            "--train_mode=distill with --distill_alpha below 1 needs",
        ),
        # Teacher and contrast
        ({"teacher": "x"}, "--train_mode=pretrain has no teacher"),
        ({"teacher": "https://models.example/r50/1", "train_mode": "distill"}, "--allow_remote_teacher=True"),
        ({"contrast_chunks": 4, "train_mode": "finetune"}, "--train_mode=finetune has no contrastive loss; leave it"),
        ({"contrast_chunks": 4}, "contradicts --global_bn=True"),
        ({"contrast_chunks": 4}, "use --global_bn=False, or --contrast_chunks=1."),
        ({"memory_size": 64, "train_mode": "finetune"}, "has no contrastive loss; leave it out"),
        ({"memory_size": 64, "contrast_chunks": 4, "global_bn": False}, "contradicts --contrast_chunks=4"),
        ({"memory_size": 63, "train_batch_size": 32}, "than the 64 projections of a batch of 32; use 64 or more"),
        ({"memory_momentum": 0.9}, "has no effect without a memory; leave it out"),
        # Devices
        ({"use_tpu": True, "strategy": "mirrored"}, "--strategy=mirrored"),
        ({"use_tpu": True, "strategy": "multi_worker"}, "--strategy=multi_worker"),
        ({"use_tpu": False, "strategy": "tpu"}, "--strategy=tpu"),
        ({"cluster": "slurm", "strategy": "mirrored"}, "contradicts --strategy=mirrored; leave one of them out"),
        ({"cluster": "tf_config", "strategy": "tpu"}, "contradicts --strategy=tpu; leave one of them out"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_make_no_sense_are_refused(settings, fix):
    flag, value = next(iter(settings.items()))
    assert_refused(lambda: make(**settings), flag, value, fix)


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": "digits,folder:x"},
        {"dataset": "digits,folder:x", "train_mode": "distill"},
        {"use_tpu": False, "strategy": "multi_worker"},
        {"teacher": "https://models.example/r50/1", "allow_remote_teacher": True, "train_mode": "distill"},
    ],
)
def test_settings_that_agree_are_taken(settings):
    assert settings.items() <= make(**settings).to_dict().items()


@pytest.mark.parametrize(("mode", "layers"), [("none", 0), ("linear", 1), ("nonlinear", 2)])
def test_ft_proj_selector_reaches_every_layer_of_the_head(mode, layers):
    for selector in range(-1, layers + 1):
        ModelConfig(proj_head_mode=mode, num_proj_layers=2, ft_proj_selector=selector)
    wrong = {"proj_head_mode": mode, "num_proj_layers": 2, "ft_proj_selector": layers + 1}
    fix = f"--proj_head_mode={mode}) has {layers} layer"
    assert_refused(lambda: ModelConfig(**wrong), "ft_proj_selector", layers + 1, fix)


def test_settings_that_weights_depend_on_are_not_free():
    for group in (ModelConfig, config.ContrastConfig, config.OptimizerConfig):
        assert not config.FREE_SETTINGS & settings_of(group).keys()
    assert not config.FREE_SETTINGS & {"seed", "dataset", "train_batch_size", "train_steps", "checkpoint", "teacher"}


def test_evaluation_takes_neither_code_nor_places_from_a_directory():
    own = {name for name, setting in settings_of(ExperimentConfig).items() if not setting.inherited}
    assert own >= {"checkpoint", "teacher", "allow_remote_teacher", "data_dir", "data_service", "tpu_name", "model_dir"}


def test_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExperimentConfig().mode = "eval"


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
def test_default_directory_is_named_after_data_and_stage(dataset, directory):
    assert ExperimentConfig(data=DataConfig(dataset=dataset)).model_dir == f"runs/{directory}-pretrain"


def test_to_dict_has_every_flag_once():
    flat = ExperimentConfig().to_dict()
    assert sorted(flat) == sorted(settings_of(ExperimentConfig))
    assert flat["temperature"] == 0.1


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
