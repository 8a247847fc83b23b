"""Mixture of several sources by weight, without labels: every batch has a fixed number of rows of each."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import UserError
from tf_simclr.data.batch_plan import BatchPlan
from tf_simclr.data.source import NUM_CANDIDATES, Example, Indices, Source

# Separates the orders of the sources from each other, and from those of other seeds of a run.
_SEED_STEP = 2**20

_ExamplesOf = Callable[[Source, int, BatchPlan], tf.data.Dataset]


class MixedSource(Source):
    """Examples of several sources; the key of an example is its number among all of them.

    Every batch has the same number of rows of a source, spread evenly over replicas and chunks. Each source has its
    own epochs. An epoch of the run, which has as many examples as all sources together, may show the examples of one
    source several times and omit some of another.

    Args:
        sources: At least 2; their labels are not used.
        weights: Relative share of each, greater than 0; None for the numbers of examples.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float] | None = None):
        counts = [source.num_examples for source in sources]
        super().__init__(" + ".join(source.name for source in sources), sum(counts), None)
        self.sources = tuple(sources)
        self.identity = tuple(source.fingerprint().encode() for source in sources)
        self.ignored = tuple(line for source in sources for line in source.ignored)
        self.weights = tuple(map(float, counts if weights is None else weights))
        self._firsts = np.cumsum([0, *counts])[:-1]

    @property
    def bytes_in_memory(self) -> int:
        """See `Source.bytes_in_memory`."""
        return sum(source.bytes_in_memory for source in self.sources)

    def num_rows(self, batch_size: int) -> list[int]:
        """Returns the number of rows of each source in a batch.

        Raises:
            UserError: If there are more sources than rows.
        """
        if batch_size < len(self.sources):
            raise UserError(
                f"--train_batch_size={batch_size}: has no place for an image of each of the {len(self.sources)} "
                "sources of --dataset; use a larger batch or fewer sources."
            )
        return share_out(self.weights, batch_size)

    def describe_batch(self, batch_size: int) -> list[str]:
        """See `Source.describe_batch`: the number of images of each source."""
        rows = self.num_rows(batch_size)
        parts = [f"{count} of {source.name}" for count, source in zip(rows, self.sources, strict=True)]
        real, asked = np.divide(rows, batch_size), np.divide(self.weights, sum(self.weights))
        differs = "" if np.allclose(real, asked) else f" (shares of {_listed(real)}, for {_listed(asked)})"
        return [f"Several sources, without their labels: {', '.join(parts)} in a batch of {batch_size}{differs}."]

    def train_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """See `Source.train_examples`.

        Raises:
            UserError: If the workers cannot share the rows of each source evenly.
        """
        return self._mix(seed, plan, lambda source, *part: source.train_examples(*part, first_step))

    def divisible_examples(self, seed: int, plan: BatchPlan, first_step: int) -> tf.data.Dataset:
        """See `Source.divisible_examples`."""
        return self._mix(seed, plan, lambda source, *part: source.divisible_examples(*part, first_step))

    def decode(self, example: Example, candidate: int) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Source.decode`; the label is -1."""

        def of_source(number: int) -> tf.Tensor:
            own = example | {"keys": example["keys"] - self._firsts[number]}
            return self.sources[number].decode(own, candidate)[0]

        branches = [functools.partial(of_source, number) for number in range(len(self.sources))]
        return tf.switch_case(example["source"], branches), tf.constant(-1)

    def example_name(self, key: int) -> str:
        """See `Source.example_name`."""
        number = int(np.searchsorted(self._firsts, key, side="right")) - 1
        return self.sources[number].example_name(key - int(self._firsts[number]))

    def _plans(self, plan: BatchPlan) -> list[BatchPlan]:
        """Returns the plan of each source: all of this worker's rows of it, as if for one replica."""
        rows, workers = self.num_rows(plan.global_batch_size), plan.num_workers
        if any(count % workers for count in rows):
            possible = max(plan.global_batch_size // workers, len(rows))
            nearest = [workers * count for count in share_out(self.weights, possible)]
            raise UserError(
                f"--mix: {', '.join(map(str, rows))} images of each source in a batch of {plan.global_batch_size} "
                f"cannot be shared out evenly over {workers} workers; use --mix={','.join(map(str, nearest))}"
                + ("." if sum(nearest) == plan.global_batch_size else f" --train_batch_size={sum(nearest)}.")
            )
        worker = plan.first_replica // plan.num_replicas
        return [BatchPlan(global_batch_size=count, first_replica=worker, total_replicas=workers) for count in rows]

    def _mix(self, seed: int, plan: BatchPlan, examples_of: _ExamplesOf) -> tf.data.Dataset:
        """Returns the rows of all sources in the order of this worker's batches."""
        plans = self._plans(plan)
        no_records = (tf.constant(""),) * NUM_CANDIDATES

        def tag(number: int, example: Example) -> Example:
            return {
                # Each row has its own position, so that no two sources share random numbers.
                "position": example["position"] * len(plans) + number,
                "keys": example["keys"] + self._firsts[number],
                "source": tf.constant(number),
                "records": example.get("records", no_records),
            }

        tagged = []
        for number, (source, part) in enumerate(zip(self.sources, plans, strict=True)):
            own_seed = (seed + number * _SEED_STEP) % 2**31
            tagged.append(examples_of(source, own_seed, part).map(functools.partial(tag, number)))
        order = row_order([part.per_replica_batch_size for part in plans])
        # A data service distributes the numbers of this range, and so the whole order.
        choices = tf.data.Dataset.range(tf.int64.max).flat_map(lambda _: tf.data.Dataset.from_tensor_slices(order))
        return tf.data.Dataset.choose_from_datasets(tagged, choices, stop_on_empty_dataset=False)


def share_out(weights: Sequence[float], count: int) -> list[int]:
    """Divides rows by weight. The largest remainders are rounded up, and no share becomes 0.

    Args:
        weights: Greater than 0.
        count: Number of rows, at least the number of weights.

    Returns:
        Rows of each; their sum is `count`.
    """
    exact = np.divide(weights, np.sum(weights)) * count
    rows = np.maximum(np.floor(exact), 1)
    while rows.sum() < count:
        rows[np.argmax(exact - rows)] += 1
    while rows.sum() > count:  # Raising small shares to 1 has used more than remained.
        rows[np.argmax(np.where(rows > 1, rows - exact, -np.inf))] -= 1
    return [int(number) for number in rows]


def row_order(rows: Sequence[int]) -> Indices:
    """Returns the source of each row, int64 [sum of rows], with the rows of each spread evenly."""
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in rows])
    return np.repeat(np.arange(len(rows)), rows)[np.argsort(places, kind="stable")]


def _listed(shares: NDArray[np.float64]) -> str:
    return ", ".join(f"{share:.4g}" for share in shares)
