"""The curve of accuracy against the number of labels: its runs, its figures, going on, and bad input."""

import json
import logging
import re

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


def accuracy(step):
    """What a pretended run reaches."""
    base = {"finetune": 0.5, "supervised": 0.25, "distill": 0.125}[step.train.train_mode]
    return base + 0.01 * step.data.labels_per_class + 0.003 * step.train.seed**2


@pytest.fixture
def trained(monkeypatch):
    """The runs that were trained, none of them really."""
    seen = []

    def pretend(self, actions, *, later_work=0.0):
        seen.append(self.config)
        if self.config.train.train_mode == "pretrain":
            return {"global_step": 1, "num_weights": 177_698}
        top_1 = accuracy(self.config)
        return {
            "eval/label_top_1_accuracy": top_1,
            "eval/mean_per_class_accuracy": top_1 - 0.125,
            "eval/num_examples": 450,
            "global_step": 1,
            "num_weights": 177_698,
        }

    monkeypatch.setattr(label_efficiency.Experiment, "train", pretend)
    return seen


# ---- The runs


def test_runs_are_steps_with_their_labels_seeds_and_directories(tmp_path):
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


def test_checkpoint_takes_the_place_of_pretraining(tmp_path):
    config = curve_config(tmp_path, checkpoint="pretrained", num_seeds=1)
    assert "pretrain" not in config.runs
    starts = {run.train.train_mode: run.train.checkpoint for run in config.runs.values()}
    assert starts == {"finetune": "pretrained", "supervised": None}


def test_baseline_alone_needs_no_pretraining(tmp_path):
    config = curve_config(tmp_path, efficiency_methods="supervised")
    assert {run.train.train_mode for run in config.runs.values()} == {"supervised"}


def test_draws_start_from_several_networks_in_turn(tmp_path):
    config = curve_config(tmp_path, num_pretrained=2, num_seeds=3, seed=5, labels_per_class=1)
    assert list(config.runs)[:2] == ["pretrain", "pretrain_1"]
    for number, name in enumerate(("pretrain", "pretrain_1")):
        assert (config.runs[name].train.seed, config.runs[name].model_dir) == (5 + number, f"{tmp_path}/{name}")
    starts = [config.runs[f"labels_1/seed_{draw}/finetune"].train.checkpoint for draw in range(3)]
    assert starts == [f"{tmp_path}/{name}" for name in ("pretrain", "pretrain_1", "pretrain")]


@pytest.mark.parametrize(("methods", "pretrains"), [("linear_eval", True), ("raw_pixels,label_spreading", False)])
def test_frozen_methods_have_no_runs(tmp_path, methods, pretrains):
    assert list(curve_config(tmp_path, efficiency_methods=methods).runs) == ["pretrain"] * pretrains


def test_student_has_the_teacher_of_its_own_labels(tmp_path):
    config = curve_config(tmp_path, efficiency_methods="supervised, distill,finetune")
    assert config.methods == ("finetune", "distill", "supervised")
    for name in ("labels_1/seed_0", "labels_3/seed_1"):
        assert config.runs[f"{name}/distill"].distill.teacher == f"{tmp_path}/{name}/finetune"
    other = curve_config(tmp_path, "--distill.teacher=other", efficiency_methods="distill")
    assert {run.distill.teacher for run in other.runs.values()} == {"other"}


def test_bare_mode_is_a_curve_of_the_digits():
    config, notes = parse_command_line(["--mode=label_efficiency"])
    assert (config.labels, config.num_seeds, config.methods) == (
        (1, 2, 5, 10, 50),
        3,
        ("finetune", "supervised"),
    )
    assert config.model_dir == "runs/digits-label_efficiency"
    assert notes[0].startswith("Recipe: digits")
    assert len(config.runs) == 1 + 5 * 3 * 2
    recipe = parse_command_line([])[0]
    assert config.runs["labels_10/seed_0/finetune"].optimizer == recipe.finetune.optimizer
    assert config.networks[0].train == recipe.pretrain.train


