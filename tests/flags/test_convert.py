"""Names and defaults of the flags, which value wins, and what is refused, all without TensorFlow."""

import dataclasses
import itertools
import json

import pytest
from absl import flags as absl_flags

from flags.convert import RECIPES, parse_command_line
from flags.definitions import ACCEPTED_WITHOUT_EFFECT, define_flags
from tf_simclr.config import (
    TOOLS,
    TRAIN_MODES,
    DataConfig,
    DistillConfig,
    ExperimentConfig,
    ExportConfig,
    LabelEfficiencyConfig,
    ModelConfig,
    SemiSupervisedConfig,
    StrategyConfig,
    UserError,
)

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


@pytest.mark.parametrize("arguments", [[], ["--dataset=digits"], ["--mode=train", "--train_steps=3"]])
def test_bare_command_and_digits_take_the_digits_recipe_and_say_so(arguments):
    config, notes = parse_command_line(arguments)
    for step in config.steps.values() if isinstance(config, SemiSupervisedConfig) else [config]:
        assert step.data.dataset == "digits"
        assert step.model.image_size < 32
        assert step.augment.use_flip is False
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
    for argument, value in (("--nouse_blur", False), ("--use_blur=false", False), ("--use_blur", True)):
        assert parse("--dataset=cifar10", argument).augment.use_blur is value
        config = parse(argument.replace("--", "--finetune."))
        assert config.finetune.augment.use_blur is value
        assert config.distill.augment.use_blur is False


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
    assert refusal("--zzz=1") == "--zzz: no such flag; see --help for all."


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("--train_batch_size=1e3", "use a whole number"),
        ("--train_batch_size=", "use a whole number"),
        ("--temperature=x: y", "use a number"),
        ("--warmup_epochs=five", "use a number, or a share of the run such as 5%"),
        ("--warmup_epochs=x%", "up to 100%, such as 5%"),
        ("--use_blur=maybe", "use True or False"),
        ("--temperature=-1", "use a number above 0; the paper uses 0.1."),
        ("--train_batch_size=1", "at least 2"),
        ("--mode=trian", "use one of train, eval, train_then_eval"),
    ],
)
def test_bad_value_names_flag_value_and_fix(argument, fix):
    message = refusal("--dataset=cifar10", argument)
    assert fix in message
    assert message.startswith((f"{argument}: ", f"{argument}.0: "))


def test_missing_value_names_the_flag():
    assert "--train_steps" in refusal("--train_steps")


@pytest.mark.parametrize("argument", ["train", "run", "x=1"])
def test_positional_argument_is_refused(argument):
    assert refusal("--seed=1", argument).startswith(f"{argument}: not a flag; flags are written --name=value")


@pytest.mark.parametrize("argument", ["--flagfile={}", "--flagfile={}/no.flags", "--flagfile=fotos", "--flagfile=../x"])
def test_flagfile_missing_lists_the_recipes(tmp_path, argument):
    message = refusal(argument.format(tmp_path))
    assert message.startswith(f"{argument.format(tmp_path)}: cannot be read (")
    assert "name a file, or one of the recipes cifar10_r18, " in message
    assert message.endswith("stages/supervised_1pct.")


def test_flagfile_without_a_value_names_an_example():
    assert refusal("--flagfile") == "--flagfile: name a file or a recipe, such as --flagfile=digits."


@pytest.mark.parametrize("name", ["photos", "stages/pretrain"])
def test_recipe_is_found_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)  # A folder of one's own images may have the same name.
    expected = parse(f"--flagfile={RECIPES}/{name}.flags")
    assert parse(f"--flagfile={name}") == expected
    (tmp_path / "own.flags").write_text(f"--flagfile={name}\n")
    assert parse("--flagfile=own.flags") == expected


def test_recipe_of_a_step_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = parse("--flagfile=imagenet_semi_supervised_1pct", "--finetune.flagfile=stages/finetune_1pct")
    assert config.finetune.optimizer.learning_rate == 0.005


def test_file_wins_over_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").write_text("--temperature=0.7\n")
    assert parse("--flagfile=photos").contrast.temperature == 0.7


def test_flagfile_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "x.flags").write_text("\ufeff--temperature=0.3\n", encoding="utf-8")
    assert parse_command_line([f"--flagfile={tmp_path}/x.flags"])[0].contrast.temperature == 0.3


def test_flagfile_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "binary.flags").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read" in refusal(f"--flagfile={tmp_path}/binary.flags")


