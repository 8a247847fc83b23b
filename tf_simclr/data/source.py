"""The examples of one split: what every source offers, and the source that holds arrays in memory."""

import abc
import threading
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.config import UserError

# An unreadable image is replaced by the next example of the order, this many in all are tried.
NUM_CANDIDATES = 4
# Before this many images (or one epoch) the share of unreadable ones says nothing.
MIN_IMAGES_SEEN = 1000
# Keeps the random numbers of the order apart from those of the augmentation.
_ORDER_SALT = 0x0DE5


class Source(abc.ABC):
    """The examples of one split of a data set.

    Attributes:
        name: Data set and split, for messages.
        num_examples: Number of examples, at least 1.
        num_classes: Number of classes, or None without labels.
        class_names: Name of each class, or None.
    """

    def __init__(self, name: str, num_examples: int, class_names: Sequence[str] | None):
        self.name = name
        self.num_examples = num_examples
        self.class_names = None if class_names is None else tuple(class_names)
        self._bad_names: dict[str, None] = {}
        self._bad_lock = threading.Lock()

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None without labels."""
        return None if self.class_names is None else len(self.class_names)

    def add_bad_image(self, name: str) -> None:
        """Remembers the name of an unreadable image; safe to call from several threads."""
        with self._bad_lock:
            self._bad_names[name] = None

    def bad_image_names(self) -> tuple[str, ...]:
        """Returns the names of the unreadable images met so far, each once."""
        with self._bad_lock:
            return tuple(self._bad_names)

    @abc.abstractmethod
    def train_examples(self, seed: int, first_position: int) -> tf.data.Dataset:
        """Returns the endless shuffled order from global position `first_position` on.

        Element p depends on nothing but (seed, p), so that resuming is arithmetic.

        Args:
            seed: Seed of the order.
            first_position: Number of examples to pass over.

        Returns:
            Dataset of dicts with `position` int64 [] and `keys` int64 [NUM_CANDIDATES]: the
            example at that position, then those that stand in for it where it is unreadable.
        """

    @abc.abstractmethod
    def read_labels(self) -> np.ndarray:
        """Returns the label of each example, int32 [N], in the order of `eval_examples`; -1 is none.

        Only for a source with labels.
        """

    @abc.abstractmethod
    def subset(self, indices: np.ndarray, name: str) -> "Source":
        """Returns a source of some examples, with all classes.

        Args:
            indices: Sorted numbers of the examples, in the order of `eval_examples`; int64 [M].
            name: Of the new source, for messages.
        """

    @abc.abstractmethod
    def eval_examples(self) -> tf.data.Dataset:
        """Returns all examples once, in a fixed order, as dicts like those of `train_examples`."""


class RandomAccessSource(Source):
    """A source that can read any example at any time."""

    def train_examples(self, seed: int, first_position: int) -> tf.data.Dataset:
        """See `Source.train_examples`; each epoch is a permutation of the examples."""
        first_epoch, skipped = divmod(first_position, self.num_examples)
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        return epochs.flat_map(lambda epoch: self._epoch(seed, epoch)).skip(skipped)

    def eval_examples(self) -> tf.data.Dataset:
        """See `Source.eval_examples`."""
        keys = tf.range(self.num_examples, dtype=tf.int64)
        candidates = tf.repeat(keys[:, tf.newaxis], NUM_CANDIDATES, axis=1)
        return tf.data.Dataset.from_tensor_slices({"position": keys, "keys": candidates})

    def _epoch(self, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        positions = epoch * self.num_examples + tf.range(self.num_examples, dtype=tf.int64)
        candidates = epoch_candidates(self.num_examples, seed, epoch)
        return tf.data.Dataset.from_tensor_slices({"position": positions, "keys": candidates})


class ArraySource(RandomAccessSource):
    """Images that lie decoded in memory.

    Args:
        name: Data set and split, for messages.
        images: uint8 [N, H, W, C], C is 1 or 3.
        labels: int32 [N], or None.
        class_names: Name of each class, or None without labels.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(name, len(images), None if labels is None else class_names)
        self.images = images
        self.labels = None if labels is None else labels.astype(np.int32)

    def read_labels(self) -> np.ndarray:
        """See `Source.read_labels`."""
        return np.array(self.labels)

    def subset(self, indices: np.ndarray, name: str) -> "ArraySource":
        """See `Source.subset`."""
        labels = None if self.labels is None else self.labels[indices]
        return ArraySource(name, self.images[indices], labels, self.class_names)


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

    @abc.abstractmethod
    def example_name(self, key: int) -> str:
        """Returns the name under which the user finds the example."""


