"""The training step makes the same views as the input pipeline."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import two_replicas
from tests.support.runs import eagerly
from tf_simclr.augment import NUM_DRAWS, TrainView
from tf_simclr.config import DataConfig
from tf_simclr.data import ArraySource, BatchPlan, load_source, mix_labelled, random_access, step_views, train_dataset

HOST = TrainView(image_size=8, random_rotation=20.0)
DEVICE = dataclasses.replace(HOST, on_device=True)


@pytest.fixture(params=usual("array", also=["files"]))
def source(request, monkeypatch):
    if request.param == "files":
        folder = request.getfixturevalue("class_folder")
        monkeypatch.setattr(random_access, "decode_image", lambda encoded: tf.io.decode_png(encoded, 3))
        return load_source(DataConfig(dataset=f"folder:{folder}"), "train")
    coarse = np.random.default_rng(0).random((20, 4, 4, 3), dtype=np.float32)
    images = np.clip(tf.image.resize(coarse, [20, 28], "bicubic") * 255, 0, 255).astype(np.uint8)
    return ArraySource("smooth", images, np.arange(20) % 2, ["even", "odd"])


def mixed(source, view):
    """Batches of four unlabelled and two labelled rows."""
    labelled = source.subset(np.array([1, 4, 11]), "labelled")
    parts = [
        train_dataset(images, view, plan=BatchPlan(global_batch_size=rows), seed=seed, first_step=3)
        for images, rows, seed in ((source, 4, 1), (labelled, 2, 9))
    ]
    return mix_labelled(*parts)


@pytest.mark.slow
def test_step_makes_the_views_of_the_input(source):
    with eagerly():
        host, device = mixed(source, HOST).take(2), mixed(source, DEVICE).take(2)
    spec = device.element_spec
    assert "views" not in spec
    assert [draws.shape.as_list() for draws in spec["draws"]] == [[6, NUM_DRAWS]] * 2
    if isinstance(source, ArraySource):
        assert (spec["images"].shape.as_list(), spec["images"].dtype) == ([6, 20, 28, 3], tf.uint8)
    else:
        assert [crops.shape.as_list() for crops in spec["images"]] == [[6, 8, 8, 3]] * 2
    with eagerly():
        for expected, batch in zip(host, device, strict=True):
            received = step_views(source, DEVICE)(batch)
            assert received.keys() == expected.keys() == {"views", "labels", "bad_images"}
            np.testing.assert_array_equal(received["labels"], expected["labels"])
            for one, other in zip(received["views"], expected["views"], strict=True):
                assert one.shape == (6, 8, 8, 3)
                np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)
    assert np.abs(one - expected["views"][0]).max() > 0.01


def test_step_leaves_batches_that_have_views(source):
    batch = {"views": (), "labels": tf.zeros([2])}
    assert step_views(source, HOST)(batch) is batch


@pytest.mark.slow
@pytest.mark.distributed
def test_replicas_make_the_views_of_one(source):
    """Compiled, unlike above."""
    strategy, view = two_replicas(), TrainView(image_size=8, on_device=True)
    complete = step_views(source, view)
    whole = train_dataset(source, view, plan=BatchPlan(global_batch_size=6), seed=1)
    plan = BatchPlan(global_batch_size=6, num_replicas=2, total_replicas=2)
    distributed = strategy.distribute_datasets_from_function(lambda _: train_dataset(source, view, plan=plan, seed=1))
    batches = iter(distributed)

    @tf.function
    def step():
        return strategy.run(lambda batch: complete(batch)["views"], args=(next(batches),))

    for batch in whole.take(2):
        for received, expected in zip(step(), complete(batch)["views"], strict=True):
            rows = np.concatenate(strategy.experimental_local_results(received))
            np.testing.assert_allclose(rows, expected, atol=1e-5, rtol=0)
