"""Sources with random access: arrays, and encoded images in files or in memory."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.source import NUM_CANDIDATES, EncodedSource, Source, order_seed
from tf_simclr.images.decode import decode_image


class RandomAccessSource(Source):
    """A source that can read any example at any time."""

    def train_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """See `Source.train_examples`.

        Each epoch is a permutation of the examples, whatever the number of workers.
        """
        return self._at(plan.batch_numbers(first_step), plan.per_replica_batch_size, seed)

    def divisible_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """See `Source.divisible_examples`; each part is a whole batch of one replica."""
        return self.train_examples(seed, plan.for_one_worker(), first_step)

    def eval_examples(self, plan: BatchPlan) -> tf.data.Dataset:
        """See `Source.eval_examples`; the first example pads the last batch."""
        numbers = plan.batch_numbers(0).take(plan.num_eval_batches(self.num_examples))

        def rows(number: tf.Tensor) -> dict:
            positions = _positions(number, plan.per_replica_batch_size)
            keys = tf.where(positions < self.num_examples, positions, 0)
            return {"position": positions, "keys": tf.repeat(keys[:, tf.newaxis], NUM_CANDIDATES, axis=1)}

        return numbers.map(rows).unbatch()

    def _at(self, numbers: tf.data.Dataset, batch_size: int, seed: int) -> tf.data.Dataset:
        """Returns the examples of the batches with these numbers."""
        # Epochs that a batch may overlap.
        num_epochs = 1 + -(-(batch_size - 1) // self.num_examples)

        def rows(state: tuple, number: tf.Tensor) -> tuple[tuple, dict]:
            positions = _positions(number, batch_size)
            epoch = positions[0] // self.num_examples
            orders = tf.cond(epoch == state[0], lambda: state[1], lambda: self._orders(seed, epoch, num_epochs))
            keys = tf.gather(orders, positions - epoch * self.num_examples)
            return (epoch, orders), {"position": positions, "keys": keys}

        no_orders = (tf.constant(-1, tf.int64), tf.zeros([0, NUM_CANDIDATES], tf.int64))
        return numbers.scan(no_orders, rows).unbatch()

    def _orders(self, seed: int, first_epoch: tf.Tensor, num_epochs: int) -> tf.Tensor:
        epochs = first_epoch + tf.range(num_epochs, dtype=tf.int64)
        orders = tf.map_fn(lambda epoch: epoch_candidates(self.num_examples, seed, epoch), epochs)
        return tf.reshape(orders, [-1, NUM_CANDIDATES])


class ArraySource(RandomAccessSource):
    """Decoded images in memory.

    Args:
        name: Data set and split, for messages.
        images: uint8 [N, H, W, C], C is 1 or 3.
        labels: int32 [N], or None.
        class_names: Name of each class, or None without labels.
        numbers: Number of each example in the whole split, [N]; default: 0 to N - 1.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        numbers: Sequence[int] | np.ndarray | None = None,
    ):
        super().__init__(name, len(images), None if labels is None else class_names)
        self.images = images
        self.labels = None if labels is None else labels.astype(np.int32)
        self._numbers = np.arange(len(images)) if numbers is None else np.asarray(numbers)

    @property
    def bytes_in_memory(self) -> int:
        """See `Source.bytes_in_memory`."""
        return self.images.nbytes

    def read_labels(self) -> np.ndarray:
        """See `Source.read_labels`."""
        return np.array(self.labels)

    def _relabel(self, numbers: np.ndarray) -> None:
        """See `Source._relabel`."""
        self.labels = new_labels(self.read_labels(), numbers)

    def subset(self, indices: np.ndarray, name: str) -> "ArraySource":
        """See `Source.subset`."""
        chosen = self._choose(indices, name)
        chosen.identity, chosen.ignored = self._identity_of(indices), self.ignored
        return chosen

    def part(self, start: int, stop: int) -> "ArraySource":
        """See `Source.part`."""
        return self._choose(slice(start, stop), self.name)

    def example_name(self, key: int) -> str:
        """See `Source.example_name`."""
        return f"example {self._numbers[key]}"

    def _choose(self, which: np.ndarray | slice, name: str) -> "ArraySource":
        labels = None if self.labels is None else self.labels[which]
        return ArraySource(name, self.images[which], labels, self.class_names, self._numbers[which])


