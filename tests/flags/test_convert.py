"""Configurations of command lines, without TensorFlow."""

import json

import pytest

from flags.convert import parse_command_line
from tests.flags.parsing import parse, refusal
from tf_simclr.config import DataConfig, DistillConfig, ExportConfig, ModelConfig, StrategyConfig


@pytest.mark.parametrize("arguments", [[], ["--dataset=digits"], ["--mode=train", "--train_steps=3"]])
def test_bare_command_and_digits_take_the_digits_recipe_and_say_so(arguments):
    config, notes = parse_command_line(arguments)
    for stage in config.runs.values():
        assert stage.data.dataset == "digits"
        assert stage.model.image_size < 32
        assert stage.augment.use_flip is False
    assert notes[0].startswith("Recipe: digits")


def test_digits_recipe_yields_to_explicit_flags():
    config = parse("--image_size=24", "--dataset=digits", "--use_flip")
    assert (config.model.image_size, config.augment.use_flip) == (24, True)


def test_digits_recipe_is_not_taken_with_a_flagfile_or_another_data_set(tmp_path):
    (tmp_path / "own.flags").write_text("--dataset=digits\n")
    for argument in (f"--flagfile={tmp_path}/own.flags", "--dataset=cifar10"):
        config, notes = parse_command_line([argument])
        assert (config.model.image_size, notes) == (224, [])


def test_every_field_of_a_group_comes_from_its_flag():
    changed = {"temperature": 0.3, "global_bn": False, "train_split": "train[:50%]", "strategy": "multi_worker"}
    changed |= {"momentum": 0.8, "seed": 5, "eval_steps": 2, "keep_hub_module_max": 0, "use_flip": False}
    config = parse("--dataset=cifar10", *(f"--{name}={value}" for name, value in changed.items()))
    flat, default = config.to_dict(), parse("--dataset=cifar10").to_dict()
    assert {name: flat[name] for name in flat if flat[name] != default[name]} == changed


# ---- Tools


def test_export_is_parsed():
    config = parse("--mode=export", "--checkpoint", "run", "--export_formats=folded,onnx", "--overwrite")
    assert config == ExportConfig(checkpoint="run", export_formats="folded,onnx", overwrite=True)


def test_tool_knows_which_settings_were_stated():
    config = parse("--mode=import", "--checkpoint=r50", "--model_dir=run", "--resnet_depth=50", "--ema=True")
    assert (config.stated, config.ema, config.model.resnet_depth) == (("resnet_depth",), True, 50)
    config = parse("--mode=benchmark", "--benchmark=step", "--optimizer=adam", "--contrast_chunks=2", "--nouse_blur")
    assert (config.optimizer.optimizer, config.contrast.contrast_chunks, config.augment.use_blur) == ("adam", 2, False)
    assert set(config.stated) == {"optimizer", "contrast_chunks", "use_blur"}


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (["--mode=export", "--checkpoint=run", "--learning_rate=1"], "--learning_rate=1.0"),
        (["--mode=export", "--checkpoint", "run", "--dataset", "digits"], "--dataset=digits"),
        (["--mode=export", "--finetune.checkpoint=run", "--checkpoint=run"], "--finetune.checkpoint=run"),
        (["--mode=import", "--checkpoint=a", "--model_dir=b", "--temperature=1"], "--temperature=1.0"),
        (["--mode=embed", "--checkpoint=a", "--output=a.npz", "--eval_split=test"], "--eval_split=test"),
        (["--mode=benchmark", "--train_batch_size=8"], "--train_batch_size=8"),
    ],
)
def test_flag_that_a_tool_does_not_use_is_refused(arguments, unused):
    mode = arguments[0]
    assert refusal(*arguments) == f"{unused}: has no meaning with {mode}; leave it out."


def test_flagfile_may_have_flags_that_a_tool_does_not_use(tmp_path):
    (tmp_path / "a.flags").write_text("--resnet_depth=18\n--learning_rate=1\n")
    assert parse("--mode=benchmark", f"--flagfile={tmp_path / 'a.flags'}").model.resnet_depth == 18


# ---- An evaluation takes the settings of the run