def test_exports_of_all_runs_can_be_asked_for(tmp_path):
    config = curve_config(tmp_path, keep_hub_module_max=2)
    assert {run.keep_hub_module_max for run in config.runs.values()} == {2}


def test_what_a_recipe_says_of_checkpoints_and_exports_holds(tmp_path):
    (tmp_path / "a.flags").write_text("--keep_checkpoint_max=3\n--finetune.keep_hub_module_max=2\n")
    config = curve_config(tmp_path, f"--flagfile={tmp_path}/a.flags")
    for run in config.runs.values():
        assert run.train.keep_checkpoint_max == 3
        exports = {"pretrain": 1, "finetune": 2}
        assert run.keep_hub_module_max == exports.get(run.train.train_mode, 0)


def test_labels_of_a_recipe_give_way(tmp_path):
    (tmp_path / "a.flags").write_text("--finetune.labels_per_class=7\n--label_fraction=0.1\n")
    config = curve_config(tmp_path, f"--flagfile={tmp_path}/a.flags")
    assert {run.data.labels_per_class for name, run in config.runs.items() if name != "pretrain"} == {1, 3}


# ---- The figures


def test_recipe_of_the_whole_method_is_one_of_a_curve(tmp_path):
    config, _ = parse_command_line(
        [
            "--mode=label_efficiency",
            "--flagfile=photos",
            "--dataset=digits",
            f"--model_dir={tmp_path}",
        ]
    )
    assert config.networks[0].train.train_epochs == 200
    assert config.runs["labels_1/seed_0/finetune"].train.train_steps == 300


@pytest.mark.slow
def test_figures_are_those_of_the_runs(trained, tmp_path, log):
    config = curve_config(tmp_path, num_seeds=3)
    outcome = measure_label_efficiency(config)
    assert trained == list(config.runs.values())
    assert json.loads((tmp_path / "label_efficiency.json").read_text()) == outcome
    assert [point["labels_per_class"] for point in outcome["points"]] == [1, 3]
    assert outcome["evaluated_on"] == "digits (test)"
    for point in outcome["points"]:
        for method in ("finetune", "supervised"):
            runs = [config.runs[f"labels_{point['labels_per_class']}/seed_{draw}/{method}"] for draw in range(3)]
            expected = np.array([accuracy(run) for run in runs])
            check_spread(point[method]["label_top_1_accuracy"], expected)
            check_spread(point[method]["mean_per_class_accuracy"], expected - 0.125)
        check_spread(point["finetune_minus_supervised"]["label_top_1_accuracy"], np.full(3, 0.25))
    assert [message for message in log.messages if message.startswith("[")][::12] == [
        "[1/13] pretrain",
        "[13/13] labels_3/seed_2/supervised",
    ]


def check_spread(spread, values):
    expected = [*values, values.mean(), values.std(ddof=1), values.min(), values.max()]
    names = ("mean", "standard_deviation", "min", "max")
    np.testing.assert_allclose([*spread["by_seed"], *(spread[name] for name in names)], expected, atol=1e-12)


@pytest.mark.slow
def test_differences_are_of_the_same_draws_with_their_interval(trained, tmp_path):
    outcome = measure_label_efficiency(
        curve_config(
            tmp_path, num_seeds=3, efficiency_methods="supervised,raw_pixels", efficiency_baseline="raw_pixels"
        )
    )
    point = outcome["points"][1]
    ours, theirs = (np.array(point[name]["label_top_1_accuracy"]["by_seed"]) for name in ("supervised", "raw_pixels"))
    assert len(set(theirs)) > 1  # Each draw has other labels.
    difference = point["supervised_minus_raw_pixels"]["label_top_1_accuracy"]
    check_spread(difference, ours - theirs)
    half = 4.3027 * (ours - theirs).std(ddof=1) / np.sqrt(3)  # Student's t of two degrees of freedom.
    expected = [(ours - theirs).mean() - half, (ours - theirs).mean() + half]
    np.testing.assert_allclose(difference["interval_95"], expected, atol=1e-5)


