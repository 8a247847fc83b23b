"""Names and defaults of the flags, which value wins, and what is refused, all without TensorFlow."""

import dataclasses

import pytest
from absl import flags as absl_flags

from flags.convert import help_text, parse_command_line
from flags.definitions import ACCEPTED_WITHOUT_EFFECT, define_flags
from tf_simclr.config import ExperimentConfig, UserError

# The flags of the authors' TF2 program with its defaults. Two differ on purpose: --mode, --use_tpu.
AUTHORS_DEFAULTS = {
    "mode": "train_then_eval",
    "use_tpu": None,
    "learning_rate": 0.3,
    "learning_rate_scaling": "linear",
    "warmup_epochs": 10,
    "weight_decay": 1e-6,
    "batch_norm_decay": 0.9,
    "train_batch_size": 512,
    "train_split": "train",
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
AUTHORS_UNSET = ["data_dir", "model_dir", "checkpoint", "eval_split", "eval_name"]
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


def parse(*arguments):
    return parse_command_line(arguments)[0]


def refusal(*arguments):
    with pytest.raises(UserError) as error:
        parse_command_line(arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def defined_flags():
    flag_values = absl_flags.FlagValues()
    define_flags(flag_values)
    return flag_values


def test_flags_are_the_fields_of_the_configuration():
    special = set(absl_flags.FlagValues())
    names = set(defined_flags()) - special - set(ACCEPTED_WITHOUT_EFFECT)
    assert names == set(ExperimentConfig().to_dict())


@pytest.mark.parametrize(("name", "default"), AUTHORS_DEFAULTS.items())
def test_flag_of_the_authors_has_their_default(name, default):
    assert defined_flags()[name].default == default
    if name not in ("dataset", "mode"):
        assert parse("--dataset=cifar10").to_dict()[name] == default


@pytest.mark.parametrize("name", AUTHORS_UNSET)
def test_flag_of_the_authors_is_unset(name):
    assert defined_flags()[name].default is None


def test_every_flag_is_described():
    text = help_text()
    for name in ExperimentConfig().to_dict():
        assert f"{name}:" in text
        assert len(defined_flags()[name].help) > 15


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


@pytest.mark.parametrize("arguments", [[], ["--dataset=digits"], ["--mode=train", "--train_steps=3"]])
def test_bare_command_and_digits_take_the_digits_recipe_and_say_so(arguments):
    config, notes = parse_command_line(arguments)
    assert config.data.dataset == "digits"
    assert config.model.image_size < 32
    assert config.augment.use_flip is False
    assert notes[0].startswith("Recipe: digits")


def test_digits_recipe_yields_to_explicit_flags():
    config = parse("--image_size=24", "--dataset=digits", "--use_flip")
    assert (config.model.image_size, config.augment.use_flip) == (24, True)


def test_digits_recipe_is_not_taken_with_a_flagfile_or_another_data_set(tmp_path):
    file = tmp_path / "own.flags"
    file.write_text("--dataset=digits\n")
    for arguments in ([f"--flagfile={file}"], ["--dataset=cifar10"]):
        config, notes = parse_command_line(arguments)
        assert (config.model.image_size, notes) == (224, [])


@pytest.mark.parametrize("flagfile", ["--flagfile={}", "-flagfile={}", "--flagfile {}"])
@pytest.mark.parametrize("explicit_first", [True, False])
def test_explicit_flag_wins_wherever_it_stands(tmp_path, flagfile, explicit_first):
    file = tmp_path / "a.flags"
    file.write_text("# Comment\n// Comment\n\n  --temperature=0.7\n--train_epochs=7\n")
    parts = [["--dataset=cifar10", "--temperature=0.4"], flagfile.format(file).split(" ")]
    first, second = parts if explicit_first else parts[::-1]
    config = parse(*first, *second)
    assert (config.contrast.temperature, config.train.train_epochs) == (0.4, 7)


def test_nested_flagfile_is_relative_to_its_own_and_yields_to_it(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "base.flags").write_text("--temperature=0.5\n--train_epochs=3\n--seed=9\n")
    (tmp_path / "deep" / "more.flags").write_text("--flagfile=base.flags\n--temperature=0.6\n")
    # What includes comes last, also where it names the other file after its own flags.
    (tmp_path / "top.flags").write_text("--train_epochs=4\n--flagfile=deep/more.flags\n")
    config = parse(f"--flagfile={tmp_path}/top.flags")
    assert (config.contrast.temperature, config.train.train_epochs, config.train.seed) == (0.6, 4, 9)


def test_later_flagfile_wins_over_earlier(tmp_path):
    for name, value in (("a", 0.5), ("b", 0.6)):
        (tmp_path / name).write_text(f"--temperature={value}\n")
    config = parse(f"--flagfile={tmp_path}/a", f"--flagfile={tmp_path}/b")
    assert config.contrast.temperature == 0.6


def test_boolean_forms_are_accepted():
    assert parse("--nouse_blur").augment.use_blur is False
    assert parse("--use_blur=false").augment.use_blur is False
    assert parse("--use_flip").augment.use_flip is True


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("--lerning_rate=1", "--learning_rate"),
        ("--batch_size=32", "--train_batch_size"),
        ("--temprature", "--temperature"),
        ("--nouse_blurr", "--use_blur"),
    ],
)
def test_unknown_flag_names_the_nearest(argument, nearest):
    message = refusal(argument)
    assert message.startswith(argument.partition("=")[0] + ": no such flag; did you mean ")
    assert nearest in message


