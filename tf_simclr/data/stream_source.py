"""Records that are too many for memory: read file by file, in a seeded order."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.data.source import NUM_CANDIDATES, EncodedImages, EncodedSource, decode_image, order_seed

_FILES_AT_A_TIME = 16
_RECORDS_PER_TURN = 16
# The key of an example is the number of its file times this, plus the number of its record.
_MAX_RECORDS_PER_FILE = 2**32

Parse = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """Which records of a TFRecord file to read: `take` after the first `skip`."""

    filename: str
    skip: int
    take: int


class StreamSource(EncodedSource):
    """Examples in TFRecord files.

    Each epoch reads the files in an order of its own, several at a time, through a shuffle buffer. To
    go on from a position, the records before it in its epoch are read, but not decoded.

    Args:
        name: Data set and split, for messages.
        files: What to read.
        parse: Takes a record, string [], and returns the encoded image, string [], and the label,
            int32 [] (-1 without labels).
        shuffle_buffer_size: Number of records among which the order is mixed.
        class_names: Name of each class, or None without labels.
    """

    def __init__(
        self,
        name: str,
        *,
        files: Sequence[RecordFile],
        parse: Parse,
        shuffle_buffer_size: int,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(name, sum(file.take for file in files), class_names)
        self._files = tuple(files)
        self._parse = parse
        self._buffer_size = min(shuffle_buffer_size, self.num_examples)

    def train_examples(self, seed: int, first_position: int) -> tf.data.Dataset:
        """See `Source.train_examples`; what stands in for an example are those after it."""
        first_epoch, skipped = divmod(first_position, self.num_examples)
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(lambda epoch: self._epoch(seed, epoch)).skip(skipped)
        start = ((tf.constant(0, tf.int64), tf.constant("")),) * NUM_CANDIDATES
        windows = records.scan(start, lambda window, record: ((*window[1:], record), (*window[1:], record)))
        # The first windows are not full yet.
        return windows.skip(NUM_CANDIDATES - 1).enumerate(first_position).map(_to_example)

    def eval_examples(self) -> tf.data.Dataset:
        """See `Source.eval_examples`."""
        windows = self._all_records().map(lambda *record: (record,) * NUM_CANDIDATES)
        return windows.enumerate().map(_to_example)

    def read_labels(self) -> np.ndarray:
        """See `Source.read_labels`; reads all records once."""
        labels = self._all_records().map(lambda _, record: self._parse(record)[1], tf.data.AUTOTUNE)
        return np.concatenate(list(labels.batch(4096).as_numpy_iterator())).astype(np.int32)

    def subset(self, indices: np.ndarray, name: str) -> EncodedImages:
        """See `Source.subset`; reads all records once and keeps the chosen images in memory, encoded."""
        wanted = np.zeros([self.num_examples], bool)
        wanted[indices] = True
        is_wanted = tf.data.Dataset.from_tensor_slices(wanted)
        chosen = tf.data.Dataset.zip((is_wanted, self._all_records())).filter(lambda wanted, _: wanted)
        parsed = chosen.map(lambda _, record: (record[0], *self._parse(record[1])), tf.data.AUTOTUNE)
        keys, images, labels = zip(*parsed.as_numpy_iterator(), strict=True)
        return EncodedImages(
            name,
            images,
            read=tf.identity,
            example_names=[self.example_name(int(key)) for key in keys],
            labels=None if self.class_names is None else np.array(labels),
            class_names=self.class_names,
        )

    def _all_records(self) -> tf.data.Dataset:
        return self._read(tf.range(len(self._files), dtype=tf.int64))

    def decode(self, example: dict, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `EncodedSource.decode`."""
        encoded, label = self._parse(example["records"][candidate])
        return decode_image(encoded), label

    def example_name(self, key: int) -> str:
        """See `EncodedSource.example_name`."""
        file, record = divmod(key, _MAX_RECORDS_PER_FILE)
        return f"{os.path.basename(self._files[file].filename)} record {record}"

    def _epoch(self, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        files = tf.range(len(self._files), dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(files, order_seed(seed, epoch), alg="philox")
        # The buffer mixes its seed with the graph's, which is the global one unless set here. TensorFlow
        # would compare a 0 there with the other seed, which is a tensor.
        tf.compat.v1.set_random_seed(seed + 1)
        return self._read(order).shuffle(self._buffer_size, seed=epoch + 1, reshuffle_each_iteration=False)

    def _read(self, order: tf.Tensor) -> tf.data.Dataset:
        """Reads the files in an order; returns keys int64 [] and records string []."""
        names = tf.constant([file.filename for file in self._files])
        skips = tf.constant([file.skip for file in self._files], tf.int64)
        takes = tf.constant([file.take for file in self._files], tf.int64)

        def read_file(file: tf.Tensor) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(names[file]).skip(skips[file]).take(takes[file])
            return records.enumerate(file * _MAX_RECORDS_PER_FILE + skips[file])

        return tf.data.Dataset.from_tensor_slices(order).interleave(
            read_file,
            cycle_length=min(_FILES_AT_A_TIME, len(self._files)),
            block_length=_RECORDS_PER_TURN,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


def _to_example(position: tf.Tensor, window: tuple) -> dict:
    keys, records = zip(*window, strict=True)
    return {"position": position, "keys": tf.stack(keys), "records": records}
