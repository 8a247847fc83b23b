"""The examples of one split: what every source offers, and the source that holds arrays in memory."""

import abc
import copy
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.listing import CONVERTED_EXTENSIONS

# An unreadable image is replaced by the next example of the order, this many in all are tried.
NUM_CANDIDATES = 4
# Before this many images (or one epoch) the share of unreadable ones says nothing.
MIN_IMAGES_SEEN = 1000
# Keeps the random numbers of the order apart from those of the augmentation.
_ORDER_SALT = 0x0DE5


class TrainingSource(abc.ABC):
    """Examples to train on: those of one split of a data set, or of several.

    Attributes:
        name: Data set and split, for messages.
        num_examples: Number of examples, at least 1.
        num_classes: Number of classes, or None without labels.
        class_names: Name of each class, or None.
        files: Path of each example, where each is a file; or of all files that hold examples.
        prepared_in: The directory, named by its version, that the examples were prepared in, or None.
        num_left_out: Number of unreadable images that are none of the examples, as all were decoded at first.
        num_unlabelled: Number of examples without a label, where others have one.
        labels: Label of each example, int32 [N], -1 for none; or None where they are not known, or there are none.
        ignored: Lines that say what lies beside the examples and is none.
        identity: What the examples are, whatever place they lie at: their names, or the name of a published data set;
            empty where only `example_name` tells.
    """

    def __init__(self, name: str, num_examples: int, class_names: Sequence[str] | None):
        self.name = name
        self.num_examples = num_examples
        self.class_names = None if class_names is None else tuple(class_names)
        self.files: Sequence[str] = ()
        self.prepared_in: str | None = None
        self.num_left_out = 0
        self.num_unlabelled = 0
        self.labels: np.ndarray | None = None
        self.ignored: tuple[str, ...] = ()
        self.identity: tuple[bytes, ...] = ()
        self._bad_names: dict[str, None] = {}
        self._bad_lock = threading.Lock()

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None without labels."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def bytes_in_memory(self) -> int:
        """About how much of the examples is held in memory."""
        return 0

    def fingerprint(self) -> str:
        """Returns a digest that differs where examples were added, removed or renamed, and not where they were moved.

        It does not depend on how the examples are read: as files, as a stream, or kept in memory.
        """
        names = (self.example_name(key).encode() for key in range(self.num_examples))
        digest = hashlib.sha256()
        for part in self.identity or names:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def add_bad_image(self, name: str) -> None:
        """Remembers the name of an unreadable image; safe to call from several threads."""
        with self._bad_lock:
            self._bad_names[name] = None

    def bad_image_names(self) -> tuple[str, ...]:
        """Returns the names of the unreadable images met so far, each once."""
        with self._bad_lock:
            return tuple(self._bad_names)

    @abc.abstractmethod
    def train_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """Returns the endless shuffled order of the rows that are made here, from `first_step` on.

        What stands at a position depends on nothing but the seed, the position and the number of
        workers, so that resuming is arithmetic.

        Args:
            seed: Seed of the order.
            plan: Says which positions are made here.
            first_step: Number of global batches to pass over.

        Returns:
            Dataset of dicts with `position` int64 [] and `keys` int64 [NUM_CANDIDATES]: the
            example at that position, then those that stand in for it where it is unreadable.
        """

    @abc.abstractmethod
    def divisible_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """Returns the rows of all workers, in a form that a tf.data service can divide.

        Its dispatcher gives each element of the first data set of a pipeline to one data worker. No
        example of an epoch is left out or comes twice, in whatever order the parts come.

        Args:
            seed: Seed of the order.
            plan: Of one of the workers.
            first_step: About how many global batches to pass over.

        Returns:
            As `train_examples`; no two examples have the same position.
        """

    @abc.abstractmethod
    def example_name(self, key: int) -> str:
        """Returns the name under which the user finds an example, also that of a part or a subset."""


