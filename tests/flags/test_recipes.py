"""Every ready-made flagfile is valid and says what it is for; docs/recipes.md has every row of the paper."""

import pathlib
import re

import pytest

from flags.convert import RECIPES, parse_command_line
from tests.support.marks import usual

ROOT = pathlib.Path(RECIPES)
PAGE = (ROOT.parents[1] / "docs" / "recipes.md").read_text()
NEEDED = ["digits", "photos", "cifar10_r18", "cifar10_r50", "imagenet_r50_simclr_v1"]
NEEDED += ["imagenet_semi_supervised_1pct", "imagenet_semi_supervised_10pct"]

# SimCLRv2, ImageNet top-1: finetuned on 1%, 10% and 100% of the labels, linear, supervised.
KINDS = ["finetune_1pct", "finetune_10pct", "finetune_100pct", "linear_eval", "supervised"]
NETWORKS = {  # name: (depth, width, SK, million parameters, figures)
    "r50": (50, 1, False, 24, "57.9 68.4 76.3 71.7 76.6"),
    "r50_sk": (50, 1, True, 35, "64.5 72.1 78.7 74.6 78.5"),
    "r50_2x": (50, 2, False, 94, "66.3 73.9 79.1 75.6 77.8"),
    "r50_2x_sk": (50, 2, True, 140, "70.6 77.0 81.3 77.7 79.3"),
    "r101": (101, 1, False, 43, "62.1 71.4 78.2 73.6 78.0"),
    "r101_sk": (101, 1, True, 65, "68.3 75.1 80.6 76.3 79.6"),
    "r101_2x": (101, 2, False, 170, "69.1 75.8 80.7 77.0 78.9"),
    "r101_2x_sk": (101, 2, True, 257, "73.2 78.8 82.4 79.0 80.1"),
    "r152": (152, 1, False, 58, "64.0 73.0 79.3 74.5 78.3"),
    "r152_sk": (152, 1, True, 89, "70.0 76.5 81.3 77.2 79.9"),
    "r152_2x": (152, 2, False, 233, "70.2 76.6 81.1 77.4 79.1"),
    "r152_2x_sk": (152, 2, True, 354, "74.2 79.4 82.9 79.4 80.4"),
    "r152_3x_sk": (152, 3, True, 795, "74.9 80.1 83.1 79.8 80.5"),
}
OTHER_ROWS = {  # (network, what is done): (stage, figure)
    ("r50", "distill_1pct"): ("distill", "73.9"),
    ("r50", "distill_10pct"): ("distill", "77.5"),
    ("r50", "self_distill_1pct"): ("self_distill", "60.0"),
    ("r50", "self_distill_10pct"): ("self_distill", "70.5"),
    ("r152_3x_sk", "self_distill_1pct"): ("self_distill", "76.6"),
    ("r152_3x_sk", "self_distill_10pct"): ("self_distill", "80.9"),
    ("r50", "supervised_1pct"): ("supervised_1pct", "25.4"),
    ("r50", "supervised_10pct"): ("supervised_10pct", "56.4"),
}

