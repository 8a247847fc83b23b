"""The report: one page that needs no network, says what is missing, and is written whole or not at all."""

import dataclasses
import html.parser
import json
import os
import re
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.runs import TOTAL_STEPS, finished_run, tiny_config, write_images
from tf_simclr import report
from tf_simclr.config import SEMI_SUPERVISED, TRAIN_MODES, SemiSupervisedConfig, UserError
from tf_simclr.metrics.confusion import Confusion, largest_mistakes, read_confusion, to_csv
from tf_simclr.rendering import html as page
from tf_simclr.rendering import plots as pictures
from tf_simclr.report import evaluations, read_events, render_report, report_is_due, sections, write_report
from tf_simclr.workflows import run

TOP_1 = "eval/label_top_1_accuracy"
PNG = b"\x89PNG"


class Page(html.parser.HTMLParser):
    """The text of a page, what it refers to, and a check that every mark is closed."""

    VOID = ("meta", "img")

    def __init__(self, content):
        super().__init__()
        self.text, self.references, self.images, self._open = "", [], [], []
        self.feed(content)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._open += [] if tag in self.VOID else [tag]
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.images += [values["alt"]] if tag == "img" else []
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a finished run, and the directory in which it stands."""
    directory = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(finished_run().directory, directory)
    config = dataclasses.replace(finished_run().config, model_dir=str(directory))
    return directory, read(write_report(config, finished_run().result))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A copy of the finished run that may be changed, and its result; the map, which takes time, is left out."""
    monkeypatch.setattr(sections, "embedding", lambda name, step: "")
    shutil.copytree(finished_run().directory, tmp_path / "run")
    return dataclasses.replace(finished_run().config, model_dir=str(tmp_path / "run")), finished_run().result


@pytest.fixture
def method(tmp_path):
    """The configuration of the whole method, of which nothing has been run."""
    steps = {name: step_config(name, labels_per_class=5) for name in TRAIN_MODES}
    start = dataclasses.replace(steps["finetune"].train, checkpoint=None)  # What was pretrained.
    steps["finetune"] = dataclasses.replace(steps["finetune"], train=start)
    return SemiSupervisedConfig(model_dir=str(tmp_path / SEMI_SUPERVISED), **steps)


def step_config(name, **flags):
    """Of a step that is not run: where it starts and who teaches it does not matter."""
    needed = {"finetune": {"checkpoint": "somewhere"}, "distill": {"teacher": "somewhere"}}
    return tiny_config("somewhere", train_mode=name, **needed.get(name, {}), **flags)


def read(path):
    """A page as it stands in the file, and what a browser makes of it."""
    with open(path, encoding="utf-8") as file:
        content = file.read()
    return content, Page(content)


def result(top_1, calibration_error=0.05):
    return {
        "global_step": 6,
        "num_weights": 177_698,
        TOP_1: top_1,
        "eval/label_top_5_accuracy": 1.0,
        "eval/mean_per_class_accuracy": top_1 - 0.02,
        "eval/expected_calibration_error": calibration_error,
    }


def rows_of(table):
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", table)]


# ---- A finished run


@pytest.mark.slow
def test_page_of_a_finished_run_has_every_section(written):
    directory, (content, page) = written
    top_1 = finished_run().result[TOP_1]
    assert f"{top_1:.2%}" in page.text
    assert "450 images of digits (test)" in page.text
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
    assert (directory / "report.html").exists()


def test_page_refers_to_nothing_outside(written):
    content, page = written[1]
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not re.search(r"@import|url\(|https?://", content)


def test_snippet_of_the_page_runs(written):
    directory, (content, _) = written
    snippet = html.unescape(re.search(r"<pre>(.*?)</pre>", content, re.DOTALL)[1])
    assert f'tf.saved_model.load("{directory}/saved_model/{TOTAL_STEPS}")' in snippet
    names = {"images": tf.zeros([2, 8, 8, 3])}
    exec(snippet, names)
    assert names["features"].shape == (2, 64)


