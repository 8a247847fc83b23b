"""The whole method, and flags for one stage of it."""

import itertools

import pytest

from tests.flags.parsing import parse, refusal
from tf_simclr.config import TRAIN_MODES, SemiSupervisedConfig

WHOLE = ("--mode=semi_supervised", "--dataset=cifar10", "--model_dir=/tmp/whole")


def rates(config):
    return {name: stage.optimizer.learning_rate for name, stage in config.stages.items()}


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
    assert tuple(config.stages) == ("pretrain", "finetune", "distill", "supervised") == TRAIN_MODES
    for name, stage in config.stages.items():
        assert (stage.train.train_mode, stage.mode) == (name, "train_then_eval")


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
def test_other_commands_are_one_stage(arguments, expected):
    config = parse(*arguments)
    assert (config.mode, config.train.train_mode) == expected


def test_flagfile_alone_is_one_stage(tmp_path):
    (tmp_path / "own.flags").write_text("--dataset=digits\n")
    assert parse(f"--flagfile={tmp_path}/own.flags").train.train_mode == "pretrain"


def test_stages_lie_below_the_directory_and_start_from_each_other():
    config = parse(*WHOLE)
    assert config.model_dir == "/tmp/whole"
    for name, stage in config.stages.items():
        assert stage.model_dir == f"/tmp/whole/{name}"
        assert stage.train.checkpoint == ("/tmp/whole/pretrain" if name == "finetune" else None)
        assert stage.distill.teacher == ("/tmp/whole/finetune" if name == "distill" else None)
    assert parse().model_dir == "runs/digits-semi_supervised"
    assert parse().distill.distill.teacher == "runs/digits-semi_supervised/finetune"


def test_stages_may_start_from_elsewhere(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = parse(*WHOLE, "--finetune.checkpoint=/a", "--distill.teacher=/b", "--distill.checkpoint=/c")
    assert (config.finetune.train.checkpoint, config.distill.distill.teacher) == ("/a", "/b")
    assert config.distill.train.checkpoint == "/c"
    assert config.pretrain.train.checkpoint is None
    assert parse("--model_dir=~/x").finetune.train.checkpoint == "/home/me/x/pretrain"


@pytest.mark.parametrize("owner", ["", "pretrain."])
@pytest.mark.parametrize(
    ("name", "value", "others"),
    [("memory_size", 65536, 0), ("memory_momentum", 0.99, 0.999), ("contrast_chunks", 4, 1)],
)
def test_contrast_of_the_whole_method_is_that_of_pretraining(owner, name, value, others):
    more = {"memory_momentum": ["--memory_size=65536"], "contrast_chunks": ["--pretrain.global_bn=False"]}
    config = parse(*WHOLE, f"--{owner}{name}={value}", *more.get(name, []))
    assert [getattr(stage.contrast, name) for stage in config.stages.values()] == [value, others, others, others]


def test_flag_of_a_stage_is_of_that_stage_alone():
    config = parse(*WHOLE, "--finetune.learning_rate=0.5", "--distill.resnet_depth=18", "--temperature=0.4")
    assert rates(config) == {"pretrain": 0.3, "finetune": 0.5, "distill": 0.3, "supervised": 0.3}
    assert [stage.model.resnet_depth for stage in config.stages.values()] == [50, 50, 18, 50]
    assert {stage.contrast.temperature for stage in config.stages.values()} == {0.4}
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


def test_flagfile_of_a_stage_is_of_that_stage_alone(tmp_path):
    (tmp_path / "rate.flags").write_text("--learning_rate=0.7\n--nouse_flip\n")
    (tmp_path / "stage.flags").write_text("--flagfile=rate.flags\n--train_epochs=3\n")
    config = parse(*WHOLE, f"--finetune.flagfile={tmp_path}/stage.flags", "--train_steps=4")
    assert rates(config) == {"pretrain": 0.3, "finetune": 0.7, "distill": 0.3, "supervised": 0.3}
    assert [stage.augment.use_flip for stage in config.stages.values()] == [True, False, True, True]
    assert [stage.train.train_epochs for stage in config.stages.values()] == [100, 3, 100, 100]
    assert {stage.train.train_steps for stage in config.stages.values()} == {4}


def test_flagfile_of_a_stage_wins_over_the_digits_recipe_and_yields_to_the_command(tmp_path):
    (tmp_path / "rate.flags").write_text("--learning_rate=0.7\n")
    file = f"--finetune.flagfile={tmp_path}/rate.flags"
    recipe = rates(parse())
    assert recipe["finetune"] != 0.7
    assert rates(parse(file)) == recipe | {"finetune": 0.7}
    assert set(rates(parse(file, "--learning_rate=0.1")).values()) == {0.1}
    assert rates(parse(file, "--finetune.learning_rate=0.2")) == recipe | {"finetune": 0.2}


def test_flagfile_may_hold_the_flagfile_of_a_stage(tmp_path):
    (tmp_path / "rate.flags").write_text("--learning_rate=0.7\n")
    (tmp_path / "top.flags").write_text("--mode=semi_supervised\n--distill.flagfile=rate.flags\n")
    assert rates(parse(f"--flagfile={tmp_path}/top.flags"))["distill"] == 0.7


@pytest.mark.parametrize("arguments", [WHOLE, ["--mode=supervised"]])
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--student.learning_rate=1", "no such stage; write --STAGE.NAME=VALUE with one of pretrain, finetune, "),
        ("--finetune.lerning_rate=1", "no such flag; did you mean "),
        ("--finetune.nouse_blurr", "no such flag; did you mean "),
        ("--distill.learning_rate=x", "use a number"),
        ("--distill.learning_rate", "flags of one stage are written --STAGE.NAME=VALUE"),
        ("--finetune.model_dir=x", "cannot differ between the stages; leave it out."),
        ("--distill.train_mode=pretrain", "cannot differ between the stages; leave it out."),
    ],
)
def test_mistake_in_the_flag_of_a_stage_shows_whichever_stage_runs(arguments, argument, message):
    received = refusal(*arguments, argument)
    assert message in received
    assert argument.rpartition(".")[2].partition("=")[0] in received


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--teacher=x", "--teacher=x: the stages of semi_supervised start from each other; leave it out, or name "),
        ("--checkpoint=x", "--checkpoint=x: the stages of semi_supervised start from each other; leave it out"),
        ("--supervised.checkpoint=x", "--checkpoint=x: the supervised baseline starts from scratch; "),
        ("--finetune.contrast_chunks=2", "--contrast_chunks=2: --train_mode=finetune has no contrastive loss"),
    ],
)
def test_whole_method_refuses_what_does_not_fit_a_stage(argument, message):
    assert refusal(*WHOLE, argument).startswith(message)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_whole_method_trains_and_evaluates(mode):
    message = refusal("--train_mode=semi_supervised", f"--mode={mode}")
    assert message.startswith(f"--mode={mode}: the whole method trains and evaluates; ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_mode=finetune"], "--checkpoint: not given, but finetuning starts from a pretrained network; "),
        (["--train_mode=distill"], "--teacher: not given, but distillation follows a teacher; name the "),
        (["--mode=distill", "--checkpoint=x"], "--teacher: not given, but distillation follows a teacher; "),
        (["--train_mode=all"], "--train_mode=all: use one of pretrain, finetune, distill, supervised, semi_superv"),
    ],
)
def test_stage_without_what_it_starts_from_is_refused(arguments, message):
    assert refusal(*arguments).startswith(message)