def test_flagfile_including_itself_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--flagfile=b.flags\n")
    (tmp_path / "b.flags").write_text("--flagfile=a.flags\n")
    message = refusal(f"--flagfile={tmp_path}/a.flags")
    assert "--flagfile=a.flags: includes itself" in message
    assert "b.flags" in message


def test_flagfiles_that_never_end_are_refused(tmp_path):
    assert "cannot be read (not a regular file)" in refusal("--flagfile=/dev/zero")
    (tmp_path / "large.flags").write_text("#" * 2**16 + "\n")
    assert "cannot be read (larger than 0.0625 MiB)" in refusal(f"--flagfile={tmp_path}/large.flags")
    for number in range(20):  # 2 to the power of 20 in all.
        (tmp_path / f"{number}.flags").write_text(f"--flagfile={number + 1}.flags\n" * 2)
    (tmp_path / "20.flags").write_text("")
    assert refusal(f"--flagfile={tmp_path}/0.flags").endswith(": more than 100 flagfiles; use fewer.")


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
        "contrast_chunks": 4,
        "global_bn": False,
        "resnet_depth": 34,
        "use_flip": False,
        "train_split": "train[:50%]",
        "momentum": 0.8,
        "seed": 5,
        "eval_steps": 2,
        "strategy": "multi_worker",
        "cluster": "slurm",
        "cluster_port": 2222,
        "cluster_timeout": 60,
        "preemption_grace": 120,
        "on_non_finite": "restore",
        "keep_hub_module_max": 0,
    }
    config = parse("--dataset=cifar10", *(f"--{name}={value}" for name, value in changed.items()))
    flat, default = config.to_dict(), dataclasses.replace(parse("--dataset=cifar10")).to_dict()
    assert {name: flat[name] for name in flat if flat[name] != default[name]} == changed


def test_mode_pretrain_is_short_for_train_then_eval():
    config, _ = parse_command_line(["--mode=pretrain", "--dataset=cifar10"])
    assert (config.mode, config.train.train_mode) == ("train_then_eval", "pretrain")


# ---- The whole method, and flags for one step of it


WHOLE = ("--mode=semi_supervised", "--dataset=cifar10", "--model_dir=/tmp/whole")


def rates(config):
    return {name: step.optimizer.learning_rate for name, step in config.steps.items()}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--mode=train_then_eval"],
        ["--dataset=digits", "--mode=semi_supervised"],
        ["--dataset=cifar10", "--train_mode=semi_supervised"],
        ["--labels_per_class=3", "--distill.width_multiplier=0.125"],
    ],
)
def test_bare_command_and_semi_supervised_are_the_whole_method(arguments):
    config = parse(*arguments)
    assert isinstance(config, SemiSupervisedConfig)
    assert tuple(config.steps) == ("pretrain", "finetune", "distill", "supervised") == TRAIN_MODES
    for name, step in config.steps.items():
        assert (step.train.train_mode, step.mode) == (name, "train_then_eval")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mode=train"], ("train", "pretrain")),
        (["--mode=eval"], ("eval", "pretrain")),
        (["--dataset=digits"], ("train_then_eval", "pretrain")),
        (["--train_mode=pretrain"], ("train_then_eval", "pretrain")),
        (["--mode=supervised"], ("train_then_eval", "supervised")),
        (["--train_mode=finetune", "--checkpoint=x"], ("train_then_eval", "finetune")),
        (["--mode=distill", "--teacher=x"], ("train_then_eval", "distill")),
        (["--mode=eval", "--train_mode=finetune"], ("eval", "finetune")),
    ],
)
def test_other_commands_are_one_step(arguments, expected):
    config = parse(*arguments)
    assert (config.mode, config.train.train_mode) == expected


def test_flagfile_alone_is_one_step(tmp_path):
    (tmp_path / "own.flags").write_text("--dataset=digits\n")
    assert parse(f"--flagfile={tmp_path}/own.flags").train.train_mode == "pretrain"


def test_steps_lie_below_the_directory_and_start_from_each_other():
    config = parse(*WHOLE)
    assert config.model_dir == "/tmp/whole"
    for name, step in config.steps.items():
        assert step.model_dir == f"/tmp/whole/{name}"
        assert step.train.checkpoint == ("/tmp/whole/pretrain" if name == "finetune" else None)
        assert step.distill.teacher == ("/tmp/whole/finetune" if name == "distill" else None)
    assert parse().model_dir == "runs/digits-semi_supervised"
    assert parse().distill.distill.teacher == "runs/digits-semi_supervised/finetune"