def test_user_is_told_where_the_report_is(finished, log):
    path = write_report(*finished)
    assert path == os.path.join(finished[0].model_dir, "report.html")
    assert f"Report: {path}" in log.text


def test_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*report\.html .*; free some space") as caught:
        write_report(tiny_config(tmp_path / "file"), {"global_step": 0})
    assert "\n" not in str(caught.value)


def test_report_that_fails_half_way_leaves_the_old_one(finished, monkeypatch):
    config, result = finished
    with open(write_report(config, result), "rb") as file:
        before = file.read()

    def fail(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "disk full")

    monkeypatch.setattr(tf.io.gfile, "rename", fail)
    with pytest.raises(UserError, match="disk full"):
        write_report(config, result)
    with open(os.path.join(config.model_dir, "report.html"), "rb") as file:
        assert file.read() == before
    assert not [name for name in os.listdir(config.model_dir) if name.endswith(".tmp")]


# ---- When it is due


def test_report_is_due_until_it_is_newer_than_the_results(finished):
    config, result = finished
    assert report_is_due(config)
    path = write_report(config, result)
    assert not report_is_due(config)
    os.utime(path, (0, 0))
    assert report_is_due(config)


def test_named_evaluation_has_a_page_of_its_own():
    """It may be on other data: the page of the run stays."""
    assert report._path(tiny_config("x")) == "x/report.html"
    assert report._path(tiny_config("x", mode="eval", eval_name="other")) == "x/report_other.html"


def test_report_of_nothing_is_not_due(method):
    assert not report_is_due(method)


def test_program_reports_a_finished_run_once(finished, monkeypatch, log):
    config, result = finished
    monkeypatch.setattr(run, "train_and_evaluate", lambda *arguments: result)
    run.run(config)
    path = os.path.join(config.model_dir, "report.html")
    os.utime(path, ns=(written := os.stat(path).st_mtime_ns, written))
    log.clear()
    run.run(config)
    assert os.stat(path).st_mtime_ns == written
    assert log.messages == [f"Report: {path}"]
    os.remove(path)
    run.run(config)
    assert os.path.exists(path)


# ---- What is missing


def test_page_of_the_whole_method_without_any_file(method, tmp_path):
    os.makedirs(method.model_dir)
    _, page = read(write_report(method, {"finetune": result(0.5)}))
    assert page.text.count("There are no curves in the event files of") == 4
    assert "There is no picture of the views" in page.text
    assert f"Not shown: --model_dir={tmp_path}/semi_supervised/finetune: no such checkpoint" in page.text
    assert "There is no export of distill" in page.text
    assert "finetuning on 5 labels per class, distillation from a teacher, and a supervised" in page.text


def test_data_without_an_evaluation_split_are_said_so(tmp_path):
    config = tiny_config(tmp_path, dataset=f"folder:{write_images(tmp_path / 'a', 3)}", eval_split=None)
    assert "has no validation or test split" in sections.embedding("pretrain", config)


def test_data_that_have_moved_do_not_cost_the_page(tmp_path):
    config = tiny_config(tmp_path, dataset="folder:/does/not/exist")
    content = Page(render_report({"pretrain": config}, {}))
    assert "Not shown: --dataset=folder:/does/not/exist: /does/not/exist does not exist" in content.text


@pytest.fixture
def fake_network(monkeypatch):
    """Representations at will in place of a network's."""

    def use(features, labels):
        network = types.SimpleNamespace(config=types.SimpleNamespace(image_size=8))
        monkeypatch.setattr(sections, "load_network", lambda *arguments: network)
        monkeypatch.setattr(sections, "extract_features", lambda *arguments: (features, labels))
        monkeypatch.setattr(pictures, "project", lambda features: features[:, :2])

    return use


