"""Images of an evaluation of frozen features, and their features."""

import logging
from typing import NamedTuple

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
from tf_simclr.evaluation.features import Network, compute_features
from tf_simclr.terminal.memory import available_memory

_LOG = logging.getLogger("tf_simclr")
# A feature as float32, twice while train and validation are joined, and as float64.
_BYTES_PER_NUMBER = 16
# Logits, their gradients and their exponentials as float64, while L-BFGS fits.
_BYTES_PER_LOGIT = 24


class Sources(NamedTuple):
    """Images to learn from, images to choose settings by (if they are a split of their own), and test images."""

    train: Source
    validation: Source | None
    test: Source

    @property
    def num_classes(self) -> int:
        """Number of classes of the images to learn from; 0 without labels."""
        return self.train.num_classes or 0


class SplitExamples(NamedTuple):
    """Features and labels of `Sources`."""

    train: Examples
    validation: Examples | None
    test: Examples


def open_sources(config: ProbeConfig) -> Sources:
    """Opens the splits that `config` needs. Their labels are numbers of the training images' classes.

    The test split is `eval_split`, or else test, or else validation. Validation images are a split of their own if the
    data set has one left. With few labels they are not: a whole split has more labels than that.

    Raises:
        UserError: there is no such split, or no label, or only one class.
    """
    data = config.data
    test_split = data.eval_split or _default_test_split(data)
    train = few_labels(load_source(data, data.labelled_split), data)
    test = load_source(data, test_split, flag="eval_split")
    fix = f"{test.name} has no labels to compare with; name a split or a data set with labels."
    check(test.num_classes is not None, "eval_split", test_split, fix)
    test = _with_training_numbers(test, train)
    use_validation = _fits_by_lbfgs(config) and not data.few_labels
    validation = _validation_source(data, train, test_split) if use_validation else None
    for line in data_lines(train, test):
        _LOG.info(line)
    if validation is not None:
        _LOG.info("Validation images: %s", describe_source(validation))
    return Sources(train, validation, test)


def _fits_by_lbfgs(config: ProbeConfig) -> bool:
    return isinstance(config, LinearEvalConfig) and config.linear_eval_protocol == "lbfgs"


def _validation_source(data: DataConfig, train: Source, test_split: str) -> Source | None:
    """Returns the validation images if they are a split of their own, with labels."""
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


def check_memory(config: ProbeConfig, network: Network, sources: Sources) -> None:
    """Raises UserError if the features of all images do not fit in the memory of this machine."""
    count = sum(source.num_examples for source in sources if source is not None)
    num_logits = sources.train.num_examples * sources.num_classes if _fits_by_lbfgs(config) else 0
    check_features_fit(config.data, count, network.shapes[config.endpoint][0], num_logits=num_logits)


def check_features_fit(data: DataConfig, num_images: int, size: int, *, num_logits: int = 0) -> None:
    """Raises UserError if `size` features of each image, and logits, do not fit in the memory of this machine."""
    needed = num_images * size * _BYTES_PER_NUMBER + num_logits * _BYTES_PER_LOGIT
    free = available_memory()
    check(
        free is None or needed <= free,
        "train_split",
        data.labelled_split,
        f"the {size} features of {num_images} images take {needed / 2**30:.1f} GiB, and "
        f"{(free or 0) / 2**30:.1f} are free; use a part of the split, such as train[:10%], or --labels_per_class.",
    )


def compute_splits(config: ProbeConfig, network: Network, sources: Sources) -> SplitExamples:
    """Takes the images of all splits through the network, each once; leaves out images without a label.

    Raises:
        UserError: the features do not fit in memory or are not finite, or the images cannot be read.
    """
    check_memory(config, network, sources)
    train, test = (compute_examples(config, network, source) for source in (sources.train, sources.test))
    validation = None if sources.validation is None else compute_examples(config, network, sources.validation)
    return SplitExamples(train, validation, test)


def compute_examples(config: ProbeConfig, network: Network, source: Source) -> Examples:
    """Takes the images of a source through the network, each once; leaves out images without a label."""
    part = compute_features(network, config.endpoint, source, data=config.data, batch_size=config.eval_batch_size)
    has_label = part.labels >= 0
    if not has_label.any():
        raise UserError(
            f"--dataset={config.data.dataset}: no image of {source.name} has a label; name other splits with "
            "--train_split and --eval_split."
        )
    if has_label.all():  # Indexing copies the features.
        return Examples(part.features, part.labels)
    return Examples(part.features[has_label], part.labels[has_label])
