"""Features of a data set."""

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import EvalView
from tf_simclr.data import ArraySource, BatchPlan, eval_dataset
from tf_simclr.evaluate import extract_features


def mean_of(images, training):
    assert not training
    return {"default": tf.reduce_mean(tf.cast(images, tf.float64), axis=[1, 2])}


@pytest.mark.parametrize("labelled", [True, False])
def test_features_are_those_of_each_image_in_order(labelled):
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(7, dtype=np.int32) if labelled else None
    source = ArraySource("some", images, labels, [str(number) for number in range(7)])
    batches = eval_dataset(source, EvalView(image_size=8), plan=BatchPlan(global_batch_size=3))
    features, found = extract_features(mean_of, batches)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, images.mean((1, 2)) / 255, atol=1e-5)
    np.testing.assert_array_equal(found, labels if labelled else np.full(7, -1))


def test_features_of_unreadable_images_are_left_out():
    batch = {"images": tf.ones([3, 8, 8, 3]), "mask": tf.constant([1.0, 0.0, 1.0]), "labels": tf.range(3)}
    batch["position"] = tf.range(3)
    features, labels = extract_features(mean_of, tf.data.Dataset.from_tensors(batch))
    assert features.shape == (2, 3)
    assert labels.tolist() == [0, 2]