def test_images_without_labels_have_no_colours(tmp_path, fake_network):
    fake_network(np.random.default_rng(0).normal(size=(30, 4)), np.full(30, -1))
    content = sections.embedding("pretrain", tiny_config(tmp_path))
    assert "Without colours, as the images have no labels." in content
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


def test_map_shows_at_most_a_thousand_images(tmp_path, monkeypatch):
    seen = []

    def extract(network, dataset):
        seen.append(sum(int(batch["mask"].numpy().sum()) for batch in dataset))
        return np.ones((30, 4)), np.zeros(30, int)

    network = types.SimpleNamespace(config=types.SimpleNamespace(image_size=8))
    monkeypatch.setattr(sections, "load_network", lambda *arguments: network)
    monkeypatch.setattr(sections, "extract_features", extract)
    sections.embedding("pretrain", tiny_config(tmp_path, eval_split="train"))
    assert seen == [1000]


# ---- The table


def test_table_has_a_dash_for_what_is_missing(method):
    table = sections.results_table(method.steps, {"pretrain": [{"global_step": 6, "num_weights": 194_328}]})
    network = "ResNet-10 0.125x 8 px"
    assert rows_of(table) == [
        ["pretrain", network, "none", "0.19 M", "6", *["–"] * 4],  # noqa: RUF001
        ["finetune", network, "5 per class", *["–"] * 6],  # noqa: RUF001
        ["distill", network, "none", *["–"] * 6],  # noqa: RUF001
        ["supervised", network, "5 per class", *["–"] * 6],  # noqa: RUF001
    ]


def test_unreadable_images_are_told_below_the_table(method):
    some = {"train/num_bad_images": 3, "eval/num_bad_images": 0}
    results = {"pretrain": [some, some], "finetune": [some | {"eval/num_bad_images": 2}], "distill": [{}]}
    table = sections.results_table(method.steps, results)
    assert "Unreadable images that pretrain met: 6 in training." in table
    assert "Unreadable images that finetune met: 3 in training and 2 in evaluation." in table
    assert table.count("Unreadable") == 2


def test_several_results_are_mean_and_spread(method):
    results = {"finetune": [result(0.90, 0), result(0.92, 0.02), result(0.97)], "distill": [result(0.95)]}
    rows = rows_of(sections.results_table(method.steps, results))
    # The deviation of 90, 92, 97: sqrt((9 + 1 + 16) / 2).
    assert rows[1][3:7] == ["0.18 M", "6", "93.00 ± 3.61% (n = 3)", "100.00 ± 0.00% (n = 3)"]
    assert rows[1][7:] == ["91.00 ± 3.61% (n = 3)", "0.0233 ± 0.0252 (n = 3)"]
    assert rows[2][5] == "95.00%"


def test_several_results_of_one_step_are_a_list(finished):
    config, _ = finished
    assert "60.00 ± 14.14% (n = 2)" in read(write_report(config, [result(0.5), result(0.7)]))[0]


def test_labels_used_follow_the_flags():
    def used(**flags):
        steps = {"finetune": step_config("finetune", **flags)}
        return rows_of(sections.results_table(steps, {}))[0][2]

    assert (used(), used(label_fraction=0.1), used(labels_per_class=4)) == (
        "all",
        "10% of all",
        "4 per class",
    )
    counted = {"finetune": [{"train/num_labels": 40}]}
    steps = {"finetune": step_config("finetune")}
    assert rows_of(sections.results_table(steps, counted))[0][2] == "all 40"
    assert sections.describe_run(steps, counted) == "Finetuning on all 40 labels."
    steps = {"finetune": step_config("finetune", labels_per_class=1)}
    assert sections.describe_run(steps, counted) == "Finetuning on 1 label per class."
    distilled = step_config("distill", distill_alpha=0.5)
    assert rows_of(sections.results_table({"distill": distilled}, {}))[0][2] == "all"


