"""An ImageNet classifier on other tests than its own: `--mode=robustness`."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tf_simclr.config import DataConfig, RobustnessConfig, UserError
from tf_simclr.data import Source, load_source, load_with_label_sets, match_classes
from tf_simclr.evaluation.features import Network, compute_features, load_inference_network
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.suites.results import Result, owning_results, run_suite
from tf_simclr.suites.tables import ROBUSTNESS_FILE, robustness_table
from tf_simclr.terminal.entry import entry_point
from tf_simclr.training.teacher import network_class_names

_LOGITS = "logits_sup"
_NUM_CLASSES = 1000
_SCORES = ("label_top_1_accuracy", "label_top_5_accuracy", "expected_calibration_error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessDataset:
    """One test of an ImageNet classifier.

    Attributes:
        split: split that holds its images.
        num_classes: number of classes that it has images of; the classifier chooses among these alone.
        label_sets: feature with all right classes of an image; None if one class is right.
    """

    split: str = "test"
    num_classes: int = _NUM_CLASSES
    label_sets: str | None = None


# ImageNet-A: Hendrycks et al., arXiv 1907.07174. ImageNet-R: Hendrycks et al., arXiv 2006.16241.
DATASETS: dict[str, RobustnessDataset] = {
    "imagenet_v2/matched-frequency": RobustnessDataset(),
    "imagenet_v2/threshold-0.7": RobustnessDataset(),
    "imagenet_v2/topimages": RobustnessDataset(),
    "imagenet_a": RobustnessDataset(num_classes=200),
    "imagenet_r": RobustnessDataset(num_classes=200),
    "imagenet2012_real": RobustnessDataset(split="validation", label_sets="real_label"),
    "imagenet_sketch": RobustnessDataset(),
}


@entry_point
def robustness(config: RobustnessConfig) -> dict[str, Result | None]:
    """Evaluates a classifier on each test; continues an interrupted suite, prints and writes a table.

    Args:
        config: network and data sets.

    Returns:
        The result of each data set.

    Raises:
        UserError: a flag, a file or the data is wrong; at the end, if a data set has no result.
    """
    network = load_inference_network(str(config.checkpoint))
    _check_classifier(config, network)
    settings = {name: {"weights": network.fingerprint, "split": DATASETS[name].split} for name in config.names}
    if config.output is None:
        path = os.path.join(network.run_directory("output", "result.json"), ROBUSTNESS_FILE)
    else:
        path = os.path.expanduser(config.output)
    with owning_results(path, "output", overwrite=config.overwrite) as results:
        return run_suite(results, settings, functools.partial(_evaluate, config, network), robustness_table)


def _check_classifier(config: RobustnessConfig, network: Network) -> None:
    (num_classes,) = network.shapes.get(_LOGITS, (0,))
    if num_classes != _NUM_CLASSES:
        problem = (
            f"tells {num_classes} classes apart, and these data sets have the {_NUM_CLASSES} of ImageNet"
            if num_classes
            else "has no classifier"
        )
        raise UserError(
            f"--checkpoint={config.checkpoint}: {problem}; name a network that was finetuned on imagenet2012."
        )


def _evaluate(config: RobustnessConfig, network: Network, name: str) -> Result:
    dataset = DATASETS[name]
    data = dataclasses.replace(config.data, dataset=name)
    if dataset.label_sets is not None:
        return _evaluate_label_sets(config, network, data, dataset)
    source, _ = _with_numbers_of_network(config, load_source(data, dataset.split, flag="datasets"))
    part = compute_features(network, _LOGITS, source, data=data, batch_size=config.eval_batch_size)
    logits, labels = part.features, part.labels
    if dataset.num_classes < _NUM_CLASSES:
        shown, labels = np.unique(labels, return_inverse=True)
        if len(shown) != dataset.num_classes:
            raise UserError(
                f"--datasets: {source.name} has images of {len(shown)} classes, not of {dataset.num_classes}; prepare "
                "it anew."
            )
        logits = logits[:, shown]
    scores = classification_scores(logits, labels)
    return {name: scores[name] for name in _SCORES} | {"num_examples": len(labels), "num_classes": logits.shape[1]}


def _evaluate_label_sets(
    config: RobustnessConfig, network: Network, data: DataConfig, dataset: RobustnessDataset
) -> Result:
    """Scores a test in which several classes may be right; leaves out the images for which none is."""
    key = str(dataset.label_sets)
    source, sets = load_with_label_sets(data, dataset.split, [key], flag="datasets")
    source, numbers = _with_numbers_of_network(config, source)
    part = compute_features(network, _LOGITS, source, data=data, batch_size=config.eval_batch_size)
    is_right = np.zeros([source.num_examples, _NUM_CLASSES], bool)
    is_right[:, numbers] = sets[key]
    is_right = is_right[part.positions]
    has_any = is_right.any(axis=1)
    if not has_any.any():
        raise UserError("--datasets: no image has a label to compare with; prepare the data set anew.")
    return _scores_of_sets(part.features[has_any], is_right[has_any]) | {
        "num_without_label": int(np.count_nonzero(~has_any)),
    }


def _scores_of_sets(logits: NDArray[np.float32], is_right: NDArray[np.bool_]) -> Result:
    """Scores predictions of which several may be right.

    Args:
        logits: `[N, K]`.
        is_right: `[N, K]`, the classes that are right, at least one for each image.
    """
    predicted = logits.argmax(axis=1)
    is_hit = is_right[np.arange(len(logits)), predicted]
    scores = classification_scores(logits, np.where(is_hit, predicted, is_right.argmax(axis=1)))
    kept = ("label_top_1_accuracy", "expected_calibration_error")
    return {name: scores[name] for name in kept} | {"num_examples": len(logits), "num_classes": logits.shape[1]}


def _with_numbers_of_network(config: RobustnessConfig, source: Source) -> tuple[Source, NDArray[Any]]:
    """Returns a source whose labels are numbers of the network's classes, and the number of each of its own classes.

    The network's classes are those of ImageNet in the order of TFDS, unless its own names are known.

    Raises:
        UserError: the data set has other classes.
    """
    own = source.class_names or ()
    known = network_class_names(str(config.checkpoint), "checkpoint")
    if not own or (known is None and len(own) != _NUM_CLASSES):
        raise UserError(
            f"--datasets: {source.name} has {len(own) or 'no'} classes, not the {_NUM_CLASSES} of ImageNet; prepare it "
            "anew."
        )
    names = own if known is None else tuple(known)
    fix = "name a network that was finetuned on imagenet2012, or on folders with the names of its classes"
    matched = match_classes(source, names, flag="datasets", whose=f"--checkpoint={config.checkpoint}", fix=fix)
    return matched, np.array([names.index(name) for name in own])
