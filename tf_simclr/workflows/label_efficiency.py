"""Accuracy against the number of labels: `--mode=label_efficiency`.

Every point of the curve is the mean of ordinary runs of single stages, each in its own directory. So the figures are
those of the same flags by hand, and an interrupted curve goes on.
"""

import contextlib
import gc
import logging
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from scipy import stats

from tf_simclr.config import ExperimentConfig, LabelEfficiencyConfig, UserError
from tf_simclr.data import Source
from tf_simclr.distribution.collectives import is_chief
from tf_simclr.distribution.strategies import make_strategy
from tf_simclr.files import read_json, to_json
from tf_simclr.report import efficiency as report
from tf_simclr.runs.directory import check_directory, claim_directory, owning_directory, write_outcome
from tf_simclr.runs.networks import find_checkpoint
from tf_simclr.terminal.entry import entry_point
from tf_simclr.training.actions import HeldActions
from tf_simclr.training.experiment import Experiment
from tf_simclr.training.loop import Action
from tf_simclr.workflows.frozen_methods import measure_frozen_methods
from tf_simclr.workflows.semi_supervised import check_not_stale, check_teacher, settings_of_stages

_LOG = logging.getLogger("tf_simclr")
_SCORES = ("label_top_1_accuracy", "mean_per_class_accuracy")
_FILE_NAME = "label_efficiency"
# All runs follow from these and the settings of the stages.
_SETTINGS_OF_THE_CURVE = ("labels_per_class", "num_seeds", "efficiency_methods", "num_pretrained")
_FORM = {"label_seed?": int, "points": [{"labels_per_class": int, str: (int, {str: {"by_seed": [float]}})}]}
# By method and score, the values by seed, for one number of labels.
Values = Mapping[str, Mapping[str, Sequence[float]]]


@entry_point
def measure_label_efficiency(
    config: LabelEfficiencyConfig, make_actions: Callable[[ExperimentConfig], Iterable[Action]] = lambda run: ()
) -> dict[str, Any]:
    """Trains and evaluates all runs of a curve, and writes it as numbers, table, picture and page.

    Finished runs are not repeated, and interrupted ones go on. More labels or seeds train only the new runs.

    Args:
        config: of the curve.
        make_actions: takes the configuration of a run, returns its actions; see `train_and_evaluate`.

    Returns:
        The content of `label_efficiency.json`; see `summarize`.

    Raises:
        UserError: a flag, a file or the data is wrong. The results of other runs stay.
    """
    _check_starts(config)
    other_curve = _read_other_curve(config)
    settings = settings_of_stages(config.method) | {name: getattr(config, name) for name in _SETTINGS_OF_THE_CURVE}
    strategy = make_strategy(config.method.finetune.strategy, settings)
    eval_source = _check_runs(config, strategy, make_actions)
    results = {}
    with owning_directory(config.model_dir, owns=is_chief(strategy)), _without_tracing_warnings():
        check_directory(config)  # Another process may have owned it until now.
        if is_chief(strategy):
            claim_directory(config)
        for number, (name, run) in enumerate(config.runs.items(), start=1):
            _LOG.info("[%d/%d] %s", number, len(config.runs), name)
            results[name] = Experiment(run, strategy).train(tuple(make_actions(run)))
            gc.collect()  # Else the weights of a run stay in the memory of the device for a while.
        if config.frozen_methods:
            results |= measure_frozen_methods(config, eval_source, writes=is_chief(strategy))
        outcome = {"evaluated_on": eval_source.name} | summarize(config, results, other_curve)
        if is_chief(strategy):
            _write(config, outcome)
    for line in report.table_lines(outcome, _SCORES[0]):
        _LOG.info(line)
    return outcome


