"""Workers of a run: what they must agree on, and the loss of one of them."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, UserError
from tf_simclr.distribution.collectives import gather_from_workers
from tf_simclr.runs.checkpoint_list import latest_checkpoint

# Raised by TensorFlow in the workers that are left, depending on the moment at which another was lost.
_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)


def all_agree(strategy: tf.distribute.Strategy, value: bool) -> bool:
    """Returns whether `value` holds at all workers."""
    return bool(gather_from_workers(strategy, [float(value)]).all())


def check_same_start(config: ExperimentConfig, strategy: tf.distribute.Strategy, step: int, fingerprint: str) -> None:
    """Compares what the workers start from.

    Args:
        config: of the run.
        strategy: of the run.
        step: of the checkpoint that this worker found.
        fingerprint: of the training images that this worker found, in hexadecimal digits.

    Raises:
        UserError: another worker found another checkpoint or other images.
    """
    number = float(int(fingerprint[:12], 16))
    steps, fingerprints = gather_from_workers(strategy, [step, number]).T
    if (fingerprints != number).any():
        raise UserError(
            f"--dataset={config.data.dataset}: the workers find different images there; give all of them the same."
        )
    if (steps != step).any():
        raise UserError(
            f"--model_dir={config.model_dir}: the workers find checkpoints of different steps there "
            f"({', '.join(f'{other:.0f}' for other in steps)}); use a directory that all of them share."
        )


@contextlib.contextmanager
def reporting_lost_workers(config: ExperimentConfig, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's errors about a worker that is gone into one line.

    Raises:
        UserError: a worker no longer answers.
    """
    try:
        yield
    except _LOST_WORKER as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        raise UserError(
            f"a worker no longer answers ({type(error).__name__}); start all workers again: they go on from "
            f"{latest_checkpoint(str(config.model_dir)) or 'the beginning'}."
        ) from error
