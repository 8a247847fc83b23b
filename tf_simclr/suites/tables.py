"""The results of transfer and robustness as tables: beside their files, and in the report of a run."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tf_simclr.config import TRANSFER_PROTOCOLS
from tf_simclr.suites.transfer_datasets import MEAN_AVERAGE_PRECISION, MEAN_PER_CLASS, TOP_1

Entries = Mapping[str, Mapping[str, Any]]
# A header and rows.
Table = tuple[list[str], list[list[str]]]

BLANK = "-"
TRANSFER_DIRECTORY = "transfer"
TRANSFER_FILE = "result_transfer.json"
ROBUSTNESS_FILE = "result_robustness.json"
_SCORES_OF_METRICS = {
    TOP_1: "label_top_1_accuracy",
    MEAN_PER_CLASS: "mean_per_class_accuracy",
    MEAN_AVERAGE_PRECISION: "mean_average_precision",
}
# Key in the file, heading, format.
_ROBUSTNESS_COLUMNS = (
    ("num_examples", "images", "d"),
    ("num_classes", "classes", "d"),
    ("label_top_1_accuracy", "top-1", ".2%"),
    ("label_top_5_accuracy", "top-5", ".2%"),
    ("expected_calibration_error", "calibration error", ".4f"),
)


def transfer_table(entries: Entries) -> Table:
    """Returns a row for each data set, with the scores of all protocols.

    Args:
        entries: results with their `settings` by `<protocol>/<data set>`; what has no scores is blank. Those of
            different weights are never in one row.
    """
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for key, entry in entries.items():
        protocol, _, dataset = key.partition("/")
        found.setdefault((dataset, _weights(entry)), {})[protocol] = entry
    rows = []
    for (dataset, _), by_protocol in found.items():
        settings = next(iter(by_protocol.values()))["settings"]
        metric = settings.get("metric", BLANK)
        scores = {
            protocol: _cell(by_protocol.get(protocol, {}), _SCORES_OF_METRICS.get(metric, ""), ".2%")
            for protocol in TRANSFER_PROTOCOLS
        }
        if settings.get("label_sets") is not None:
            scores["finetuned"] = "linear only"
        counts = (_cell(entry, "num_examples", "d") for entry in by_protocol.values())
        num_images = next((count for count in counts if count != BLANK), BLANK)
        rows.append([dataset, metric, *scores.values(), num_images])
    header = ["data set", "metric", *TRANSFER_PROTOCOLS, "test images"]
    return _tell_weights_apart(header, rows, [weights for _, weights in found])


def robustness_table(entries: Entries) -> Table:
    """Returns a row for each data set.

    Args:
        entries: results with their `settings` by data set; what has no scores is blank.
    """
    rows = [
        [dataset, *(_cell(entry, name, form) for name, _, form in _ROBUSTNESS_COLUMNS)]
        for dataset, entry in entries.items()
    ]
    header = ["data set", *(heading for _, heading, _ in _ROBUSTNESS_COLUMNS)]
    return _tell_weights_apart(header, rows, [_weights(entry) for entry in entries.values()])


# By mode, the file in the directory of a run, and what makes a table of it.
SUITES: dict[str, tuple[str, Callable[[Entries], Table]]] = {
    "transfer": (os.path.join(TRANSFER_DIRECTORY, TRANSFER_FILE), transfer_table),
    "robustness": (ROBUSTNESS_FILE, robustness_table),
}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in Markdown; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if not number else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    return [line(header), line(rule), *map(line, rows)]


def _weights(entry: Mapping[str, Any]) -> str:
    return str(entry["settings"].get("weights", BLANK))


def _cell(entry: Mapping[str, Any], name: str, form: str) -> str:
    value = entry.get(name)
    return BLANK if value is None else format(value, form)


def _tell_weights_apart(header: list[str], rows: list[list[str]], weights: Sequence[str]) -> Table:
    """Adds a column with the beginning of the weights' fingerprints where the results are of several weights."""
    if len(set(weights)) < 2:
        return header, rows
    first, *others = header
    return [first, "weights", *others], [
        [row[0], fingerprint[:8], *row[1:]] for row, fingerprint in zip(rows, weights, strict=True)
    ]