def test_steps_may_start_from_elsewhere(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parse(*WHOLE, "--finetune.checkpoint=/a", "--distill.teacher=/b", "--distill.checkpoint=/c")
    assert (config.finetune.train.checkpoint, config.distill.distill.teacher) == ("/a", "/b")
    assert config.distill.train.checkpoint == "/c"
    assert config.pretrain.train.checkpoint is None
    assert parse("--model_dir=~/x").finetune.train.checkpoint == "/home/me/x/pretrain"


@pytest.mark.parametrize("step", ["", "pretrain."])
def test_memory_of_the_whole_method_is_that_of_pretraining(step):
    config = parse(*WHOLE, f"--{step}memory_size=65536", f"--{step}memory_momentum=0.99")
    contrasts = [step.contrast for step in config.steps.values()]
    assert [contrast.memory_size for contrast in contrasts] == [65536, 0, 0, 0]
    assert [contrast.memory_momentum for contrast in contrasts] == [0.99, 0.999, 0.999, 0.999]


@pytest.mark.parametrize("argument", ["--contrast_chunks=4", "--pretrain.contrast_chunks=4"])
def test_contrast_chunks_of_the_whole_method_are_those_of_pretraining(argument):
    config = parse(*WHOLE, argument, "--pretrain.global_bn=False")
    assert [step.contrast.contrast_chunks for step in config.steps.values()] == [4, 1, 1, 1]


def test_flag_of_a_step_is_of_that_step_alone():
    config = parse(*WHOLE, "--finetune.learning_rate=0.5", "--distill.resnet_depth=18", "--temperature=0.4")
    assert rates(config) == {"pretrain": 0.3, "finetune": 0.5, "distill": 0.3, "supervised": 0.3}
    assert [step.model.resnet_depth for step in config.steps.values()] == [50, 50, 18, 50]
    assert {step.contrast.temperature for step in config.steps.values()} == {0.4}
    assert parse("--finetune.learning_rate=0.5", "--dataset=digits").optimizer.learning_rate == 0.005
    alone = parse("--finetune.learning_rate=0.5", "--mode=finetune", "--checkpoint=x")
    assert alone.optimizer.learning_rate == 0.5


# From the strongest: place and flag.
PRECEDENCE = [
    ("command", "--finetune.learning_rate"),
    ("command", "--learning_rate"),
    ("file", "--finetune.learning_rate"),
    ("file", "--learning_rate"),
]


@pytest.mark.parametrize(
    "given", [given for size in (1, 2, 3, 4) for given in itertools.combinations(range(4), size)], ids=str
)
@pytest.mark.parametrize("reverse", [False, True])
def test_strongest_place_of_a_flag_wins(tmp_path, given, reverse):
    places = {"command": [], "file": []}
    for number in given[:: -1 if reverse else 1]:
        place, flag = PRECEDENCE[number]
        places[place].append(f"{flag}={number + 1}")
    (tmp_path / "a.flags").write_text("\n".join(places["file"]))
    arguments = [*WHOLE, *places["command"], f"--flagfile={tmp_path}/a.flags"]
    config = parse(*arguments[:: -1 if reverse else 1])
    general = [number + 1 for number in given if number in (1, 3)]
    assert rates(config)["finetune"] == given[0] + 1
    assert rates(config)["supervised"] == (general[0] if general else 0.3)


def test_flagfile_of_a_step_is_of_that_step_alone(tmp_path):
    (tmp_path / "rate.flags").write_text("--learning_rate=0.7\n--nouse_flip\n")
    (tmp_path / "stage.flags").write_text("--flagfile=rate.flags\n--train_epochs=3\n")
    config = parse(*WHOLE, f"--finetune.flagfile={tmp_path}/stage.flags", "--train_steps=4")
    assert rates(config) == {"pretrain": 0.3, "finetune": 0.7, "distill": 0.3, "supervised": 0.3}
    assert [step.augment.use_flip for step in config.steps.values()] == [True, False, True, True]
    assert [step.train.train_epochs for step in config.steps.values()] == [100, 3, 100, 100]
    assert {step.train.train_steps for step in config.steps.values()} == {4}


def test_flagfile_of_a_step_wins_over_the_digits_recipe_and_yields_to_the_command(tmp_path):
    (tmp_path / "rate.flags").write_text("--learning_rate=0.7\n")
    file = f"--finetune.flagfile={tmp_path}/rate.flags"
    recipe = rates(parse())
    assert recipe["finetune"] != 0.7
    assert rates(parse(file)) == recipe | {"finetune": 0.7}
    assert set(rates(parse(file, "--learning_rate=0.1")).values()) == {0.1}
    assert rates(parse(file, "--finetune.learning_rate=0.2")) == recipe | {"finetune": 0.2}


def test_flagfile_may_hold_the_flagfile_of_a_step(tmp_path):
    (tmp_path / "rate.flags").write_text("--learning_rate=0.7\n")
    (tmp_path / "top.flags").write_text("--mode=semi_supervised\n--distill.flagfile=rate.flags\n")
    assert rates(parse(f"--flagfile={tmp_path}/top.flags"))["distill"] == 0.7


@pytest.mark.parametrize("arguments", [WHOLE, ["--dataset=cifar10"], ["--mode=supervised"]])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--student.learning_rate=1",
            "no such step; write --STEP.NAME=VALUE with one of pretrain, finetune, ",
        ),
        ("--finetune.lerning_rate=1", "no such flag; did you mean "),
        ("--finetune.nouse_blurr", "no such flag; did you mean "),
        ("--distill.learning_rate=x", "use a number"),
        ("--distill.learning_rate", "flags of one step are written --STEP.NAME=VALUE"),
        ("--finetune.model_dir=x", "cannot differ between the steps; leave it out."),
        ("--finetune.mode=eval", "cannot differ between the steps; leave it out."),
        ("--distill.train_mode=pretrain", "cannot differ between the steps; leave it out."),
    ],
)
def test_mistake_in_the_flag_of_a_step_shows_whichever_step_runs(arguments, argument, message):
    received = refusal(*arguments, argument)
    assert message in received
    assert argument.rpartition(".")[2].partition("=")[0] in received


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--teacher=x",
            "--teacher=x: the steps of semi_supervised start from each other; leave it out, or name ",
        ),
        (
            "--checkpoint=x",
            "--checkpoint=x: the steps of semi_supervised start from each other; leave it out",
        ),
        (
            "--train_mode=all",
            "--train_mode=all: use one of pretrain, finetune, distill, supervised, semi_superv",
        ),
        ("--supervised.checkpoint=x", "--checkpoint=x: the supervised baseline starts from scratch; "),
        ("--finetune.teacher=x", "--teacher=x: --train_mode=finetune has no teacher; leave it out"),
        (
            "--finetune.contrast_chunks=2",
            "--contrast_chunks=2: --train_mode=finetune has no contrastive loss",
        ),
        ("--contrast_chunks=2", "--contrast_chunks=2: contradicts --global_bn=True, "),
        ("--distill.memory_size=4096", "--memory_size=4096: --train_mode=distill has no contrastive loss"),
        ("--finetune.checkpoint=", "--checkpoint=: name a checkpoint"),
        ("--finetune.label_fraction=2", "--label_fraction=2.0: use a number above 0, up to 1 (all)."),
        ("--distill.distill_alpha=-1", "--distill_alpha=-1.0: use 0 to 1 (no labels are used)."),
    ],
)
def test_whole_method_refuses_what_does_not_fit_a_step(argument, message):
    if argument.startswith("--train_mode"):
        assert refusal("--dataset=cifar10", argument).startswith(message)
    else:
        assert refusal(*WHOLE, argument).startswith(message)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_whole_method_trains_and_evaluates(mode):
    message = refusal("--train_mode=semi_supervised", f"--mode={mode}")
    assert message.startswith(f"--mode={mode}: the whole method trains and evaluates; ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--train_mode=finetune"],
            "--checkpoint: not given, but finetuning starts from a pretrained network; ",
        ),
        (["--mode=finetune", "--dataset=digits"], "--checkpoint: not given, but finetuning starts from "),
        (["--train_mode=distill"], "--teacher: not given, but distillation follows a teacher; name the "),
        (["--mode=distill", "--checkpoint=x"], "--teacher: not given, but distillation follows a teacher; "),
        (
            ["--mode=supervised", "--checkpoint=x"],
            "--checkpoint=x: the supervised baseline starts from scratch",
        ),
        (
            ["--mode=pretrain", "--teacher=x"],
            "--teacher=x: --train_mode=pretrain has no teacher; leave it out",
        ),
    ],
)
def test_step_without_what_it_starts_from_is_refused(arguments, message):
    assert refusal(*arguments).startswith(message)


