"""What evaluations say, as HTML: their scores, and which classes are taken for which."""

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tf_simclr.config import ExperimentConfig
from tf_simclr.files import read_json
from tf_simclr.metrics.confusion import Confusion, confusion_path, largest_mistakes, read_confusion
from tf_simclr.metrics.scores import scores_form
from tf_simclr.rendering import html, plots
from tf_simclr.suites.results import read_entries
from tf_simclr.suites.tables import BLANK, SUITES

DASH = "\N{EN DASH}"
# Key in a file of results, heading, and whether it is shown in per cent.
_SCORES = (
    ("label_top_1_accuracy", "top-1", True),
    ("label_top_5_accuracy", "top-5", True),
    ("mean_per_class_accuracy", "mean per class", True),
    ("expected_calibration_error", "calibration error", False),
)
SCORE_HEADINGS = tuple(heading for _, heading, _ in _SCORES)
PROBES = {"linear_eval": "Linear classifier", "knn_eval": "Nearest neighbours"}
_NUM_MISTAKES = 10


def score_cells(results: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """Returns the cells of a table under `SCORE_HEADINGS`.

    Args:
        results: none, one, or several, of which mean, standard deviation and number are given.
        prefix: of the keys, such as `eval`.
    """
    cells = []
    for name, _, is_share in _SCORES:
        values = [one[f"{prefix}/{name}"] for one in results if one.get(f"{prefix}/{name}") is not None]
        factor, unit, digits = (100, "%", 2) if is_share else (1, "", 4)
        cells.append(_mean_and_spread([factor * value for value in values], unit, digits))
    return cells


def _mean_and_spread(values: Sequence[float], unit: str, digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}{unit}" if values else DASH
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return f"{mean:.{digits}f} \N{PLUS-MINUS SIGN} {spread:.{digits}f}{unit} (n = {len(values)})"


def confusions(steps: Mapping[str, ExperimentConfig]) -> str:
    """Returns the confusion matrix of the newest evaluation of each step."""
    found = {
        name: matrix
        for name, step in steps.items()
        if (matrix := read_confusion(confusion_path(os.path.join(str(step.model_dir), "result.json"))))
    }
    if not found:
        return html.text("There is no confusion matrix beside the results.")
    about = "Of the held-out images of each class (a row), the share that was taken for each class (a column)."
    return html.text(about) + "".join(show_confusion(name, matrix) for name, matrix in found.items())


def show_confusion(name: str, confusion: Confusion) -> str:
    """Returns the picture of a confusion matrix, and the most frequent mistakes as a table."""
    png = plots.plot_confusion(confusion.counts, confusion.class_names)
    picture = html.picture(png, f"confusion matrix of {name}", "square")
    mistakes = [
        [mistake.class_name, mistake.taken_for, str(mistake.num_images), f"{mistake.share:.1%}"]
        for mistake in largest_mistakes(confusion, _NUM_MISTAKES)
    ]
    header = ["class", "taken for", "images", "of the class"]
    table = html.table(header, mistakes, "mistakes") if mistakes else html.text("Every image is classed right.")
    return html.subheading(name) + html.grid([picture, table])


def frozen_features(steps: Mapping[str, ExperimentConfig]) -> str:
    """Returns what `--mode=linear_eval` and `--mode=knn_eval` have written into the directories of the steps."""
    rows, matrices = [], {}
    for name, step in steps.items():
        for mode in PROBES:
            path = os.path.join(str(step.model_dir), f"result_{mode}.json")
            result = read_json(path, {"linear_eval_protocol?": (str, None)} | scores_form(f"{mode}/"), fix="delete it")
            if result is None:
                continue
            rows.append([name, _how(mode, result), *_images(result), *score_cells([result], mode)])
            matrices[f"{name}, {mode}"] = read_confusion(confusion_path(path))
    if not rows:
        return html.text("Nothing yet: --mode=linear_eval and --mode=knn_eval evaluate the frozen features.")
    header = ["step", "evaluation", "learnt from", "tested on", *SCORE_HEADINGS]
    shown = "".join(show_confusion(name, matrix) for name, matrix in matrices.items() if matrix)
    return html.table(header, rows, "results") + shown


def suites(steps: Mapping[str, ExperimentConfig]) -> str:
    """Returns what `--mode=transfer` and `--mode=robustness` have written into the directories of the steps."""
    shown = ""
    for name, step in steps.items():
        for mode, (path, make_table) in SUITES.items():
            entries = read_entries(os.path.join(str(step.model_dir), path))
            if entries:
                header, rows = make_table(entries)
                rows = [[DASH if cell == BLANK else cell for cell in row] for row in rows]
                shown += html.subheading(f"{mode} of {name}") + html.table(header, rows, "results")
    return shown or html.text("Nothing yet: --mode=transfer and --mode=robustness evaluate the network on other data.")


def probe_sections(mode: str, result: Mapping[str, Any], confusion: Confusion | None) -> dict[str, str]:
    """Returns the sections of the page of one evaluation of frozen features, by heading.

    Args:
        mode: `linear_eval` or `knn_eval`.
        result: the content of its file.
        confusion: None where there are too many classes.
    """
    header = ["evaluation", "learnt from", "tested on", *SCORE_HEADINGS]
    row = [_how(mode, result), *_images(result), *score_cells([result], mode)]
    details = [[name, DASH if value is None else str(value)] for name, value in result.items()]
    sections = {"Result": html.table(header, [row], "results")}
    if confusion is not None:
        sections["Confusion matrix"] = show_confusion(str(result.get("test", mode)), confusion)
    return sections | {"What was evaluated": html.table(["name", "value"], details, "settings")}


def _how(mode: str, result: Mapping[str, Any]) -> str:
    protocol = result.get("linear_eval_protocol")
    return f"{mode} ({protocol})" if protocol else mode


def _images(result: Mapping[str, Any]) -> list[str]:
    return [str(result.get(split, DASH)) for split in ("train", "test")]
