"""Every command of the README and the documentation is one that the program takes."""

import importlib.util
import re
import shlex

import pytest

import run
from flags.convert import parse_command_line
from tests.data.conftest import grey_image, prepare_tfds
from tests.support.marks import usual
from tests.support.runs import REPOSITORY, run_program, write_images
from tf_simclr.config import LabelEfficiencyConfig, SemiSupervisedConfig, Tool

# The runs that other pages start from are those of docs/training.md.
FIRST_PAGES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "training.md"]
PAGES = [*FIRST_PAGES, *sorted(set((REPOSITORY / "docs").glob("*.md")) - set(FIRST_PAGES))]
SHORT_CURVE = ["--labels_per_class=2", "--num_seeds=1", "--keep_hub_module_max=0"]
SHORT = ["--train_steps=2", "--checkpoint_steps=0", "--eval_steps=1", "--mode=train_then_eval"]


def commands_of(text):
    """The arguments of each `python run.py` and `tf-simclr` in the fenced blocks of a page, continued lines joined."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"\b(?:python[\d.]* run\.py|tf-simclr)\b(.*)", line):
                yield shlex.split(match[1], comments=True)


def commands():
    found = {}
    for page in PAGES:
        for arguments in commands_of(page.read_text()):
            found.setdefault(" ".join(arguments), arguments)
    return found


COMMANDS = commands()


def on_digits(arguments):
    if {"--help", "--version"} & set(arguments):
        return False
    config, _ = parse_command_line(arguments)
    if isinstance(config, Tool):
        uses_run = any("=runs/digits/" in argument for argument in arguments)
        return uses_run and not any("PATH" in argument for argument in arguments)
    if isinstance(config, LabelEfficiencyConfig):
        config = config.method
    steps = config.steps.values() if isinstance(config, SemiSupervisedConfig) else [config]
    return all(step.data.dataset == "digits" for step in steps)


def run_on_digits():
    """The commands on digits; of the curves, which differ in numbers alone, the first."""
    names = [name for name, arguments in COMMANDS.items() if on_digits(arguments)]
    curves = [name for name in names if "--mode=label_efficiency" in name]
    return [name for name in names if name not in curves[1:]]


def test_readme_has_commands():
    assert any(commands_of(PAGES[0].read_text()))


def test_commands_are_found_in_fenced_blocks_alone():
    page = "python run.py --a=1\n```sh\n$ python run.py \\\n  --b='x y'  # Comment\ntf-simclr --d\n```\n`tf-simclr`\n"
    assert list(commands_of(page)) == [["--b=x y"], ["--d"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    if not {"--help", "--version"} & set(COMMANDS[command]):
        parse_command_line(COMMANDS[command])


# Words of commands that repeat what others show; `.ci/run` runs the first one itself.
REPETITIONS = ("train_then_eval", "label_efficiency", "by_hand", "protocol=")


@pytest.mark.slow
@pytest.mark.parametrize(
    "left_out", [REPETITIONS, pytest.param((), marks=pytest.mark.exhaustive)], ids=["without repetitions", "all"]
)
def test_commands_on_digits_run(left_out, tmp_path, log, capsys):
    """In the order of the pages: what one command leaves in `runs/`, a later one starts from."""
    for command in run_on_digits():
        if not any(word in command for word in left_out):
            run_on_digits_command(command, tmp_path, log, capsys)


def run_on_digits_command(command, runs, log, capsys):
    arguments = [argument.replace("=runs/", f"={runs}/") for argument in COMMANDS[command]]
    config, _ = parse_command_line(arguments)
    is_tool = isinstance(config, Tool)
    if isinstance(config, LabelEfficiencyConfig):
        arguments += SHORT_CURVE
    if not is_tool:
        arguments += [flag for flag in SHORT if flag.split("=")[0] not in command]
        if "--model_dir" not in command:
            arguments.append(f"--model_dir={runs}/{len(list(runs.iterdir()))}")
    elif "overwrite" not in command:
        arguments.append("--overwrite=True")  # Several pages write the same.
    log.clear()
    capsys.readouterr()
    status, error = run.main(arguments), capsys.readouterr().err
    if "onnx" in command and not importlib.util.find_spec("tf2onnx"):
        assert error.startswith("error: --export_formats=onnx: needs the package tf2onnx")
        assert status == 2
        return
    assert status == 0, f"{command}: {error}"
    assert is_tool or "Result: " in log.text


# Stands in for sizes that need an accelerator.
SMALL = ["--train_batch_size=8", "--eval_batch_size=8", "--width_multiplier=0.125", "--use_tpu=False"]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with a class a subfolder, and a small data set of the name cifar10 in the format of TFDS."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("data")
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "unlabelled"):
        write_images(root / "photos" / name, 10)
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    examples = [{"image": grey_image(number, 32, 32), "label": number % 2} for number in range(24)]
    prepare_tfds(root, "Cifar10", features, {"train": examples[:16], "test": examples[16:]})
    return root


def with_stand_ins(arguments, root):
    for argument in arguments:
        yield argument.replace("PATH", str(root / "photos")).replace("PREPARED", str(root))


# Each in a process of its own, as a user starts it.
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    usual(
        "--dataset=cifar10 --data_dir=PREPARED --image_size=32 --resnet_depth=18 --use_blur=False",
        also=[
            "--flagfile=photos --dataset=folder:PATH --model_dir=runs/photos",
            "--flagfile=cifar10_r18 --model_dir=runs/cifar10_r18",
        ],
    ),
    ids=["TFDS", "photos", "recipe"],
)
def test_command_on_other_data_runs(command, stand_ins, tmp_path):
    own = with_stand_ins(COMMANDS[command], stand_ins)
    directories = [f"--model_dir={tmp_path / 'run'}", f"--data_dir={stand_ins}"]
    done = run_program(*own, *SHORT, *SMALL, *directories, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Result: " in done.stdout


def test_pages_have_no_placeholders():
    for page in PAGES:
        assert not re.search(r"\b(RUNTIME|STRONG|[A-Z]+_TABLE)\b", page.read_text()), page