def write_other_curve(directory, **values):
    """A curve with three draws of 1 and 3 labels, as an earlier version wrote it."""
    spread = {"label_top_1_accuracy": {"by_seed": [0.5, 0.25, 0.125]}}
    points = [{"labels_per_class": labels, "finetune": spread} for labels in (1, 3)]
    directory.mkdir()
    (directory / "label_efficiency.json").write_text(json.dumps({"points": points} | values))
    return directory


@pytest.mark.slow
def test_other_curve_is_subtracted_draw_by_draw(trained, tmp_path):
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
def test_curve_of_other_labels_is_not_subtracted(trained, tmp_path, flags):
    other = write_other_curve(tmp_path / "other", label_seed=0)
    message = refusal(**({"efficiency_methods": "finetune", "efficiency_baseline": other} | flags))
    assert message.startswith(f"--efficiency_baseline={other}: does not have all labels, draws and methods of")
    assert trained == []


TABLE = """\
| labels a class | finetune | supervised | finetune - supervised |
| --- | --- | --- | --- |
| 1 | 51.15 ± 0.21 | 26.15 ± 0.21 | +25.00 ± 0.00 |
| 3 | 53.15 ± 0.21 | 28.15 ± 0.21 | +25.00 ± 0.00 |
"""


@pytest.mark.slow
def test_table_is_printed_and_written(trained, tmp_path, log):
    measure_label_efficiency(curve_config(tmp_path))
    assert TABLE in "\n".join(log.messages) + "\n"
    written = (tmp_path / "label_efficiency.md").read_text()
    assert written.startswith("# Accuracy against the number of labels: digits (test)\n")
    assert f"## Top-1 accuracy\n\n{TABLE}" in written
    assert "| 1 | 38.65 ± 0.21 | 13.65 ± 0.21 |" in written.partition("Mean of the accuracies of the classes")[2]
    assert "on 450 images of digits (test): mean ± standard deviation of 2 seeds" in written


def test_one_seed_has_no_spread_and_says_so(trained, tmp_path):
    measure_label_efficiency(curve_config(tmp_path, num_seeds=1, efficiency_methods="supervised"))
    written = (tmp_path / "label_efficiency.md").read_text()
    assert "| labels a class | supervised |\n| --- | --- |\n| 1 | 26.00 |\n| 3 | 28.00 |" in written
    assert "of one seed, so there is no spread" in written
    point = json.loads((tmp_path / "label_efficiency.json").read_text())["points"][0]
    assert point["supervised"]["label_top_1_accuracy"]["standard_deviation"] is None


@pytest.mark.slow
def test_picture_shows_curves_and_spread(trained, tmp_path):
    measure_label_efficiency(curve_config(tmp_path, num_seeds=1))
    without = tf.io.decode_png((tmp_path / "label_efficiency.png").read_bytes()).numpy()
    measure_label_efficiency(curve_config(tmp_path, num_seeds=3))
    pixels = tf.io.decode_png((tmp_path / "label_efficiency.png").read_bytes()).numpy()
    assert pixels.shape == without.shape
    assert min(pixels.shape[:2]) > 500

    def pale(picture):  # Of a band, which is a light blue.
        red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
        return np.count_nonzero((blue - red > 20) & (red > 180))

    assert pale(pixels) > pale(without) + 1000


@pytest.mark.slow
def test_page_has_tables_picture_and_every_run(trained, tmp_path):
    config = curve_config(tmp_path)
    measure_label_efficiency(config)
    content = (tmp_path / "report.html").read_text()
    for cell in (
        "51.15 ± 0.21",
        "+25.00 ± 0.00",
        "38.65 ± 0.21",
        "ResNet-10 0.125x 8 px",
        "--labels_per_class",
    ):
        assert f"<td>{cell}</td>" in content
    for name, run in config.runs.items():
        if name != "pretrain":
            assert f"<tr><td>{name}</td><td>{accuracy(run):.2%}</td></tr>" in content
    assert content.count("src=") == content.count('src="data:image/png;base64,') == 1


