"""A network on other data sets: `--mode=transfer`; SimCLR (arXiv 2002.05709), appendix B.8."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import DataConfig, LinearEvalConfig, TransferConfig, UserError, check
from tf_simclr.data import Source, load_with_label_sets
from tf_simclr.distribution.strategies import make_strategy
from tf_simclr.evaluation import classifiers
from tf_simclr.evaluation.classifiers import LabelledSets
from tf_simclr.evaluation.features import Network, compute_features, load_inference_network
from tf_simclr.evaluation.probe import fit_linear
from tf_simclr.evaluation.probe_inputs import Sources, check_memory, compute_splits, open_sources
from tf_simclr.metrics.scores import classification_scores, mean_average_precision, mean_per_class_accuracy
from tf_simclr.suites.results import Result, owning_results, run_suite
from tf_simclr.suites.tables import TRANSFER_DIRECTORY, TRANSFER_FILE, transfer_table
from tf_simclr.suites.transfer_datasets import MEAN_PER_CLASS, TransferDataset, find_dataset
from tf_simclr.suites.transfer_finetuning import finetune, finetuning_settings
from tf_simclr.terminal.entry import entry_point

_LOG = logging.getLogger("tf_simclr")


@entry_point
def transfer(config: TransferConfig) -> dict[str, Result | None]:
    """Evaluates a network on each data set; continues an interrupted suite, prints and writes a table.

    Args:
        config: network, data sets and protocol.

    Returns:
        The result of each data set that the protocol can learn.

    Raises:
        UserError: a flag, a file or the data is wrong; at the end, if a data set has no result.
    """
    linear_only = _linear_only(config)
    network = load_inference_network(str(config.checkpoint))
    if config.model_dir is None:
        directory = os.path.join(network.run_directory("model_dir", "runs/transfer"), TRANSFER_DIRECTORY)
    else:
        directory = os.path.expanduser(config.model_dir)
    compute, of_protocol = _protocol(config, network, directory)
    settings = {
        name: {"weights": network.fingerprint} | dataclasses.asdict(find_dataset(name)) | of_protocol
        for name in config.names
    }
    path = os.path.join(directory, TRANSFER_FILE)
    with owning_results(path, "model_dir", overwrite=config.overwrite) as results:
        return run_suite(
            results,
            settings,
            lambda name: compute(find_dataset(name)),
            transfer_table,
            prefix=f"{config.transfer_protocol}/",
            left_out=linear_only,
        )


def _linear_only(config: TransferConfig) -> list[str]:
    """Returns the data sets that finetuning cannot learn, if it is asked for."""
    if config.transfer_protocol == "linear":
        return []
    found = [name for name in config.names if find_dataset(name).label_sets is not None]
    fix = "has several classes an image, which finetuning does not learn; use --transfer_protocol=linear."
    check(len(found) < len(config.names), "datasets", config.datasets, fix)
    if found:
        _LOG.info("Linear only: %s; finetuning does not learn several classes an image.", ", ".join(found))
    return found


def _protocol(
    config: TransferConfig, network: Network, directory: str
) -> tuple[Callable[[TransferDataset], Result], dict[str, Any]]:
    """Returns a function that computes the result of a data set, and the settings that the result depends on."""
    if config.transfer_protocol == "linear":
        network.check_vector(config.endpoint)
        compute = functools.partial(_evaluate_linearly, config, network._replace(whole_side=True))
        return compute, {"endpoint": config.endpoint, "seed": config.train.seed}
    strategy = make_strategy(config.strategy)
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise UserError("--mode=transfer: is the work of one process; leave --strategy=multi_worker and TF_CONFIG out.")
    compute = functools.partial(finetune, config, network, directory, strategy)
    return compute, finetuning_settings(config, network)


def _evaluate_linearly(config: TransferConfig, network: Network, dataset: TransferDataset) -> Result:
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
    splits = compute_splits(probe_config, network, sources)
    accuracy = mean_per_class_accuracy if dataset.metric == MEAN_PER_CLASS else classifiers.top_1_accuracy
    fit = fit_linear(probe_config, splits, sources.num_classes, accuracy=accuracy)
    scores = classification_scores(fit.logits(splits.test.features), splits.test.labels)
    return scores | {"num_examples": len(splits.test.labels)} | _details(fit)


def _details(fit: classifiers.PenalisedFit) -> dict[str, Any]:
    return {
        "num_train_examples": fit.num_train,
        "num_validation_examples": fit.num_validation,
        "l2_penalty": fit.l2_penalty,
        "converged": fit.converged,
    }


def _evaluate_label_sets(
    config: LinearEvalConfig, network: Network, dataset: TransferDataset, label_sets: tuple[str, str]
) -> Result:
    """Fits one classifier for each class against the rest; returns the mean average precision."""
    splits = (dataset.train, str(dataset.validation), str(dataset.test))
    opened = [_open_label_sets(config.data, split, label_sets) for split in splits]
    check_memory(config, network, Sources(*(source for source, _ in opened)))
    train, validation, test = (_examples_of_sets(config, network, *one) for one in opened)
    _check_each_class(train, dataset)
    fit = classifiers.fit_one_vs_rest(train, validation, _score_of_sets)
    score = _score_of_sets(fit.logits(test.features), test)
    return {"mean_average_precision": score, "num_examples": len(test.features)} | _details(fit)


def _open_label_sets(
    data: DataConfig, split: str, label_sets: tuple[str, str]
) -> tuple[Source, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Returns a source; the classes that each example has, and the classes that are known of it, both `[N, K]`."""
    all_classes, plain = label_sets
    source, sets = load_with_label_sets(data, split, label_sets, flag="datasets")
    # A class that is there but hard to see counts neither as present nor as absent: VOC leaves it out.
    return source, (sets[plain], sets[plain] | ~sets[all_classes])


def _examples_of_sets(
    config: LinearEvalConfig, network: Network, source: Source, sets: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> LabelledSets:
    part = compute_features(network, config.endpoint, source, data=config.data, batch_size=config.eval_batch_size)
    return LabelledSets(part.features, *(one[part.positions] for one in sets))


def _score_of_sets(logits: NDArray[np.float64], examples: LabelledSets) -> float:
    return mean_average_precision(logits, examples.is_positive, examples.is_known)


def _check_each_class(train: LabelledSets, dataset: TransferDataset) -> None:
    with_class = (train.is_positive & train.is_known).any(axis=0)
    without = (~train.is_positive & train.is_known).any(axis=0)
    for number in np.flatnonzero(~(with_class & without)):
        raise UserError(
            f"--datasets={dataset.dataset}: the images of {dataset.train} are all with, or all without, class "
            f"{number}, which cannot be learnt; prepare the whole data set."
        )
