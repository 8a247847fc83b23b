"""The report is one page that needs no network, names missing parts, and is written whole or not at all."""

import dataclasses
import html.parser
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.report.conftest import Page, rows_of, step_config
from tests.support.runs import TOTAL_STEPS, finished_run, tiny_config, write_images
from tf_simclr import report
from tf_simclr.config import TRAIN_MODES
from tf_simclr.metrics.confusion import largest_mistakes, read_confusion
from tf_simclr.rendering import plots as pictures
from tf_simclr.report import read_events, render_report, report_is_due, sections, write_report
from tf_simclr.workflows import run

TOP_1 = "eval/label_top_1_accuracy"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a finished run, with few images in its map, and the directory of the run."""
    directory = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(finished_run().directory, directory)
    config = dataclasses.replace(finished_run().config, model_dir=str(directory))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "_MAX_IMAGES", 40)
        return directory, read(write_report(config, finished_run().result))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A copy of the finished run that may be changed, and its result; the page has only the results."""
    monkeypatch.setattr(report, "render_report", lambda steps, results: str(results))
    shutil.copytree(finished_run().directory, tmp_path / "run")
    return dataclasses.replace(finished_run().config, model_dir=str(tmp_path / "run")), finished_run().result


def read(path):
    """The content of a page, as written and as parsed."""
    with open(path, encoding="utf-8") as file:
        content = file.read()
    return content, Page(content)


# ---- A finished run


@pytest.mark.slow
def test_page_of_a_finished_run_has_every_section(written):
    directory, (content, page) = written
    assert f"{finished_run().result[TOP_1]:.2%}" in page.text
    assert "40 images of digits (test)" in page.text
    assert f"TensorFlow {tf.__version__}" in page.text
    assert page.images == [
        "confusion matrix of pretrain",
        "loss of pretrain over the steps",
        "accuracy of pretrain over the steps",
        "random views of training images",
        "map of the images",
    ]
    assert "Not shown" not in page.text
    assert content.count("<li>") == 10
    matrix = read_confusion(str(directory / "result_confusion.csv"))
    assert matrix.counts.sum() == 450
    (first, *_) = largest_mistakes(matrix, 1)
    assert f" {first.class_name} {first.taken_for} {first.num_images} {first.share:.1%} " in page.text
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not re.search(r"@import|url\(|https?://", content)


@pytest.mark.slow
def test_snippet_of_the_page_runs(written):
    directory, (content, _) = written
    snippet = html.unescape(re.search(r"<pre>(.*?)</pre>", content, re.DOTALL)[1])
    assert f'tf.saved_model.load("{directory}/saved_model/{TOTAL_STEPS}")' in snippet
    names = {"images": tf.zeros([2, 8, 8, 3])}
    exec(snippet, names)
    assert names["features"].shape == (2, 64)


# ---- When it is due


def test_named_evaluation_has_a_page_of_its_own():
    """It may be on other data, so the page of the run stays."""
    assert report._path(tiny_config("x")) == "x/report.html"
    assert report._path(tiny_config("x", mode="eval", eval_name="other")) == "x/report_other.html"


def test_program_reports_a_finished_run_once(finished, method, monkeypatch, log):
    config, result = finished
    assert report_is_due(config) and not report_is_due(method)
    monkeypatch.setattr(run, "train_and_evaluate", lambda *arguments: result)
    run.run(config)
    path = pathlib.Path(config.model_dir, "report.html")
    assert f"Report: {path}" in log.text and not report_is_due(config)
    path.write_text("old")
    log.clear()
    run.run(config)
    assert log.messages == [f"Report: {path}"] and path.read_text() == "old"
    os.utime(path, (0, 0))
    assert report_is_due(config)
    run.run(config)
    assert path.read_text() != "old"


# ---- What is missing


def test_page_of_the_whole_method_without_any_file(method, tmp_path):
    os.makedirs(method.model_dir)
    scores = {"label_top_1_accuracy": 0.9, "mean_per_class_accuracy": 0.88, "expected_calibration_error": 0.05}
    _, page = read(write_report(method, {"finetune": {f"eval/{name}": score for name, score in scores.items()}}))
    assert " 90.00% – 88.00% 0.0500 " in page.text  # noqa: RUF001
    assert page.text.count("There are no curves in the event files of") == 4
    assert "There is no picture of the views" in page.text
    assert f"Not shown: --model_dir={tmp_path}/semi_supervised/finetune: no such checkpoint" in page.text
    assert "There is no export of distill" in page.text
    assert "finetuning on 5 labels per class, distillation from a teacher, and a supervised" in page.text


def test_page_names_data_without_an_evaluation_split(tmp_path):
    config = tiny_config(tmp_path, dataset=f"folder:{write_images(tmp_path / 'a', 3)}", eval_split=None)
    assert "has no validation or test split" in sections.embedding("pretrain", config)


def test_data_that_have_moved_do_not_cost_the_page(tmp_path):
    """Their name is escaped, or the parser would fail."""
    config = tiny_config(tmp_path, dataset="folder:/<script>")
    content = Page(render_report({"pretrain": config}, {}))
    assert "Not shown: --dataset=folder:/<script>: /<script> does not exist" in content.text