LARGE_BATCH = {"dataset": "imagenet2012", "image_size": 224, "eval_split": "validation", "num_proj_layers": 3}
LARGE_BATCH |= {"train_batch_size": 4096, "optimizer": "lars", "learning_rate": 0.1, "learning_rate_scaling": "sqrt"}
LARGE_BATCH |= {"weight_decay": 1e-4, "ft_proj_selector": 0}
FEW_LABELS = LARGE_BATCH | {"train_mode": "finetune", "dataset": "imagenet2012_subset/1pct", "train_batch_size": 1024}
FEW_LABELS |= {"train_epochs": 60, "learning_rate": 0.005, "warmup_epochs": 0, "weight_decay": 0}
FEW_LABELS |= {"ft_proj_selector": 1, "zero_init_logits_layer": True, "fine_tune_after_block": -1}
ALL_LABELS = FEW_LABELS | {"dataset": "imagenet2012", "train_epochs": 30, "ft_proj_selector": 0}
TEN_PERCENT = FEW_LABELS | {"dataset": "imagenet2012_subset/10pct", "train_epochs": 30}
WIDE_OR_SK = {"learning_rate": 0.002}
SUPERVISED = LARGE_BATCH | {"train_mode": "supervised", "train_epochs": 90, "optimizer": "momentum"}
SUPERVISED |= {"learning_rate_scaling": "linear"}
DISTILL = LARGE_BATCH | {"train_mode": "distill", "train_epochs": 400, "warmup_epochs": "5%", "distill_alpha": 1}
DISTILL |= {"distill_temperature": 1, "distill_tau_squared": False}
STAGES = {
    "pretrain": LARGE_BATCH
    | {"train_mode": "pretrain", "train_epochs": 800, "warmup_epochs": "5%", "temperature": 0.1}
    | {"color_jitter_strength": 1, "use_blur": True, "use_flip": True, "crop_min_area": 0.08},
    "finetune_1pct": FEW_LABELS,
    "finetune_1pct_wide_or_sk": FEW_LABELS | WIDE_OR_SK,
    "finetune_10pct": TEN_PERCENT,
    "finetune_10pct_wide_or_sk": TEN_PERCENT | WIDE_OR_SK,
    "finetune_100pct": ALL_LABELS,
    "finetune_100pct_wide_or_sk": ALL_LABELS | WIDE_OR_SK,
    "linear_eval": ALL_LABELS
    | {"train_batch_size": 4096, "train_epochs": 90, "weight_decay": 1e-6, "fine_tune_after_block": 4}
    | {"optimizer": "momentum", "learning_rate": 0.1, "learning_rate_scaling": "linear"},
    "supervised": SUPERVISED,
    "supervised_1pct": SUPERVISED
    | {"dataset": "imagenet2012_subset/1pct", "train_batch_size": 256, "train_epochs": 1000}
    | {"learning_rate": 0.01, "weight_decay": 1e-2, "warmup_epochs": "0.5%"},
    "supervised_10pct": SUPERVISED
    | {"dataset": "imagenet2012_subset/10pct", "train_batch_size": 256, "train_epochs": 200}
    | {"learning_rate": 0.1, "weight_decay": 1e-3, "warmup_epochs": "2.5%"},
    "distill": DISTILL,
    "self_distill": DISTILL | {"distill_temperature": 0.1},
}
INPUTS = {"finetune": ["--checkpoint=pretrained"], "distill": ["--teacher=finetuned"]}
RECIPE_NAMES = sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.rglob("*.flags"))


@pytest.fixture(params=RECIPE_NAMES)
def recipe(request):
    return request.param


def flagfile(name, owner=""):
    return f"--{owner}flagfile={ROOT / name}.flags"


def parse(*recipes, more=()):
    modes = [STAGES.get(pathlib.Path(name).name, {}).get("train_mode") for name in recipes]
    inputs = [argument for mode in modes for argument in INPUTS.get(mode, [])]
    config, notes = parse_command_line([*more, *map(flagfile, recipes), *inputs])
    assert notes == []
    return config


def stage_of(network, kind):
    wide_or_sk = kind.startswith("finetune") and network not in ("r50", "r101", "r152")
    return f"{kind}_wide_or_sk" if wide_or_sk else kind


def rows():
    """{(network, what is done): (stage, figure)} of all that the paper's tables have."""
    found = dict(OTHER_ROWS)
    for network, (*_, figures) in NETWORKS.items():
        for kind, figure in zip(KINDS, figures.split(), strict=True):
            found[network, kind] = stage_of(network, kind), figure
    return found


def text_of(recipe):
    return (ROOT / f"{recipe}.flags").read_text()


def header_of(recipe):
    return "\n".join(line for line in text_of(recipe).splitlines() if line.startswith("#"))


def test_recipes_needed_are_there():
    assert set(NEEDED) <= set(RECIPE_NAMES)
    assert {name for name in RECIPE_NAMES if "/" in name} == {
        *(f"networks/{network}" for network in NETWORKS),
        *(f"stages/{stage}" for stage in STAGES),
    }


def test_recipe_is_valid_and_can_be_shortened_with_its_warmup(recipe):
    config = parse(recipe, more=["--train_steps=2", "--model_dir=elsewhere"])
    assert config.model_dir == "elsewhere"
    for stage in config.runs.values():
        assert (stage.mode, stage.train.train_steps) == ("train_then_eval", 2)
        stated = "--warmup_epochs" in text_of(recipe)
        assert not stated or stage.optimizer.warmup_percent is not None or stage.optimizer.warmup_epochs == 0


def test_recipe_header_says_purpose_hardware_result_and_whether_measured(recipe):
    for part in (r"^# Purpose: \S", r"^# Hardware: \S", r"^# Expected result: \S", r"(?i)measured|not run"):
        assert re.search(part, header_of(recipe), re.MULTILINE), f"{part!r} is not in the header of {recipe}"


def test_recipe_names_its_data_set_but_no_place(recipe):
    text = text_of(recipe)
    assert "--dataset=" in text or "flagfile=" in text or recipe.startswith("networks/")
    assert not re.search(r"^--(\w+\.)?(model_dir|data_dir|checkpoint|teacher)=", text, re.MULTILINE)


