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
        --train_mode=pretrain --train_batch_size=512 --train_epochs=1000
        --learning_rate=1.0 --weight_decay=1e-6 --temperature=0.5
        --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18
        --use_blur=False --color_jitter_strength=0.5
        --model_dir=/tmp/simclr_test --use_tpu=False""",
    "v1_cifar10_linear": """
        --mode=train_then_eval --train_mode=finetune
        --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)LARSOptimizer|head)'
        --global_bn=False --optimizer=momentum --learning_rate=0.1 --weight_decay=0.0
        --train_epochs=100 --train_batch_size=512 --warmup_epochs=0
        --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18
        --checkpoint=/tmp/simclr_test --model_dir=/tmp/simclr_test_ft --use_tpu=False""",
    "v1_imagenet_pretrain": """
        --train_mode=pretrain --train_batch_size=4096 --train_epochs=100
        --learning_rate=0.3 --weight_decay=1e-6 --temperature=0.1
        --dataset=imagenet2012 --image_size=224 --eval_split=validation
        --data_dir=$DATA_DIR --model_dir=$MODEL_DIR
        --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v1_imagenet_linear": """
        --mode=train_then_eval --train_mode=finetune
        --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)LARSOptimizer|head)'
        --global_bn=False --optimizer=momentum --learning_rate=0.1 --weight_decay=1e-6
        --train_epochs=90 --train_batch_size=4096 --warmup_epochs=0
        --dataset=imagenet2012 --image_size=224 --eval_split=validation
        --data_dir=$DATA_DIR --model_dir=$MODEL_DIR --checkpoint=$CHKPT_DIR
        --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v2_cifar10_pretrain": """
        --train_mode=pretrain --train_batch_size=512 --train_epochs=1000
        --learning_rate=1.0 --weight_decay=1e-4 --temperature=0.5
        --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18
        --use_blur=False --color_jitter_strength=0.5
        --model_dir=/tmp/simclr_test --use_tpu=False""",
    "v2_cifar10_linear": """
        --mode=train_then_eval --train_mode=finetune
        --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)Momentum|head)'
        --global_bn=False --optimizer=momentum --learning_rate=0.1 --weight_decay=0.0
        --train_epochs=100 --train_batch_size=512 --warmup_epochs=0
        --dataset=cifar10 --image_size=32 --eval_split=test --resnet_depth=18
        --checkpoint=/tmp/simclr_test --model_dir=/tmp/simclr_test_ft --use_tpu=False""",
    "v2_imagenet_pretrain": """
        --train_mode=pretrain --train_batch_size=4096 --train_epochs=100 --temperature=0.1
        --learning_rate=0.075 --learning_rate_scaling=sqrt --weight_decay=1e-4
        --dataset=imagenet2012 --image_size=224 --eval_split=validation
        --data_dir=$DATA_DIR --model_dir=$MODEL_DIR
        --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v2_imagenet_linear": """
        --mode=train_then_eval --train_mode=finetune
        --fine_tune_after_block=4 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)Momentum|head)'
        --global_bn=False --optimizer=momentum --learning_rate=0.1 --weight_decay=1e-6
        --train_epochs=90 --train_batch_size=4096 --warmup_epochs=0
        --dataset=imagenet2012 --image_size=224 --eval_split=validation
        --data_dir=$DATA_DIR --model_dir=$MODEL_DIR --checkpoint=$CHKPT_DIR
        --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0""",
    "v2_imagenet_1pct": """
        --mode=train_then_eval --train_mode=finetune
        --fine_tune_after_block=-1 --zero_init_logits_layer=True
        --variable_schema='(?!global_step|(?:.*/|^)Momentum|head_supervised)'
        --global_bn=True --optimizer=lars --learning_rate=0.005
        --learning_rate_scaling=sqrt --weight_decay=0
        --train_epochs=60 --train_batch_size=1024 --warmup_epochs=0
        --dataset=imagenet2012_subset/1pct --image_size=224 --eval_split=validation
        --data_dir=$DATA_DIR --model_dir=$MODEL_DIR --checkpoint=$CHKPT_DIR
        --use_tpu=True --tpu_name=$TPU_NAME --train_summary_steps=0
        --num_proj_layers=3 --ft_proj_selector=1""",
}
# One pretraining of each data set, linear evaluation and few labels; the others differ in numbers.
USUAL = ("v2_cifar10_pretrain", "v2_cifar10_linear")
RUNS = [name if name in USUAL else pytest.param(name, marks=pytest.mark.exhaustive) for name in COMMANDS]
PRETRAININGS = [run for run, name in zip(RUNS, COMMANDS, strict=True) if name.endswith("pretrain")]
FINETUNINGS = [run for run, name in zip(RUNS, COMMANDS, strict=True) if not name.endswith("pretrain")]
VARIABLES = {name: name for name in ("DATA_DIR", "MODEL_DIR", "CHKPT_DIR", "TPU_NAME")}
SMALL = ["--use_tpu=False", "--train_steps=2", "--train_batch_size=8", "--eval_batch_size=8"]
SMALL += ["--width_multiplier=0.125", "--resnet_depth=10", "--keep_hub_module_max=0"]
NUM_CLASSES, NUM_TRAINING, NUM_HELD_OUT = 2, 16, 8


def arguments_of(name, **places):
    """The arguments of a command as the shell hands them over."""
    return shlex.split(string.Template(COMMANDS[name]).substitute(VARIABLES | places))


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


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Small data sets with the names and the format of CIFAR-10, ImageNet and its subset of 1%."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("data")

    def prepare(place, name, image, examples, held_out):
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES)}
        splits = {"train": examples[:NUM_TRAINING], held_out: examples[NUM_TRAINING:]}
        prepare_tfds(place, name, features, splits)

    def examples(image_of):
        return [{"image": image_of(n), "label": n % NUM_CLASSES} for n in range(NUM_TRAINING + NUM_HELD_OUT)]

    squares = examples(lambda number: grey_image(number, 32, 32))
    prepare(root, "Cifar10", tfds.features.Image(shape=(32, 32, 3)), squares, "test")
    photographs = examples(lambda number: grey_image(number, 60 + number, 80))
    jpeg = tfds.features.Image(encoding_format="jpeg")
    prepare(root, "Imagenet2012", jpeg, photographs, "validation")
    prepare(root / "subset", "Imagenet2012Subset", jpeg, photographs, "validation")
    # A configuration of a data set has a folder of its own.
    (root / "imagenet2012_subset").mkdir()
    (root / "subset" / "imagenet2012_subset").rename(root / "imagenet2012_subset" / "1pct")
    return root


def run_small(name, data_dir, model_dir, *more, **places):
    arguments = arguments_of(name, DATA_DIR=data_dir, MODEL_DIR=model_dir, **places)
    size = [] if "--image_size=32" in arguments else ["--image_size=48"]
    directories = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
    with eagerly():
        assert run.main([*arguments, *SMALL, *size, *directories, *more]) == 0
    return json.loads((model_dir / "result.json").read_text())


@pytest.fixture(scope="module")
def pretrained(data_dir, tmp_path_factory):
    """Runs a pretraining command once; returns its directory and its result."""
    done = {}

    def pretrain(name):
        if name not in done:
            directory = tmp_path_factory.mktemp(name)
            done[name] = directory, run_small(name, data_dir, directory)
        return done[name]

    return pretrain


def check_evaluated(result):
    assert result["global_step"] == 2
    assert result["eval/num_examples"] == NUM_HELD_OUT
    assert 0 <= result["eval/label_top_1_accuracy"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PRETRAININGS)
def test_pretraining_command_runs(name, pretrained):
    check_evaluated(pretrained(name)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", FINETUNINGS)
def test_finetuning_command_runs_from_the_directory_of_a_pretraining(name, pretrained, data_dir, tmp_path):
    start, _ = pretrained(f"{name.rpartition('_')[0]}_pretrain")
    check_evaluated(run_small(name, data_dir, tmp_path / "run", f"--checkpoint={start}", CHKPT_DIR=start))


@pytest.mark.slow
def test_command_with_mode_eval_evaluates_what_was_trained(pretrained, data_dir):
    directory, result = pretrained("v2_cifar10_pretrain")
    (directory / "result.json").unlink()
    expected = {name: value for name, value in result.items() if not name.startswith("train/")}
    assert run_small("v2_cifar10_pretrain", data_dir, directory, "--mode=eval") == expected
