"""The curve of accuracy against the number of labels: its runs, its figures, going on, and bad input."""

import functools
import json
import logging
import re
import types

import numpy as np
import pytest
import tensorflow as tf

from flags.convert import parse_command_line
from tests.support.runs import (
    WHOLE,
    tiny_arguments,
    tiny_config,
)
from tf_simclr.config import DataConfig, LabelEfficiencyConfig, UserError
from tf_simclr.data import load_source
from tf_simclr.report import efficiency
from tf_simclr.workflows import label_efficiency
from tf_simclr.workflows.label_efficiency import measure_label_efficiency

FROZEN = ("linear_eval", "raw_pixels", "label_spreading")
CURVE = WHOLE | {"mode": "label_efficiency", "labels_per_class": "3,1", "num_seeds": 2, "train_steps": 1}


def curve_config(model_dir, *arguments, **flags) -> LabelEfficiencyConfig:
    return parse_command_line([*tiny_arguments(model_dir, **(CURVE | flags)), *arguments])[0]


def refusal(*arguments, model_dir="runs/never", **flags):
    with pytest.raises(UserError) as error:
        measure_label_efficiency(curve_config(model_dir, *arguments, **flags))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- The runs


def test_runs_are_stages_with_their_labels_seeds_and_directories(tmp_path):
    config = curve_config(tmp_path, "--finetune.learning_rate=0.5", label_seed=10, seed=20)
    assert list(config.runs) == ["pretrain"] + [
        f"labels_{labels}/seed_{draw}/{method}"
        for draw in (0, 1)
        for labels in (1, 3)
        for method in ("finetune", "supervised")
    ]
    for name, run in config.runs.items():
        assert run.model_dir == f"{tmp_path}/{name}"
        if name != "pretrain":
            labels, draw, method = re.fullmatch(r"labels_(\d)/seed_(\d)/(\w+)", name).groups()
            data = run.data
            assert (data.labels_per_class, data.label_seed) == (int(labels), 10 + int(draw))
            assert (run.train.seed, run.train.train_mode) == (20 + int(draw), method)
            assert run.optimizer.learning_rate == (0.5 if method == "finetune" else 0.05)
            assert run.train.checkpoint == (f"{tmp_path}/pretrain" if method == "finetune" else None)
            assert (run.keep_hub_module_max, run.train.keep_checkpoint_max) == (0, 1)


def test_run_is_the_same_as_that_of_its_flags_by_hand(tmp_path):
    run = curve_config(tmp_path, checkpoint="pretrained", label_seed=4).runs["labels_3/seed_1/finetune"]
    by_hand = {"mode": "finetune", "labels_per_class": 3, "label_seed": 5, "seed": 1, "train_steps": 1}
    keep = {"keep_hub_module_max": 0, "keep_checkpoint_max": 1}
    directory = tmp_path / "labels_3" / "seed_1" / "finetune"
    assert run == tiny_config(directory, **(WHOLE | by_hand | keep), checkpoint="pretrained")


@pytest.mark.parametrize(
    ("flags", "stages"),
    [
        ({"checkpoint": "pretrained"}, {"finetune": "pretrained", "supervised": None}),
        ({"efficiency_methods": "supervised"}, {"supervised": None}),
        ({"efficiency_methods": "linear_eval"}, {"pretrain": None}),
        ({"efficiency_methods": "raw_pixels,label_spreading"}, {}),
    ],
)
def test_curve_runs_only_the_stages_that_its_methods_need(tmp_path, flags, stages):
    runs = curve_config(tmp_path, **flags).runs.values()
    assert {run.train.train_mode: run.train.checkpoint for run in runs} == stages