@pytest.mark.exhaustive
def test_more_labels_and_seeds_are_added_to_those_there(trained, tmp_path):
    for settings in ({"num_seeds": 1}, {"num_seeds": 2}, {"labels_per_class": "1,2,3,4"}):
        outcome = measure_label_efficiency(curve_config(tmp_path, **settings))
    assert [point["labels_per_class"] for point in outcome["points"]] == [1, 2, 3, 4]


@pytest.mark.slow
def test_warning_of_repeated_tracing_is_left_out_and_no_other(monkeypatch, tmp_path):
    messages, logger, handler = [], tf.get_logger(), logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())

    def pretend(self, actions, *, later_work=0.0):
        logger.warning("%d out of the last 11 calls to %s triggered tf.function retracing.", 6, "run")
        logger.warning("another")
        return {"eval/label_top_1_accuracy": 0.5, "eval/num_examples": 450}

    monkeypatch.setattr(label_efficiency.Experiment, "train", pretend)
    monkeypatch.setattr(logger, "handlers", [handler])
    measure_label_efficiency(curve_config(tmp_path, efficiency_methods="supervised", num_seeds=1))
    assert messages == ["another"] * 2
    assert logger.filters == []


# ---- Bad input: one line each, before anything is trained


@pytest.mark.parametrize("value", ["1,x", "0,1", "0", "-1,3", "1,,3", "1.5,2", ","])
def test_labels_that_are_no_numbers_are_refused(value):
    message = refusal(labels_per_class=value)
    assert message.startswith(f"--labels_per_class={value}: use whole numbers of at least 1, with commas")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode=finetune", "--checkpoint=x"],
        ["--mode=supervised"],
        ["--mode=linear_eval", "--checkpoint=x"],
        [],
    ],
)
@pytest.mark.parametrize("value", ["1,10", "1,x"])
def test_other_modes_take_one_number_of_labels(arguments, value):
    with pytest.raises(UserError) as error:
        parse_command_line([*arguments, "--dataset=digits", f"--labels_per_class={value}"])
    assert str(error.value).startswith(f"--labels_per_class={value}: use one whole number; only --mode=")
    assert str(error.value).endswith("only --mode=label_efficiency takes several, with commas between them.")


def test_text_is_no_number_of_labels_in_any_mode():
    for mode in ("supervised", "label_efficiency"):
        with pytest.raises(UserError, match=r"^--labels_per_class=few: use a whole number "):
            parse_command_line([f"--mode={mode}", "--labels_per_class=few"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--num_seeds=0", "--num_seeds=0: use at least 1."),
        (
            "--efficiency_methods=finetune,knn",
            "--efficiency_methods=finetune,knn: use one or more of finetune, ",
        ),
        (
            "--efficiency_methods=distill",
            "--efficiency_methods=distill: the student's teacher is the finetuned ",
        ),
        ("--num_pretrained=3", "--num_pretrained=3: use 1 to 2, the value of --num_seeds."),
        ("--efficiency_baseline=distill", "--efficiency_baseline=distill: use one of --efficiency_methods, or the dir"),
        ("--efficiency_baseline=/none", "--efficiency_baseline=/none: is no method, and no directory of a finished"),
        ("--label_fraction=0.1", "--label_fraction=0.1: has no meaning with --mode=label_efficiency; "),
        ("--finetune.labels_per_class=5", "--finetune.labels_per_class=5: cannot differ between the stages; "),
        ("--finetune.label_seed=5", "--supervised.label_seed=0: finetuning has 5; "),
        ("--supervised.eval_split=train", "--supervised.eval_split=train: finetuning has test; "),
        ("--distill.learning_rate=1", "--distill.learning_rate=1: this stage is not run; leave it out"),
        ("--supervised.checkpoint=x", "--checkpoint=x: the supervised baseline starts from scratch; "),
        ("--teacher=x", "--teacher=x: the teacher is the network finetuned on the same labels; "),
        ("--train_mode=finetune", "--train_mode=finetune: contradicts --mode=label_efficiency; "),
        ("--finetune.num_proj_layers=3", "--finetune.num_proj_layers=3: the network is pretrained with 2; "),
        ("--checkpoint=/no/such", "--checkpoint=/no/such: no such checkpoint"),
        (
            "--labels_per_class=1,500",
            "--labels_per_class=500: digits (train) has 131 labelled examples of its sm",
        ),
        ("--finetune.profile_steps=5,6", "--profile_steps=5,6: the run has 1 step;"),
    ],
)
def test_curve_that_makes_no_sense_is_refused_before_it_trains(trained, tmp_path, argument, message):
    assert refusal(argument).startswith(message)
    assert trained == []


