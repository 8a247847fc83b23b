"""The base class of all sources of examples, and the check for unreadable images."""

import abc
import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import UserError
from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.listing import CONVERTED_EXTENSIONS

# An unreadable image is replaced by the next example of the order; this many are tried in all.
NUM_CANDIDATES = 4
# The share of unreadable images has a meaning only after this many images, or one epoch.
MIN_IMAGES_SEEN = 1000
# Separates the random numbers of the order from those of the augmentation.
_ORDER_SALT = 0x0DE5

Labels = NDArray[np.int32]
Indices = NDArray[np.int64]
Example = dict[str, Any]


class Source(abc.ABC):
    """The examples of one split of a data set, or of several data sets.

    Attributes:
        name: Data set and split, for messages.
        num_examples: Number of examples, at least 1.
        num_classes: Number of classes, or None without labels.
        class_names: Name of each class, or None.
        files: Path of each example, if each is a file; or of all files that hold examples.
        prepared_in: The directory of the prepared examples, named by their version, or None.
        num_left_out: Number of unreadable images excluded at the start, when all images were decoded.
        num_unlabelled: Number of examples without a label, if others have one.
        labels: Label of each example, int32 [N], -1 for none; None if they are not known or there are none.
        ignored: Notes on files beside the examples that are not used.
        identity: Identity of the examples, independent of their location: their names, or the name of a published
            data set; empty if only `example_name` identifies them.
        holds_arrays: Whether the images are decoded arrays of one size, which `read_batch` gathers.
    """

    holds_arrays = False

    def __init__(self, name: str, num_examples: int, class_names: Sequence[str] | None):
        self.name = name
        self.num_examples = num_examples
        self.class_names = None if class_names is None else tuple(class_names)
        self.files: Sequence[str] = ()
        self.prepared_in: str | None = None
        self.num_left_out = 0
        self.num_unlabelled = 0
        self.labels: Labels | None = None
        self.ignored: tuple[str, ...] = ()
        self.identity: tuple[bytes, ...] = ()
        self._bad_names: dict[str, None] = {}

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None without labels."""
        return None if self.class_names is None else len(self.class_names)

    @property
    def bytes_in_memory(self) -> int:
        """Approximate size in bytes of the examples held in memory."""
        return 0

    def describe_batch(self, batch_size: int) -> list[str]:
        """Returns lines for the user about the examples in a batch; none for a single data set."""
        return []

    def fingerprint(self) -> str:
        """Returns a digest that changes if examples are added, removed or renamed, but not if they are moved.

        Files, streams and copies in memory of the same examples have the same digest.
        """
        names = (self.example_name(key).encode() for key in range(self.num_examples))
        digest = hashlib.sha256()
        for part in self.identity or names:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def add_bad_image(self, name: str) -> None:
        """Records the name of an unreadable image; safe to call from several threads."""
        self._bad_names[name] = None

    def bad_image_names(self) -> tuple[str, ...]:
        """Returns the names of the unreadable images so far, without repetitions."""
        return tuple(self._bad_names)

    @abc.abstractmethod
    def example_name(self, key: int) -> str:
        """Returns the user's name for an example, also in a part or a subset."""

    @abc.abstractmethod
    def train_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """Returns the endless shuffled order of this worker's rows, from `first_step` on.

        The example at a position depends only on the seed, the position and the number of workers, so resuming is
        arithmetic.

        Args:
            seed: Seed of the order.
            plan: Determines this worker's positions.
            first_step: Number of global batches to skip.

        Returns:
            Dataset of dicts with `position` int64 [] and `keys` int64 [NUM_CANDIDATES]: the example at that position,
            then its replacements in case it is unreadable.
        """

    @abc.abstractmethod
    def divisible_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """Returns the rows of all workers, in a form that a tf.data service can divide.

        Its dispatcher gives each element of the first data set of a pipeline to one data worker. Each example of an
        epoch comes exactly once, in any order of the parts; `first_step` is approximate. No two examples have the same
        position. Otherwise like `train_examples`.
        """

    @abc.abstractmethod
    def decode(self, example: Example, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes one candidate of an example, in a graph; fails if it is unreadable.

        Args:
            example: Element of `train_examples` or `eval_examples`.
            candidate: Index of the candidate, less than NUM_CANDIDATES.

        Returns:
            Image uint8 [H, W, 3] and label int32 [] (-1 without labels).
        """

    def read_batch(self, batch: Example) -> Example:
        """Returns images uint8 [b, H, W, C] and labels int32 [b] of a batch of examples, if `holds_arrays`."""
        raise NotImplementedError

    # The examples of several data sets have no labels and are not evaluated; they lack the methods below.

    def eval_examples(self, plan: BatchPlan) -> tf.data.Dataset:
        """Returns this worker's rows of one pass over all examples in a fixed order.

        Every worker has the same number. Over all workers, positions 0 to N-1 hold each example once, at the position
        of its number. Positions from N on are padding. The dicts are like those of `train_examples`.
        """
        raise NotImplementedError

    def read_labels(self) -> Labels:
        """Returns the label of each example, int32 [N], in the order of `eval_examples`; -1 for none."""
        raise NotImplementedError

    def subset(self, indices: Indices, name: str) -> "Source":
        """Returns a source of some examples, with all classes.

        Args:
            indices: Sorted numbers of the examples, in the order of `eval_examples`; int64 [M].
            name: Name of the new source, for messages.
        """
        raise NotImplementedError

    def part(self, start: int, stop: int) -> "Source":
        """Returns a source of the examples at the positions from `start` to `stop` - 1 of `eval_examples`.

        Unlike `subset`, it is cheap for any number of examples: it decodes no others and reads nothing into memory.
        """
        raise NotImplementedError

    def relabelled(self, numbers: Labels, class_names: Sequence[str]) -> "Source":
        """Returns a source of the same examples with other labels; see `data.classes.match_classes`.

        Args:
            numbers: The new label of each class; int32 [number of classes].
            class_names: Names of the classes that the new labels number.
        """
        source = copy.copy(self)
        source.class_names = tuple(class_names)
        source._relabel(numbers)
        return source

    def _relabel(self, numbers: Labels) -> None:
        """Replaces each non-negative label by `numbers[label]`."""
        raise NotImplementedError

    def _identity_of(self, indices: Indices) -> tuple[bytes, ...]:
        """Returns `identity` of a subset."""
        return (*self.identity, indices.astype(np.int64).tobytes()) if self.identity else ()


def first_success(
    element: Any, function: Callable[..., tuple[Any, ...]], otherwise: tuple[Any, ...]
) -> tuple[tf.Tensor, ...]:
    """Returns a function's result for an element, in a graph; `otherwise` if it fails."""
    # TensorFlow's only `try` in graphs: a dataset of one element that ignores errors.
    attempts = tf.data.Dataset.from_tensors(element).map(function).ignore_errors()
    attempts = attempts.concatenate(tf.data.Dataset.from_tensors(otherwise))
    found: tuple[tf.Tensor, ...] = attempts.take(1).get_single_element()
    return found


def order_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the seed, int64 [2], of the order of an epoch."""
    return tf.random.experimental.stateless_fold_in(tf.constant([seed, _ORDER_SALT], tf.int64), epoch)


def check_bad_images(
    source: Source, *, num_bad: int, num_seen: int, max_fraction: float, can_prepare: bool = True
) -> None:
    """Stops the run if too many images are unreadable.

    Args:
        source: The source of the images.
        num_bad: Number of unreadable images so far, the sum of the batches' `bad_images`.
        num_seen: Number of images so far.
        max_fraction: Tolerated share, 0 to 1.
        can_prepare: Whether `--mode=prepare` may read more of them.

    Raises:
        UserError: If the share is exceeded after at least one epoch or MIN_IMAGES_SEEN images.
    """
    if num_seen < min(source.num_examples, MIN_IMAGES_SEEN) or num_bad <= max_fraction * num_seen:
        return
    names = source.bad_image_names()
    examples = f", such as {', '.join(names[:3])}" if names else ""
    hint = format_hint(names) if can_prepare else ""
    raise UserError(
        f"--max_bad_image_fraction={max_fraction}: {num_bad} of {num_seen} images of {source.name} are "
        f"unreadable{examples}; {hint}fix or remove them, or tolerate a larger share."
    )


def format_hint(names: Sequence[str]) -> str:
    """Returns advice if TensorFlow cannot read the formats of some unreadable images completely; else ""."""
    kinds = sorted({os.path.splitext(name)[1].lower() for name in names} & {*CONVERTED_EXTENSIONS, ".bmp"})
    what = f"TensorFlow {tf.__version__} does not read every {' and '.join(kinds)} file"
    return f"{what}, and --mode=prepare converts them; " if kinds else ""