def test_draws_start_from_several_networks_in_turn(tmp_path):
    config = curve_config(tmp_path, num_pretrained=2, num_seeds=3, seed=5, labels_per_class=1)
    assert list(config.runs)[:2] == ["pretrain", "pretrain_1"]
    for number, name in enumerate(("pretrain", "pretrain_1")):
        assert (config.runs[name].train.seed, config.runs[name].model_dir) == (5 + number, f"{tmp_path}/{name}")
    starts = [config.runs[f"labels_1/seed_{draw}/finetune"].train.checkpoint for draw in range(3)]
    assert starts == [f"{tmp_path}/{name}" for name in ("pretrain", "pretrain_1", "pretrain")]


def test_student_has_the_teacher_of_its_own_labels(tmp_path):
    config = curve_config(tmp_path, efficiency_methods="supervised, distill,finetune")
    assert config.methods == ("finetune", "distill", "supervised")
    for name in ("labels_1/seed_0", "labels_3/seed_1"):
        assert config.runs[f"{name}/distill"].distill.teacher == f"{tmp_path}/{name}/finetune"
    other = curve_config(tmp_path, "--distill.teacher=other", efficiency_methods="distill")
    assert {run.distill.teacher for run in other.runs.values()} == {"other"}


def test_bare_mode_is_a_curve_of_the_digits():
    config, notes = parse_command_line(["--mode=label_efficiency"])
    assert (config.labels, config.num_seeds, config.methods) == ((1, 2, 5, 10, 50), 3, ("finetune", "supervised"))
    assert config.model_dir == "runs/digits-label_efficiency"
    assert notes[0].startswith("Recipe: digits")
    recipe = parse_command_line([])[0]
    assert config.runs["labels_10/seed_0/finetune"].optimizer == recipe.finetune.optimizer
    assert config.networks[0].train == recipe.pretrain.train


def test_recipe_decides_what_runs_keep_but_not_their_labels(tmp_path):
    lines = ("--keep_checkpoint_max=3", "--finetune.keep_hub_module_max=2", "--finetune.labels_per_class=7")
    (tmp_path / "a.flags").write_text("\n".join([*lines, "--label_fraction=0.1", ""]))
    config = curve_config(tmp_path, f"--flagfile={tmp_path}/a.flags")
    for name, run in config.runs.items():
        assert run.train.keep_checkpoint_max == 3
        assert run.keep_hub_module_max == {"pretrain": 1, "finetune": 2}.get(run.train.train_mode, 0)
        assert name == "pretrain" or f"labels_{run.data.labels_per_class}/" in name
    assert {run.keep_hub_module_max for run in curve_config(tmp_path, keep_hub_module_max=2).runs.values()} == {2}


def test_recipe_of_the_whole_method_is_one_of_a_curve(tmp_path):
    arguments = ["--flagfile=photos", "--dataset=digits", f"--model_dir={tmp_path}"]
    config, _ = parse_command_line(["--mode=label_efficiency", *arguments])
    assert config.networks[0].train.train_epochs == 200
    assert config.runs["labels_1/seed_0/finetune"].train.train_steps == 300


# ---- The figures, of runs that are pretended


def accuracy(run):
    """Top-1 accuracy of a pretended run."""
    base, slope = {"finetune": (0.5, 0.003), "supervised": (0.25, 0.005)}[run.train.train_mode]
    return base + 0.01 * run.data.labels_per_class + slope * run.train.seed**2


class Pretended:
    """Stands in for the experiment of a run, and trains nothing."""

    eval_source = load_source(DataConfig(dataset="digits"), "test")
    plan = types.SimpleNamespace(total_steps=1)

    def __init__(self, config, strategy, seen):
        self._config, self._seen = config, seen

    def check_memory(self):
        """Always fits."""

    def train(self, actions):
        self._seen.append(self._config)
        for action in actions:
            action(self._config)
        if self._config.train.train_mode == "pretrain":
            return {"global_step": 1}
        top_1 = accuracy(self._config)
        scores = {"eval/label_top_1_accuracy": top_1, "eval/mean_per_class_accuracy": top_1 - 0.125}
        return scores | {"eval/num_examples": 450}