def write_settings(directory, content):
    (directory / "flags.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return f"--model_dir={directory}"


def test_evaluation_of_a_directory_without_a_run_wants_a_data_set(tmp_path):
    message = refusal("--mode=eval", f"--model_dir={tmp_path}/typo")
    assert message.startswith(f"--model_dir={tmp_path}/typo: there is no run, and no --dataset is named;")
    assert parse("--mode=eval", f"--model_dir={tmp_path}/typo", "--dataset=cifar10").mode == "eval"
    assert refusal("--mode=eval", "--model_dir=gs://bucket/run") == (
        "--model_dir=gs://bucket/run: the settings of a run at an address are not read, and no --dataset is named; "
        "give the flags of the run to wait for."
    )


def test_evaluation_takes_what_is_not_given_from_the_run(tmp_path):
    settings = {"mode": "train_then_eval", "model_dir": "elsewhere", "train_mode": "finetune", "dataset": "cifar10"}
    settings |= {"resnet_depth": 18, "sk_ratio": 0.0625, "use_blur": False, "checkpoint": None, "imported_from": "r18"}
    arguments = ["--mode=eval", write_settings(tmp_path, settings), "--dataset=folder:images", "--sk_ratio=0"]
    config, notes = parse_command_line(arguments)
    model, data = config.model, config.data
    assert (config.train.train_mode, model.resnet_depth, config.augment.use_blur) == ("finetune", 18, False)
    assert (data.dataset, model.sk_ratio, config.model_dir) == ("folder:images", 0.0, str(tmp_path))
    assert notes == [f"Settings not given are those of the run in {tmp_path}."]


def test_evaluation_takes_neither_modules_nor_addresses_from_the_run(tmp_path):
    settings = {"teacher": "http://host/module", "allow_remote_teacher": True, "checkpoint": "s3://bucket/run"}
    settings |= {"data_service": "grpc://host:1", "data_dir": "/elsewhere", "tpu_name": "grpc://host:2"}
    settings |= {"strategy": "mirrored", "use_tpu": True, "master": "grpc://host:3", "flagfile": "/elsewhere/a.flags"}
    settings |= {"train_mode": "distill", "train_summary_steps": 3, "output": "/elsewhere", "dataset": "cifar10"}
    config, notes = parse_command_line(["--mode=eval", write_settings(tmp_path, settings)])
    assert (config.distill, config.strategy) == (DistillConfig(), StrategyConfig())
    assert (config.data, config.train.checkpoint) == (DataConfig(dataset="cifar10"), None)
    assert notes[1:] == ["Except --data_dir=/elsewhere, because TFDS runs code from there: give it if it is needed."]


@pytest.mark.parametrize(
    ("dataset", "is_one"),
    [
        ("huggingface:name", True),
        ("kaggle:name/config:1.0.0", False),
        ("folder:s3://bucket/images", False),
        ("folder:a,tfrecord:http://host/a", True),
        ("mnist/data_dir=elsewhere", True),
        ("/a/script", False),
    ],
)
def test_data_set_that_is_fetched_or_runs_code_is_not_taken_from_the_run(tmp_path, dataset, is_one):
    directory = write_settings(tmp_path, {"dataset": dataset})
    assert refusal("--mode=eval", directory) == (
        f"--dataset={dataset}: would be fetched because {tmp_path}/flags.json names it; if you trust that address, "
        "give this flag yourself."
    )
    if is_one:
        assert parse("--mode=eval", directory, f"--dataset={dataset}").data.dataset == dataset


@pytest.mark.parametrize(
    "dataset", ["imagenet2012_subset/1pct:5.1.0", "folder:/a b/c:d", "digits,folder:a,tfrecord:b*"]
)
def test_data_set_on_this_machine_is_taken_from_the_run(tmp_path, dataset):
    directory = write_settings(tmp_path, {"dataset": dataset, "train_mode": "pretrain"})
    assert parse("--mode=eval", directory).data.dataset == dataset


def test_flagfile_wins_over_the_run_that_is_evaluated(tmp_path):
    (tmp_path / "a.flags").write_text("--resnet_depth=34\n")
    directory = write_settings(tmp_path, {"resnet_depth": 18, "width_multiplier": 2.0})
    model = parse("--mode=eval", directory, f"--flagfile={tmp_path / 'a.flags'}").model
    assert (model.resnet_depth, model.width_multiplier) == (34, 2.0)


def test_training_takes_nothing_from_the_run(tmp_path):
    directory = write_settings(tmp_path, {"resnet_depth": 18})
    assert parse("--mode=train", directory, "--dataset=cifar10").model.resnet_depth == 50


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"foreign": 1}'])
def test_settings_of_another_program_are_passed_over(tmp_path, content):
    config = parse("--mode=eval", write_settings(tmp_path, content), "--dataset=cifar10")
    assert config.model == ModelConfig()