class Source(TrainingSource):
    """The examples of one split of a data set."""

    @abc.abstractmethod
    def read_labels(self) -> np.ndarray:
        """Returns the label of each example, int32 [N], in the order of `eval_examples`; -1 is none.

        Only for a source with labels.
        """

    def relabelled(self, numbers: np.ndarray, class_names: Sequence[str]) -> "Source":
        """Returns a source of the same examples with other labels; see `data.classes.match_classes`.

        Args:
            numbers: The new label of each class; int32 [number of classes].
            class_names: Name of each class that the new labels are numbers of.
        """
        source = copy.copy(self)
        source.class_names = tuple(class_names)
        source._relabel(numbers)
        return source

    @abc.abstractmethod
    def _relabel(self, numbers: np.ndarray) -> None:
        """Replaces each label that is not negative by `numbers[label]`."""

    @abc.abstractmethod
    def subset(self, indices: np.ndarray, name: str) -> "Source":
        """Returns a source of some examples, with all classes.

        Args:
            indices: Sorted numbers of the examples, in the order of `eval_examples`; int64 [M].
            name: Of the new source, for messages.
        """

    @abc.abstractmethod
    def part(self, start: int, stop: int) -> "Source":
        """Returns a source of the examples at the positions from `start` to `stop` - 1 of `eval_examples`.

        Unlike `subset` it is cheap for any number of examples: no other one is decoded, nothing is read
        into memory.
        """

    def _identity_of(self, indices: np.ndarray) -> tuple[bytes, ...]:
        """Returns `identity` of a subset."""
        return (*self.identity, indices.astype(np.int64).tobytes()) if self.identity else ()

    @abc.abstractmethod
    def eval_examples(self, plan: BatchPlan) -> tf.data.Dataset:
        """Returns the rows that are made here of one pass over all examples in a fixed order.

        Every worker has as many. Over all workers the positions from 0 to N-1 hold each example once, at
        the position that is its number; those from N on fill up batches.

        Args:
            plan: Says how the examples are shared out.

        Returns:
            Dataset of dicts like those of `train_examples`.
        """


class EncodedSource(Source):
    """A source whose images are decoded one by one, each time they are used."""

    @abc.abstractmethod
    def decode(self, example: dict, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes one candidate of an example, in a graph; fails where it is unreadable.

        Args:
            example: Element of `train_examples` or `eval_examples`.
            candidate: Which of the NUM_CANDIDATES.

        Returns:
            Image uint8 [H, W, 3] and label int32 [] (-1 without labels).
        """


def first_success(element: Any, function: Callable, otherwise: tuple) -> tuple[tf.Tensor, ...]:
    """Returns what a function gives for an element, in a graph, or else `otherwise`, where it fails."""
    # TensorFlow has no `try` in graphs but this: a dataset of one element may leave out its errors.
    attempts = tf.data.Dataset.from_tensors(element).map(function).ignore_errors()
    attempts = attempts.concatenate(tf.data.Dataset.from_tensors(otherwise))
    return attempts.take(1).get_single_element()


def order_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the seed, int64 [2], of the order of an epoch."""
    return tf.random.experimental.stateless_fold_in(tf.constant([seed, _ORDER_SALT], tf.int64), epoch)


def check_bad_images(
    source: TrainingSource, *, num_bad: int, num_seen: int, max_fraction: float, can_prepare: bool = True
) -> None:
    """Stops the run where too many images are unreadable.

    Args:
        source: Where the images came from.
        num_bad: Unreadable images among those seen: the sum of the batches' `bad_images`.
        num_seen: Images seen so far.
        max_fraction: Tolerated share, 0 to 1.
        can_prepare: Whether `--mode=prepare` may read more of them.

    Raises:
        UserError: After at least one epoch or MIN_IMAGES_SEEN images, over the tolerated share.
    """
    if num_seen < min(source.num_examples, MIN_IMAGES_SEEN) or num_bad <= max_fraction * num_seen:
        return
    names = source.bad_image_names()
    examples = f", such as {', '.join(names[:3])}" if names else ""
    hint = format_hint(names) if can_prepare else ""
    raise UserError(
        f"--max_bad_image_fraction={max_fraction}: {num_bad} of {num_seen} images of {source.name} are "
        f"unreadable{examples}; {hint}mend or remove them, or tolerate a larger share."
    )


def format_hint(names: Sequence[str]) -> str:
    """Returns what to do where some unreadable images are of a format that TensorFlow does not, or not wholly, read.

    Args:
        names: of the unreadable images.
    """
    kinds = {os.path.splitext(name)[1].lower() for name in names} & {*CONVERTED_EXTENSIONS, ".bmp"}
    if not kinds:
        return ""
    return (
        f"TensorFlow {tf.__version__} does not read every {' and '.join(sorted(kinds))} file, and --mode=prepare "
        "converts them; "
    )
