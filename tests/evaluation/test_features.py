"""Networks that `--checkpoint` names, and the names of images."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation.conftest import refusal
from tests.support.networks import random_images
from tests.support.runs import TOTAL_STEPS, finished_run, write_images
from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig
from tf_simclr.data import ArraySource, load_source
from tf_simclr.evaluation.features import compute_features, image_names, load_inference_network
from tf_simclr.runs.networks import load_network


@pytest.mark.slow
def test_run_and_its_saved_model_give_the_outputs_of_the_network():
    run = finished_run().directory
    images = random_images(3, 8, 8, dtype="float32")
    expected = load_network(str(run), "checkpoint").forward(images, training=False).endpoints
    for path in (run, run / "saved_model" / str(TOTAL_STEPS)):
        network = load_inference_network(str(path))
        assert network.image_size == 8
        outputs = network.call(images)
        for name in ("default", "block_group3", "logits_sup"):
            np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-4, atol=1e-5)
            assert network.shapes[name] == expected[name].shape[1:]
    earlier = load_inference_network(str(run / "ckpt-2"))
    assert earlier.fingerprint != load_inference_network(str(run)).fingerprint


def damaged_run(path):
    shutil.copytree(finished_run().directory, path, ignore=shutil.ignore_patterns("saved_model", "events*"))
    for data in path.glob("ckpt-*.data*"):
        data.write_bytes(data.read_bytes()[:1000])


def module_without_call(path):
    module = tf.Module()
    module.variable = tf.Variable([1.0])
    tf.saved_model.save(module, str(path))


def stages(path):
    (path / "finetune").mkdir(parents=True)
    (path / "finetune" / "ckpt-3.index").write_text("x")


@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (lambda path: None, "no such checkpoint"),
        (lambda path: path.mkdir(), "no checkpoint in this directory; name one that has ckpt-* files, or a SavedModel"),
        (stages, "name one of its stages: {path}/finetune"),
        (lambda path: tf.train.Checkpoint(v=tf.Variable([1.0])).write(str(path / "ckpt-1")), "name "),
        pytest.param(damaged_run, "is damaged or cannot be read", marks=pytest.mark.slow),
        (module_without_call, "cannot be called as module(images, trainable=False)"),
    ],
    ids=["nothing", "folder", "stages", "other program", "damaged", "module"],
)
def test_network_that_does_not_fit_is_refused(tmp_path, make, fix):
    path = tmp_path / "network"
    make(path)
    message = refusal(load_inference_network, str(path))
    assert message.startswith(f"--checkpoint={path}")
    assert fix.format(path=path) in message


def test_saved_model_has_no_directory_for_results(pixel_network, tmp_path):
    assert pixel_network.run_directory("output", "a.json") == "run"
    (tmp_path / "saved_model.pb").touch()
    message = refusal(pixel_network._replace(path=str(tmp_path)).run_directory, "output", "a.json")
    assert message == (
        "--output: not given, and a SavedModel is no directory of a run; name a place for the results, such as "
        "--output=a.json."
    )


def test_names_are_relative_to_the_folder_whatever_the_bytes_of_its_own_name(tmp_path):
    folder = write_images(tmp_path / os.fsdecode(b"photos\xff") / "cat", 2).parent
    data = DataConfig(dataset=f"folder:{folder}")
    assert image_names(data, load_source(data, "train")) == ["cat/000.png", "cat/001.png"]
    data = DataConfig(dataset="digits")
    assert image_names(data, load_source(data, "test[:2]")) == ["example 0", "example 1"]


def test_whole_side_of_an_image_is_seen_where_the_network_asks_for_it(pixel_network):
    images = np.random.default_rng(0).integers(0, 256, [3, 20, 24, 3], np.uint8)
    source = ArraySource("some", images, np.arange(3), ("a", "b", "c"))
    for whole_side in (False, True):
        network = pixel_network._replace(whole_side=whole_side)
        part = compute_features(network, "map", source, data=DataConfig(dataset="digits"), batch_size=2)
        np.testing.assert_allclose(part.features, EvalView(image_size=8, whole_side=whole_side)(images), atol=1e-5)
        assert (part.labels.tolist(), part.positions.tolist(), part.unreadable) == ([0, 1, 2], [0, 1, 2], [])