def test_unknown_flag_far_from_all_names_the_help():
    assert refusal("--zzz=1") == "--zzz: no such flag; all flags: python run.py --help."


@pytest.mark.parametrize(
    ("argument", "mend"),
    [
        ("--train_batch_size=1e3", "use a whole number"),
        ("--train_batch_size=", "use a whole number"),
        ("--temperature=x: y", "use a number"),
        ("--use_blur=maybe", "use True or False"),
        ("--temperature=-1", "must be greater than 0"),
        ("--train_batch_size=0", "at least 2"),
        ("--mode=trian", "use one of train, eval, train_then_eval"),
    ],
)
def test_bad_value_names_flag_value_and_mend(argument, mend):
    message = refusal("--dataset=cifar10", argument)
    assert mend in message
    assert message.startswith((f"{argument}: ", f"{argument}.0: "))


def test_missing_value_names_the_flag():
    assert "--train_steps" in refusal("--train_steps")


@pytest.mark.parametrize("argument", ["train", "run", "x=1"])
def test_positional_argument_is_refused(argument):
    assert refusal("--seed=1", argument).startswith(f"{argument}: not a flag; flags are written --name=value")


def test_flagfile_missing_names_it_and_the_ready_made_ones(tmp_path):
    assert "No such file or directory" in refusal(f"--flagfile={tmp_path}/no.flags")
    assert "ready-made ones are in" in refusal(f"--flagfile={tmp_path}")
    assert refusal("--flagfile").startswith("--flagfile: name a file")


def test_flagfile_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "binary.flags").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read" in refusal(f"--flagfile={tmp_path}/binary.flags")


def test_flagfile_including_itself_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--flagfile=b.flags\n")
    (tmp_path / "b.flags").write_text("--flagfile=a.flags\n")
    message = refusal(f"--flagfile={tmp_path}/a.flags")
    assert "--flagfile=a.flags: includes itself" in message
    assert "b.flags" in message


def test_flagfile_line_that_is_no_flag_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--temperature=0.5\ntemperature 0.5\n")
    message = refusal(f"--flagfile={tmp_path}/a.flags")
    assert "'temperature 0.5' is not a flag; write one --name=value a line" in message


def test_flagfile_flag_unknown_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--temprature=0.5\n")
    assert "did you mean --temperature" in refusal(f"--flagfile={tmp_path}/a.flags")


def test_every_field_of_a_group_comes_from_its_flag():
    changed = {
        "temperature": 0.3,
        "resnet_depth": 34,
        "use_flip": False,
        "train_split": "train[:50%]",
        "momentum": 0.8,
        "seed": 5,
        "eval_steps": 2,
        "strategy": "mirrored",
        "keep_hub_module_max": 0,
    }
    config = parse("--dataset=cifar10", *(f"--{name}={value}" for name, value in changed.items()))
    flat, default = config.to_dict(), dataclasses.replace(parse("--dataset=cifar10")).to_dict()
    assert {name: flat[name] for name in flat if flat[name] != default[name]} == changed


def test_mode_pretrain_is_short_for_train_then_eval():
    config, _ = parse_command_line(["--mode=pretrain", "--dataset=cifar10"])
    assert (config.mode, config.train.train_mode) == ("train_then_eval", "pretrain")