def test_flag_of_the_pretraining_is_refused_where_there_is_none(tmp_path):
    message = refusal("--pretrain.temperature=1", checkpoint="x")
    assert message.startswith("--pretrain.temperature=1: this stage is not run; leave it out")


def test_several_networks_contradict_a_named_one(tmp_path):
    message = refusal("--num_pretrained=2", checkpoint="x")
    assert message.startswith("--num_pretrained=2: all draws start from --checkpoint; leave one of them out.")


def test_checkpoint_that_is_no_run_is_refused(trained, tmp_path):
    assert refusal(checkpoint=tmp_path).startswith(f"--checkpoint={tmp_path}: no checkpoint in this directory")
    assert trained == []


def test_images_without_labels_are_refused(trained, tmp_path):
    write_images(tmp_path / "flat", 40)
    message = refusal(dataset=f"folder:{tmp_path}/flat", eval_split=None)
    assert message.startswith(f"--train_split=train: folder:{tmp_path}/flat (train) has no labels, which this")
    assert trained == []


def test_data_without_images_to_evaluate_on_are_refused(trained, tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / "photos" / name, 20)
    message = refusal(dataset=f"folder:{tmp_path}/photos", eval_split=None)
    assert message.startswith(f"--eval_split: folder:{tmp_path}/photos has no labelled images to evaluate on; name ")
    assert trained == []


def test_directory_of_another_kind_of_run_is_refused(trained, tmp_path):
    semi_supervised(whole_config(tmp_path / "whole"))
    with pytest.raises(UserError) as error:
        measure_label_efficiency(curve_config(tmp_path / "whole"))
    assert "(--train_mode=semi_supervised there, label_efficiency now)" in str(error.value)
    claim_directory(curve_config(tmp_path / "curve"))
    place = tmp_path / "curve" / "labels_1" / "seed_0" / "finetune"
    place.mkdir(parents=True)
    (place / "ckpt-1.index").touch()
    with pytest.raises(UserError) as error:
        semi_supervised(whole_config(tmp_path / "curve"))
    assert "(--train_mode=label_efficiency there, semi_supervised now)" in str(error.value)


# ---- Real runs


