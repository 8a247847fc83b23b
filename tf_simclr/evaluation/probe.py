"""Evaluation of frozen features: `--mode=linear_eval` and `--mode=knn_eval`."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import KnnEvalConfig, LinearEvalConfig, ProbeConfig, UserError, check
from tf_simclr.evaluation import classifiers
from tf_simclr.evaluation.classifiers import Examples, PenalisedFit
from tf_simclr.evaluation.features import Network, load_inference_network
from tf_simclr.evaluation.probe_inputs import Sources, SplitExamples, compute_splits, open_sources
from tf_simclr.evaluation.probe_page import describe_probe, render_probe_page
from tf_simclr.files import counted, reporting_write_errors, to_json, write_text
from tf_simclr.metrics.confusion import confusion_path, count_confusions, to_csv
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.terminal.entry import entry_point

_LOG = logging.getLogger("tf_simclr")
_VALIDATION_SHARE = 0.2
_MAX_NEIGHBORS = 200


@entry_point
def probe(config: LinearEvalConfig | KnnEvalConfig) -> dict[str, Any]:
    """Evaluates the frozen features of a network; writes the result, a confusion matrix and a page.

    Each file is written whole or not at all, the result last.

    Args:
        config: network, data set and classifier.

    Returns:
        `linear_eval/label_top_1_accuracy` and other scores (or `knn_eval/...`). The file of the result also says what
        was evaluated.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    network = load_inference_network(str(config.checkpoint))
    path = _result_path(config, network)
    network.check_vector(config.endpoint)
    sources = open_sources(config)
    splits = compute_splits(config, network, sources)
    train, _, test = splits
    _warn_of_new_classes(train, test)
    if isinstance(config, KnnEvalConfig):
        logits, details = _vote(config, train, test.features, sources.num_classes)
    else:
        logits, details = _classify_linearly(config, splits, sources.num_classes)
    scores = classification_scores(logits, test.labels)
    counts = {"num_examples": len(test.labels), "num_train_examples": len(train.labels)}
    result = {f"{config.mode}/{name}": value for name, value in (scores | counts | details).items()}
    content = result | _what_was_evaluated(config, network, sources)
    # Before the files, because writing may fail.
    _LOG.info("%s: %s; in %s", describe_probe(config.mode, content), _summary(scores, details, sources), path)
    confusion = count_confusions(logits.argmax(axis=1), test.labels, sources.train.class_names or ())
    if confusion is not None:
        _write(confusion_path(path), to_csv(confusion))
    _write(_page_path(path), render_probe_page(config.mode, content, confusion))
    _write(path, to_json(content))
    return result


def _result_path(config: ProbeConfig, network: Network) -> str:
    """Returns the path of the result, in a directory that exists."""
    if config.output is not None:
        path, flag = os.path.expanduser(config.output), f"--output={config.output}"
    else:
        path = os.path.join(network.run_directory("output", "result.json"), f"result_{config.mode}.json")
        flag = f"--checkpoint={config.checkpoint}"
    with reporting_write_errors(flag, "name a file with --output"):
        found = [name for name in (path, confusion_path(path), _page_path(path)) if tf.io.gfile.exists(name)]
        tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    if found and not config.overwrite:
        raise UserError(
            f"{flag}: {found[0]} exists already; replace it with --overwrite=True, or name another file with --output."
        )
    return path


def _page_path(path: str) -> str:
    return f"{os.path.splitext(path)[0]}.html"


def _write(path: str, text: str) -> None:
    with reporting_write_errors(path, "free some space, or name another file with --output"):
        write_text(path, text)


def _warn_of_new_classes(train: Examples, test: Examples) -> None:
    new = np.setdiff1d(test.labels, train.labels)
    if len(new):
        has, classes = "has" if len(new) == 1 else "have", counted(len(new), "class")
        _LOG.info("%s of the test %s no labelled image to learn from: theirs count as wrong.", classes, has)


