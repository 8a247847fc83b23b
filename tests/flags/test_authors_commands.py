"""The commands that the authors published run with `--use_tpu=False` and smaller sizes appended."""

import json
import shlex
import string

import pytest

import run
from flags.convert import parse_command_line
from flags.definitions import ACCEPTED_WITHOUT_EFFECT
from tests.data.conftest import grey_image, prepare_tfds
from tests.support.runs import eagerly
from tf_simclr.config import ExperimentConfig

# github.com/google-research/simclr: README.md as it was for SimCLR (v1) and is for SimCLRv2 (v2). tf2/README.md has
# the pretraining of the latter.
COMMANDS = {
    "v1_cifar10_pretrain": """
        --train_mode=pretrain --train_batch_size=512 --train_epochs=1000 --learning_rate=1.0 --weight_decay=1e-6
        --temperature=0.5 --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18 --use_blur=False
        --color_jitter_strength=0.5 --model_dir=/tmp/simclr_test --use_tpu=False""",
    "v1_cifar10_linear": """
        --mode=train_then_eval --train_mode=finetune --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)LARSOptimizer|head)' --global_bn=False --optimizer=momentum
        --learning_rate=0.1 --weight_decay=0.0 --train_epochs=100 --train_batch_size=512 --warmup_epochs=0
        --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18 --checkpoint=/tmp/simclr_test
        --model_dir=/tmp/simclr_test_ft --use_tpu=False""",
    "v1_imagenet_pretrain": """
        --train_mode=pretrain --train_batch_size=4096 --train_epochs=100 --learning_rate=0.3 --weight_decay=1e-6
        --temperature=0.1 --dataset=imagenet2012 --image_size=224 --eval_split=validation --data_dir=$DATA_DIR
        --model_dir=$MODEL_DIR --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v1_imagenet_linear": """
        --mode=train_then_eval --train_mode=finetune --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)LARSOptimizer|head)' --global_bn=False --optimizer=momentum
        --learning_rate=0.1 --weight_decay=1e-6 --train_epochs=90 --train_batch_size=4096 --warmup_epochs=0
        --dataset=imagenet2012 --image_size=224 --eval_split=validation --data_dir=$DATA_DIR --model_dir=$MODEL_DIR
        --checkpoint=$CHKPT_DIR --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v2_cifar10_pretrain": """
        --train_mode=pretrain --train_batch_size=512 --train_epochs=1000 --learning_rate=1.0 --weight_decay=1e-4
        --temperature=0.5 --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18 --use_blur=False
        --color_jitter_strength=0.5 --model_dir=/tmp/simclr_test --use_tpu=False""",
    "v2_cifar10_linear": """
        --mode=train_then_eval --train_mode=finetune --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)Momentum|head)' --global_bn=False --optimizer=momentum
        --learning_rate=0.1 --weight_decay=0.0 --train_epochs=100 --train_batch_size=512 --warmup_epochs=0
        --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18 --checkpoint=/tmp/simclr_test
        --model_dir=/tmp/simclr_test_ft --use_tpu=False""",
    "v2_imagenet_pretrain": """
        --train_mode=pretrain --train_batch_size=4096 --train_epochs=100 --temperature=0.1 --learning_rate=0.075
        --learning_rate_scaling=sqrt --weight_decay=1e-4 --dataset=imagenet2012 --image_size=224
        --eval_split=validation --data_dir=$DATA_DIR --model_dir=$MODEL_DIR --use_tpu=True --tpu_name=$TPU_NAME
        --train_summary_steps=0""",
    "v2_imagenet_linear": """
        --mode=train_then_eval --train_mode=finetune --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)Momentum|head)' --global_bn=False --optimizer=momentum
        --learning_rate=0.1 --weight_decay=1e-6 --train_epochs=90 --train_batch_size=4096 --warmup_epochs=0
        --dataset=imagenet2012 --image_size=224 --eval_split=validation --data_dir=$DATA_DIR --model_dir=$MODEL_DIR
        --checkpoint=$CHKPT_DIR --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v2_imagenet_1pct": """
        --mode=train_then_eval --train_mode=finetune --fine_tune_after_block=-1 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)Momentum|head_supervised)' --global_bn=True --optimizer=lars
        --learning_rate=0.005 --learning_rate_scaling=sqrt --weight_decay=0 --train_epochs=60 --train_batch_size=1024
        --warmup_epochs=0 --dataset=imagenet2012_subset/1pct --image_size=224 --eval_split=validation
        --data_dir=$DATA_DIR --model_dir=$MODEL_DIR --checkpoint=$CHKPT_DIR --use_tpu=True --tpu_name=$TPU_NAME
        --train_summary_steps=0 --num_proj_layers=3 --ft_proj_selector=1""",
}
VARIABLES = {name: name for name in ("DATA_DIR", "MODEL_DIR", "CHKPT_DIR", "TPU_NAME")}
SMALL = ["--use_tpu=False", "--train_steps=2", "--train_batch_size=8", "--eval_batch_size=8"]
SMALL += ["--width_multiplier=0.125", "--resnet_depth=10", "--keep_hub_module_max=0"]
NUM_TRAINING, NUM_HELD_OUT = 16, 8


def arguments_of(name):
    """The arguments of a command as the shell hands them over."""
    return shlex.split(string.Template(COMMANDS[name]).substitute(VARIABLES))


def as_value(text):
    try:
        return json.loads(text.lower())
    except json.JSONDecodeError:
        return text


@pytest.mark.parametrize("name", COMMANDS)
def test_command_sets_what_it_names_and_leaves_the_rest(name):
    config, notes = parse_command_line(arguments_of(name))
    named = dict(argument.removeprefix("--").split("=", 1) for argument in arguments_of(name))
    without_effect = [flag for flag in ACCEPTED_WITHOUT_EFFECT if named.pop(flag, None)]
    values = {flag: as_value(text) for flag, text in named.items()}
    assert config.to_dict() == ExperimentConfig().to_dict() | values
    assert [note.partition(" ")[0] for note in notes] == [f"--{flag}" for flag in without_effect]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_command_takes_the_other_modes_and_runs_without_a_tpu(name, mode):
    config, _ = parse_command_line([*arguments_of(name), f"--mode={mode}", "--use_tpu=False"])
    assert (config.mode, config.strategy.use_tpu) == (mode, False)


@pytest.mark.slow
def test_commands_on_cifar10_pretrain_finetune_and_evaluate(tmp_path):
    """The commands on ImageNet differ from these in values alone."""
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=2)}
    examples = [{"image": grey_image(n, 32, 32), "label": n % 2} for n in range(NUM_TRAINING + NUM_HELD_OUT)]
    prepare_tfds(tmp_path, "Cifar10", features, {"train": examples[:NUM_TRAINING], "test": examples[NUM_TRAINING:]})
    start, finetuned = tmp_path / "start", tmp_path / "finetuned"

    def run_small(name, directory, *more):
        places = [f"--model_dir={directory}", f"--data_dir={tmp_path}"]
        assert run.main([*arguments_of(name), *SMALL, *places, *more]) == 0
        return json.loads((directory / "result.json").read_text())

    with eagerly():
        pretrained = run_small("v2_cifar10_pretrain", start)
        for result in (pretrained, run_small("v2_cifar10_linear", finetuned, f"--checkpoint={start}")):
            assert result["global_step"] == 2
            assert result["eval/num_examples"] == NUM_HELD_OUT
            assert 0 <= result["eval/label_top_1_accuracy"] <= 1
        (start / "result.json").unlink()
        again = run_small("v2_cifar10_pretrain", start, "--mode=eval")
    assert again == {name: value for name, value in pretrained.items() if not name.startswith("train/")}
