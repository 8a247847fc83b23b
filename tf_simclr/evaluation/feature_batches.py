"""Named outputs of a network for every image of a data set."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf


def make_feature_function(
    network: Callable[[tf.Tensor], Mapping[str, tf.Tensor]], endpoint: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a compiled function from images `[B, S, S, 3]` in [0, 1] to one named output.

    Args:
        network: takes images, returns its named outputs in inference mode.
        endpoint: the output, which becomes float32 `[B, ...]`.
    """
    return tf.function(lambda images: tf.cast(network(images)[endpoint], tf.float32), autograph=False)


class FeatureBatch(NamedTuple):
    """What a network makes of one batch.

    Attributes:
        features: float32 `[B, ...]`.
        labels: int32 `[B]`, -1 where there is none.
        positions: int64 `[B]`, the number of each example in its source.
        is_readable: bool `[B]`; false also for rows that fill up the batch.
    """

    features: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    is_readable: np.ndarray


def feature_batches(function: Callable[[tf.Tensor], tf.Tensor], dataset: tf.data.Dataset) -> Iterator[FeatureBatch]:
    """Computes the features of a data set, batch by batch.

    Args:
        function: from `make_feature_function`.
        dataset: of batches, from `data.eval_dataset`.
    """
    for batch in dataset:
        is_readable = batch["mask"].numpy() > 0
        unknown = np.full(is_readable.shape, -1, np.int32)
        yield FeatureBatch(
            function(batch["images"]).numpy(),
            batch["labels"].numpy() if "labels" in batch else unknown,
            batch["position"].numpy(),
            is_readable,
        )


def extract_features(
    network: Callable[..., Mapping[str, tf.Tensor]], dataset: tf.data.Dataset, *, endpoint: str = "default"
) -> tuple[np.ndarray, np.ndarray]:
    """Computes one named output of a network for every readable image of a data set.

    Args:
        network: takes images `[B, S, S, 3]` in [0, 1], returns a dictionary of named outputs.
        dataset: of batches, from `data.eval_dataset`.
        endpoint: the output; `default` is the representation h.

    Returns:
        Features float32 `[N, ...]`, and labels int32 `[N]`, -1 where there is none.
    """
    function = make_feature_function(lambda images: network(images, training=False), endpoint)
    batches = list(feature_batches(function, dataset))
    features = np.concatenate([batch.features[batch.is_readable] for batch in batches])
    return features, np.concatenate([batch.labels[batch.is_readable] for batch in batches])
