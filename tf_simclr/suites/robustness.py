"""A classifier of ImageNet on other tests than its own: `--mode=robustness`."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_simclr.config import RobustnessConfig, UserError
from tf_simclr.data import Source, load_source, load_with_label_sets, match_classes
from tf_simclr.evaluation.features import Network, load_inference_network
from tf_simclr.evaluation.probe_inputs import compute_features
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.runs.networks import is_saved_model
from tf_simclr.suites import imagenet_classes
from tf_simclr.suites.results import finish_suite, owning_results, run_suite
from tf_simclr.suites.tables import ROBUSTNESS_FILE, robustness_table
from tf_simclr.terminal.entry import entry_point
from tf_simclr.training.teacher import network_class_names

_LOGITS = "logits_sup"
_NUM_CLASSES = 1000
_SCORES = ("label_top_1_accuracy", "label_top_5_accuracy", "expected_calibration_error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessDataset:
    """One test of a classifier of ImageNet.

    Attributes:
        split: that holds its images.
        classes: WordNet ids of the classes that it has images of; None for all 1000. The classifier may choose among
            these alone.
        label_sets: the feature with all classes that are right for an image; None where there is one.
    """

    split: str = "test"
    classes: Sequence[str] | None = None
    label_sets: str | None = None


DATASETS: dict[str, RobustnessDataset] = {
    "imagenet_v2/matched-frequency": RobustnessDataset(),
    "imagenet_v2/threshold-0.7": RobustnessDataset(),
    "imagenet_v2/topimages": RobustnessDataset(),
    "imagenet_a": RobustnessDataset(classes=imagenet_classes.IMAGENET_A.split()),
    "imagenet_r": RobustnessDataset(classes=imagenet_classes.IMAGENET_R.split()),
    "imagenet2012_real": RobustnessDataset(split="validation", label_sets="real_label"),
    "imagenet_sketch": RobustnessDataset(),
}


@entry_point
def robustness(config: RobustnessConfig) -> dict[str, dict[str, Any] | None]:
    """Evaluates a classifier on each test; goes on where it was stopped, and prints and writes a table.

    Args:
        config: network and data sets.

    Returns:
        The result of each data set.

    Raises:
        UserError: a flag, a file or the data is wrong; at the end, where a data set has no result.
    """
    network = load_inference_network(str(config.checkpoint))
    _check_classifier(config, network)
    settings = {name: {"weights": network.fingerprint, "split": DATASETS[name].split} for name in config.names}
    blank = {name: {"settings": own} for name, own in settings.items()}
    with owning_results(_result_path(config, network), "output", overwrite=config.overwrite) as results:
        found = run_suite(results, settings, lambda name: _evaluate(config, network, name))
        finish_suite(results, robustness_table(blank | results.entries), found)
    return found


def _check_classifier(config: RobustnessConfig, network: Network) -> None:
    if _LOGITS not in network.shapes:
        raise UserError(
            f"--checkpoint={config.checkpoint}: has no classifier; name a network that was finetuned on imagenet2012."
        )
    (num_classes,) = network.shapes[_LOGITS]
    if num_classes != _NUM_CLASSES:
        raise UserError(
            f"--checkpoint={config.checkpoint}: tells {num_classes} classes apart, and these data sets have the "
            f"{_NUM_CLASSES} of ImageNet; name a network that was finetuned on imagenet2012."
        )


def _result_path(config: RobustnessConfig, network: Network) -> str:
    if config.output is not None:
        return os.path.expanduser(config.output)
    if is_saved_model(network.path):
        raise UserError(
            "--output: not given, and a SavedModel is no directory of a run; name a file for the result, such "
            "as --output=result.json."
        )
    return os.path.join(os.path.dirname(network.path), ROBUSTNESS_FILE)


def _evaluate(config: RobustnessConfig, network: Network, name: str) -> dict[str, Any]:
    dataset = DATASETS[name]
    data = dataclasses.replace(config.data, dataset=name)
    sets = None
    if dataset.label_sets is None:
        source = load_source(data, dataset.split, flag="datasets")
    else:
        source, by_key = load_with_label_sets(data, dataset.split, [dataset.label_sets], flag="datasets")
        sets = by_key[dataset.label_sets]
    source, numbers = _with_numbers_of_network(config, source)
    part = compute_features(network, _LOGITS, source, data=data, batch_size=config.eval_batch_size)
    if sets is not None:
        sets_of_network = np.zeros([len(sets), _NUM_CLASSES], bool)
        sets_of_network[:, numbers] = sets
        return _scores_of_sets(part.features, sets_of_network[part.positions])
    logits, labels = part.features, part.labels
    if dataset.classes is not None:
        logits, labels = _among(dataset.classes, source, logits, labels)
    scores = classification_scores(logits, labels)
    kept = {name: scores[name] for name in _SCORES}
    return kept | {"num_examples": len(labels), "num_classes": logits.shape[1]}


def _with_numbers_of_network(config: RobustnessConfig, source: Source) -> tuple[Source, np.ndarray]:
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
    matched = match_classes(
        source,
        names,
        flag="datasets",
        whose=f"--checkpoint={config.checkpoint}",
        fix="name a network that was finetuned on imagenet2012, or on folders with the names of its classes",
    )
    return matched, np.array([names.index(name) for name in own])


def _among(
    classes: Sequence[str], source: Source, logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the logits of some classes, and the labels as their numbers among these."""
    columns = np.flatnonzero(np.isin(source.class_names or (), classes))
    if not np.isin(labels, columns).all():
        raise UserError(
            f"--datasets: {source.name} has images of other classes than the {len(classes)} that it is defined by; "
            "prepare it anew."
        )
    return logits[:, columns], np.searchsorted(columns, labels)


def _scores_of_sets(logits: np.ndarray, sets: np.ndarray) -> dict[str, Any]:
    """Scores where several classes may be right; images for which none is are left out.

    Args:
        logits: `[N, K]`.
        sets: bool `[N, K]`, the classes that are right.
    """
    has_any = sets.any(axis=1)
    if not has_any.any():
        raise UserError("--datasets: no image has a label to compare with; prepare the data set anew.")
    logits, sets = logits[has_any], sets[has_any]
    predicted = logits.argmax(axis=1)
    is_right = sets[np.arange(len(sets)), predicted]
    scores = classification_scores(logits, np.where(is_right, predicted, sets.argmax(axis=1)))
    kept = ("label_top_1_accuracy", "expected_calibration_error")
    return {name: scores[name] for name in kept} | {
        "num_examples": len(logits),
        "num_classes": logits.shape[1],
        "num_without_label": int(np.count_nonzero(~has_any)),
    }