def test_settings_that_differ_stand_side_by_side(method):
    differing, common = re.findall(r"<table.*?</table>", sections.settings(method.steps))
    assert ["--train_mode", *TRAIN_MODES] in rows_of(differing)
    assert ["--resnet_depth", "10"] in rows_of(common)


def test_whatever_is_shown_is_escaped(tmp_path):
    evil = "<script>alert('&')</script>"
    config = tiny_config(tmp_path, dataset=f"folder:{evil}")
    assert "script" in Page(render_report({"pretrain": config}, {})).text
    for mark in (page.text, page.subheading, page.code):
        assert "<script" not in mark(evil)
    assert "<script" not in page.table([evil], [[evil]], "results")
    assert "<script" not in page.legend([("o", "#000000", evil)])
    assert "<script" not in page.picture(PNG, evil)


# ---- Confusions and frozen features

MATRIX = Confusion(np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]]), ("cat", "<b>dog</b>", "$owl_$"))


def write_probe(directory, mode, **content):
    directory.mkdir(exist_ok=True)
    scores = {f"{mode}/{name}": 0.5 for name in ("label_top_1_accuracy", "mean_per_class_accuracy")}
    about = {"train": "digits (train)", "test": "digits (test)", "linear_eval_protocol": "sgd"} | content
    (directory / f"result_{mode}.json").write_text(json.dumps(scores | about))
    (directory / f"result_{mode}_confusion.csv").write_text(to_csv(MATRIX))


def test_page_shows_the_counts_of_the_run(written):
    directory, (_, page) = written
    matrix = read_confusion(str(directory / "result_confusion.csv"))
    assert matrix.counts.sum() == 450
    (first, *_) = largest_mistakes(matrix, 1)
    assert f" {first.class_name} {first.taken_for} {first.num_images} {first.share:.1%} " in page.text


def test_confusions_of_all_steps_are_shown_and_their_names_escaped(method, tmp_path):
    assert "There is no confusion matrix" in evaluations.confusions(method.steps)
    for name in ("finetune", "distill"):
        directory = tmp_path / SEMI_SUPERVISED / name
        directory.mkdir(parents=True)
        (directory / "result_confusion.csv").write_text(to_csv(MATRIX))
    content = evaluations.confusions(method.steps)
    assert Page(content).images == ["confusion matrix of finetune", "confusion matrix of distill"]
    assert rows_of(content) == [["cat", "&lt;b&gt;dog&lt;/b&gt;", "2", "20.0%"]] * 2


def test_frozen_features_of_a_run_are_in_its_report(tmp_path):
    steps = {"pretrain": tiny_config(tmp_path / "run")}
    assert "Nothing yet" in evaluations.frozen_features(steps)
    write_probe(tmp_path / "run", "linear_eval")
    write_probe(tmp_path / "run", "knn_eval", linear_eval_protocol=None)
    assert report_is_due(steps["pretrain"])
    content = evaluations.frozen_features(steps)
    split = ["digits (train)", "digits (test)"]
    scores = ["50.00%", "–", "50.00%", "–"]  # noqa: RUF001
    assert rows_of(content)[:2] == [
        ["pretrain", "linear_eval (sgd)", *split, *scores],
        ["pretrain", "knn_eval", *split, *scores],
    ]
    assert Page(content).images == [f"confusion matrix of pretrain, {mode}" for mode in ("linear_eval", "knn_eval")]
    (tmp_path / "run" / "result_knn_eval.json").write_text("damaged")
    with pytest.raises(UserError, match=r"result_knn_eval\.json: damaged or unreadable"):  # The page has this line.
        evaluations.frozen_features(steps)


