"""The curve of accuracy against the number of labels: its runs, its figures, going on, and bad input."""

import functools
import json
import logging
import re
import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

import tf_simclr
from flags.convert import parse_command_line
from tests.support.runs import (
    WHOLE,
    differing_tensors,
    eagerly,
    tiny_arguments,
    tiny_config,
    whole_config,
    write_images,
)
from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig, LabelEfficiencyConfig, UserError
from tf_simclr.data import choose_labelled, load_source
from tf_simclr.report import efficiency
from tf_simclr.runs.directory import claim_directory
from tf_simclr.runs.networks import load_network
from tf_simclr.workflows import frozen_methods, label_efficiency
from tf_simclr.workflows.label_efficiency import measure_label_efficiency
from tf_simclr.workflows.semi_supervised import semi_supervised

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


# ---- Bad input: one line each, before anything is trained


@pytest.fixture
def trained(monkeypatch):
    """The runs that were trained, none of them really; their data is opened."""
    seen = []

    def pretend(self, actions, *, later_work=0.0):
        seen.append(self.config)
        return {"global_step": 1}

    monkeypatch.setattr(label_efficiency.Experiment, "train", pretend)
    return seen


@pytest.mark.parametrize("value", ["1,x", "0,1", "-1,3", "1,,3", "1.5,2", ","])
def test_labels_that_are_no_numbers_are_refused(value):
    message = refusal(labels_per_class=value)
    assert message.startswith(f"--labels_per_class={value}: use whole numbers of at least 1, with commas")


@pytest.mark.parametrize("arguments", [["--mode=supervised"], ["--mode=linear_eval", "--checkpoint=x"], []])
def test_other_modes_take_one_number_of_labels(arguments):
    with pytest.raises(UserError) as error:
        parse_command_line([*arguments, "--dataset=digits", "--labels_per_class=1,10"])
    assert str(error.value) == (
        "--labels_per_class=1,10: use one whole number; only --mode=label_efficiency takes several, with commas "
        "between them."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num_seeds=0", ": use at least 1."),
        ("--efficiency_methods=finetune,knn", ": use one or more of finetune, "),
        ("--efficiency_methods=distill", ": the student's teacher is the finetuned "),
        ("--num_pretrained=3", ": use 1 to 2, the value of --num_seeds."),
        ("--num_pretrained=2 --checkpoint=x", ": all draws start from --checkpoint; leave one of them out."),
        ("--efficiency_baseline=distill", ": use one of --efficiency_methods, or the dir"),
        ("--efficiency_baseline=/none", ": is no method, and no directory of a finished"),
        ("--label_fraction=0.1", ": has no meaning with --mode=label_efficiency; "),
        ("--finetune.labels_per_class=5", ": cannot differ between the stages; "),
        ("--supervised.label_seed=5", ": finetuning has 0; "),
        ("--supervised.eval_split=train", ": finetuning has test; "),
        ("--distill.learning_rate=1", ": this stage is not run; leave it out"),
        ("--pretrain.temperature=1 --checkpoint=x", ": this stage is not run; leave it out"),
        ("--teacher=x", ": the teacher is the network finetuned on the same labels; "),
        ("--train_mode=finetune", ": contradicts --mode=label_efficiency; "),
        ("--finetune.num_proj_layers=3", ": the network is pretrained with 2; "),
        ("--checkpoint=/no/such", ": no such checkpoint"),
        ("--checkpoint=tests", ": no checkpoint in this directory"),
    ],
)
def test_curve_that_makes_no_sense_is_refused(trained, arguments, message):
    first, *others = arguments.split()
    assert refusal(first, *others).startswith(first + message)
    assert trained == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--supervised.checkpoint=x", "--checkpoint=x: the supervised baseline starts from scratch; "),
        ("--labels_per_class=1,500", "--labels_per_class=500: digits (train) has 131 labelled examples of its sm"),
        ("--finetune.profile_steps=5,6", "--profile_steps=5,6: the run has 1 step;"),
    ],
)
def test_curve_with_a_stage_that_makes_no_sense_is_refused(trained, argument, message):
    assert refusal(argument).startswith(message)
    assert trained == []


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([""], "--train_split=train: folder:{} (train) has no labels, which this"),
        (["cat", "dog"], "--eval_split: folder:{} has no labelled images to evaluate on; name "),
    ],
)
def test_images_without_labels_to_learn_from_or_to_evaluate_on_are_refused(trained, tmp_path, folders, message):
    for name in folders:
        write_images(tmp_path / "photos" / name, 20)
    refused = refusal(dataset=f"folder:{tmp_path}/photos", eval_split=None, train_batch_size=8)
    assert refused.startswith(message.format(tmp_path / "photos"))
    assert trained == []