# ---- What is done with trained networks


def test_export_is_parsed():
    config = parse("--mode=export", "--checkpoint", "run", "--export_formats=folded,onnx", "--overwrite")
    assert config == ExportConfig(checkpoint="run", export_formats="folded,onnx", overwrite=True)


def test_import_knows_which_settings_of_the_network_were_stated():
    config = parse("--mode=import", "--checkpoint=r50", "--model_dir=run", "--resnet_depth=50", "--ema=True")
    assert config.stated == ("resnet_depth",)
    assert (config.ema, config.model.resnet_depth) == (True, 50)


def test_benchmark_takes_the_flags_of_the_network():
    config = parse("--mode=benchmark", "--resnet_depth=18", "--benchmark_batch_size=4")
    assert (config.model.resnet_depth, config.benchmark_batch_size, config.repeats) == (18, 4, 15)


def test_benchmark_takes_the_flags_of_a_step_and_knows_which_were_given():
    config = parse("--mode=benchmark", "--benchmark=step", "--optimizer=adam", "--contrast_chunks=2", "--nouse_blur")
    assert (config.optimizer.optimizer, config.contrast.contrast_chunks, config.augment.use_blur) == (
        "adam",
        2,
        False,
    )
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
        (["--mode=benchmark", "--eval_batch_size=8"], "--eval_batch_size=8"),
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
    assert message.startswith(f"--model_dir={tmp_path}/typo: no run is there, and no --dataset is named;")
    assert parse("--mode=eval", f"--model_dir={tmp_path}/typo", "--dataset=cifar10").mode == "eval"
    assert refusal("--mode=eval", "--model_dir=gs://bucket/run") == (
        "--model_dir=gs://bucket/run: the settings of a run at an address are not read, and no --dataset is named; "
        "give the flags of the run that you want to wait for."
    )