@pytest.fixture
def fake_network(monkeypatch):
    """Replaces a network's representations by given ones."""

    def use(features, labels):
        network = types.SimpleNamespace(config=types.SimpleNamespace(image_size=8))
        monkeypatch.setattr(sections, "load_network", lambda *arguments: network)
        monkeypatch.setattr(sections, "extract_features", lambda *arguments: (features, labels))
        monkeypatch.setattr(pictures, "project", lambda features: features[:, :2])

    return use


def test_images_without_labels_have_no_colours(tmp_path, fake_network):
    fake_network(np.random.default_rng(0).normal(size=(30, 4)), np.full(30, -1))
    content = sections.embedding("pretrain", tiny_config(tmp_path))
    assert "Without colours, because the images have no labels." in content
    assert "<img" in content
    assert "<li>" not in content


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((30, 4)), "the network has collapsed"),
        (np.eye(4), "too few readable images"),
        (np.arange(30.0)[:, np.newaxis], "the output is a single number"),
        (np.full((30, 4), np.nan), "of some images is not finite"),
    ],
)
def test_map_that_would_show_nothing_is_a_sentence(tmp_path, fake_network, features, message):
    fake_network(features, np.zeros(len(features), int))
    content = sections.embedding("pretrain", tiny_config(tmp_path))
    assert message in content
    assert "<img" not in content


# ---- The table


def test_table_has_a_dash_for_what_is_missing(method):
    table = sections.results_table(method.stages, {"pretrain": {"global_step": 6, "num_weights": 194_328}})
    network = "ResNet-10 0.125x 8 px"
    assert rows_of(table) == [
        ["pretrain", network, "none", "0.19 M", "6", *["–"] * 4],  # noqa: RUF001
        ["finetune", network, "5 per class", *["–"] * 6],  # noqa: RUF001
        ["distill", network, "none", *["–"] * 6],  # noqa: RUF001
        ["supervised", network, "5 per class", *["–"] * 6],  # noqa: RUF001
    ]


def test_unreadable_images_are_told_below_the_table(method):
    results = {
        "pretrain": {"train/num_bad_images": 3, "eval/num_bad_images": 0},
        "finetune": {"train/num_bad_images": 4, "eval/num_bad_images": 2},
        "distill": {},
    }
    table = sections.results_table(method.stages, results)
    assert "Unreadable images that pretrain met: 3 in training." in table
    assert "Unreadable images that finetune met: 4 in training and 2 in evaluation." in table
    assert table.count("Unreadable") == 2


def test_labels_used_follow_the_flags():
    def used(**flags):
        steps = {"finetune": step_config("finetune", **flags)}
        return rows_of(sections.results_table(steps, {}))[0][2]

    assert (used(), used(label_fraction=0.1), used(labels_per_class=4)) == ("all", "10% of all", "4 per class")
    counted = {"finetune": {"train/num_labels": 40}}
    steps = {"finetune": step_config("finetune")}
    assert rows_of(sections.results_table(steps, counted))[0][2] == "all 40"
    assert sections.describe_run(steps, counted) == "Finetuning on all 40 labels."
    steps = {"finetune": step_config("finetune", labels_per_class=1)}
    assert sections.describe_run(steps, counted) == "Finetuning on 1 label per class."
    distilled = step_config("distill", distill_alpha=0.5)
    assert rows_of(sections.results_table({"distill": distilled}, {}))[0][2] == "all"


def test_settings_that_differ_stand_side_by_side(method):
    differing, common = re.findall(r"<table.*?</table>", sections.settings(method.stages))
    assert ["--train_mode", *TRAIN_MODES] in rows_of(differing)
    assert ["--resnet_depth", "10"] in rows_of(common)


# ---- Curves and pictures


def write_scalars(directory, values):
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default():
        for step, value in values:
            tf.summary.scalar("train/contrast_loss", value, step=step)
    writer.close()


def test_events_of_a_resumed_run_are_one_curve(tmp_path):
    write_scalars(tmp_path, [(1, 4.0), (2, 3.0), (3, 9.0)])
    write_scalars(tmp_path, [(3, 2.0), (4, 1.0)])
    events = read_events(str(tmp_path))
    assert events.scalars == {"train/contrast_loss": [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]}
    assert events.views is None


def test_events_that_are_cut_off_are_read_as_far_as_they_go(tmp_path):
    write_scalars(tmp_path, [(1, 4.0), (2, 3.0)])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert read_events(str(tmp_path)).scalars == {"train/contrast_loss": [(1, 4.0)]}


def test_curves_show_the_level_of_chance(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pictures, "plot_curves", lambda what, scalars, chance: seen.append((what, chance)) or PNG)
    config = tiny_config(tmp_path)
    sections.curves("pretrain", config, read_events(str(tmp_path)))
    assert seen == [("loss", ("chance, 2 ln(63) = 8.29", pytest.approx(2 * np.log(2 * 32 - 1)))), ("accuracy", None)]
