"""Curves of accuracy against the number of labels, as tables, pictures and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from tf_simclr.config import LabelEfficiencyConfig
from tf_simclr.files import counted
from tf_simclr.rendering import html, plots
from tf_simclr.report import sections

Outcome = Mapping[str, Any]

_DIFFERENCE = "_minus_"
_TITLES = {"label_top_1_accuracy": "Top-1 accuracy", "mean_per_class_accuracy": "Mean of the accuracies of the classes"}


def table_lines(outcome: Outcome, score: str) -> list[str]:
    """Returns the lines of a Markdown table: a row for each number of labels, in percent.

    Args:
        outcome: result of `label_efficiency.summarize`.
        score: name of a score, such as `label_top_1_accuracy`.
    """
    header, rows = _table(outcome, score)
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def render_markdown(outcome: Outcome, scores: Sequence[str]) -> str:
    """Returns all tables and their descriptions, as the text of a file."""
    parts = [f"# Accuracy against the number of labels: {outcome['evaluated_on']}", describe(outcome)]
    for score in _existing(outcome, scores):
        parts += [f"## {_TITLES[score]}", "\n".join(table_lines(outcome, score))]
    return "\n\n".join(parts) + "\n"


def draw(outcome: Outcome, score: str) -> bytes:
    """Returns the curves with their spread as a PNG."""
    curves = {
        method: [(point["labels_per_class"], point[method][score]["by_seed"]) for point in outcome["points"]]
        for method in outcome["methods"]
    }
    return plots.plot_label_efficiency(curves, f"{_TITLES[score].lower()}, {outcome['evaluated_on']}")


def render_page(config: LabelEfficiencyConfig, outcome: Outcome, scores: Sequence[str], picture: bytes) -> str:
    """Returns the self-contained HTML page.

    Args:
        config: configuration of the curve.
        outcome: result of `label_efficiency.summarize`.
        scores: the scores to show.
        picture: plot of the curves, a PNG.
    """
    curves = html.text(describe(outcome)) + html.picture(picture, "accuracy against the number of labels")
    tables = [
        html.subheading(_TITLES[score]) + html.table(*_table(outcome, score), "results")
        for score in _existing(outcome, scores)
    ]
    runs = [
        [config.run_name(method, point["labels_per_class"], draw), f"{value:.2%}"]
        for point in outcome["points"]
        for method in outcome["methods"]
        for draw, value in enumerate(point[method][scores[0]]["by_seed"])
    ]
    about_runs, runs_table = f"{_TITLES[scores[0]]} of each run", html.table(["run", "accuracy"], runs, "settings")
    first = {run.train.train_mode: run for run in reversed(config.runs.values())}
    stages = {name: first[name] for name in ("pretrain", *outcome["methods"]) if name in first}
    trained = {}
    if stages:  # Methods that use only pixels train nothing.
        networks = [[name, stage.model.describe()] for name, stage in stages.items()]
        about = html.text("From the first draw of the fewest labels; other runs differ only in labels and seeds.")
        table = html.table(["stage", "network"], networks, "plain")
        trained = {"Networks": table, "Settings": about + sections.settings(stages)}
    return html.render(
        f"Label efficiency on {outcome['dataset']}",
        f"Accuracy against the number of labels: {', '.join(outcome['methods'])}.",
        {"Curves": curves, "Results": "".join(tables), "Runs": html.details(about_runs, runs_table), **trained},
    )


def describe(outcome: Outcome) -> str:
    """Returns a description of the figures."""
    count, num_networks = outcome["num_seeds"], outcome["num_pretrained"]
    images = f"{counted(outcome['num_examples'], 'image')} of {outcome['evaluated_on']}"
    if count == 1:
        return f"In percent, on {images}; of one seed, so there is no spread."
    networks = f", from {num_networks} pretrained networks in turn" if num_networks > 1 else ""
    return (
        f"In percent, on {images}: mean \N{PLUS-MINUS SIGN} standard deviation of {count} seeds, each with its own "
        f"choice of labels and its own seed of training{networks}. The band in the picture goes from the lowest to the "
        "highest. Differences are between runs on the same labels."
    )


def _table(outcome: Outcome, score: str) -> tuple[list[str], list[list[str]]]:
    names = [name for name in outcome["points"][0] if name != "labels_per_class"]
    header = ["labels a class", *(name.replace(_DIFFERENCE, " - ") for name in names)]
    rows = [
        [str(point["labels_per_class"]), *(_cell(point[name][score], _DIFFERENCE in name) for name in names)]
        for point in outcome["points"]
    ]
    return header, rows


def _cell(spread: Mapping[str, Any], is_difference: bool) -> str:
    mean, deviation = 100 * spread["mean"], spread["standard_deviation"]
    text = f"{mean:+.2f}" if is_difference else f"{mean:.2f}"
    return text if deviation is None else f"{text} \N{PLUS-MINUS SIGN} {100 * deviation:.2f}"


def _existing(outcome: Outcome, scores: Sequence[str]) -> list[str]:
    """Returns the scores that exist for all methods and differences."""
    columns = [column for point in outcome["points"] for column in point.values() if isinstance(column, dict)]
    return [score for score in scores if all(score in column for column in columns)]