@contextlib.contextmanager
def _without_tracing_warnings() -> Iterator[None]:
    """Leaves out TensorFlow's warning of repeated tracing: each run rightly traces its own functions."""

    def is_another(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(is_another)
    try:
        yield
    finally:
        logger.removeFilter(is_another)


def _check_starts(config: LabelEfficiencyConfig) -> None:
    """Raises UserError for what would let a later run fail, before any is trained."""
    check_directory(config)
    networks = {network.model_dir: network for network in config.networks}
    if config.uses_pretrained and not networks:
        find_checkpoint(str(config.method.finetune.train.checkpoint), "checkpoint")
    for run in config.runs.values():
        check_directory(run)
        if run.train.checkpoint in networks:
            check_not_stale(config.model_dir, networks[run.train.checkpoint], run)
        own = os.path.join(os.path.dirname(str(run.model_dir)), "finetune")
        if run.train.has_teacher and run.distill.teacher != own:
            check_teacher(run)


def _check_runs(
    config: LabelEfficiencyConfig,
    strategy: tf.distribute.Strategy,
    make_actions: Callable[[ExperimentConfig], Iterable[Action]],
) -> Source:
    """Opens the data of the pretraining and of each method with the most labels, which shows any mistake.

    Returns:
        The images that are evaluated on.
    """
    most = {config.run_name(method, config.labels[-1], 0) for method in config.methods}
    for name, run in config.runs.items():
        if name in most or run in config.networks[:1]:
            experiment = Experiment(run, strategy)
            HeldActions(tuple(make_actions(run))).check(experiment.plan.total_steps)
            experiment.check_memory()
    if config.frozen_methods:  # They share their data, and train nothing.
        experiment = Experiment(config.settings_of(config.frozen_methods[0], config.labels[-1], 0), strategy)
    source = experiment.eval_source
    if source is None or source.num_classes is None:
        raise UserError(
            f"--eval_split: {config.method.finetune.data.dataset} has no labelled images to evaluate on; name a "
            "split, or parts of one, such as --train_split=train[:80%] --eval_split=train[80%:]."
        )
    return source


def _read_other_curve(config: LabelEfficiencyConfig) -> dict[int, Values]:
    """Returns the scores of the curve that `efficiency_baseline` names, by number of labels; {} if it is a method.

    Raises:
        UserError: there is no such curve, or it lacks labels, draws or methods.
    """
    if config.other_curve is None:
        return {}
    content = read_json(os.path.join(os.path.expanduser(config.other_curve), f"{_FILE_NAME}.json"), _FORM)
    if content is None:
        raise UserError(
            f"--efficiency_baseline={config.other_curve}: is no method, and no directory of a finished curve; use one "
            f"of {', '.join(config.methods)}, or such a directory."
        )
    count, first = config.num_seeds, config.method.finetune.data.label_seed
    points = {point["labels_per_class"]: point for point in content["points"]}
    curve: dict[int, Values] = {
        labels: {
            method: {score: found["by_seed"][:count] for score, found in points.get(labels, {}).get(method, {}).items()}
            for method in config.methods
        }
        for labels in config.labels
    }
    top_1 = [scores.get(_SCORES[0], ()) for methods in curve.values() for scores in methods.values()]
    if content.get("label_seed", first) != first or any(len(values) < count for values in top_1):
        raise UserError(
            f"--efficiency_baseline={config.other_curve}: does not have all labels, draws and methods of this curve; "
            "use one with the same --labels_per_class, --num_seeds, --label_seed and --efficiency_methods."
        )
    return curve


def summarize(
    config: LabelEfficiencyConfig, results: Mapping[str, Mapping[str, Any]], other_curve: Mapping[int, Values]
) -> dict[str, Any]:
    """Returns the curve.

    Args:
        config: of the curve.
        results: of each run by its name.
        other_curve: the scores of the baseline if it is another curve, by number of labels; else {}.

    Returns:
        `points`, one for each number of labels: `labels_per_class`; under each method `spread` of each score; under
        `<method>_minus_<baseline>` the same of the differences between runs on the same labels. Other entries name
        what was evaluated.
    """
    baseline = os.path.basename(os.path.abspath(config.efficiency_baseline))
    points = []
    for labels in config.labels:
        values = {
            method: _values([results[config.run_name(method, labels, n)] for n in range(config.num_seeds)])
            for method in config.methods
        }
        theirs = other_curve.get(labels) or {
            method: values[baseline] for method in values if method != baseline and baseline in values
        }
        for method, scores in theirs.items():
            values[f"{method}_minus_{baseline}"] = _differences(values[method], scores)
        spreads = {name: {score: spread(each) for score, each in scores.items()} for name, scores in values.items()}
        points.append({"labels_per_class": labels} | spreads)
    stage = config.method.finetune
    return {
        "dataset": stage.data.dataset,
        "train_split": stage.data.labelled_split,
        "num_examples": list(results.values())[-1]["eval/num_examples"],
        "checkpoint": stage.train.checkpoint,
        "methods": list(config.methods),
        "num_seeds": config.num_seeds,
        "num_pretrained": max(len(config.networks), 1),
        "label_seed": stage.data.label_seed,
        "points": points,
    }


def _values(results: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Returns the scores that all results have, by seed."""
    return {
        score: [float(result[f"eval/{score}"]) for result in results]
        for score in _SCORES
        if all(result.get(f"eval/{score}") is not None for result in results)
    }


def _differences(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    shared = (score for score in ours if score in theirs)
    return {score: [a - b for a, b in zip(ours[score], theirs[score], strict=True)] for score in shared}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns values `by_seed` and their statistics.

    Returns:
        `mean`, `standard_deviation` (of a sample), `min`, `max`, and `interval_95` of the mean, by Student's t. One
        value has neither deviation nor interval: None.
    """
    mean, deviation, interval = statistics.fmean(values), None, None
    if len(values) > 1:
        deviation = statistics.stdev(values)
        half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
        interval = [mean - half, mean + half]
    return {
        "by_seed": list(values),
        "mean": mean,
        "standard_deviation": deviation,
        "interval_95": interval,
        "min": min(values),
        "max": max(values),
    }


def _write(config: LabelEfficiencyConfig, outcome: Mapping[str, Any]) -> None:
    """Writes numbers, table, picture and page.

    Raises:
        UserError: one of them cannot be written.
    """
    stem = os.path.join(config.model_dir, _FILE_NAME)
    picture = report.draw(outcome, _SCORES[0])
    contents: dict[str, str | bytes] = {
        f"{stem}.json": to_json(outcome),
        f"{stem}.md": report.render_markdown(outcome, _SCORES),
        f"{stem}.png": picture,
        os.path.join(config.model_dir, "report.html"): report.render_page(config, outcome, _SCORES, picture),
    }
    for path, content in contents.items():
        write_outcome(config.model_dir, path, content)
    _LOG.info("Report: %s", path)
