"""Evaluation of a classifier, and features of a data set."""

import functools
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.networks import replicas
from tf_simclr.augment import EvalView
from tf_simclr.data import ArraySource, BatchPlan, eval_dataset
from tf_simclr.evaluation.features import extract_features
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.tasks.finetune import FinetuneTask
from tf_simclr.training.evaluation_loop import evaluate, make_eval_function

CLASSES, BATCH = 12, 8


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


# ---- Scores


def logits_network():
    """A task whose images are the logits."""

    def forward(images, training):
        assert not training
        return types.SimpleNamespace(endpoints={"logits_sup": images})

    task = types.SimpleNamespace(model=types.SimpleNamespace(forward=forward))
    return types.SimpleNamespace(eval_step=functools.partial(FinetuneTask.eval_step, task))


def case(count=31, seed=0):
    """Logits of which some are equal, labels of all classes but two, and 31 examples of which 3 are unreadable."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(count, CLASSES))).astype(np.float32)
    logits[::4] = np.round(logits[::4])
    logits[5] = 0
    labels = rng.integers(0, CLASSES - 2, count).astype(np.int32)
    labels[::2] = logits[::2].argmax(axis=1) % (CLASSES - 2)
    is_bad = np.zeros(count, bool)
    is_bad[[0, 11, 30]] = True
    return logits, labels, is_bad


def scores(logits, labels, is_bad, *, num_replicas=1, num_steps=0):
    """Evaluates in batches of 8 rows, the last of which is filled up with rows that count for nothing."""
    strategy, missing = replicas(num_replicas), -len(labels) % BATCH
    rows = {
        "images": np.pad(logits, [(0, missing), (0, 0)]),
        "labels": np.pad(labels, (0, missing)),
        "mask": np.pad((~is_bad).astype(np.float32), (0, missing)),
        "bad": np.pad(is_bad, (0, missing)),
    }

    def count_bad(batch):
        return batch | {"bad_images": tf.math.count_nonzero(batch.pop("bad"), dtype=tf.int32)}

    share = BATCH // num_replicas
    batches = tf.data.Dataset.from_tensor_slices(rows).batch(share, drop_remainder=True).map(count_bad)
    dataset = strategy.distribute_datasets_from_function(lambda context: batches)
    return evaluate(make_eval_function(logits_network(), strategy), dataset, num_steps=num_steps)


@pytest.mark.distributed
@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_evaluation_equals_the_scores_of_all_readable_logits(num_replicas):
    logits, labels, is_bad = case()
    found = scores(logits, labels, is_bad, num_replicas=num_replicas)
    assert num_replicas != 2 or found.scores == scores(logits, labels, is_bad).scores  # To the bit.
    expected = classification_scores(logits[~is_bad], labels[~is_bad])
    losses = [np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)]
    assert found.scores == pytest.approx(
        {f"eval/{name}": value for name, value in expected.items()}
        | {
            "eval/supervised_loss": np.mean(np.array(losses)[~is_bad]),
            "eval/num_examples": 28,
            "eval/num_bad_images": 3,
        },
        rel=1e-5,
    )
    np.testing.assert_array_equal(found.predictions, logits[~is_bad].argmax(axis=1))
    np.testing.assert_array_equal(found.labels, labels[~is_bad])


def test_evaluation_of_some_steps_sees_their_rows_alone():
    found = scores(*case(), num_steps=2)
    assert (found.scores["eval/num_examples"], found.scores["eval/num_bad_images"]) == (14, 2)


def test_evaluation_without_a_readable_image_is_zero():
    logits, labels, _ = case()
    found = scores(logits, labels, np.ones(len(labels), bool)).scores
    assert found.pop("eval/num_bad_images") == 31
    assert set(found.values()) == {0}


def test_images_without_a_label_do_not_count():
    logits, labels, is_bad = case()
    has_label = np.arange(31) % 4 != 1
    found = scores(logits, np.where(has_label, labels, -1), is_bad)
    counted = has_label & ~is_bad
    expected = classification_scores(logits[counted], labels[counted])
    for name, value in expected.items():
        assert found.scores[f"eval/{name}"] == pytest.approx(value, rel=1e-5)
    assert found.scores["eval/num_examples"] == counted.sum()


def test_logits_that_are_not_finite_are_of_no_class():
    logits, labels, is_bad = case()
    logits[3, 2] = np.nan
    labels[3] = logits[3].argmax()
    found = scores(logits, labels, is_bad)
    assert (found.predictions == -1).sum() == 1
    expected = np.mean((logits.argmax(axis=1) == labels)[~is_bad & (np.arange(31) != 3)])
    assert found.scores["eval/label_top_1_accuracy"] == pytest.approx(expected * 27 / 28)
    assert np.isnan(found.scores["eval/expected_calibration_error"])