@pytest.mark.parametrize("stage", ["finetune_1pct_wide_or_sk", "supervised", "supervised_1pct", "distill"])
def test_recipe_names_what_is_unverified(stage):
    assert "unverified" in header_of(f"stages/{stage}")


@pytest.mark.parametrize("network", NETWORKS)
def test_network_has_its_size_and_says_its_figures(network):
    depth, width, sk, _, figures = NETWORKS[network]
    model = parse(f"networks/{network}").model
    assert (model.resnet_depth, model.width_multiplier, model.sk_ratio) == (depth, width, 0.0625 * sk)
    assert re.findall(r"\b\d\d\.\d\b", header_of(f"networks/{network}")) == figures.split()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("network", usual("r50", "r152_3x_sk", also=sorted(NETWORKS.keys() - {"r50", "r152_3x_sk"})))
def test_network_and_stage_combine_in_either_order(network, stage):
    both = f"networks/{network}", f"stages/{stage}"
    config, shape = parse(*both), parse(both[0]).model
    assert config == parse(*reversed(both))
    sizes = {name: getattr(shape, name) for name in ("resnet_depth", "width_multiplier", "sk_ratio")}
    assert STAGES[stage].items() | sizes.items() <= config.to_dict().items()


@pytest.mark.parametrize("percent", ["1pct", "10pct"])
def test_whole_method_is_made_of_the_stages(percent):
    config = parse(f"imagenet_semi_supervised_{percent}")
    parts = {
        "pretrain": ("r152_3x_sk", "pretrain"),
        "finetune": ("r152_3x_sk", f"finetune_{percent}_wide_or_sk"),
        "distill": ("r50", "distill"),
        "supervised": ("r50", f"supervised_{percent}"),
    }
    for name, (network, stage) in parts.items():
        alone = parse(f"networks/{network}", f"stages/{stage}").to_dict()
        differing = {flag for flag, value in config.stages[name].to_dict().items() if value != alone[flag]}
        assert differing <= {"model_dir", "checkpoint", "teacher", "lineareval_while_pretraining"}
    assert config.finetune.train.checkpoint == config.pretrain.model_dir
    assert config.distill.distill.teacher == config.finetune.model_dir


def test_whole_method_takes_another_network_and_other_stages():
    files = [flagfile("imagenet_semi_supervised_1pct"), flagfile("networks/r50")]
    files += [flagfile("stages/finetune_1pct", "finetune."), flagfile("stages/self_distill", "distill.")]
    config, _ = parse_command_line(files)
    models = {(stage.model.resnet_depth, stage.model.width_multiplier) for stage in config.runs.values()}
    assert models == {(50, 1)}
    assert config.finetune.optimizer.learning_rate == 0.005
    assert config.distill.distill.distill_temperature == 0.1


@pytest.mark.parametrize("network", NETWORKS)
def test_page_has_the_row_of_each_network(network):
    *_, millions, figures = NETWORKS[network]
    (row,) = re.findall(rf"^\|.*`{network}`.*\|$", PAGE, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == [str(millions), *figures.split()]


def test_page_has_a_command_with_the_published_figure_for_every_row():
    lines = re.findall(r"^python run\.py .*networks/\w+ .*stages/.*$", PAGE, re.MULTILINE)
    found = {}
    for line in lines:
        network, kind = re.search(r"--model_dir=runs/(\w+)/(\w+)", line).groups()
        (stage,) = re.findall(r" --flagfile=stages/(\w+)", line)
        assert f" --flagfile=networks/{network} " in line
        found[network, kind] = stage, line.partition("  # ")[2]
    pretraining = {(network, "pretrain"): ("pretrain", "") for network in NETWORKS}
    pretraining["r50", "pretrain_memory"] = "pretrain", ""
    assert found == rows() | pretraining
    assert len(lines) == len(found)


def test_page_starts_each_stage_from_the_run_before_it():
    start_of = r"--(?:checkpoint|teacher)=runs/(\S+) --model_dir=runs/(\S+)"
    starts = {directory: start for start, directory in re.findall(start_of, PAGE)}
    wanted = {f"{network}/{kind}": f"{network}/pretrain" for network in NETWORKS for kind in KINDS[:-1]}
    for network, kind in OTHER_ROWS:
        if "distill" in kind:
            teacher = network if kind.startswith("self") else "r152_3x_sk"
            wanted[f"{network}/{kind}"] = f"{teacher}/finetune_{kind.rpartition('_')[2]}"
    assert starts == wanted