def test_evaluation_takes_what_is_not_given_from_the_run(tmp_path):
    settings = {
        "mode": "train_then_eval",
        "model_dir": "elsewhere",
        "train_mode": "finetune",
        "dataset": "cifar10",
        "resnet_depth": 18,
        "sk_ratio": 0.0625,
        "use_blur": False,
        "checkpoint": None,
        "strategy": "mirrored",
        "use_tpu": True,
        "data_service": "grpc://host:1",
        "imported_from": "r18",
    }
    arguments = ["--mode=eval", write_settings(tmp_path, settings), "--dataset=folder:images", "--sk_ratio=0"]
    config, notes = parse_command_line(arguments)
    model, data = config.model, config.data
    assert (config.train.train_mode, model.resnet_depth, config.augment.use_blur) == ("finetune", 18, False)
    assert (data.dataset, model.sk_ratio, config.model_dir) == ("folder:images", 0.0, str(tmp_path))
    assert (config.strategy, data.data_service, config.train.checkpoint) == (StrategyConfig(), None, None)
    assert notes == [f"Settings not given are those of the run in {tmp_path}."]


def test_evaluation_takes_neither_modules_nor_addresses_from_the_run(tmp_path):
    settings = {
        "train_mode": "distill",
        "teacher": "http://host/module",
        "allow_remote_teacher": True,
        "checkpoint": "s3://bucket/run",
        "data_service": "grpc://host:1",
        "data_dir": "/elsewhere",
        "tpu_name": "grpc://host:2",
        "master": "grpc://host:3",
        "flagfile": "/elsewhere/a.flags",
        "train_summary_steps": 3,
        "output": "/elsewhere",
        "dataset": "cifar10",
    }
    config, notes = parse_command_line(["--mode=eval", write_settings(tmp_path, settings)])
    assert (config.distill, config.strategy) == (DistillConfig(), StrategyConfig())
    assert (config.data, config.train.checkpoint) == (DataConfig(dataset="cifar10"), None)
    assert notes[1:] == [
        "Except --data_dir=/elsewhere, because TFDS runs code that lies there: give it if it is needed."
    ]


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
        f"--dataset={dataset}: would be fetched because {tmp_path}/flags.json says so; give this flag yourself if "
        "you trust that address."
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
    assert (
        parse("--mode=train", write_settings(tmp_path, {"resnet_depth": 18}), "--dataset=cifar10").model.resnet_depth
        == 50
    )


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"foreign": 1}'])
def test_settings_of_another_program_are_passed_over(tmp_path, content):
    config = parse("--mode=eval", write_settings(tmp_path, content), "--dataset=cifar10")
    assert config.model == ModelConfig()
