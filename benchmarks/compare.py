"""Results of `benchmarks.digits_few_labels` with different flags, side by side.

python -m benchmarks.compare NAME=FILE NAME=FILE ... [--method=finetuned] [--minus=supervised] [--picture=FILE.png]

One row for each name; several files of one name hold different numbers of labels. Differences to the first row are
paired: the same labels, the same seed.
"""

import argparse
import json
import os
import sys

import numpy as np

from tf_simclr.report.pictures import plot_label_efficiency


def read_accuracies(path: str, method: str, minus: str | None = None) -> dict[int, np.ndarray]:
    """Returns accuracies `[seeds, draws]` in percent by the number of labels of each class.

    Args:
        path: a file that `benchmarks.digits_few_labels --results` wrote.
        method: such as `finetuned`.
        minus: another method, whose accuracies are subtracted draw by draw.

    Raises:
        ValueError: it is no such file, or has no such method.
    """
    try:
        with open(path) as file:
            content = json.load(file)
    except ValueError:  # No JSON, no text.
        content = {}
    if "labels" not in content:
        raise ValueError(f"{path}: no results; name a file of benchmarks.digits_few_labels --results.")
    results = content["labels"]
    for name in filter(None, (method, minus)):
        for labels, accuracies in results.items():
            if name not in accuracies:
                raise ValueError(f"{path}: no {name!r} with {labels} labels a class, but {', '.join(accuracies)}.")
    return {
        int(labels): np.array(accuracies[method]) - (np.array(accuracies[minus]) if minus else 0)
        for labels, accuracies in results.items()
    }


def format_rows(settings: dict[str, dict[int, np.ndarray]]) -> list[str]:
    """Returns the lines of a Markdown table.

    Args:
        settings: `read_accuracies` of each.

    Returns:
        For each number of labels the mean and the standard deviation of all draws; then, but for the first setting,
        the mean of the differences to the first, and the least and the greatest of the means of a seed.

    Raises:
        ValueError: two settings have not the same labels, seeds and draws.
    """
    first = next(iter(settings.values()))
    shapes = {labels: accuracies.shape for labels, accuracies in first.items()}
    cells = [f"{labels} a class | minus the first" for labels in first]
    lines = ["| | " + " | ".join(cells) + " |", "| --- |" + " --- |" * (2 * len(first))]
    for name, of_labels in settings.items():
        if shapes != {labels: accuracies.shape for labels, accuracies in of_labels.items()}:
            raise ValueError(f"{name}: has not the labels, seeds and draws of the first, {shapes}.")
        cells = []
        for labels, values in of_labels.items():
            by_seed = (values - first[labels]).mean(axis=1)
            cells.append(f"{values.mean():.2f} ± {values.std(ddof=1):.2f}")
            cells.append(f"{by_seed.mean():+.2f} ({by_seed.min():+.2f} to {by_seed.max():+.2f})")
        if of_labels is first:
            cells[1::2] = [""] * len(first)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Prints the table and, where asked to, draws the means of the seeds as curves."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--method", default="finetuned")
    parser.add_argument("--minus", default=None, help="another method, whose accuracy is subtracted")
    parser.add_argument("--picture", default=None, help="a PNG file to write")
    options = parser.parse_args()
    settings: dict[str, dict[int, np.ndarray]] = {}
    for argument in options.files:
        name, separator, path = argument.rpartition("=")
        if not separator or not os.path.isfile(path):
            sys.exit(f"{argument}: want NAME=FILE, with a file of benchmarks.digits_few_labels --results.")
        settings.setdefault(name, {}).update(read_accuracies(path, options.method, options.minus))
    print("\n".join(format_rows(settings)))
    if options.picture:
        curves = {
            name: [(labels, list(values.mean(axis=1) / 100)) for labels, values in of_labels.items()]
            for name, of_labels in settings.items()
        }
        what = f"{options.method} minus {options.minus}" if options.minus else options.method
        with open(options.picture, "wb") as file:
            file.write(plot_label_efficiency(curves, f"{what}, accuracy"))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
