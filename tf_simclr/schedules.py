"""Learning rates as functions of the step, and the counting of steps."""

import math
from typing import Any

import tensorflow as tf


def scale_learning_rate(learning_rate: float, batch_size: int, scaling: str) -> float:
    """Peak learning rate of a batch size.

    SimCLR (arXiv 2002.05709), section 2.3 (`linear`) and appendix B.1 (`sqrt`).

    Args:
        learning_rate: the rate of 256 images (`linear`) or of one image (`sqrt`), > 0.
        batch_size: images in a global batch, >= 1.
        scaling: `linear` (rate * batch / 256) or `sqrt` (rate * sqrt(batch)).

    Returns:
        The learning rate at the end of warm-up.

    Raises:
        ValueError: if `scaling` is neither, or `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; received {batch_size}.")
    if scaling == "linear":
        return learning_rate * batch_size / 256.0
    if scaling == "sqrt":
        return learning_rate * math.sqrt(batch_size)
    raise ValueError(f"scaling must be 'linear' or 'sqrt'; received {scaling!r}.")


def num_warmup_steps(warmup_epochs: float, num_examples: int, batch_size: int) -> int:
    """Number of steps in which the learning rate rises: `warmup_epochs * num_examples // batch_size`.

    As the authors' code counts them.

    Args:
        warmup_epochs: passes over the examples, a whole or broken number, >= 0.
        num_examples: images in the training split, >= 1.
        batch_size: images in a global batch, >= 1.

    Returns:
        Steps, >= 0.

    Raises:
        ValueError: if an argument is out of range.
    """
    _check_counts(warmup_epochs, num_examples, batch_size)
    return round(warmup_epochs * num_examples // batch_size)


def num_train_steps(num_examples: int, epochs: int, batch_size: int, steps: int = 0) -> int:
    """Number of optimizer steps of a run: `num_examples * epochs // batch_size + 1`.

    As the authors' code counts them (250,228 steps for 800 epochs of ImageNet with batch 4096).

    Args:
        num_examples: images in the training split, >= 1.
        epochs: passes over the examples, >= 0.
        batch_size: images in a global batch, >= 1.
        steps: where it is not 0, the answer, whatever the rest.

    Returns:
        Steps, >= 1.

    Raises:
        ValueError: if an argument is out of range.
    """
    if steps < 0:
        raise ValueError(f"steps must be 0 (count the epochs) or more; received {steps}.")
    _check_counts(epochs, num_examples, batch_size)
    return steps or num_examples * epochs // batch_size + 1


def _check_counts(epochs: float, num_examples: int, batch_size: int) -> None:
    if epochs < 0 or num_examples < 1 or batch_size < 1:
        raise ValueError(
            "epochs must be at least 0, num_examples and batch_size at least 1; "
            f"received {epochs}, {num_examples} and {batch_size}."
        )


@tf.keras.utils.register_keras_serializable(package="tf_simclr")
class WarmupCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to the peak, then a cosine down to 0, where it stays.

    SimCLR (arXiv 2002.05709), section 2.3, and SGDR (arXiv 1608.03983), equation 5, without restarts. As in
    the authors' code step 0 has learning rate 0, and a warm-up longer than the run is allowed: the run
    then ends on the way up. With step s, warm-up w and total T, both in steps:

        s < w:  peak * s / w
        else:   peak * (1 + cos(pi * (s - w) / (T - w))) / 2, and 0 from T on

    Keras optimizers hold their current learning rate in the dtype that the schedule returns for their
    integer step count: give `dtype="float64"` where the variables are float64.

    Args:
        peak: learning rate at the end of warm-up, >= 0.
        warmup_steps: w, >= 0; 0 starts at the peak.
        total_steps: T, >= 1.
        dtype: `float32` or `float64`, the dtype of the result for integer steps.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int, dtype: str = "float32"):
        if not (math.isfinite(peak) and peak >= 0):
            raise ValueError(f"peak must be a finite number, at least 0; received {peak}.")
        if warmup_steps < 0 or total_steps < 1:
            raise ValueError(
                "warmup_steps must be at least 0 and total_steps at least 1; "
                f"received {warmup_steps} and {total_steps}."
            )
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'; received {dtype!r}.")
        self.peak = float(peak)
        self.warmup_steps = int(warmup_steps)
        self.total_steps = int(total_steps)
        self.dtype = dtype

    def __call__(self, step: int | float | tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of a step.

        Args:
            step: integer or float32/float64 `[]`, steps done so far, >= 0.

        Returns:
            `[]` in the step's own dtype, or in `dtype` for an integer step.
        """
        step = tf.convert_to_tensor(step)
        step = step if step.dtype.is_floating else tf.cast(step, self.dtype)
        rising = step / max(self.warmup_steps, 1)
        remaining = (self.total_steps - step) / max(self.total_steps - self.warmup_steps, 1)
        # The squared sine is (1 + cos) / 2 seen from the end: exactly 0 there, and never below.
        falling = tf.sin(0.5 * math.pi * tf.clip_by_value(remaining, 0.0, 1.0)) ** 2
        return self.peak * tf.where(step < self.warmup_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make the same schedule again."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "dtype": self.dtype,
        }
