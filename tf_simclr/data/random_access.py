"""Sources with random access: arrays, and encoded images in files or in memory."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.source import NUM_CANDIDATES, Example, Indices, Labels, Source, order_seed
from tf_simclr.images.decode import decode_image


class RandomAccessSource(Source):
    """A source that can read any example at any time.

    Args:
        name: Data set and split, for messages.
        images: The images, [N] or [N, ...].
        labels: int32 [N], -1 for none; None without labels.
        class_names: Name of each class, or None without labels.
        numbers: Number of each example in the whole split, [N]; default: 0 to N - 1.
    """

    def __init__(
        self,
        name: str,
        images: Any,
        labels: NDArray[Any] | None = None,
        class_names: Sequence[str] | None = None,
        numbers: Sequence[int] | NDArray[Any] | None = None,
    ):
        super().__init__(name, len(images), None if labels is None else class_names)
        self.images = images
        self.labels = None if labels is None else labels.astype(np.int32)
        self._numbers = np.arange(len(images)) if numbers is None else np.asarray(numbers)

    @functools.cached_property
    def _tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Images and labels. On an accelerator, the images would have to be copied back for each batch."""
        with tf.init_scope(), tf.device("CPU:0"):
            labels = np.full(self.num_examples, -1, np.int32) if self.labels is None else self.labels
            return tf.convert_to_tensor(self.images), tf.constant(labels)

    def read_labels(self) -> Labels:
        """See `Source.read_labels`."""
        return np.array(self.labels, np.int32)

    def _relabel(self, numbers: Labels) -> None:
        """See `Source._relabel`."""
        labels = self.read_labels()
        self.labels = np.where(labels < 0, labels, numbers[np.maximum(labels, 0)])
        self.__dict__.pop("_tensors", None)

    def subset(self, indices: Indices, name: str) -> "RandomAccessSource":
        """See `Source.subset`."""
        chosen = self._choose(indices, name)
        chosen.identity, chosen.ignored = self._identity_of(indices), self.ignored
        return chosen

    def part(self, start: int, stop: int) -> "RandomAccessSource":
        """See `Source.part`."""
        return self._choose(slice(start, stop), self.name)

    def _choose(self, which: Indices | slice, name: str) -> "RandomAccessSource":
        chosen, labels = copy.copy(self), None if self.labels is None else self.labels[which]
        chosen.__dict__.pop("_tensors", None)
        images, numbers = self._chosen_images(which), self._numbers[which]
        RandomAccessSource.__init__(chosen, name, images, labels, self.class_names, numbers)
        return chosen

    def _chosen_images(self, which: Indices | slice) -> Any:
        return self.images[which]

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

        def rows(number: tf.Tensor) -> Example:
            positions = _positions(number, plan.per_replica_batch_size)
            keys = tf.where(positions < self.num_examples, positions, 0)
            return {"position": positions, "keys": tf.repeat(keys[:, tf.newaxis], NUM_CANDIDATES, axis=1)}

        return numbers.map(rows).unbatch()

    def _at(self, numbers: tf.data.Dataset, batch_size: int, seed: int) -> tf.data.Dataset:
        """Returns the examples of the batches with these numbers."""
        # Epochs that a batch may overlap.
        num_epochs = 1 + -(-(batch_size - 1) // self.num_examples)

        def rows(state: tuple[tf.Tensor, tf.Tensor], number: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Example]:
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
    """Decoded images in memory: `images` are uint8 [N, H, W, C], C is 1 or 3."""

    holds_arrays = True

    @property
    def bytes_in_memory(self) -> int:
        """See `Source.bytes_in_memory`."""
        return int(self.images.nbytes)

    def read_batch(self, batch: Example) -> Example:
        """See `Source.read_batch`."""
        images, labels = self._tensors
        keys = batch["keys"][:, 0]
        return {"images": tf.gather(images, keys), "labels": tf.gather(labels, keys)}

    def decode(self, example: Example, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Source.decode`."""
        images, labels = self._tensors
        key = example["keys"][candidate]
        return tf.repeat(images[key], 3 // images.shape[-1], axis=-1), labels[key]

    def example_name(self, key: int) -> str:
        """See `Source.example_name`."""
        return f"example {self._numbers[key]}"


class EncodedImages(RandomAccessSource):
    """Encoded images in files, or in memory.

    Args:
        name: Data set and split, for messages.
        images: [N], the encoded images as strings, or keys for `read`, such as paths.
        read: Takes one of `images`, [], and returns the encoded image, string [].
        example_names: Name of each example of the whole split, for messages.
        others: Labels, class names and numbers, as for `RandomAccessSource`.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[str | bytes] | NDArray[Any],
        *,
        read: Callable[[tf.Tensor], tf.Tensor],
        example_names: Sequence[str],
        **others: Any,
    ):
        with tf.device("CPU:0"):
            super().__init__(name, tf.convert_to_tensor(images), **others)
        self._read = read
        self._example_names = example_names

    @property
    def bytes_in_memory(self) -> int:
        """See `Source.bytes_in_memory`."""
        if self.images.dtype != tf.string:
            return int(self.images.dtype.size) * self.num_examples
        return int(np.sum(tf.strings.length(self.images).numpy(), dtype=np.int64))

    def _chosen_images(self, which: Indices | slice) -> tf.Tensor:
        with tf.device("CPU:0"):
            return tf.gather(self.images, np.arange(self.num_examples)[which])

    def decode(self, example: Example, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Source.decode`."""
        images, labels = self._tensors
        key = example["keys"][candidate]
        return decode_image(self._read(images[key])), labels[key]

    def example_name(self, key: int) -> str:
        """See `Source.example_name`."""
        return self._example_names[int(self._numbers[key])]


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
