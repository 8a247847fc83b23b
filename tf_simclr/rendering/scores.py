"""Scores and confusion matrices of a classifier, as HTML."""

from collections.abc import Mapping
from typing import Any

from tf_simclr.metrics.confusion import Confusion, largest_mistakes
from tf_simclr.rendering import html, plots

DASH = "\N{EN DASH}"
# Key in a file of results, heading, and format.
_SCORES = (
    ("label_top_1_accuracy", "top-1", "{:.2%}"),
    ("label_top_5_accuracy", "top-5", "{:.2%}"),
    ("mean_per_class_accuracy", "mean per class", "{:.2%}"),
    ("expected_calibration_error", "calibration error", "{:.4f}"),
)
SCORE_HEADINGS = tuple(heading for _, heading, _ in _SCORES)
_NUM_MISTAKES = 10


def score_cells(result: Mapping[str, Any], prefix: str) -> list[str]:
    """Returns the cells of a table under `SCORE_HEADINGS`; `prefix` is that of the keys, such as `eval`."""
    values = (result.get(f"{prefix}/{name}") for name, _, _ in _SCORES)
    forms = (form for _, _, form in _SCORES)
    return [DASH if value is None else form.format(value) for value, form in zip(values, forms, strict=True)]


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