def _classify_linearly(
    config: LinearEvalConfig, splits: SplitExamples, num_classes: int
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Returns the logits of the test images, and facts about the classifier."""
    if config.linear_eval_protocol == "sgd":
        _check_several_classes(config, splits.train)
        classifier = classifiers.fit_sgd(splits.train, num_classes, seed=config.seed)
        return classifier(splits.test.features).numpy().astype(np.float64), {}
    fit = fit_linear(config, splits, num_classes)
    if not fit.converged:
        _LOG.info("The last fit was stopped before it converged: the result is a lower bound.")
    details = {
        "l2_penalty": fit.l2_penalty,
        "validation_top_1_accuracy": fit.validation_score,
        "num_validation_examples": fit.num_validation,
    }
    return fit.logits(splits.test.features), details


def fit_linear(
    config: LinearEvalConfig,
    splits: SplitExamples,
    num_classes: int,
    *,
    accuracy: Callable[[NDArray[Any], NDArray[Any]], float] = classifiers.top_1_accuracy,
) -> PenalisedFit:
    """Fits a linear classifier, see `classifiers.fit_lbfgs`; holds out a fifth of each class for validation.

    Nothing is held out if the validation images are a split of their own.

    Raises:
        UserError: all images are of one class, or there are too few.
    """
    train, validation, _ = splits
    _check_several_classes(config, train)
    if validation is None:
        kept, others = classifiers.split_off_validation(train.labels, share=_VALIDATION_SHARE, seed=config.seed)
        if not len(others):
            flag = "labels_per_class" if config.data.labels_per_class else "train_split"
            value = config.data.labels_per_class or config.data.labelled_split
            raise UserError(
                f"--{flag}={value}: one image a class leaves none to choose the penalty by; use "
                "more, or --linear_eval_protocol=sgd, or --mode=knn_eval."
            )
        train, validation = (Examples(train.features[rows], train.labels[rows]) for rows in (kept, others))
    return classifiers.fit_lbfgs(train, validation, num_classes, accuracy=accuracy)


def _check_several_classes(config: ProbeConfig, train: Examples) -> None:
    images = counted(len(train.labels), "labelled image")
    fix = f"there is one class in {images}; use a part that has some of each."
    check(len(np.unique(train.labels)) > 1, "train_split", config.data.labelled_split, fix)


def _vote(
    config: KnnEvalConfig, train: Examples, features: NDArray[Any], num_classes: int
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Returns the logits of the test images, and the number of neighbours."""
    count = len(train.labels)
    fix = f"there are {count} labelled images to learn from; use at most {count}, or 0."
    check(config.knn_neighbors <= count, "knn_neighbors", config.knn_neighbors, fix)
    mean_of_class = count // len(np.unique(train.labels))
    neighbors = config.knn_neighbors or min(_MAX_NEIGHBORS, mean_of_class)
    logits = classifiers.neighbour_logits(
        train, features, num_classes, num_neighbors=neighbors, temperature=config.knn_temperature
    )
    return logits, {"num_neighbors": neighbors}


def _what_was_evaluated(config: ProbeConfig, network: Network, sources: Sources) -> dict[str, Any]:
    data = config.data
    settings = {name: getattr(data, name) for name in ("label_fraction", "labels_per_class", "label_seed")}
    names = {name: source and source.name for name, source in sources._asdict().items()}
    own = {
        name: getattr(config, name)
        for name in ("endpoint", "seed", "linear_eval_protocol", "knn_temperature")
        if hasattr(config, name)
    }
    return {"checkpoint": network.path, "dataset": data.dataset} | names | settings | own


def _summary(scores: Mapping[str, float], details: Mapping[str, Any], sources: Sources) -> str:
    how = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in details.items())
    return (
        f"top-1 {scores['label_top_1_accuracy']:.2%}, top-5 {scores['label_top_5_accuracy']:.2%}, "
        f"mean per class {scores['mean_per_class_accuracy']:.2%}, calibration error "
        f"{scores['expected_calibration_error']:.4f} on {sources.test.name}{how}"
    )