def real_config(directory, **flags):
    methods = ",".join(["finetune", "supervised", *FROZEN])
    settings = {"labels_per_class": 3, "eval_steps": 1, "num_pretrained": 2, "efficiency_methods": methods}
    return curve_config(directory, **(settings | flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("efficiency") / "curve"
    with eagerly():
        return directory, measure_label_efficiency(real_config(directory))


@pytest.mark.slow
def test_curve_is_that_of_runs_by_hand(finished, tmp_path):
    directory, outcome = finished
    settings = WHOLE | {"train_steps": 1, "labels_per_class": 3, "label_seed": 1, "seed": 1, "eval_steps": 1}
    starts = {"finetune": {"checkpoint": directory / "pretrain_1"}, "supervised": {}}
    for method, start in starts.items():
        with eagerly():
            config = tiny_config(tmp_path / method, **(settings | start | {"mode": method}))
            result = tf_simclr.train_and_evaluate(config)
        ours = directory / "labels_3" / "seed_1" / method
        assert differing_tensors(ours / "ckpt-1", tmp_path / method / "ckpt-1") == []
        top_1 = outcome["points"][0][method]["label_top_1_accuracy"]["by_seed"]
        assert top_1[1] == result["eval/label_top_1_accuracy"]
        assert not (ours / "saved_model").exists()


@pytest.mark.slow
def test_frozen_methods_are_those_of_scikit_learn(finished):
    directory, outcome = finished
    held_out = load_source(DataConfig(dataset="digits"), "test").part(0, 150)
    train = load_source(DataConfig(dataset="digits"), "train")
    pixels = [source.images.reshape(source.num_examples, -1) / 255 for source in (train, held_out)]
    scores = {name: outcome["points"][0][name]["label_top_1_accuracy"]["by_seed"] for name in FROZEN}
    assert outcome["points"][0]["raw_pixels"]["label_top_1_accuracy"]["mean"] > 0.5
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
        expected = [
            linear.score(scale(features[1]), held_out.labels),
            raw.score(pixels[1], held_out.labels),
        ]
        with np.errstate(invalid="ignore"):  # No label reaches some images.
            expected.append(spreading.score(pixels[1], held_out.labels))
        np.testing.assert_allclose([scores[name][draw] for name in FROZEN], expected, atol=1.5 / 150)


@pytest.mark.slow
def test_frozen_methods_are_computed_once(finished, monkeypatch):
    directory, outcome = finished
    stored = json.loads((directory / "result_frozen.json").read_text())
    assert set(stored) == {f"labels_3/seed_{draw}/{name}" for draw in (0, 1) for name in FROZEN}
    monkeypatch.setattr(frozen_methods, "compute_features", None)
    source = load_source(DataConfig(dataset="digits"), "test")
    results = frozen_methods.measure_frozen_methods(real_config(directory), source, writes=False)
    for name in FROZEN:
        values = [results[f"labels_3/seed_{draw}/{name}"]["eval/label_top_1_accuracy"] for draw in (0, 1)]
        assert values == outcome["points"][0][name]["label_top_1_accuracy"]["by_seed"]


@pytest.mark.slow
def test_finished_curve_trains_nothing_again(finished, log):
    directory, outcome = finished
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    events = []
    assert measure_label_efficiency(real_config(directory), lambda step: [events.append]) == outcome
    assert events == []
    assert sum(message.startswith("Already finished: ") for message in log.messages) == 6
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_interrupted_curve_goes_on_to_the_same_figures(finished, tmp_path):
    directory = finished[0]

    def interrupt(event):
        raise KeyboardInterrupt

    settings = {"checkpoint": directory / "pretrain", "num_seeds": 1, "num_pretrained": 1}
    settings["efficiency_methods"] = "finetune,supervised"
    broken = "labels_3/seed_0/supervised"
    with pytest.raises(KeyboardInterrupt), eagerly():
        measure_label_efficiency(
            real_config(tmp_path, **settings),
            lambda step: [interrupt] if step.model_dir.endswith(broken) else [],
        )
    assert not (tmp_path / "label_efficiency.json").exists()
    with eagerly():
        outcome = measure_label_efficiency(real_config(tmp_path, **settings))
    for ours, whole in zip(outcome["points"], finished[1]["points"], strict=True):
        for method in ("finetune", "supervised"):
            score = whole[method]["label_top_1_accuracy"]["by_seed"][0]
            assert ours[method]["label_top_1_accuracy"]["by_seed"] == [score]


@pytest.mark.slow
def test_curve_whose_start_was_deleted_is_refused(finished, tmp_path):
    directory = finished[0]
    (directory / "pretrain").rename(tmp_path / "away")
    try:
        with pytest.raises(UserError, match="finetune has begun, but pretrain, which it starts from, is gone"):
            measure_label_efficiency(real_config(directory))
    finally:
        (tmp_path / "away").rename(directory / "pretrain")


@pytest.mark.slow
def test_network_that_does_not_fit_is_refused_before_the_first_run_writes(finished, tmp_path):
    start = finished[0] / "pretrain"
    message = refusal(checkpoint=start, width_multiplier=0.25, model_dir=tmp_path / "curve")
    assert message.startswith(f"--checkpoint={start}/ckpt-1: another network; ")
