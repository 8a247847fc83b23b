"""Scores and confusion matrices of evaluations, as HTML."""

import os
from collections.abc import Mapping

from tf_simclr.evaluation.probe_page import PROBES, describe_probe, image_cells
from tf_simclr.files import read_json
from tf_simclr.metrics.confusion import Confusion, confusion_path, read_confusion
from tf_simclr.metrics.scores import scores_form
from tf_simclr.rendering import html, scores
from tf_simclr.report.sections import Stages
from tf_simclr.suites.results import read_entries
from tf_simclr.suites.tables import BLANK, SUITES


def confusions(stages: Stages) -> str:
    """Returns the confusion matrix of the newest evaluation of each stage."""
    paths = {name: os.path.join(str(stage.model_dir), "result.json") for name, stage in stages.items()}
    shown = _show_confusions({name: read_confusion(confusion_path(path)) for name, path in paths.items()})
    if not shown:
        return html.text("There is no confusion matrix beside the results.")
    about = "The share of the held-out images of each class (a row) that was taken for each class (a column)."
    return html.text(about) + shown


def _show_confusions(matrices: Mapping[str, Confusion | None]) -> str:
    return "".join(scores.show_confusion(name, matrix) for name, matrix in matrices.items() if matrix)


def frozen_features(stages: Stages) -> str:
    """Returns the results of `--mode=linear_eval` and `--mode=knn_eval` in the directories of the stages."""
    rows, matrices = [], {}
    for name, stage in stages.items():
        for mode in PROBES:
            path = os.path.join(str(stage.model_dir), f"result_{mode}.json")
            result = read_json(path, {"linear_eval_protocol?": (str, None)} | scores_form(f"{mode}/"), fix="delete it")
            if result is None:
                continue
            rows.append([name, describe_probe(mode, result), *image_cells(result), *scores.score_cells(result, mode)])
            matrices[f"{name}, {mode}"] = read_confusion(confusion_path(path))
    if not rows:
        return html.text("Nothing yet: --mode=linear_eval and --mode=knn_eval evaluate the frozen features.")
    header = ["stage", "evaluation", "learnt from", "tested on", *scores.SCORE_HEADINGS]
    return html.table(header, rows, "results") + _show_confusions(matrices)


def suites(stages: Stages) -> str:
    """Returns the results of `--mode=transfer` and `--mode=robustness` in the directories of the stages."""
    shown = ""
    for name, stage in stages.items():
        for mode, (path, make_table) in SUITES.items():
            entries = read_entries(os.path.join(str(stage.model_dir), path))
            if entries:
                header, rows = make_table(entries)
                rows = [[scores.DASH if cell == BLANK else cell for cell in row] for row in rows]
                shown += html.subheading(f"{mode} of {name}") + html.table(header, rows, "results")
    return shown or html.text("Nothing yet: --mode=transfer and --mode=robustness evaluate the network on other data.")
