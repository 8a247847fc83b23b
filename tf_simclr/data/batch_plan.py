"""Division of a global batch among replicas and workers."""

import dataclasses
from typing import TYPE_CHECKING

import tensorflow as tf

from tf_simclr.config import UserError

if TYPE_CHECKING:
    from tf_simclr.data.source import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Division of a global batch among replicas, and the rows that this worker makes.

    A run is a sequence of per-replica batches. Batch number step * total_replicas + replica starts at the
    position number * per_replica_batch_size.

    Attributes:
        global_batch_size: Rows of a batch over all replicas of all workers.
        num_replicas: Replicas of this worker, each with its own batch; equal on all workers.
        first_replica: Number of this worker's first replica among all replicas.
        total_replicas: Replicas of all workers.
    """

    global_batch_size: int
    num_replicas: int = 1
    first_replica: int = 0
    total_replicas: int = 1

    @classmethod
    def shared(
        cls, batch_size: int, num_replicas: int, context: tf.distribute.InputContext | None = None
    ) -> "BatchPlan":
        """Returns the plan of one input pipeline.

        Args:
            batch_size: Rows of a batch over all replicas.
            num_replicas: Replicas of all workers.
            context: Names the input pipeline; None for one that makes all rows.
        """
        pipelines, number = (context.num_input_pipelines, context.input_pipeline_id) if context else (1, 0)
        local = num_replicas // pipelines
        return cls(
            global_batch_size=batch_size, num_replicas=local, first_replica=number * local, total_replicas=num_replicas
        )

    @property
    def per_replica_batch_size(self) -> int:
        """Rows of one element of the dataset."""
        return self.global_batch_size // self.total_replicas

    @property
    def local_batch_size(self) -> int:
        """Rows of a global batch that this worker makes."""
        return self.num_replicas * self.per_replica_batch_size

    @property
    def num_workers(self) -> int:
        """Number of workers that share the batch."""
        return self.total_replicas // self.num_replicas

    def for_one_worker(self) -> "BatchPlan":
        """Returns the plan of a worker that makes all rows."""
        return BatchPlan.shared(self.global_batch_size, self.total_replicas)

    def batch_numbers(self, first_step: int) -> tf.data.Dataset:
        """Returns the numbers, int64 [], of this worker's batches, from `first_step` on."""
        replicas = self.total_replicas
        if self.num_workers == 1:
            return tf.data.Dataset.range(first_step * replicas, tf.int64.max)

        def of_step(step: tf.Tensor) -> tf.data.Dataset:
            first = step * replicas + self.first_replica
            return tf.data.Dataset.range(first, first + self.num_replicas)

        return tf.data.Dataset.range(first_step, tf.int64.max).flat_map(of_step)

    def position_of(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the position, int64, of this worker's row number `index`."""
        step, row = index // self.local_batch_size, index % self.local_batch_size
        return step * self.global_batch_size + self.first_replica * self.per_replica_batch_size + row

    def share(self, num_examples: int) -> tuple[int, int]:
        """Returns this worker's range of the examples: the first, and one past the last.

        Each example is in the range of exactly one worker, and the sizes differ by at most one.
        """
        worker = self.first_replica // self.num_replicas
        return worker * num_examples // self.num_workers, (worker + 1) * num_examples // self.num_workers

    def num_eval_batches(self, num_examples: int) -> int:
        """Returns the number of this worker's batches in a pass over `num_examples`; equal on all workers."""
        return -(-num_examples // self.global_batch_size) * self.num_replicas

    def check(self, flag: str) -> None:
        """Raises UserError, naming `flag`, unless every replica gets the same number of rows."""
        below = self.per_replica_batch_size * self.total_replicas
        if below != self.global_batch_size:
            nearest = f"{below} or {below + self.total_replicas}" if below else f"{self.total_replicas}"
            raise UserError(
                f"--{flag}={self.global_batch_size}: cannot be shared out evenly over {self.total_replicas} "
                f"replicas; use {nearest}."
            )

    def check_fits(self, source: "Source") -> None:
        """Raises UserError unless a training batch can be shared out evenly and is no larger than the data."""
        self.check("train_batch_size")
        if self.global_batch_size > source.num_examples:
            largest = source.num_examples // self.total_replicas * self.total_replicas
            fix = f"use at most {largest}" if largest else f"use at most {source.num_examples} replicas"
            raise UserError(
                f"--train_batch_size={self.global_batch_size}: {source.name} has only {source.num_examples} "
                f"examples; {fix}."
            )
