"""The images that frozen features are tested on, and their features: each goes through the network once."""

import contextlib
import logging
from typing import NamedTuple

import numpy as np

from tf_simclr.config import DataConfig, LinearEvalConfig, ProbeConfig, UserError, check
from tf_simclr.data import (
    Source,
    available_splits,
    data_lines,
    describe_source,
    few_labels,
    find_split,
    load_source,
    match_classes,
    splits_left,
)
from tf_simclr.evaluation.classifiers import Examples
from tf_simclr.evaluation.features import FeaturePass, Features, Network
from tf_simclr.files import counted, listed
from tf_simclr.terminal.memory import available_memory

_LOG = logging.getLogger("tf_simclr")
# Of a feature: as float32, twice where validation images are put beside, and the copy that is fitted.
_BYTES_PER_NUMBER = 16
# Logits, their gradients and their exponentials as float64, while L-BFGS fits.
_BYTES_PER_LOGIT = 24


class Sources(NamedTuple):
    """The images to learn from, those to choose settings by, where they are a split of their own, and the test."""

    train: Source
    validation: Source | None
    test: Source


def open_sources(config: ProbeConfig) -> Sources:
    """Opens the splits that `config` needs, each with labels, which are numbers of the training images' classes.

    The test is `eval_split`, or else test, or else validation. Validation images are a split of their own
    where the data set has one beside these; not where labels are few, as those of a whole split would be more.

    Raises:
        UserError: there is no such split, or no label, or only one class.
    """
    data = config.data
    test_split = data.eval_split or _default_test_split(data)
    train = few_labels(load_source(data, data.labelled_split), data)
    test = load_source(data, test_split, flag="eval_split")
    _check_classes(data, train, test, test_split)
    test = _with_training_numbers(test, train)
    needs_validation = isinstance(config, LinearEvalConfig) and config.linear_eval_protocol == "lbfgs"
    validation = None
    if needs_validation and not data.few_labels:
        validation = _validation_source(data, train, test_split)
    for line in data_lines(train, test):
        _LOG.info(line)
    if validation is not None:
        _LOG.info("Validation images: %s", describe_source(validation))
    return Sources(train, validation, test)


def _validation_source(data: DataConfig, train: Source, test_split: str) -> Source | None:
    """Returns the validation images where they are a split of their own, with labels."""
    free = find_split("validation", splits_left(available_splits(data), f"{data.labelled_split}+{test_split}"))
    source = load_source(data, free, flag="eval_split") if free else None
    if source is None or source.num_classes is None:
        return None
    try:
        return _with_training_numbers(source, train)
    except UserError:
        _LOG.info("%s has other classes than %s: a part of that is held out instead.", source.name, train.name)
        return None


def _with_training_numbers(source: Source, train: Source) -> Source:
    fix = "use splits with the same classes, or with some of them"
    return match_classes(source, train.class_names, flag="eval_split", whose=train.name, fix=fix)


def _default_test_split(data: DataConfig) -> str:
    there = splits_left(available_splits(data), data.labelled_split)
    split = find_split("test", there) or find_split("validation", there)
    if split is None:
        raise UserError(
            f"--eval_split: not given, and {data.dataset} has neither test nor validation images that "
            f"--train_split={data.labelled_split} leaves; name a part, "
            "such as --train_split=train[:80%] --eval_split=train[80%:]."
        )
    return split


def _check_classes(data: DataConfig, train: Source, test: Source, test_split: str) -> None:
    check(
        test.num_classes is not None,
        "eval_split",
        test_split,
        f"{test.name} has no labels to compare with; name a split or a data set with labels.",
    )


def check_memory(config: ProbeConfig, network: Network, sources: Sources) -> None:
    """Raises UserError where the features of all images would not fit in the memory of this machine."""
    count = sum(source.num_examples for source in sources if source is not None)
    num_logits = 0
    if isinstance(config, LinearEvalConfig) and config.linear_eval_protocol == "lbfgs":
        num_logits = sources.train.num_examples * int(sources.train.num_classes or 0)
    check_features_fit(config.data, count, network.shapes[config.endpoint][0], num_logits=num_logits)


def check_features_fit(data: DataConfig, num_images: int, size: int, *, num_logits: int = 0) -> None:
    """Raises UserError where `size` features of each image, and logits, do not fit in the memory of this machine."""
    needed = num_images * size * _BYTES_PER_NUMBER + num_logits * _BYTES_PER_LOGIT
    there = available_memory()
    check(
        there is None or needed <= there,
        "train_split",
        data.labelled_split,
        f"the {size} features of {num_images} images take {needed / 2**30:.1f} GiB, and "
        f"{(there or 0) / 2**30:.1f} are free; use a part of the split, such as train[:10%], or --labels_per_class.",
    )


def compute_features(network: Network, endpoint: str, source: Source, *, data: DataConfig, batch_size: int) -> Features:
    """Takes the images of a source through the network, each once.

    Raises:
        UserError: they cannot be read, or their features are not finite.
    """
    images = counted(source.num_examples, "image")
    _LOG.info("Features of %s: %s of %d px.", source.name, images, network.image_size)
    features = FeaturePass(network, endpoint, source, data=data, batch_size=batch_size)
    with contextlib.closing(features):
        part = features.read(0, source.num_examples)
    if part.unreadable:
        images = counted(len(part.unreadable), "unreadable image")
        _LOG.info("Left out %s: %s.", images, listed(part.unreadable))
    check(
        bool(np.isfinite(part.features).all()),
        "endpoint",
        endpoint,
        f"is not finite for some images of {source.name}; use another output or another checkpoint.",
    )
    return part


def compute_examples(config: ProbeConfig, network: Network, source: Source) -> Examples:
    """Takes the images of a source through the network, each once; leaves out those without a label."""
    part = compute_features(network, config.endpoint, source, data=config.data, batch_size=config.eval_batch_size)
    has_label = part.labels >= 0
    if not has_label.any():
        raise UserError(
            f"--dataset={config.data.dataset}: no image of {source.name} has a label; name other splits with "
            "--train_split and --eval_split."
        )
    if has_label.all():
        return Examples(part.features, part.labels)
    return Examples(part.features[has_label], part.labels[has_label])