def test_directory_of_another_kind_of_run_is_refused(trained, tmp_path):
    semi_supervised(whole_config(tmp_path / "whole"))
    message = refusal(model_dir=tmp_path / "whole")
    assert "(--train_mode=semi_supervised there, label_efficiency now)" in message
    claim_directory(curve_config(tmp_path / "curve"))
    place = tmp_path / "curve" / "labels_1" / "seed_0" / "finetune"
    place.mkdir(parents=True)
    (place / "ckpt-1.index").touch()
    with pytest.raises(UserError, match=r"\(--train_mode=label_efficiency there, semi_supervised now\)"):
        semi_supervised(whole_config(tmp_path / "curve"))


# ---- Real runs


def real_config(directory, **flags):
    methods = ",".join(["finetune", *FROZEN])
    settings = {"labels_per_class": 3, "eval_steps": 1, "num_pretrained": 2, "efficiency_methods": methods}
    return curve_config(directory, **(settings | {"efficiency_baseline": "raw_pixels"} | flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("efficiency") / "curve"
    with eagerly():
        return directory, measure_label_efficiency(real_config(directory))


@pytest.mark.slow
def test_curve_is_that_of_runs_by_hand(finished, tmp_path):
    directory, outcome = finished
    settings = {"train_steps": 1, "labels_per_class": 3, "label_seed": 1, "seed": 1, "eval_steps": 1}
    settings |= {"mode": "finetune", "checkpoint": directory / "pretrain_1"}
    with eagerly():
        result = tf_simclr.train_and_evaluate(tiny_config(tmp_path / "run", **(WHOLE | settings)))
    ours = directory / "labels_3" / "seed_1" / "finetune"
    assert differing_tensors(ours / "ckpt-1", tmp_path / "run" / "ckpt-1") == []
    top_1 = outcome["points"][0]["finetune"]["label_top_1_accuracy"]["by_seed"]
    assert top_1[1] == result["eval/label_top_1_accuracy"]
    assert not (ours / "saved_model").exists()


@pytest.mark.slow
def test_frozen_methods_are_those_of_scikit_learn(finished):
    directory, outcome = finished
    held_out = load_source(DataConfig(dataset="digits"), "test").part(0, 150)
    train = load_source(DataConfig(dataset="digits"), "train")
    pixels = [source.images.reshape(source.num_examples, -1) / 255 for source in (train, held_out)]
    (point,) = outcome["points"]
    scores = {name: point[name]["label_top_1_accuracy"]["by_seed"] for name in FROZEN}
    assert point["raw_pixels"]["label_top_1_accuracy"]["mean"] > 0.5
    difference = np.subtract(scores["linear_eval"], scores["raw_pixels"])
    check_spread(point["linear_eval_minus_raw_pixels"]["label_top_1_accuracy"], difference)
    for draw, start in enumerate(("pretrain", "pretrain_1")):
        network = load_network(str(directory / start), "checkpoint")
        features = [
            network.forward(EvalView(image_size=8)(source.images), training=False).endpoints["final_avg_pool"].numpy()
            for source in (train, held_out)
        ]
        chosen = choose_labelled(train.labels, 10, per_class=3, seed=draw)
        labels = np.full(train.num_examples, -1)
        labels[chosen] = train.labels[chosen]
        scale = StandardScaler().fit(features[0]).transform
        linear = LogisticRegression(max_iter=5000).fit(scale(features[0][chosen]), labels[chosen])
        raw = LogisticRegression(max_iter=5000).fit(pixels[0][chosen], labels[chosen])
        spreading = LabelSpreading(kernel="knn", n_neighbors=7, max_iter=100).fit(pixels[0], labels)
        expected = [linear.score(scale(features[1]), held_out.labels), raw.score(pixels[1], held_out.labels)]
        with np.errstate(invalid="ignore"):  # No label reaches some images.
            expected.append(spreading.score(pixels[1], held_out.labels))
        np.testing.assert_allclose([scores[name][draw] for name in FROZEN], expected, atol=1.5 / 150)


@pytest.mark.slow
def test_finished_curve_computes_nothing_again(finished, log, monkeypatch):
    directory, outcome = finished
    stored = json.loads((directory / "result_frozen.json").read_text())
    assert set(stored) == {f"labels_3/seed_{draw}/{name}" for draw in (0, 1) for name in FROZEN}
    monkeypatch.setattr(frozen_methods, "compute_features", None)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    events = []
    assert measure_label_efficiency(real_config(directory), lambda run: [events.append]) == outcome
    assert events == []
    assert sum(message.startswith("Already finished: ") for message in log.messages) == 4
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_curve_whose_start_was_deleted_or_does_not_fit_is_refused(finished, tmp_path):
    directory, start = finished[0], tmp_path / "away"
    (directory / "pretrain").rename(start)
    try:
        with pytest.raises(UserError, match="finetune has begun, but pretrain, which it starts from, is gone"):
            measure_label_efficiency(real_config(directory))
        message = refusal(checkpoint=start, width_multiplier=0.25, model_dir=tmp_path / "curve")
        assert message.startswith(f"--checkpoint={start}/ckpt-1: another network; ")
    finally:
        start.rename(directory / "pretrain")
