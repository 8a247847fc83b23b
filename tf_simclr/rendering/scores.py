"""Scores and confusion matrices of a classifier, as HTML."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tf_simclr.metrics.confusion import Confusion, largest_mistakes
from tf_simclr.rendering import html, plots

DASH = "\N{EN DASH}"
# Key in a file of results, heading, and whether it is shown in percent.
_SCORES = (
    ("label_top_1_accuracy", "top-1", True),
    ("label_top_5_accuracy", "top-5", True),
    ("mean_per_class_accuracy", "mean per class", True),
    ("expected_calibration_error", "calibration error", False),
)
SCORE_HEADINGS = tuple(heading for _, heading, _ in _SCORES)
_NUM_MISTAKES = 10


def score_cells(results: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """Returns the cells of a table under `SCORE_HEADINGS`.

    Args:
        results: any number of results; several are shown as mean, standard deviation and number.
        prefix: prefix of the keys, such as `eval`.
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


def show_confusion(name: str, confusion: Confusion) -> str:
    """Returns the picture of a confusion matrix and a table of the most frequent mistakes."""
    png = plots.plot_confusion(confusion.counts, confusion.class_names)
    picture = html.picture(png, f"confusion matrix of {name}", "square")
    mistakes = [
        [mistake.class_name, mistake.taken_for, str(mistake.num_images), f"{mistake.share:.1%}"]
        for mistake in largest_mistakes(confusion, _NUM_MISTAKES)
    ]
    header = ["class", "taken for", "images", "of the class"]
    table = html.table(header, mistakes, "mistakes") if mistakes else html.text("Every image is classed right.")
    return html.subheading(name) + html.grid([picture, table])
