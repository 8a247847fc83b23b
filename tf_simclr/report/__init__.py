"""Report of a run: one self-contained HTML page with results, curves and pictures."""

import logging
import os
from collections.abc import Callable, Mapping

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, SemiSupervisedConfig
from tf_simclr.files import find_paths, first_line
from tf_simclr.rendering import html
from tf_simclr.report import evaluations, sections
from tf_simclr.report.events import read_events
from tf_simclr.report.sections import Result, Stages
from tf_simclr.runs.checkpoint_list import latest_checkpoint
from tf_simclr.runs.directory import write_outcome
from tf_simclr.suites.tables import SUITES
from tf_simclr.terminal.progress import working

Run = ExperimentConfig | SemiSupervisedConfig
_LOG = logging.getLogger("tf_simclr")


def write_report(config: Run, result: Result) -> str:
    """Writes `report.html` into `model_dir`, whole or not at all.

    A sentence replaces missing parts, such as an export.

    Args:
        config: configuration of the run; its directories contain the curves, pictures and exports.
        result: result of `train_and_evaluate` or `semi_supervised`.

    Returns:
        The path of the page.

    Raises:
        UserError: if it cannot be written.
    """
    results = result if isinstance(config, SemiSupervisedConfig) else {config.train.train_mode: result}
    path = _path(config)
    with working("writing the report"):
        write_outcome(str(config.model_dir), path, render_report(_stages(config), results))
    _LOG.info("Report: %s", path)
    return path


def update_report(config: Run, result: Result) -> None:
    """Writes the report if it is older than a result or a checkpoint, and prints its path; see `write_report`."""
    if report_is_due(config):
        write_report(config, result)
    else:
        _LOG.info("Report: %s", _path(config))


def report_is_due(config: Run) -> bool:
    """Returns whether a result or a checkpoint of the run is newer than its report."""
    files, patterns = [], ("result*.json", *(path for path, _ in SUITES.values()))
    for stage in _stages(config).values():
        directory = str(stage.model_dir)
        checkpoint = latest_checkpoint(directory)
        files += [f"{checkpoint}.index"] if checkpoint else []
        files += [path for pattern in patterns for path in find_paths(directory, pattern)]
    path = _path(config)
    written = _modified(path) if tf.io.gfile.exists(path) else -1
    return any(_modified(file) > written for file in files)


def render_report(stages: Stages, results: Mapping[str, Result]) -> str:
    """Returns the page of given stages; see `sections.results_table`."""
    first, last = next(iter(stages)), list(stages)[-1]
    mapped = "finetune" if "finetune" in stages else last
    served = "distill" if "distill" in stages else last
    events = {name: read_events(str(stage.model_dir)) for name, stage in stages.items()}
    make: dict[str, Callable[[], str]] = {
        "Results": lambda: sections.results_table(stages, results),
        "Confusion matrix": lambda: evaluations.confusions(stages),
        "Training": lambda: "".join(sections.curves(name, stages[name], events[name]) for name in stages),
        "Example views": lambda: sections.views(events[first]),
        "Representation": lambda: sections.embedding(mapped, stages[mapped]),
        "Frozen features": lambda: evaluations.frozen_features(stages),
        "Other data sets": lambda: evaluations.suites(stages),
        "Use the network": lambda: sections.usage(stages, served),
        "Settings": lambda: sections.settings(stages),
    }
    return html.render(
        f"SimCLRv2 on {stages[first].data.dataset}",
        sections.describe_run(stages, results),
        {heading: _guarded(section) for heading, section in make.items()},
    )


def _guarded(section: Callable[[], str]) -> str:
    """Returns a section, or its error, so that a failure such as moved images does not affect the others."""
    try:
        return section()
    except (tf.errors.OpError, OSError, ValueError) as error:
        return html.text(f"Not shown: {first_line(error)}")


def _stages(config: Run) -> Stages:
    return config.stages if isinstance(config, SemiSupervisedConfig) else {config.train.train_mode: config}


def _path(config: Run) -> str:
    """Returns the path of the page of a run, or of a named evaluation of it, possibly on other data."""
    name = config.evaluation.eval_name if isinstance(config, ExperimentConfig) else None
    return os.path.join(str(config.model_dir), f"report_{name}.html" if name else "report.html")


def _modified(path: str) -> int:
    return int(tf.io.gfile.stat(path).mtime_nsec)
