"""Order, replicas, resumption and evaluation of batches, on arrays."""

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment.views import EvalView, TrainView, draw_uniforms
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource, BatchPlan, eval_dataset, train_dataset
from tf_simclr.data.random_access import epoch_candidates
from tf_simclr.data.source import NUM_CANDIDATES

VIEW = TrainView(image_size=8)
PLAN = BatchPlan(global_batch_size=6)


@pytest.fixture(scope="module")
def source():
    images = np.random.RandomState(0).randint(0, 256, (20, 12, 10, 3)).astype(np.uint8)
    return ArraySource("noise", images, np.arange(20), [str(number) for number in range(20)])


@pytest.fixture(scope="module")
def whole(source):
    """The first 12 batches of 6 on one replica with seed 1."""
    return batches(source, 12)


def batches(source, count, *, plan=PLAN, seed=1, **kwargs):
    dataset = train_dataset(source, VIEW, plan=plan, seed=seed, **kwargs)
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_array_equal(one["views"], other["views"])


def test_train_dataset_elements_have_static_shapes(source):
    spec = train_dataset(source, VIEW, plan=PLAN, seed=0, num_views=3).element_spec
    assert [view.shape.as_list() for view in spec["views"]] == [[6, 8, 8, 3]] * 3
    assert spec["labels"].shape.as_list() == [6]
    assert spec["labels"].dtype.name == spec["bad_images"].dtype.name == "int32"


@pytest.mark.slow
def test_train_dataset_same_seed_same_batches_other_seed_others(source, whole):
    # `whole` was made with another global seed.
    tf.random.set_seed(1234)
    again, other = batches(source, 2), batches(source, 2, seed=2)
    assert_equal(whole[:2], again)
    assert not np.array_equal(whole[0]["labels"], other[0]["labels"])
    assert not np.array_equal(whole[0]["views"][0], whole[0]["views"][1])


def test_train_dataset_every_epoch_is_a_permutation_of_its_own(whole):
    labels = np.concatenate([batch["labels"] for batch in whole])[:60].reshape(3, 20)
    np.testing.assert_array_equal(np.sort(labels, axis=1), np.tile(np.arange(20), (3, 1)))
    assert len({tuple(epoch) for epoch in labels}) == 3


def test_epoch_candidates_are_the_next_examples_of_the_order():
    candidates = epoch_candidates(7, 3, 5).numpy()
    assert candidates.shape == (7, NUM_CANDIDATES)
    for row in range(7):
        for column in range(NUM_CANDIDATES):
            assert candidates[row, column] == candidates[(row + column) % 7, 0]


def test_epoch_candidates_mix_well():
    num_examples, num_epochs = 400, 100
    orders = np.stack([epoch_candidates(num_examples, 0, epoch).numpy()[:, 0] for epoch in range(num_epochs)])
    correlations = np.corrcoef(np.vstack([np.arange(num_examples), orders]))
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 6 / np.sqrt(num_examples)


@pytest.mark.slow
def test_train_dataset_of_resumed_replicas_has_the_rows_of_one_replica(source, whole):
    plan = BatchPlan(global_batch_size=6, num_replicas=2, total_replicas=2)
    parts = batches(source, 4, plan=plan, first_step=7)
    for step, batch in enumerate(whole[7:9]):
        pair = parts[2 * step : 2 * step + 2]
        np.testing.assert_array_equal(np.concatenate([part["labels"] for part in pair]), batch["labels"])
        for number in range(2):
            joined = np.concatenate([part["views"][number] for part in pair])
            np.testing.assert_allclose(joined, batch["views"][number], atol=1e-6, rtol=0)


def test_train_dataset_views_are_the_view_of_the_rows_draws(source, whole):
    for number in range(2):
        expected = VIEW(source.images[whole[2]["labels"]], draw_uniforms(1, number, 12, 6))
        np.testing.assert_allclose(whole[2]["views"][number], expected, atol=1e-5)


def test_train_dataset_without_labels_has_none():
    plain = ArraySource("plain", np.zeros([4, 8, 8, 1], np.uint8))
    dataset = train_dataset(plain, VIEW, plan=BatchPlan(global_batch_size=4), seed=0)
    assert set(dataset.element_spec) == {"views", "bad_images"}


def test_batches_refuse_uneven_replicas(source):
    plan = BatchPlan(global_batch_size=6, num_replicas=4, total_replicas=4)
    with pytest.raises(UserError, match=r"^--train_batch_size=6: .* 4 replicas; use 4 or 8\.$"):
        train_dataset(source, VIEW, plan=plan, seed=0)
    with pytest.raises(UserError, match=r"^--eval_batch_size=6: .*use 4 or 8\.$"):
        eval_dataset(source, EvalView(image_size=8), plan=plan)


@pytest.mark.parametrize("batch_size", [6, 20, 32])
def test_eval_dataset_shows_every_example_once(source, batch_size):
    dataset = eval_dataset(source, EvalView(image_size=8), plan=BatchPlan(global_batch_size=batch_size))
    assert dataset.element_spec["images"].shape.as_list() == [batch_size, 8, 8, 3]
    parts = list(dataset.as_numpy_iterator())
    assert len(parts) == -(-20 // batch_size) == int(dataset.cardinality())
    labels, mask = (np.concatenate([part[key] for part in parts]) for key in ("labels", "mask"))
    np.testing.assert_array_equal(labels[mask == 1], np.arange(20))
    assert not mask[20:].any()
    assert sum(part["bad_images"] for part in parts) == 0
