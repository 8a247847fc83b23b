"""How well a network serves other data sets: `--mode=transfer`; SimCLR (arXiv 2002.05709), appendix B.8."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.config import DataConfig, LinearEvalConfig, TransferConfig, UserError, check
from tf_simclr.data import Source, load_with_label_sets
from tf_simclr.distribution.strategies import make_strategy
from tf_simclr.evaluation import classifiers
from tf_simclr.evaluation.classifiers import LabelledSets
from tf_simclr.evaluation.features import Network, load_inference_network
from tf_simclr.evaluation.probe import check_vector, with_validation
from tf_simclr.evaluation.probe_inputs import Sources, check_memory, compute_examples, compute_features, open_sources
from tf_simclr.metrics.scores import classification_scores, mean_average_precision, mean_per_class_accuracy
from tf_simclr.runs.networks import is_saved_model
from tf_simclr.suites.results import finish_suite, owning_results, run_suite
from tf_simclr.suites.tables import TRANSFER_DIRECTORY, TRANSFER_FILE, transfer_table
from tf_simclr.suites.transfer_datasets import MEAN_PER_CLASS, TransferDataset, find_dataset
from tf_simclr.suites.transfer_finetuning import finetune, finetuning_settings
from tf_simclr.terminal.entry import entry_point

_LOG = logging.getLogger("tf_simclr")


@entry_point
def transfer(config: TransferConfig) -> dict[str, dict[str, Any] | None]:
    """Evaluates a network on each data set; goes on where it was stopped, and prints and writes a table.

    Args:
        config: network, data sets and protocol.

    Returns:
        The result of each data set that the protocol can learn.

    Raises:
        UserError: a flag, a file or the data is wrong; at the end, where a data set has no result.
    """
    learnable = _learnable(config)
    network = load_inference_network(str(config.checkpoint))
    directory = _directory(config, network)
    compute, of_protocol = _protocol(config, network, directory)
    settings = {
        name: {"weights": network.fingerprint} | dataclasses.asdict(find_dataset(name)) | of_protocol
        for name in config.names
    }

    def key(name: str) -> str:
        return f"{config.transfer_protocol}/{name}"

    blank = {key(name): {"settings": own} for name, own in settings.items()}
    path = os.path.join(directory, TRANSFER_FILE)
    with owning_results(path, "model_dir", overwrite=config.overwrite) as results:
        found = run_suite(
            results,
            {name: settings[name] for name in learnable},
            lambda name: compute(find_dataset(name)),
            key=key,
        )
        finish_suite(results, transfer_table(blank | results.entries), found)
    return found


def _protocol(
    config: TransferConfig, network: Network, directory: str
) -> tuple[Callable[[TransferDataset], dict[str, Any]], dict[str, Any]]:
    """Returns what computes the result of a data set, and the settings that it depends on."""
    if config.transfer_protocol == "linear":
        check_vector(config.endpoint, network)
        compute = functools.partial(_evaluate_linearly, config, network._replace(whole_side=True))
        return compute, {"endpoint": config.endpoint, "seed": config.train.seed}
    strategy = make_strategy(config.strategy)
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise UserError("--mode=transfer: is the work of one process; leave --strategy=multi_worker and TF_CONFIG out.")
    compute = functools.partial(finetune, config, network, directory, strategy)
    return compute, finetuning_settings(config, network)


def _learnable(config: TransferConfig) -> list[str]:
    """Returns the data sets without those that can only be evaluated linearly, where that is not asked for."""
    if config.transfer_protocol == "linear":
        return list(config.names)
    linear_only = [name for name in config.names if find_dataset(name).label_sets is not None]
    check(
        len(linear_only) < len(config.names),
        "datasets",
        config.datasets,
        "has several classes an image, which finetuning does not learn; use --transfer_protocol=linear.",
    )
    if linear_only:
        _LOG.info("Linear only: %s; finetuning does not learn several classes an image.", ", ".join(linear_only))
    return [name for name in config.names if name not in linear_only]


def _directory(config: TransferConfig, network: Network) -> str:
    if config.model_dir is not None:
        return os.path.expanduser(config.model_dir)
    if is_saved_model(network.path):
        raise UserError(
            "--model_dir: not given, and a SavedModel is no directory of a run; name one for the results, such as "
            "--model_dir=runs/transfer."
        )
    return os.path.join(os.path.dirname(network.path), TRANSFER_DIRECTORY)


def _evaluate_linearly(config: TransferConfig, network: Network, dataset: TransferDataset) -> dict[str, Any]:
    """Fits a linear classifier to the features of a data set; returns its scores on the test images."""
    own = dataclasses.replace(config.data, dataset=dataset.dataset, train_split=dataset.train, eval_split=dataset.test)
    probe_config = LinearEvalConfig(
        data=own,
        checkpoint=config.checkpoint,
        endpoint=config.endpoint,
        eval_batch_size=config.eval_batch_size,
        seed=config.train.seed,
    )
    if dataset.label_sets is not None:
        return _evaluate_label_sets(probe_config, network, dataset, dataset.label_sets)
    sources = open_sources(probe_config)
    check_memory(probe_config, network, sources)
    train = compute_examples(probe_config, network, sources.train)
    test = compute_examples(probe_config, network, sources.test)
    validation = None
    if sources.validation is not None:
        validation = compute_examples(probe_config, network, sources.validation)
    examples, num_fit = with_validation(probe_config, train, validation)
    check(
        len(np.unique(examples.labels[:num_fit])) > 1,
        "dataset",
        own.dataset,
        "all labelled images are of one class; there is nothing to tell apart.",
    )
    accuracy = {"accuracy": mean_per_class_accuracy} if dataset.metric == MEAN_PER_CLASS else {}
    fit = classifiers.fit_lbfgs(examples, num_fit, **accuracy)
    num_classes = int(sources.train.num_classes or 0)
    return classification_scores(fit.logits(test.features, num_classes), test.labels) | {
        "num_examples": len(test.labels),
        "num_train_examples": num_fit,
        "num_validation_examples": len(examples.labels) - num_fit,
        "l2_penalty": fit.l2_penalty,
        "converged": fit.converged,
    }


def _evaluate_label_sets(
    config: LinearEvalConfig, network: Network, dataset: TransferDataset, label_sets: tuple[str, str]
) -> dict[str, Any]:
    """Fits one classifier for each class against the rest; returns the mean average precision."""
    splits = (dataset.train, dataset.validation, dataset.test)
    opened = [_open_label_sets(config.data, str(split), label_sets) for split in splits]
    check_memory(config, network, Sources(*(source for source, _ in opened)))
    train, validation, test = (_examples_of_sets(config, network, *one) for one in opened)
    _check_each_class(train, dataset)
    everything = LabelledSets(*map(np.concatenate, zip(train, validation, strict=True)))
    fit = classifiers.fit_one_vs_rest(everything, len(train.features), _score_of_sets)
    return {
        "mean_average_precision": _score_of_sets(fit.logits(test.features), test),
        "num_examples": len(test.features),
        "num_train_examples": len(train.features),
        "num_validation_examples": len(validation.features),
        "l2_penalty": fit.l2_penalty,
        "converged": fit.converged,
    }


def _open_label_sets(
    data: DataConfig, split: str, label_sets: tuple[str, str]
) -> tuple[Source, tuple[np.ndarray, np.ndarray]]:
    """Returns a source; which classes each example has, and of which that is known, both bool `[N, K]`."""
    all_classes, plain = label_sets
    source, sets = load_with_label_sets(data, split, label_sets, flag="datasets")
    # What is there but hard to see counts neither as being there nor as not: VOC leaves it out.
    return source, (sets[plain], sets[plain] | ~sets[all_classes])


def _examples_of_sets(
    config: LinearEvalConfig, network: Network, source: Source, sets: tuple[np.ndarray, np.ndarray]
) -> LabelledSets:
    part = compute_features(network, config.endpoint, source, data=config.data, batch_size=config.eval_batch_size)
    return LabelledSets(part.features, *(one[part.positions] for one in sets))


def _score_of_sets(logits: np.ndarray, examples: LabelledSets) -> float:
    return mean_average_precision(logits, examples.is_positive, examples.is_known)


def _check_each_class(train: LabelledSets, dataset: TransferDataset) -> None:
    with_class = (train.is_positive & train.is_known).any(axis=0)
    without = (~train.is_positive & train.is_known).any(axis=0)
    for number in np.flatnonzero(~(with_class & without)):
        raise UserError(
            f"--datasets={dataset.dataset}: the images of {dataset.train} are all with, or all without, class "
            f"{number}, which cannot be learnt; prepare the whole data set."
        )
