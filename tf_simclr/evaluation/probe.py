"""Frozen features put to the test: `--mode=linear_eval` and `--mode=knn_eval`.

Each image goes through the network once; what is learnt afterwards is learnt from the features.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.config import KnnEvalConfig, LinearEvalConfig, ProbeConfig, UserError, check
from tf_simclr.evaluation import classifiers
from tf_simclr.evaluation.classifiers import Examples
from tf_simclr.evaluation.features import Network, load_inference_network
from tf_simclr.evaluation.probe_inputs import Sources, check_memory, compute_examples, open_sources
from tf_simclr.evaluation.probe_page import render_probe_page
from tf_simclr.files import counted, first_line, to_json, write_text
from tf_simclr.metrics.confusion import confusion_path, count_confusions, to_csv
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.runs.networks import is_saved_model
from tf_simclr.terminal.entry import entry_point

_LOG = logging.getLogger("tf_simclr")
_VALIDATION_SHARE = 0.2
_MOST_NEIGHBORS = 200


@entry_point
def probe(config: LinearEvalConfig | KnnEvalConfig) -> dict[str, Any]:
    """Evaluates the frozen features of a network; writes the result, a confusion matrix and a page.

    Each file is written whole or not at all, and that of the result last.

    Args:
        config: network, data set and classifier.

    Returns:
        The content of the result file: `linear_eval/label_top_1_accuracy` and other scores (or `knn_eval/...`),
        and what was evaluated.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    network = load_inference_network(str(config.checkpoint))
    path = _result_path(config, network)
    check_vector(config.endpoint, network)
    sources = open_sources(config)
    check_memory(config, network, sources)
    train = compute_examples(config, network, sources.train)
    test = compute_examples(config, network, sources.test)
    _warn_of_new_classes(train, test)
    num_classes = int(sources.train.num_classes or 0)
    if isinstance(config, KnnEvalConfig):
        logits, details = _neighbours(config, train, test.features, num_classes)
    else:
        validation = None
        if sources.validation is not None:
            validation = compute_examples(config, network, sources.validation)
        logits, details = _linear(config, train, validation, test.features, num_classes)
    scores = classification_scores(logits, test.labels)
    counts = {"num_examples": len(test.labels), "num_train_examples": len(train.labels)}
    result = {f"{config.mode}/{name}": value for name, value in (scores | counts | details).items()}
    _LOG.info("%s; in %s", _describe(config, scores, details, sources), path)  # Also where writing fails.
    content = result | _what_was_evaluated(config, network, sources)
    confusion = count_confusions(logits.argmax(axis=1), test.labels, sources.train.class_names or ())
    if confusion is not None:
        _write(confusion_path(path), to_csv(confusion))
    _write(_page_path(path), render_probe_page(config.mode, content, confusion))
    _write(path, to_json(content))
    return result


def _result_path(config: ProbeConfig, network: Network) -> str:
    """Returns the file of the result, in a directory that is there."""
    if config.output is not None:
        path, flag = os.path.expanduser(config.output), f"--output={config.output}"
    elif is_saved_model(network.path):
        raise UserError(
            "--output: not given, and a SavedModel is no directory of a run; name a file for the result, such "
            "as --output=result.json."
        )
    else:
        path = os.path.join(os.path.dirname(network.path), f"result_{config.mode}.json")
        flag = f"--checkpoint={config.checkpoint}"
    try:
        found = [name for name in (path, confusion_path(path), _page_path(path)) if tf.io.gfile.exists(name)]
        tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"{flag}: cannot be written ({first_line(error)}); name a file with --output.") from error
    if found and not config.overwrite:
        raise UserError(
            f"{flag}: {found[0]} exists already; replace it with --overwrite=True, or name another file with --output."
        )
    return path


def _page_path(path: str) -> str:
    return f"{os.path.splitext(path)[0]}.html"


def _write(path: str, text: str) -> None:
    try:
        write_text(path, text)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"{path}: cannot be written ({first_line(error)}); free some space, or name another file with --output."
        ) from error


