"""Report of a run: one self-contained HTML page with results, curves and pictures."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, SemiSupervisedConfig
from tf_simclr.files import find_paths, first_line
from tf_simclr.rendering import html
from tf_simclr.report import evaluations, sections
from tf_simclr.report.events import read_events
from tf_simclr.report.sections import Result, Steps
from tf_simclr.runs.checkpoint_list import latest_checkpoint
from tf_simclr.runs.directory import write_outcome
from tf_simclr.suites.tables import SUITES
from tf_simclr.terminal.progress import working

_LOG = logging.getLogger("tf_simclr")


def write_report(config: ExperimentConfig | SemiSupervisedConfig, results: Mapping[str, Any] | Sequence[Result]) -> str:
    """Writes `report.html` into `model_dir`, whole or not at all.

    A sentence replaces missing parts, such as an export.

    Args:
        config: configuration of the run; its directories contain the curves, pictures and exports.
        results: result of `train_and_evaluate` or `semi_supervised`. A stage may have a list of results, from several
            seeds or draws of labels; the table then gives mean, standard deviation and number.

    Returns:
        The path of the page.

    Raises:
        UserError: if it cannot be written.
    """
    steps = _steps(config)
    by_step: Any = results if isinstance(config, SemiSupervisedConfig) else {next(iter(steps)): results}
    lists = {name: [one] if isinstance(one, Mapping) else list(one) for name, one in by_step.items()}
    path = _path(config)
    with working("writing the report"):
        write_outcome(str(config.model_dir), path, render_report(steps, lists))
    _LOG.info("Report: %s", path)
    return path


def update_report(
    config: ExperimentConfig | SemiSupervisedConfig, results: Mapping[str, Any] | Sequence[Result]
) -> None:
    """Writes the report if it is older than a result or a checkpoint, and prints its path; see `write_report`."""
    if report_is_due(config):
        write_report(config, results)
    else:
        _LOG.info("Report: %s", _path(config))


def report_is_due(config: ExperimentConfig | SemiSupervisedConfig) -> bool:
    """Returns whether a result or a checkpoint of the run is newer than its report."""
    files = []
    for step in _steps(config).values():
        directory = str(step.model_dir)
        checkpoint = latest_checkpoint(directory)
        files += find_paths(directory, "result*.json")
        files += [f"{checkpoint}.index"] if checkpoint else []
        suites = (os.path.join(directory, path) for path, _ in SUITES.values())
        files += [path for path in suites if tf.io.gfile.exists(path)]
    path = _path(config)
    written = _modified(path) if tf.io.gfile.exists(path) else -1
    return any(_modified(file) > written for file in files)


def render_report(steps: Steps, results: Mapping[str, Sequence[Result]]) -> str:
    """Returns the html.

    Args:
        steps: configuration of each stage by name.
        results: results of each stage; see `sections.results_table`.
    """
    first, last = next(iter(steps)), list(steps)[-1]
    mapped = "finetune" if "finetune" in steps else last
    served = "distill" if "distill" in steps else last
    events = {name: read_events(str(step.model_dir)) for name, step in steps.items()}
    make: dict[str, Callable[[], str]] = {
        "Results": lambda: sections.results_table(steps, results),
        "Confusion matrix": lambda: evaluations.confusions(steps),
        "Training": lambda: "".join(sections.curves(name, steps[name], events[name]) for name in steps),
        "Example views": lambda: sections.views(events[first]),
        "Representation": lambda: sections.embedding(mapped, steps[mapped]),
        "Frozen features": lambda: evaluations.frozen_features(steps),
        "Other data sets": lambda: evaluations.suites(steps),
        "Use the network": lambda: sections.usage(steps, served),
        "Settings": lambda: sections.settings(steps),
    }
    return html.render(
        f"SimCLRv2 on {steps[first].data.dataset}",
        sections.describe_run(steps, results),
        {heading: _guarded(section) for heading, section in make.items()},
    )


def _guarded(section: Callable[[], str]) -> str:
    """Returns a section, or its error, so that a failure such as moved images does not affect the others."""
    try:
        return section()
    except (tf.errors.OpError, OSError, ValueError) as error:
        return html.text(f"Not shown: {first_line(error)}")


def _steps(config: ExperimentConfig | SemiSupervisedConfig) -> Steps:
    return config.steps if isinstance(config, SemiSupervisedConfig) else {config.train.train_mode: config}


def _path(config: ExperimentConfig | SemiSupervisedConfig) -> str:
    """Returns the path of the page of a run, or of a named evaluation of it, possibly on other data."""
    name = config.evaluation.eval_name if isinstance(config, ExperimentConfig) else None
    return os.path.join(str(config.model_dir), f"report_{name}.html" if name else "report.html")


def _modified(path: str) -> int:
    return tf.io.gfile.stat(path).mtime_nsec