@pytest.fixture
def pretended(monkeypatch):
    """The runs that were pretended to be trained."""
    seen = []
    monkeypatch.setattr(label_efficiency, "Experiment", functools.partial(Pretended, seen=seen))
    return seen


def check_spread(spread, values):
    spread = dict(spread)
    mean, deviation = values.mean(), values.std(ddof=1)
    half = {2: 12.7062, 3: 4.3027}[len(values)] * deviation / np.sqrt(len(values))  # Student's t.
    expected = {"mean": mean, "standard_deviation": deviation, "min": values.min(), "max": values.max()}
    assert spread.pop("by_seed") == pytest.approx(values)
    assert spread.pop("interval_95") == pytest.approx([mean - half, mean + half], abs=1e-6)
    assert spread == pytest.approx(expected)


def test_figures_are_those_of_the_runs(pretended, tmp_path, log):
    config = curve_config(tmp_path, num_seeds=3)
    outcome = measure_label_efficiency(config)
    assert pretended == list(config.runs.values())
    assert json.loads((tmp_path / "label_efficiency.json").read_text()) == outcome
    assert [point["labels_per_class"] for point in outcome["points"]] == [1, 3]
    assert outcome["evaluated_on"] == "digits (test)"
    for point in outcome["points"]:
        names = [f"labels_{point['labels_per_class']}/seed_{draw}" for draw in range(3)]
        ours, theirs = (
            np.array([accuracy(config.runs[f"{name}/{method}"]) for name in names])
            for method in ("finetune", "supervised")
        )
        check_spread(point["finetune"]["label_top_1_accuracy"], ours)
        check_spread(point["supervised"]["mean_per_class_accuracy"], theirs - 0.125)
        check_spread(point["finetune_minus_supervised"]["label_top_1_accuracy"], ours - theirs)
    assert [message for message in log.messages if message.startswith("[")][::12] == [
        "[1/13] pretrain",
        "[13/13] labels_3/seed_2/supervised",
    ]


def write_other_curve(directory, **values):
    """A curve with three draws of 1 and 3 labels, as an earlier version wrote it."""
    spread = {"label_top_1_accuracy": {"by_seed": [0.5, 0.25, 0.125]}}
    points = [{"labels_per_class": labels, "finetune": spread} for labels in (1, 3)]
    directory.mkdir()
    (directory / "label_efficiency.json").write_text(json.dumps({"points": points} | values))
    return directory


def test_other_curve_is_subtracted_draw_by_draw(pretended, tmp_path):
    other = write_other_curve(tmp_path / "other", label_seed=0)
    settings = {"efficiency_methods": "finetune", "efficiency_baseline": other}
    outcome = measure_label_efficiency(curve_config(tmp_path / "ours", **settings))
    for point in outcome["points"]:
        ours = np.array(point["finetune"]["label_top_1_accuracy"]["by_seed"])
        check_spread(point["finetune_minus_other"]["label_top_1_accuracy"], ours - [0.5, 0.25])
    assert "| finetune - other |" in (tmp_path / "ours" / "label_efficiency.md").read_text()


@pytest.mark.parametrize(
    "flags",
    [{"num_seeds": 4}, {"labels_per_class": "1,5"}, {"label_seed": 1}, {"efficiency_methods": "finetune,supervised"}],
)
def test_curve_of_other_labels_is_not_subtracted(pretended, tmp_path, flags):
    other = write_other_curve(tmp_path / "other", label_seed=0)
    message = refusal(**({"efficiency_methods": "finetune", "efficiency_baseline": other} | flags))
    assert message.startswith(f"--efficiency_baseline={other}: does not have all labels, draws and methods of")
    assert pretended == []


TABLE = """\
| labels a class | finetune | supervised | finetune - supervised |
| --- | --- | --- | --- |
| 1 | 51.15 ± 0.21 | 26.25 ± 0.35 | +24.90 ± 0.14 |
| 3 | 53.15 ± 0.21 | 28.25 ± 0.35 | +24.90 ± 0.14 |
"""