def check_vector(endpoint: str, network: Network) -> None:
    """Raises UserError unless the network has this output, and it is a vector for one image."""
    network.check_endpoint(endpoint)
    vectors = [name for name, shape in network.shapes.items() if len(shape) == 1]
    check(
        endpoint in vectors,
        "endpoint",
        endpoint,
        f"is no vector but {list(network.shapes[endpoint])} for one image; use one of {', '.join(vectors)}.",
    )


def _warn_of_new_classes(train: Examples, test: Examples) -> None:
    new = np.setdiff1d(test.labels, train.labels)
    if len(new):
        has, classes = "has" if len(new) == 1 else "have", counted(len(new), "class")
        _LOG.info("%s of the test %s no labelled image to learn from: theirs count as wrong.", classes, has)


def _linear(
    config: LinearEvalConfig,
    train: Examples,
    validation: Examples | None,
    features: np.ndarray,
    num_classes: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the logits of the test images, and what there is to know about the classifier."""
    found = np.unique(train.labels)
    check(
        len(found) > 1,
        "train_split",
        config.data.labelled_split,
        f"there is one class in {counted(len(train.labels), 'labelled image')}; use a part that has some of each.",
    )
    if config.linear_eval_protocol == "sgd":
        classifier = classifiers.fit_sgd(train, num_classes, seed=config.seed)
        return classifier(features).numpy().astype(np.float64), {}
    examples, num_fit = with_validation(config, train, validation)
    fit = classifiers.fit_lbfgs(examples, num_fit)
    if not fit.converged:
        _LOG.info("The last fit was stopped before it converged: the result is a lower bound.")
    details = {
        "l2_penalty": fit.l2_penalty,
        "validation_top_1_accuracy": fit.validation_accuracy,
        "num_validation_examples": len(examples.labels) - num_fit,
    }
    return fit.logits(features, num_classes), details


def with_validation(config: LinearEvalConfig, train: Examples, validation: Examples | None) -> tuple[Examples, int]:
    """Returns all examples to learn from, and how many come before those for validation."""
    if validation is not None:
        return Examples(*map(np.concatenate, zip(train, validation, strict=True))), len(train.labels)
    kept, others = classifiers.split_off_validation(train.labels, share=_VALIDATION_SHARE, seed=config.seed)
    if not len(others):
        flag = "labels_per_class" if config.data.labels_per_class else "train_split"
        value = config.data.labels_per_class or config.data.labelled_split
        raise UserError(
            f"--{flag}={value}: one image a class leaves none to choose the penalty by; use "
            "more, or --linear_eval_protocol=sgd, or --mode=knn_eval."
        )
    order = np.concatenate([kept, others])
    return Examples(train.features[order], train.labels[order]), len(kept)


def _neighbours(
    config: KnnEvalConfig, train: Examples, features: np.ndarray, num_classes: int
) -> tuple[np.ndarray, dict[str, Any]]:
    count = len(train.labels)
    check(
        config.knn_neighbors <= count,
        "knn_neighbors",
        config.knn_neighbors,
        f"there are {count} labelled images to learn from; use at most {count}, or 0.",
    )
    mean_of_class = count // len(np.unique(train.labels))
    neighbors = config.knn_neighbors or min(_MOST_NEIGHBORS, mean_of_class)
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


def _describe(config: ProbeConfig, scores: Mapping[str, float], details: Mapping[str, Any], sources: Sources) -> str:
    how = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in details.items())
    protocol = f" ({config.linear_eval_protocol})" if isinstance(config, LinearEvalConfig) else ""
    return (
        f"{config.mode}{protocol}: top-1 {scores['label_top_1_accuracy']:.2%}, "
        f"top-5 {scores['label_top_5_accuracy']:.2%}, "
        f"mean per class {scores['mean_per_class_accuracy']:.2%}, calibration error "
        f"{scores['expected_calibration_error']:.4f} on {sources.test.name}{how}"
    )
