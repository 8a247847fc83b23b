"""Names and defaults of the flags are those of the settings, and of the authors."""

import dataclasses

import pytest
from absl import flags as absl_flags

from flags.convert import parse_command_line
from flags.definitions import ACCEPTED_WITHOUT_EFFECT, define_flags
from tests.flags.parsing import parse
from tf_simclr.config import TOOLS, ExperimentConfig, LabelEfficiencyConfig

# The flags of the authors' TF2 program with its defaults. Three differ on purpose: --mode, --use_tpu, --train_split.
AUTHORS_DEFAULTS = {
    "mode": "train_then_eval",
    "use_tpu": None,
    "learning_rate": 0.3,
    "learning_rate_scaling": "linear",
    "warmup_epochs": 10,
    "weight_decay": 1e-6,
    "batch_norm_decay": 0.9,
    "train_batch_size": 512,
    "train_epochs": 100,
    "train_steps": 0,
    "eval_steps": 0,
    "eval_batch_size": 256,
    "checkpoint_epochs": 1,
    "checkpoint_steps": 0,
    "dataset": "imagenet2012",
    "cache_dataset": False,
    "train_mode": "pretrain",
    "lineareval_while_pretraining": True,
    "zero_init_logits_layer": False,
    "fine_tune_after_block": -1,
    "optimizer": "lars",
    "momentum": 0.9,
    "keep_checkpoint_max": 5,
    "keep_hub_module_max": 1,
    "temperature": 0.1,
    "hidden_norm": True,
    "proj_head_mode": "nonlinear",
    "proj_out_dim": 128,
    "num_proj_layers": 3,
    "ft_proj_selector": 0,
    "global_bn": True,
    "width_multiplier": 1,
    "resnet_depth": 50,
    "sk_ratio": 0,
    "se_ratio": 0,
    "image_size": 224,
    "color_jitter_strength": 1.0,
    "use_blur": True,
}
OTHERS = [LabelEfficiencyConfig, *TOOLS.values()]
# The authors' default of train_split is train: unset means that, and for learning without labels unlabelled too.
AUTHORS_UNSET = ["train_split", "data_dir", "model_dir", "checkpoint", "eval_split", "eval_name"]
AUTHORS_UNSET += ["tpu_name", "tpu_zone", "gcp_project", "master"]

AUTHORS_CIFAR_COMMAND = (
    "--mode=train_then_eval --train_mode=pretrain --train_batch_size=512 --train_epochs=1000 "
    "--learning_rate=1.0 --weight_decay=1e-4 --temperature=0.5 --dataset=cifar10 --image_size=32 "
    "--eval_split=test --resnet_depth=18 --use_blur=False --color_jitter_strength=0.5 "
    "--model_dir=/tmp/simclr_test --use_tpu=False"
)
AUTHORS_IMAGENET_COMMAND = (
    "--mode=train --train_mode=pretrain --train_batch_size=4096 --train_epochs=100 --temperature=0.1 "
    "--learning_rate=0.075 --learning_rate_scaling=sqrt --weight_decay=1e-4 --dataset=imagenet2012 "
    "--image_size=224 --eval_split=validation --data_dir=gs://bucket/data --model_dir=gs://bucket/model "
    "--train_summary_steps=0 --use_tpu=True --tpu_name=x"
)


def defined_flags():
    flag_values = absl_flags.FlagValues()
    define_flags(flag_values)
    return flag_values


def fields_of(tool):
    fields = {field.name for field in dataclasses.fields(tool) if not dataclasses.is_dataclass(field.type)}
    return fields - {"stated", "explicit"}  # These follow from which flags are given.


def test_flags_are_the_fields_of_the_configuration():
    special = set(absl_flags.FlagValues())
    names = set(defined_flags()) - special - set(ACCEPTED_WITHOUT_EFFECT)
    assert names == set(ExperimentConfig().to_dict()).union(*map(fields_of, OTHERS))


@pytest.mark.parametrize(("name", "default"), AUTHORS_DEFAULTS.items())
def test_flag_of_the_authors_has_their_default(name, default):
    assert defined_flags()[name].default == default
    if name not in ("dataset", "mode"):
        assert parse("--dataset=cifar10").to_dict()[name] == default


@pytest.mark.parametrize("name", AUTHORS_UNSET)
def test_flag_of_the_authors_is_unset(name):
    assert defined_flags()[name].default is None


def test_authors_cifar_command_means_the_same():
    config = parse(*AUTHORS_CIFAR_COMMAND.split())
    assert (config.train.train_epochs, config.train.train_batch_size) == (1000, 512)
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (1.0, 1e-4)
    assert (config.contrast.temperature, config.augment.use_blur) == (0.5, False)
    assert (config.model.resnet_depth, config.model.image_size, config.model.cifar_stem) == (18, 32, True)
    assert (config.data.eval_split, config.model_dir) == ("test", "/tmp/simclr_test")


def test_authors_imagenet_command_means_the_same_and_notes_what_has_no_effect():
    config, notes = parse_command_line(AUTHORS_IMAGENET_COMMAND.split())
    assert (config.optimizer.learning_rate, config.optimizer.learning_rate_scaling) == (0.075, "sqrt")
    assert (config.strategy.use_tpu, config.strategy.tpu_name) == (True, "x")
    (note,) = notes
    assert note.startswith("--train_summary_steps is accepted without effect: ")


def test_authors_commands_run_without_a_tpu_by_one_more_flag():
    assert parse(*AUTHORS_IMAGENET_COMMAND.split(), "--use_tpu=False").strategy.use_tpu is False