class EncodedImages(RandomAccessSource, EncodedSource):
    """Encoded images in files, or in memory.

    Args:
        name: Data set and split, for messages.
        images: [N], the encoded images as strings, or keys for `read`, such as paths.
        read: Takes one of `images`, [], and returns the encoded image, string [].
        example_names: Name of each example of the whole split, for messages.
        labels: int32 [N], or None.
        class_names: Name of each class, or None without labels.
        numbers: Number of each example in the whole split, [N]; default: 0 to N - 1.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[str | bytes] | np.ndarray | tf.Tensor,
        *,
        read: Callable[[tf.Tensor], tf.Tensor],
        example_names: Sequence[str],
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        numbers: np.ndarray | None = None,
    ):
        super().__init__(name, len(images), None if labels is None else class_names)
        self.labels = None if labels is None else labels.astype(np.int32)
        self._read = read
        self._example_names = example_names
        self._numbers = np.arange(len(images)) if numbers is None else numbers
        with tf.device("CPU:0"):
            self._images = tf.convert_to_tensor(images)
            self._label_tensor = None if labels is None else tf.constant(self.labels)

    @property
    def bytes_in_memory(self) -> int:
        """See `Source.bytes_in_memory`."""
        if self._images.dtype != tf.string:
            return self._images.dtype.size * self.num_examples
        return int(np.sum(tf.strings.length(self._images).numpy(), dtype=np.int64))

    def read_labels(self) -> np.ndarray:
        """See `Source.read_labels`."""
        return np.array(self.labels)

    def _relabel(self, numbers: np.ndarray) -> None:
        """See `Source._relabel`."""
        self.labels = new_labels(self.read_labels(), numbers)
        with tf.device("CPU:0"):
            self._label_tensor = tf.constant(self.labels)

    def subset(self, indices: np.ndarray, name: str) -> "EncodedImages":
        """See `Source.subset`."""
        with tf.device("CPU:0"):
            chosen = self._choose(indices, name, tf.gather(self._images, indices))
        chosen.identity, chosen.ignored = self._identity_of(indices), self.ignored
        return chosen

    def part(self, start: int, stop: int) -> "EncodedImages":
        """See `Source.part`."""
        with tf.device("CPU:0"):
            return self._choose(slice(start, stop), self.name, self._images[start:stop])

    def _choose(self, which: np.ndarray | slice, name: str, images: tf.Tensor) -> "EncodedImages":
        return EncodedImages(
            name,
            images,
            read=self._read,
            example_names=self._example_names,
            labels=None if self.labels is None else self.labels[which],
            class_names=self.class_names,
            numbers=self._numbers[which],
        )

    def decode(self, example: dict, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `EncodedSource.decode`."""
        key = example["keys"][candidate]
        label = tf.constant(-1) if self._label_tensor is None else self._label_tensor[key]
        return decode_image(self._read(self._images[key])), label

    def example_name(self, key: int) -> str:
        """See `Source.example_name`."""
        return self._example_names[self._numbers[key]]


def new_labels(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns `numbers[label]` for each label, int32 [N]; negative labels stay as they are."""
    return np.where(labels < 0, labels, numbers[np.maximum(labels, 0)]).astype(np.int32)


def epoch_candidates(num_examples: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the order of one epoch, with the candidates that replace each example if it is unreadable.

    Args:
        num_examples: Number of examples N.
        seed: Seed of the run.
        epoch: int64 [].

    Returns:
        int64 [N, NUM_CANDIDATES]. Column 0 is a permutation of 0..N-1; column i is column 0 shifted by i.
    """
    examples = tf.range(num_examples, dtype=tf.int64)
    order = tf.random.experimental.stateless_shuffle(examples, order_seed(seed, epoch), alg="philox")
    return tf.stack([tf.roll(order, -shift, axis=0) for shift in range(NUM_CANDIDATES)], axis=1)


def _positions(number: tf.Tensor, batch_size: int) -> tf.Tensor:
    return number * batch_size + tf.range(batch_size, dtype=tf.int64)