def test_table_and_page_have_every_figure(pretended, tmp_path, log):
    config = curve_config(tmp_path)
    measure_label_efficiency(config)
    assert TABLE in "\n".join(log.messages) + "\n"
    written = (tmp_path / "label_efficiency.md").read_text()
    assert written.startswith("# Accuracy against the number of labels: digits (test)\n")
    assert f"## Top-1 accuracy\n\n{TABLE}" in written
    assert "| 1 | 38.65 ± 0.21 | 13.75 ± 0.35 |" in written.partition("Mean of the accuracies of the classes")[2]
    assert "on 450 images of digits (test): mean ± standard deviation of 2 seeds" in written
    page = (tmp_path / "report.html").read_text()
    cells = ("51.15 ± 0.21", "+24.90 ± 0.14", "38.65 ± 0.21", "ResNet-10 0.125x 8 px", "--labels_per_class")
    assert all(f"<td>{cell}</td>" in page for cell in cells)
    for name, run in config.runs.items():
        assert name == "pretrain" or f"<tr><td>{name}</td><td>{accuracy(run):.2%}</td></tr>" in page
    assert page.count("src=") == page.count('src="data:image/png;base64,') == 1


def test_one_seed_has_no_spread_and_says_so(pretended, tmp_path):
    outcome = measure_label_efficiency(curve_config(tmp_path, num_seeds=1, efficiency_methods="supervised"))
    written = (tmp_path / "label_efficiency.md").read_text()
    assert "| labels a class | supervised |\n| --- | --- |\n| 1 | 26.00 |\n| 3 | 28.00 |" in written
    assert "of one seed, so there is no spread" in written
    spread = outcome["points"][0]["supervised"]["label_top_1_accuracy"]
    assert (spread["standard_deviation"], spread["interval_95"]) == (None, None)


def test_picture_shows_the_spread_of_the_seeds():
    def pale(values):  # Pixels of a band, which is a light blue.
        point = {"labels_per_class": 1, "finetune": {"label_top_1_accuracy": {"by_seed": values}}}
        points = [point, point | {"labels_per_class": 3}]
        outcome = {"methods": ["finetune"], "points": points, "evaluated_on": "digits (test)"}
        pixels = tf.io.decode_png(efficiency.draw(outcome, "label_top_1_accuracy")).numpy()
        assert min(pixels.shape[:2]) > 500
        red, blue = pixels[..., 0].astype(int), pixels[..., 2].astype(int)
        return np.count_nonzero((blue - red > 20) & (red > 180))

    assert pale([0.5, 0.6]) > pale([0.5]) + 1000


def test_interrupted_curve_takes_more_labels_and_seeds(pretended, tmp_path):
    def interrupt(run):
        if run.model_dir.endswith("labels_3/seed_0/supervised"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_label_efficiency(curve_config(tmp_path, num_seeds=1), lambda run: [interrupt])
    assert not (tmp_path / "label_efficiency.json").exists()
    for settings in ({"num_seeds": 1}, {"labels_per_class": "1,2,3,4"}):
        outcome = measure_label_efficiency(curve_config(tmp_path, **settings))
    assert [point["labels_per_class"] for point in outcome["points"]] == [1, 2, 3, 4]


def test_warning_of_repeated_tracing_is_left_out_and_no_other(pretended, monkeypatch, tmp_path):
    messages, logger, handler = [], tf.get_logger(), logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())

    def warn(run):
        logger.warning("%d out of the last 11 calls to %s triggered tf.function retracing.", 6, "run")
        logger.warning("another")

    monkeypatch.setattr(logger, "handlers", [handler])
    config = curve_config(tmp_path, efficiency_methods="supervised", num_seeds=1)
    measure_label_efficiency(config, lambda run: [warn])
    assert messages == ["another"] * 2
    assert logger.filters == []
