"""Streams of records that are too many for memory, read file by file in a seeded order."""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.config import UserError
from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.data.record_files import RecordFile, read_records
from tf_simclr.data.source import NUM_CANDIDATES, Example, Indices, Labels, Source, first_success, order_seed
from tf_simclr.images.decode import decode_image

_LOG = logging.getLogger("tf_simclr")
_FILES_AT_A_TIME = 16
_RECORDS_PER_TURN = 16
# Minimum number of parts of an epoch for data workers, if there are as many files.
_PARTS_PER_EPOCH = 16
_SHUFFLE_BYTES = 2**29
_MIN_SHUFFLED_RECORDS = 1000

# Ranges of records, and the key of the first record of each.
_Cuts = list[tuple[int, RecordFile]]
_Window = tuple[tuple[tf.Tensor, ...], ...]
Parse = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class StreamSource(Source):
    """Examples in TFRecord files; the key of an example is its number in the order of the files.

    Each epoch reads the files in its own order, several at a time, through a shuffle buffer. To resume at a
    position, the earlier records of its epoch are read but not decoded. Each worker reads only its part of the
    records, the same in each epoch. A damaged record is an unreadable image.

    Args:
        name: Data set and split, for messages.
        files: The files to read.
        parse: Takes a record, string [], and returns the encoded image, string [], and the label, int32 []
            (-1 without labels); fails if the record is damaged or empty.
        shuffle_buffer_size: Number of records in the shuffle buffer.
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
        places = (f"{os.path.basename(file.filename)} {file.skip} {file.take}" for file in files)
        self.identity = tuple(place.encode() for place in places)
        self._files = tuple(files)
        self._firsts = np.cumsum([0] + [file.take for file in files])[:-1]
        self._parse = parse
        self._buffer_size = min(shuffle_buffer_size, self.num_examples)
        self._announced = False

    def train_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """See `Source.train_examples`; the next examples replace an unreadable one.

        Raises:
            UserError: If there are fewer records than workers.
        """
        self._announce_parts(plan)
        start, stop = plan.share(self.num_examples)
        cuts = self._cut(start, stop)
        first_row = first_step * plan.local_batch_size
        first_epoch, skipped = divmod(first_row, stop - start)
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(lambda epoch: self._epoch(cuts, seed, epoch)).skip(skipped)
        rows = _windows(records).enumerate(first_row)
        return rows.map(lambda row, window: _to_example(plan.position_of(row), window))

    def divisible_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """See `Source.divisible_examples`; a part is a group of files of an epoch. Begins with a whole epoch."""
        cuts = self._cut(0, self.num_examples)
        per_part = min(max(len(cuts) // _PARTS_PER_EPOCH, 1), _FILES_AT_A_TIME)
        num_parts = -(-len(cuts) // per_part)
        first_epoch = -(-first_step * plan.global_batch_size // self.num_examples)

        def part(number: tf.Tensor) -> tf.data.Dataset:
            epoch, place = number // num_parts, number % num_parts
            order = self._file_order(cuts, seed, epoch)[place * per_part : (place + 1) * per_part]
            records = self._shuffled(self._read(cuts, order), seed, number)
            return records.map(lambda key, record: (epoch * self.num_examples + key, key, record))

        records = tf.data.Dataset.range(first_epoch * num_parts, tf.int64.max).flat_map(part)
        return _windows(records).map(lambda *window: _to_example(window[0][0], tuple(record[1:] for record in window)))

    def eval_examples(self, plan: BatchPlan) -> tf.data.Dataset:
        """See `Source.eval_examples`; the first record pads batches."""
        start, stop = plan.share(self.num_examples)
        num_fillers = plan.num_eval_batches(self.num_examples) * plan.per_replica_batch_size - (stop - start)
        filler = self._all_records(0, 1).cache().repeat(num_fillers).enumerate(self.num_examples)
        records = self._all_records(start, stop).map(lambda key, record: (key, (key, record)))
        rows = records.concatenate(filler)
        return rows.map(lambda position, record: _to_example(position, (record,) * NUM_CANDIDATES))

    def read_labels(self) -> Labels:
        """See `Source.read_labels`; reads all records once. Damaged records have no label."""
        labels = self._all_records().map(lambda _, record: self._try_parse(record)[1], tf.data.AUTOTUNE)
        return np.concatenate(list(labels.batch(4096).as_numpy_iterator()), dtype=np.int32)

    def _relabel(self, numbers: Labels) -> None:
        """See `Source._relabel`."""
        parse = self._parse

        def relabel(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            encoded, label = parse(record)
            return encoded, tf.where(label < 0, label, tf.gather(numbers, tf.maximum(label, 0)))

        self._parse = relabel

    def subset(self, indices: Indices, name: str) -> EncodedImages:
        """See `Source.subset`; reads all records once and keeps the chosen images in memory, encoded."""
        wanted = np.zeros([self.num_examples], bool)
        wanted[indices] = True
        is_wanted = tf.data.Dataset.from_tensor_slices(wanted)
        chosen = tf.data.Dataset.zip((is_wanted, self._all_records())).filter(lambda wanted, _: wanted)
        parsed = chosen.map(lambda _, record: (record[0], *self._try_parse(record[1])), tf.data.AUTOTUNE)
        keys, images, labels = zip(*parsed.as_numpy_iterator(), strict=True)
        source = EncodedImages(
            name,
            images,
            read=tf.identity,
            example_names=[self.example_name(int(key)) for key in keys],
            labels=None if self.class_names is None else np.array(labels),
            class_names=self.class_names,
        )
        source.identity = self._identity_of(indices)
        return source

    def in_memory(self) -> EncodedImages:
        """Returns a source of the same examples that keeps all images in memory, encoded."""
        source = self.subset(np.arange(self.num_examples), self.name)
        source.identity = self.identity
        return source

    def part(self, start: int, stop: int) -> "StreamSource":
        """See `Source.part`; earlier records of the first file are read but not decoded."""
        return self.parts([(start, stop)])

    def parts(self, ranges: Iterable[tuple[int, int]]) -> "StreamSource":
        """Returns a source of several consecutive parts; see `part`."""
        return StreamSource(
            self.name,
            files=[file for start, stop in ranges for _, file in self._cut(start, stop)],
            parse=self._parse,
            shuffle_buffer_size=self._buffer_size,
            class_names=self.class_names,
        )

    def _all_records(self, start: int = 0, stop: int | None = None) -> tf.data.Dataset:
        cuts = self._cut(start, self.num_examples if stop is None else stop)
        return self._read(cuts, tf.range(len(cuts), dtype=tf.int64))

    def decode(self, example: Example, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Source.decode`."""
        encoded, label = self._parse(example["records"][candidate])
        return decode_image(encoded), label

    def _try_parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the encoded image and the label of a record; "" and -1 if it is damaged."""
        return first_success(record, self._parse, (tf.constant(""), tf.constant(-1)))

    def example_name(self, key: int) -> str:
        """See `Source.example_name`."""
        number = int(np.searchsorted(self._firsts, key, side="right")) - 1
        file = self._files[number]
        return f"{os.path.basename(file.filename)} record {file.skip + key - int(self._firsts[number])}"

    def _announce_parts(self, plan: BatchPlan) -> None:
        if self.num_examples < plan.num_workers:
            raise UserError(
                f"--cache_dataset=False: {self.name} has only {self.num_examples} records for "
                f"{plan.num_workers} workers to share; use --cache_dataset=True, or fewer workers."
            )
        if plan.num_workers > 1 and not self._announced:
            self._announced = True
            _LOG.info(
                "Each of the %d workers reads a part of the records of %s: which images share a batch depends "
                "on the number of workers.",
                plan.num_workers,
                self.name,
            )

    def _cut(self, start: int, stop: int) -> _Cuts:
        """Returns the files, restricted to the keys from `start` to `stop`, and their first keys."""
        cuts = []
        for first, file in zip(self._firsts.tolist(), self._files, strict=True):
            begin, end = max(start, first), min(stop, first + file.take)
            if begin < end:
                cut = dataclasses.replace(file, skip=file.skip + begin - first, take=end - begin)
                cuts.append((begin, cut))
        return cuts

    def _epoch(self, cuts: _Cuts, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        return self._shuffled(self._read(cuts, self._file_order(cuts, seed, epoch)), seed, epoch)

    def _file_order(self, cuts: _Cuts, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        files = tf.range(len(cuts), dtype=tf.int64)
        return tf.random.experimental.stateless_shuffle(files, order_seed(seed, epoch), alg="philox")

    def _shuffled(self, records: tf.data.Dataset, seed: int, number: tf.Tensor) -> tf.data.Dataset:
        # The buffer mixes its seed with the graph's, which is the global one unless set here. TensorFlow
        # would compare a 0 there with the other seed, which is a tensor.
        tf.compat.v1.set_random_seed(seed + 1)
        return records.shuffle(self._buffer_size, seed=number + 1, reshuffle_each_iteration=False)

    def _read(self, cuts: _Cuts, order: tf.Tensor) -> tf.data.Dataset:
        """Reads the ranges of files in an order; returns keys int64 [] and records string []."""
        firsts = tf.constant([first for first, _ in cuts], tf.int64)
        names = tf.constant([file.filename for _, file in cuts], tf.string)
        skips = tf.constant([file.skip for _, file in cuts], tf.int64)
        ends = tf.constant([file.skip + file.take for _, file in cuts], tf.int64)
        compressions = tf.constant([file.compression for _, file in cuts], tf.string)

        def read_file(file: tf.Tensor) -> tf.data.Dataset:
            records = read_records(names[file], ends[file], compressions[file]).skip(skips[file])
            return records.enumerate(firsts[file])

        return tf.data.Dataset.from_tensor_slices(order).interleave(
            read_file,
            cycle_length=min(_FILES_AT_A_TIME, max(len(cuts), 1)),
            block_length=_RECORDS_PER_TURN,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )


def shuffle_buffer_size(num_bytes: int, num_examples: int) -> int:
    """Returns the size of the shuffle buffer in records, from the bytes of all `num_examples`."""
    return max(_SHUFFLE_BYTES // max(num_bytes // num_examples, 1), _MIN_SHUFFLED_RECORDS)


def _windows(records: tf.data.Dataset) -> tf.data.Dataset:
    """Returns each record, a tuple, with the next ones: tuples of NUM_CANDIDATES records."""
    blank = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), records.element_spec)
    start = (blank,) * NUM_CANDIDATES

    def shift(window: _Window, *record: tf.Tensor) -> tuple[_Window, _Window]:
        shifted = (*window[1:], record)
        return shifted, shifted

    # The first windows are not full yet.
    return records.scan(start, lambda window, record: shift(window, *record)).skip(NUM_CANDIDATES - 1)


def _to_example(position: tf.Tensor, window: _Window) -> Example:
    keys, records = zip(*window, strict=True)
    return {"position": position, "keys": tf.stack(keys), "records": records}