class EncodedImages(RandomAccessSource, EncodedSource):
    """Encoded images in files, or in memory.

    Args:
        name: Data set and split, for messages.
        images: Paths, or the encoded images themselves; string [N].
        read: Takes one of `images`, string [], and returns the encoded image, string [].
        example_names: The name of each example, for messages; [N].
        labels: int32 [N], or None.
        class_names: Name of each class, or None without labels.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[str | bytes] | np.ndarray,
        *,
        read: Callable[[tf.Tensor], tf.Tensor],
        example_names: Sequence[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(name, len(images), None if labels is None else class_names)
        self.labels = None if labels is None else labels.astype(np.int32)
        self._read = read
        self._example_names = example_names
        with tf.device("CPU:0"):
            self._images = tf.constant(images, tf.string)
            self._label_tensor = None if labels is None else tf.constant(self.labels)

    def read_labels(self) -> np.ndarray:
        """See `Source.read_labels`."""
        return np.array(self.labels)

    def subset(self, indices: np.ndarray, name: str) -> "EncodedImages":
        """See `Source.subset`."""
        return EncodedImages(
            name,
            self._images.numpy()[indices],
            read=self._read,
            example_names=[self._example_names[index] for index in indices],
            labels=None if self.labels is None else self.labels[indices],
            class_names=self.class_names,
        )

    def decode(self, example: dict, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `EncodedSource.decode`."""
        key = example["keys"][candidate]
        label = tf.constant(-1) if self._label_tensor is None else self._label_tensor[key]
        return decode_image(self._read(self._images[key])), label

    def example_name(self, key: int) -> str:
        """See `EncodedSource.example_name`."""
        return self._example_names[key]


def order_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the seed, int64 [2], of the order of an epoch."""
    return tf.random.experimental.stateless_fold_in(tf.constant([seed, _ORDER_SALT], tf.int64), epoch)


def epoch_candidates(num_examples: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the order of one epoch with the stand-ins of each example.

    Args:
        num_examples: Number of examples N.
        seed: Seed of the run.
        epoch: int64 [].

    Returns:
        int64 [N, NUM_CANDIDATES]; column 0 is a permutation of 0..N-1, column i is column 0 read i
        places further on.
    """
    examples = tf.range(num_examples, dtype=tf.int64)
    order = tf.random.experimental.stateless_shuffle(examples, order_seed(seed, epoch), alg="philox")
    return tf.stack([tf.roll(order, -shift, axis=0) for shift in range(NUM_CANDIDATES)], axis=1)


def decode_image(encoded: tf.Tensor, channels: int = 3) -> tf.Tensor:
    """Decodes JPEG, PNG, BMP or GIF (first frame), and WebP where TensorFlow can.

    Args:
        encoded: string [].
        channels: 3, or 1 for grey.

    Returns:
        uint8 [H, W, channels].
    """
    image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
    return tf.ensure_shape(image, [None, None, channels])


def check_bad_images(source: Source, *, num_bad: int, num_seen: int, max_fraction: float) -> None:
    """Stops the run where too many images are unreadable.

    Args:
        source: Where the images came from.
        num_bad: Unreadable images among those seen: the sum of the batches' `bad_images`.
        num_seen: Images seen so far.
        max_fraction: Tolerated share, 0 to 1.

    Raises:
        UserError: After at least one epoch or MIN_IMAGES_SEEN images, over the tolerated share.
    """
    if num_seen < min(source.num_examples, MIN_IMAGES_SEEN) or num_bad <= max_fraction * num_seen:
        return
    names = source.bad_image_names()
    examples = f", such as {', '.join(names[:3])}" if names else ""
    raise UserError(
        f"--max_bad_image_fraction={max_fraction}: {num_bad} of {num_seen} images of {source.name} are "
        f"unreadable{examples}; mend or remove them, or tolerate a larger share."
    )
