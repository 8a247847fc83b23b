"""Flags and flagfiles as lines: which wins, and what is refused."""

import pytest

from flags.convert import RECIPES, parse_command_line
from tests.flags.parsing import parse, refusal


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
    # The including file comes last, even if it names the other file after its own flags.
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
        ("--zzz=1", "--zzz: no such flag; see --help for all."),
    ],
)
def test_unknown_flag_names_the_nearest_or_the_help(argument, nearest):
    message = refusal(argument)
    assert message.startswith(argument.partition("=")[0] + ": no such flag; ")
    assert nearest in message


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("--train_batch_size=1e3", "use a whole number"),
        ("--train_batch_size=", "use a whole number"),
        ("--temperature=x: y", "use a number"),
        ("--warmup_epochs=five", "use a number, or a share of the run such as 5%"),
        ("--use_blur=maybe", "use True or False"),
        ("--mode=trian", "use one of train, eval, train_then_eval"),
        ("--train_steps", ""),
    ],
)
def test_bad_value_names_flag_value_and_fix(argument, fix):
    message = refusal("--dataset=cifar10", argument)
    assert fix in message
    assert argument in message


@pytest.mark.parametrize("argument", ["train", "x=1"])
def test_positional_argument_is_refused(argument):
    assert refusal("--seed=1", argument).startswith(f"{argument}: not a flag; flags are written --name=value")


@pytest.mark.parametrize("argument", ["--flagfile={}", "--flagfile={}/no.flags", "--flagfile=fotos", "--flagfile=../x"])
def test_flagfile_missing_lists_the_recipes(tmp_path, monkeypatch, argument):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # So that `../x` is missing wherever the checkout is.
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


def test_recipe_of_a_stage_is_found_by_its_name(tmp_path, monkeypatch):
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


def test_flagfile_including_itself_is_refused(tmp_path):
    (tmp_path / "a.flags").write_text("--flagfile=b.flags\n")
    (tmp_path / "b.flags").write_text("--flagfile=a.flags\n")
    message = refusal(f"--flagfile={tmp_path}/a.flags")
    assert "--flagfile=a.flags: includes itself" in message
    assert "b.flags" in message


def test_flagfiles_that_are_no_text_or_never_end_are_refused(tmp_path):
    (tmp_path / "binary.flags").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read" in refusal(f"--flagfile={tmp_path}/binary.flags")
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
