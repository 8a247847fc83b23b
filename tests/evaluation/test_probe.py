"""Evaluation of frozen features: results, one pass of the network, and bad input."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from flags.convert import parse_command_line
from tests.evaluation.conftest import refusal
from tests.support.runs import eagerly, finished_run, write_images
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource
from tf_simclr.evaluation import classifiers, features, probe_inputs
from tf_simclr.evaluation import probe as module
from tf_simclr.evaluation.classifiers import Examples
from tf_simclr.evaluation.features import FeaturePass, Features, Network
from tf_simclr.evaluation.probe import probe
from tf_simclr.metrics.confusion import read_confusion
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.runs.networks import load_network


@pytest.fixture(autouse=True)
def _quick_fits(monkeypatch):
    monkeypatch.setattr(classifiers, "L2_PENALTIES", np.logspace(-2, 1, 3))
    monkeypatch.setattr(classifiers, "_SGD_EPOCHS", 4)


def config(mode="linear_eval", dataset="digits", **settings):
    """The configuration of a command line."""
    values = {"checkpoint": "run", "eval_batch_size": 150, "dataset": dataset} | settings
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return parse_command_line([f"--mode={mode}", *arguments])[0]


def refused(*arguments, **settings):
    return refusal(probe, config(*arguments, **settings))


@pytest.fixture(scope="module")
def digits():
    """The splits that the tests evaluate, and the images that went through the network."""
    seen = []

    def keep(batch):
        seen.extend(image.tobytes() for image in batch)
        return batch

    def call(images):
        images = tf.ensure_shape(tf.numpy_function(keep, [images], tf.float32), images.shape)
        return {"default": tf.reshape(images, [-1, 192])}

    network = Network("run/ckpt-1", call, {"default": (192,)}, 8, "x")
    own = config(train_split="train[:100]", eval_split="test[:50]", eval_batch_size=50)
    return probe_inputs.compute_splits(own, network, probe_inputs.open_sources(own)), seen


@pytest.fixture(autouse=True)
def _quick_network(pixel_network, monkeypatch):
    monkeypatch.setattr(module, "load_inference_network", lambda path: pixel_network)


# ---- Results


@pytest.mark.slow
def test_each_image_goes_through_the_network_once(digits):
    splits, seen = digits
    assert len(seen) == len(set(seen)) == 150
    assert [len(part.labels) for part in (splits.train, splits.test)] == [100, 50]
    np.testing.assert_array_equal(splits.test.features, np.frombuffer(b"".join(seen[100:]), np.float32).reshape(50, -1))


@pytest.mark.parametrize(("mode", "protocol"), [("linear_eval", "lbfgs"), ("linear_eval", "sgd"), ("knn_eval", None)])
def test_results_are_those_of_the_features_by_hand(digits, monkeypatch, tmp_path, mode, protocol):
    path = tmp_path / "out" / "result.json"
    train, _, test = digits[0]
    monkeypatch.setattr(module, "compute_splits", lambda *arguments: digits[0])
    settings = {"train_split": "train[:100]", "eval_split": "test[:50]", "linear_eval_protocol": protocol}
    with eagerly():
        result = probe(config(mode, output=path, **settings))
    if mode == "knn_eval":
        logits = classifiers.neighbour_logits(train, test.features, 10, num_neighbors=10, temperature=0.1)
        assert result["knn_eval/num_neighbors"] == 10
    elif protocol == "sgd":
        with eagerly():
            logits = classifiers.fit_sgd(train, 10)(test.features).numpy().astype(np.float64)
    else:
        parts = classifiers.split_off_validation(train.labels, share=0.2, seed=0)
        parts = [classifiers.Examples(train.features[rows], train.labels[rows]) for rows in parts]
        logits = classifiers.fit_lbfgs(*parts, 10).logits(test.features)
        assert result["linear_eval/num_validation_examples"] == len(parts[1].labels)
    expected = classification_scores(logits, test.labels)
    assert {name: result[f"{mode}/{name}"] for name in expected} == pytest.approx(expected)
    written = json.loads(path.read_text())
    assert result.items() <= written.items()
    assert (written["train"], written["test"]) == ("digits (train[:100])", "digits (test[:50])")
    assert sorted(os.listdir(path.parent)) == ["result.html", "result.json", "result_confusion.csv"]
    matrix = read_confusion(str(path.parent / "result_confusion.csv"))
    assert matrix.class_names == tuple("0123456789")
    assert matrix.counts.sum() == 50
    assert np.trace(matrix.counts) / 50 == pytest.approx(written[f"{mode}/label_top_1_accuracy"])
    page = (path.parent / "result.html").read_text()
    assert f"{written[f'{mode}/label_top_1_accuracy']:.2%}" in page
    assert 'alt="confusion matrix of digits (test[:50])"' in page


@pytest.mark.slow
def test_backbone_stays_as_it_is_to_the_bit(monkeypatch, tmp_path):
    run, networks = str(finished_run().directory), []

    def load(path, flag):
        networks.append(load_network(path, flag))
        return networks[-1]

    monkeypatch.setattr(features, "load_network", load)
    monkeypatch.setattr(module, "load_inference_network", features.load_inference_network)
    settings = {"checkpoint": run, "labels_per_class": 2, "eval_split": "test[:20]", "linear_eval_protocol": "sgd"}
    with eagerly():
        probe(config(output=tmp_path / "a.json", **settings))
    expected = load_network(run, "checkpoint")
    for ours, other in zip(networks[0].variables, expected.variables, strict=True):
        assert ours.numpy().tobytes() == other.numpy().tobytes()


def test_labels_that_may_be_used_are_those_of_finetuning():
    sources = probe_inputs.open_sources(config("knn_eval", labels_per_class=3, label_seed=1))
    assert [source and source.num_examples for source in sources] == [30, None, 450]


@pytest.fixture
def splits(monkeypatch):
    """The splits of a data set, with the names of their classes; one image of each class."""
    names = {split: ["a", "b", "c"] for split in ("train", "validation", "test")}

    def load(data, split, *, flag="train_split"):
        own = names.get(split, names["train"])
        return ArraySource(split, np.zeros([len(own), 8, 8, 3], np.uint8), np.arange(len(own)), own)

    monkeypatch.setattr(probe_inputs, "load_source", load)
    monkeypatch.setattr(probe_inputs, "few_labels", lambda source, data: source)
    monkeypatch.setattr(probe_inputs, "available_splits", lambda data: tuple(names))
    return names


@pytest.mark.parametrize(
    ("flags", "validation"),
    [
        ({}, "validation"),
        ({"eval_split": "validation"}, None),
        ({"train_split": "train+validation[:50%]"}, None),
        ({"labels_per_class": 2}, None),
        ({"linear_eval_protocol": "sgd"}, None),
    ],
)
def test_validation_images_are_their_own_split_if_one_is_free(splits, flags, validation):
    sources = probe_inputs.open_sources(config(dataset="cifar10", **flags))
    assert (sources.validation and sources.validation.name) == validation
    assert sources.test.name == flags.get("eval_split", "test")


def test_validation_split_with_other_classes_is_left_alone(splits, log):
    splits["validation"] = ["a", "b", "c", "d"]
    assert probe_inputs.open_sources(config(dataset="cifar10")).validation is None
    assert "validation has other classes than train: a part of that is held out instead." in log.text


def test_splits_that_lack_a_class_keep_the_numbers_of_the_training_images(splits):
    splits |= {"validation": ["c", "a"], "test": ["b", "c"]}
    sources = probe_inputs.open_sources(config(dataset="cifar10"))
    assert [source.read_labels().tolist() for source in sources] == [[0, 1, 2], [2, 0], [1, 2]]
    assert {source.class_names for source in sources} == {("a", "b", "c")}


def test_result_is_replaced_only_where_asked(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "compute_splits", lambda *arguments: digits[0])
    path = tmp_path / "a.json"
    path.write_text("mine")
    assert refused("knn_eval", output=path) == (
        f"--output={path}: {path} exists already; replace it with --overwrite=True, or name another file with --output."
    )
    assert path.read_text() == "mine"
    path.rename(tmp_path / "a.html")
    assert f"{tmp_path / 'a.html'} exists already; replace it with" in refused("knn_eval", output=path)
    probe(config("knn_eval", overwrite=True, output=path))
    assert "knn_eval/label_top_1_accuracy" in path.read_text()


def test_result_is_in_the_directory_of_the_run_if_no_other_is_named(pixel_network, tmp_path):
    network = pixel_network._replace(path=str(tmp_path / "ckpt-1"))
    assert module._result_path(config("knn_eval"), network) == str(tmp_path / "result_knn_eval.json")


# ---- Bad input


def test_flag_of_the_other_evaluation_is_refused():
    with pytest.raises(UserError, match=r"^--knn_temperature=0.1: has no meaning with --mode=linear_eval"):
        config(knn_temperature=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "block9"}, "--endpoint=block9: run/ckpt-1 has no such output; use one of default, map."),
        ({"endpoint": "map"}, "--endpoint=map: is no vector but [8, 8, 3] for one image; use one of default."),
        ({"eval_split": "validation"}, "--eval_split=validation: digits has the split(s) train, test"),
        ({"train_split": "test"}, "--eval_split: not given, and digits has neither test nor validation images that"),
        ({"train_split": "trian"}, "--train_split=trian: digits has the split(s) train, test"),
        ({"labels_per_class": 500}, "--labels_per_class=500: digits (train) has"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, message):
    assert refused(output=tmp_path / "a.json", **settings).startswith(message)
    assert not (tmp_path / "a.json").exists()


def test_too_few_images_are_refused():
    def examples(*labels):
        return probe_inputs.SplitExamples(Examples(np.zeros([len(labels), 2]), np.array(labels)), None, None)

    message = refusal(module.fit_linear, config(labels_per_class=1), examples(0, 1, 2), 3)
    assert message.startswith("--labels_per_class=1: one image a class leaves none to choose the penalty by")
    message = refusal(module.fit_linear, config(train_split="train[:1]"), examples(4), 10)
    assert message.startswith("--train_split=train[:1]: there is one class in 1 labelled image;")
    message = refusal(module._vote, config("knn_eval", knn_neighbors=31), examples(*[1] * 30).train, None, 10)
    assert message.startswith("--knn_neighbors=31: there are 30 labelled images")


def test_images_without_labels_or_of_one_class_are_refused(tmp_path):
    flat = write_images(tmp_path / "flat", 4)
    splits = {"train_split": "train[:50%]", "eval_split": "train[50%:]", "output": tmp_path / "a.json"}
    assert "has no labels" in refused(dataset=f"folder:{flat}", **splits)
    write_images(tmp_path / "one" / "cat", 4)
    message = refused(dataset=f"folder:{tmp_path / 'one'}", **splits)
    assert "has a single class, cat; there is nothing to tell apart" in message
    for split, names in (("train", ("cat", "dog")), ("test", ("cat", "owl"))):
        for name in names:
            write_images(tmp_path / "other" / split / name, 2)
    message = refused(dataset=f"folder:{tmp_path / 'other'}", output=tmp_path / "a.json")
    assert "(test) has 2 classes (cat, owl), folder:" in message
    assert message.endswith("(train) 2 classes (cat, dog); use splits with the same classes, or with some of them.")


def test_features_that_are_not_finite_are_refused(monkeypatch, tmp_path):
    part = Features(np.full([9, 192], np.nan, np.float32), np.zeros(9, np.int32), np.arange(9), [])
    monkeypatch.setattr(FeaturePass, "read", lambda self, start, stop: part)
    message = refused(train_split="train[:60]", output=tmp_path / "a.json")
    assert message.startswith("--endpoint=default: is not finite for some images of digits")


def test_features_that_would_not_fit_in_memory_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(probe_inputs, "available_memory", lambda: 10**6)
    message = refused("knn_eval", output=tmp_path / "a.json")
    assert message.startswith("--train_split=train: the 192 features of 1797 images take 0.0 GiB")