def test_suites_of_a_run_are_in_its_report(tmp_path):
    steps = {"pretrain": tiny_config(tmp_path)}
    assert "Nothing yet: --mode=transfer and" in evaluations.suites(steps)
    (tmp_path / "transfer").mkdir()
    scores = {"label_top_1_accuracy": 0.5, "num_examples": 12}
    settings = {"weights": "w", "metric": "top-1"}
    path = tmp_path / "transfer" / "result_transfer.json"
    path.write_text(json.dumps({"linear/dtd": scores | {"settings": settings}}))
    assert report_is_due(steps["pretrain"])
    robust = {"imagenet_a": scores | {"num_classes": 200, "settings": {"weights": "w"}}}
    (tmp_path / "result_robustness.json").write_text(json.dumps(robust))
    content = evaluations.suites(steps)
    assert re.findall("<h3>(.*?)</h3>", content) == ["transfer of pretrain", "robustness of pretrain"]
    assert rows_of(content) == [
        ["dtd", "top-1", "50.00%", "–", "12"],  # noqa: RUF001
        ["imagenet_a", "12", "200", "50.00%", "–", "–"],  # noqa: RUF001
    ]
    path.write_text("damaged")
    with pytest.raises(UserError, match=r"result_transfer\.json: damaged or unreadable"):
        evaluations.suites(steps)


@pytest.mark.parametrize("names", [("a", "b"), ("_hidden", "$x_{$"), ("猫", "狗"), ("a long name " * 5, "two\nlines")])
def test_classes_of_any_name_are_drawn(names):
    assert pictures.plot_confusion(np.array([[3, 1], [0, 0]]), names).startswith(PNG)
    points = np.random.default_rng(0).normal(size=(2, 2))
    assert pictures.plot_points(points, np.arange(2), 2, legend=names).startswith(PNG)


def test_classes_are_numbers_where_the_font_lacks_a_letter_and_short():
    assert pictures.drawn_names(["猫", "dog"]) == ["0", "1"]
    assert pictures.drawn_names(["über\tall", "x" * 30]) == ["über all", "x" * 23 + "…"]


@pytest.mark.slow
def test_many_classes_are_drawn_without_names():
    assert pictures.plot_confusion(np.eye(1000, dtype=int), ["猫"] * 1000).startswith(PNG)


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


def test_events_have_the_picture_of_the_views():
    events = read_events(str(finished_run().directory))
    assert tf.io.decode_png(events.views).shape == (2 * 8, 8 * 8, 3)
    assert events.views_width == 64


def test_curves_show_the_level_of_chance(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pictures, "plot_losses", lambda scalars, chance: seen.append(chance) or PNG)
    config = tiny_config(tmp_path)
    sections.curves("pretrain", config, read_events(str(tmp_path)))
    assert seen == [("chance, 2 ln(63) = 8.29", pytest.approx(2 * np.log(2 * 32 - 1)))]


@pytest.mark.parametrize("draw", [lambda s: pictures.plot_losses(s, ("chance", 5.0)), pictures.plot_accuracies])
def test_curves_are_drawn_where_there_are_any(draw):
    points = [(step, 1 / step) for step in range(1, 40)]
    assert draw({tag: points for tag in pictures.LOSSES | pictures.ACCURACIES}).startswith(PNG)
    assert draw({"train/images_per_second": points}) is None


@pytest.mark.parametrize("num_classes", [0, 3, 20, 21])
def test_map_is_drawn_for_any_number_of_classes(num_classes):
    labels = np.arange(-1, num_classes)
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    assert pictures.plot_points(points, labels, num_classes).startswith(PNG)


def test_twenty_classes_look_different():
    looks = pictures.class_looks([str(number) for number in range(20)])
    assert len({look[:2] for look in looks}) == 20


@pytest.mark.parametrize("shape", [(12, 3), (40, 80)])
def test_projection_takes_few_images_and_features_and_repeats(shape):
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    features[: len(features) // 2] += 20
    points = pictures.project(features)
    assert points.shape == (len(features), 2)
    np.testing.assert_array_equal(points, pictures.project(features))
    # Two heaps stay two heaps.
    first, second = np.split(points, 2)
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > max(first.std(), second.std())
