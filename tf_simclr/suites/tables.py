"""Tables of transfer and robustness, for the files beside their results and for the report of a run."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tf_simclr.config import TRANSFER_PROTOCOLS
from tf_simclr.suites.transfer_datasets import MEAN_AVERAGE_PRECISION, MEAN_PER_CLASS, TOP_1

Entries = Mapping[str, Mapping[str, Any]]
# A header and rows.
Table = tuple[list[str], list[list[str]]]
MakeTable = Callable[[Entries], Table]

BLANK = "-"
TRANSFER_DIRECTORY = "transfer"
TRANSFER_FILE = "result_transfer.json"
ROBUSTNESS_FILE = "result_robustness.json"
_SCORES_OF_METRICS = {
    TOP_1: "label_top_1_accuracy",
    MEAN_PER_CLASS: "mean_per_class_accuracy",
    MEAN_AVERAGE_PRECISION: "mean_average_precision",
}
# Heading: key in the file, format.
_ROBUSTNESS_COLUMNS = {
    "images": ("num_examples", "d"),
    "classes": ("num_classes", "d"),
    "top-1": ("label_top_1_accuracy", ".2%"),
    "top-5": ("label_top_5_accuracy", ".2%"),
    "calibration error": ("expected_calibration_error", ".4f"),
}


def transfer_table(entries: Entries) -> Table:
    """Returns a row for each data set, with the scores of all protocols.

    Args:
        entries: results with their `settings` by `<protocol>/<data set>`. Missing scores are blank. A row has results
            of the same weights.
    """
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for key, entry in entries.items():
        protocol, _, dataset = key.partition("/")
        found.setdefault((dataset, _weights(entry)), {})[protocol] = entry
    rows = []
    for (dataset, _), by_protocol in found.items():
        settings = next(iter(by_protocol.values()))["settings"]
        metric = settings.get("metric", BLANK)
        score = _SCORES_OF_METRICS.get(metric, "")
        scores = {protocol: _cell(by_protocol.get(protocol, {}), score, ".2%") for protocol in TRANSFER_PROTOCOLS}
        if settings.get("label_sets") is not None:
            scores["finetuned"] = "linear only"
        counts = (_cell(entry, "num_examples", "d") for entry in by_protocol.values())
        rows.append([dataset, metric, *scores.values(), next((count for count in counts if count != BLANK), BLANK)])
    header = ["data set", "metric", *TRANSFER_PROTOCOLS, "test images"]
    return _tell_weights_apart(header, rows, [weights for _, weights in found])


def robustness_table(entries: Entries) -> Table:
    """Returns a row for each data set.

    Args:
        entries: results with their `settings` by data set. Missing scores are blank.
    """
    rows = [
        [dataset, *(_cell(entry, name, form) for name, form in _ROBUSTNESS_COLUMNS.values())]
        for dataset, entry in entries.items()
    ]
    return _tell_weights_apart(["data set", *_ROBUSTNESS_COLUMNS], rows, list(map(_weights, entries.values())))


SUITES: dict[str, tuple[str, MakeTable]] = {
    "transfer": (os.path.join(TRANSFER_DIRECTORY, TRANSFER_FILE), transfer_table),
    "robustness": (ROBUSTNESS_FILE, robustness_table),
}
"""The file in the directory of a run, and the function that makes its table, by mode."""


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table in Markdown; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(first: str, *others: str) -> str:
        padded = map(str.rjust, others, widths[1:])
        return f"| {' | '.join([first.ljust(widths[0]), *padded])} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(*cells) for cells in (header, rule, *rows)]


def _weights(entry: Mapping[str, Any]) -> str:
    return str(entry["settings"].get("weights", BLANK))


def _cell(entry: Mapping[str, Any], name: str, form: str) -> str:
    value = entry.get(name)
    return BLANK if value is None else format(value, form)


def _tell_weights_apart(header: list[str], rows: list[list[str]], weights: Sequence[str]) -> Table:
    """Adds a column with the beginning of the weights' fingerprints, if there are results of several weights."""
    if len(set(weights)) > 1:
        for row, cell in zip([header, *rows], ["weights", *(one[:8] for one in weights)], strict=True):
            row.insert(1, cell)
    return header, rows
