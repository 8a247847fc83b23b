"""Views that the training step makes are those that the input makes."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import two_replicas
from tf_simclr.augment import NUM_DRAWS, TrainView
from tf_simclr.config import DataConfig
from tf_simclr.data import ArraySource, BatchPlan, load_source, mix_labelled, step_views, train_dataset

HOST = TrainView(image_size=24, crop_min_area=0.2, random_rotation=20.0, color_jitter_strength=1.0, use_blur=True)
DEVICE = dataclasses.replace(HOST, on_device=True)
PLAN = BatchPlan(global_batch_size=6)


@pytest.fixture(params=usual("array", also=["files"]))
def source(request):
    if request.param == "files":
        folder = request.getfixturevalue("class_folder")
        return load_source(DataConfig(dataset=f"folder:{folder}"), "train")
    coarse = np.random.default_rng(0).random((20, 4, 4, 3), dtype=np.float32)
    images = np.clip(tf.image.resize(coarse, [20, 28], "bicubic") * 255, 0, 255).astype(np.uint8)
    return ArraySource("smooth", images, np.arange(20) % 2, ["even", "odd"])


def host_and_step(source, *, plan=PLAN, **kwargs):
    """Batches with the views of the input, and those that the step completes."""
    host = train_dataset(source, HOST, plan=plan, seed=1, **kwargs)
    device = train_dataset(source, DEVICE, plan=plan, seed=1, **kwargs)
    return host, device, step_views(source, DEVICE)


def assert_close(received, expected):
    assert received.keys() == expected.keys()
    np.testing.assert_array_equal(received["labels"], expected["labels"])
    for one, other in zip(received["views"], expected["views"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_step_makes_the_views_of_the_input(source):
    host, device, complete = host_and_step(source, first_step=3)
    for expected, batch in zip(host.take(3), device.take(3), strict=True):
        assert "views" not in batch
        assert_close(complete(batch), expected)
    one, other = expected["views"]
    assert np.abs(one - other).max() > 0.1


@pytest.mark.slow
def test_batches_for_the_step_have_static_shapes(source):
    _, device, complete = host_and_step(source)
    spec = device.element_spec
    assert [draws.shape.as_list() for draws in spec["draws"]] == [[6, NUM_DRAWS]] * 2
    if isinstance(source, ArraySource):
        assert (spec["images"].shape.as_list(), spec["images"].dtype) == ([6, 20, 28, 3], tf.uint8)
    else:
        assert [crops.shape.as_list() for crops in spec["images"]] == [[6, 24, 24, 3]] * 2
    completed = tf.function(complete).get_concrete_function(spec).structured_outputs
    assert [view.shape.as_list() for view in completed["views"]] == [[6, 24, 24, 3]] * 2
    assert completed.keys() == {"views", "labels", "bad_images"}


def test_step_leaves_batches_that_have_views(source):
    batch = {"views": (), "labels": tf.zeros([2])}
    assert step_views(source, HOST)(batch) is batch


@pytest.mark.slow
@pytest.mark.exhaustive
def test_step_makes_the_views_of_labelled_images(source):
    labelled = source.subset(np.array([1, 4, 11]), "labelled")

    def mixed(view):
        parts = [
            train_dataset(images, view, plan=BatchPlan(global_batch_size=rows), seed=seed, num_views=1)
            for images, rows, seed in ((source, 4, 1), (labelled, 2, 9))
        ]
        return mix_labelled(*parts).take(2)

    for expected, batch in zip(mixed(HOST), mixed(DEVICE), strict=True):
        assert_close(step_views(source, DEVICE)(batch), expected)


@pytest.mark.slow
@pytest.mark.distributed
def test_replicas_make_the_views_of_one(source):
    strategy = two_replicas()
    plan = BatchPlan(global_batch_size=6, num_replicas=2, total_replicas=2)
    host, _, complete = host_and_step(source)
    distributed = strategy.distribute_datasets_from_function(lambda _: host_and_step(source, plan=plan)[1])
    batches = iter(distributed)

    @tf.function
    def step():
        return strategy.run(lambda batch: complete(batch)["views"], args=(next(batches),))

    for batch in host.take(2):
        for view, expected in zip(step(), batch["views"], strict=True):
            rows = np.concatenate(strategy.experimental_local_results(view))
            np.testing.assert_allclose(rows, expected, atol=1e-5, rtol=0)
