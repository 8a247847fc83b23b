"""Confusions, frozen features and suites in the report."""

import json
import re

import numpy as np

from tests.report.conftest import Page, rows_of
from tests.support.runs import tiny_config
from tf_simclr.config import SEMI_SUPERVISED
from tf_simclr.metrics.confusion import Confusion, to_csv
from tf_simclr.report import evaluations, report_is_due

MATRIX = Confusion(np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]]), ("cat", "<b>dog</b>", "$owl_$"))


def write_probe(directory, mode, **content):
    directory.mkdir(exist_ok=True)
    scores = {f"{mode}/{name}": 0.5 for name in ("label_top_1_accuracy", "mean_per_class_accuracy")}
    about = {"train": "digits (train)", "test": "digits (test)", "linear_eval_protocol": "sgd"} | content
    (directory / f"result_{mode}.json").write_text(json.dumps(scores | about))
    (directory / f"result_{mode}_confusion.csv").write_text(to_csv(MATRIX))


def test_confusions_of_all_stages_are_shown_and_their_names_escaped(method, tmp_path):
    assert "There is no confusion matrix" in evaluations.confusions(method.stages)
    for name in ("finetune", "distill"):
        directory = tmp_path / SEMI_SUPERVISED / name
        directory.mkdir(parents=True)
        (directory / "result_confusion.csv").write_text(to_csv(MATRIX))
    content = evaluations.confusions(method.stages)
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
