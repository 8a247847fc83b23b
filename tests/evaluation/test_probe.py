"""Frozen features put to the test: results, one pass of the network, and bad input."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from flags.convert import parse_command_line
from tests.support.runs import TOTAL_STEPS, finished_run, run_program, write_images
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource
from tf_simclr.evaluation import classifiers, probe_inputs
from tf_simclr.evaluation import probe as module
from tf_simclr.evaluation.features import Network, load_inference_network
from tf_simclr.evaluation.probe import probe
from tf_simclr.metrics.confusion import read_confusion
from tf_simclr.metrics.scores import classification_scores
from tf_simclr.runs.networks import load_network


@pytest.fixture(autouse=True)
def _few_penalties(monkeypatch):
    monkeypatch.setattr(classifiers, "L2_PENALTIES", np.logspace(-2, 1, 3))


def config(mode="linear_eval", dataset="digits", **settings):
    """As the program makes it."""
    values = {"checkpoint": finished_run().directory, "eval_batch_size": 150, "dataset": dataset} | settings
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return parse_command_line([f"--mode={mode}", *arguments])[0]


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        probe(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def counted(monkeypatch):
    """Counts the images that go through the network; the pixels of an image are its features."""

    rows = []

    def count_rows(batch):
        rows.extend(image.tobytes() for image in batch)
        return batch

    def call(images):
        seen = tf.numpy_function(count_rows, [images], tf.float32)
        return {"default": tf.reshape(tf.ensure_shape(seen, images.shape), [-1, 192]), "map": images}

    network = Network("run/ckpt-1", call, {"default": (192,), "map": (8, 8, 3)}, 8, "x")
    monkeypatch.setattr(module, "load_inference_network", lambda path: network)
    return rows


# ---- What is written


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "protocol"), [("linear_eval", "lbfgs"), ("linear_eval", "sgd"), ("knn_eval", None)])
def test_each_image_goes_through_the_network_once(counted, tmp_path, mode, protocol):
    path = tmp_path / "out" / "result.json"
    splits = {"train_split": "train[:100]", "eval_split": "test[:50]"}
    result = probe(config(mode, output=path, eval_batch_size=50, linear_eval_protocol=protocol, **splits))
    assert len(counted) == 150
    assert len(set(counted)) == 150
    assert result[f"{mode}/label_top_1_accuracy"] > 0.6
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
def test_results_are_those_of_the_features_by_hand(tmp_path):
    network = load_inference_network(str(finished_run().directory))
    splits = config(train_split="train[:300]")
    train, _, test = (
        source and probe_inputs.compute_examples(splits, network, source)
        for source in probe_inputs.open_sources(splits)
    )
    logits = classifiers.neighbour_logits(train, test.features, 10, num_neighbors=30, temperature=0.1)
    result = probe(config("knn_eval", train_split="train[:300]", output=tmp_path / "knn.json"))
    expected = classification_scores(logits, test.labels)
    assert {name: result[f"knn_eval/{name}"] for name in expected} == pytest.approx(expected)
    assert result["knn_eval/num_neighbors"] == 30
    kept, others = classifiers.split_off_validation(train.labels, share=0.2, seed=0)
    order = np.concatenate([kept, others])
    fit = classifiers.fit_lbfgs(classifiers.Examples(*(part[order] for part in train)), len(kept))
    expected = classification_scores(fit.logits(test.features, 10), test.labels)
    result = probe(config(train_split="train[:300]", output=tmp_path / "linear.json"))
    assert {name: result[f"linear_eval/{name}"] for name in expected} == pytest.approx(expected)
    assert result["linear_eval/num_validation_examples"] == len(others)


@pytest.mark.slow
def test_backbone_stays_as_it_is_to_the_bit(monkeypatch, tmp_path):
    networks = []

    def load(path, flag):
        networks.append(load_network(path, flag))
        return networks[-1]

    monkeypatch.setattr("tf_simclr.evaluation.features.load_network", load)
    probe(config(labels_per_class=4, output=tmp_path / "a.json"))
    probe(config(labels_per_class=4, linear_eval_protocol="sgd", output=tmp_path / "b.json"))
    expected = load_network(str(finished_run().directory), "checkpoint")
    for network in networks:
        for ours, other in zip(network.variables, expected.variables, strict=True):
            assert ours.numpy().tobytes() == other.numpy().tobytes()


def test_labels_that_may_be_used_are_those_of_finetuning(counted, tmp_path):
    result = probe(config("knn_eval", labels_per_class=3, label_seed=1, output=tmp_path / "a.json"))
    assert len(counted) == 30 + 450
    assert result["knn_eval/num_train_examples"] == 30
    assert result["knn_eval/num_neighbors"] == 3


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
def test_validation_images_are_their_own_split_where_that_is_free(monkeypatch, flags, validation):
    def load(data, split, *, flag="train_split"):
        return ArraySource(split, np.zeros([2, 8, 8, 3], np.uint8), np.arange(2), ("a", "b"))

    monkeypatch.setattr(probe_inputs, "load_source", load)
    monkeypatch.setattr(probe_inputs, "few_labels", lambda source, data: source)
    monkeypatch.setattr(probe_inputs, "available_splits", lambda data: ("train", "validation", "test"))
    sources = probe_inputs.open_sources(config(dataset="cifar10", **flags))
    assert (sources.validation and sources.validation.name) == validation
    assert sources.test.name == flags.get("eval_split", "test")


def test_validation_split_with_other_classes_is_left_alone(monkeypatch, caplog):
    def load(data, split, *, flag="train_split"):
        names = ("a", "b", "c") if split == "validation" else ("a", "b")
        return ArraySource(split, np.zeros([2, 8, 8, 3], np.uint8), np.arange(2), names)

    monkeypatch.setattr(probe_inputs, "load_source", load)
    monkeypatch.setattr(probe_inputs, "few_labels", lambda source, data: source)
    monkeypatch.setattr(probe_inputs, "available_splits", lambda data: ("train", "validation", "test"))
    with caplog.at_level("INFO", "tf_simclr"):
        assert probe_inputs.open_sources(config(dataset="cifar10")).validation is None
    assert "validation has other classes than train: a part of that is held out instead." in caplog.text


def test_splits_that_lack_a_class_keep_the_numbers_of_the_training_images(monkeypatch):
    names = {"train": ["a", "b", "c"], "validation": ["c", "a"], "test": ["b", "c"]}

    def load(data, split, *, flag="train_split"):
        count = len(names[split])
        return ArraySource(split, np.zeros([count, 8, 8, 3], np.uint8), np.arange(count), names[split])

    monkeypatch.setattr(probe_inputs, "load_source", load)
    monkeypatch.setattr(probe_inputs, "available_splits", lambda data: tuple(names))
    sources = probe_inputs.open_sources(config(dataset="cifar10"))
    assert [source.read_labels().tolist() for source in sources] == [[0, 1, 2], [2, 0], [1, 2]]
    assert {source.class_names for source in sources} == {("a", "b", "c")}


@pytest.mark.slow
def test_validation_split_is_learnt_from_in_the_end(tmp_path):
    for seed, (split, count) in enumerate({"train": 6, "validation": 3, "test": 4}.items()):
        for number, name in enumerate(("cat", "dog")):
            write_images(tmp_path / "photos" / split / name, count, seed=2 * seed + number)
    result = probe(config(dataset=f"folder:{tmp_path / 'photos'}", output=tmp_path / "a.json"))
    assert result["linear_eval/num_validation_examples"] == 6
    assert result["linear_eval/num_train_examples"] == 12
    assert json.loads((tmp_path / "a.json").read_text())["validation"].endswith("(validation)")


def test_result_that_exists_is_replaced_where_asked(counted, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("mine")
    settings = {"output": path, "labels_per_class": 2}
    assert refusal("knn_eval", **settings) == (
        f"--output={path}: {path} exists already; replace it with --overwrite=True, or name another file with --output."
    )
    assert path.read_text() == "mine"
    assert not counted
    path.rename(tmp_path / "a.html")
    assert f"{tmp_path / 'a.html'} exists already; replace it with" in refusal("knn_eval", **settings)
    probe(config("knn_eval", overwrite=True, **settings))
    assert "knn_eval/label_top_1_accuracy" in path.read_text()


@pytest.mark.slow
def test_program_writes_into_the_directory_of_the_run(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    for path in finished_run().directory.glob("*"):
        if path.is_file():
            (directory / path.name).write_bytes(path.read_bytes())
    done = run_program("--mode=knn_eval", f"--checkpoint={directory}", "--dataset=digits")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith(f"in {directory / 'result_knn_eval.json'}")
    assert (directory / "result_knn_eval.json").exists()


# ---- Bad input


def test_flag_of_the_other_evaluation_is_refused():
    with pytest.raises(UserError, match=r"^--knn_temperature=0.1: has no meaning with --mode=linear_eval"):
        config(knn_temperature=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"endpoint": "block9"},
            "--endpoint=block9: run/ckpt-1 has no such output; use one of default, map.",
        ),
        (
            {"endpoint": "map"},
            "--endpoint=map: is no vector but [8, 8, 3] for one image; use one of default.",
        ),
        ({"eval_split": "validation"}, "--eval_split=validation: digits has the split(s) train, test"),
        (
            {"train_split": "test"},
            "--eval_split: not given, and digits has neither test nor validation images that",
        ),
        ({"train_split": "trian"}, "--train_split=trian: digits has the split(s) train, test"),
        (
            {"labels_per_class": 1},
            "--labels_per_class=1: one image a class leaves none to choose the penalty by",
        ),
        ({"labels_per_class": 500}, "--labels_per_class=500: digits (train) has"),
        ({"train_split": "train[:1]"}, "--train_split=train[:1]: there is one class in 1 labelled image;"),
    ],
)
def test_what_does_not_fit_is_refused(counted, tmp_path, settings, message):
    assert refusal(output=tmp_path / "a.json", **settings).startswith(message)
    assert not (tmp_path / "a.json").exists()


def test_more_neighbours_than_images_are_refused(counted, tmp_path):
    message = refusal("knn_eval", knn_neighbors=31, labels_per_class=3, output=tmp_path / "a.json")
    assert message.startswith("--knn_neighbors=31: there are 30 labelled images")


def test_images_without_labels_or_of_one_class_are_refused(counted, tmp_path):
    flat = write_images(tmp_path / "flat", 4)
    splits = {"train_split": "train[:50%]", "eval_split": "train[50%:]", "output": tmp_path / "a.json"}
    assert "has no labels" in refusal(dataset=f"folder:{flat}", **splits)
    write_images(tmp_path / "one" / "cat", 4)
    message = refusal(dataset=f"folder:{tmp_path / 'one'}", **splits)
    assert "has a single class, cat; there is nothing to tell apart" in message
    for split, names in (("train", ("cat", "dog")), ("test", ("cat", "owl"))):
        for name in names:
            write_images(tmp_path / "other" / split / name, 2)
    message = refusal(dataset=f"folder:{tmp_path / 'other'}", output=tmp_path / "a.json")
    assert "(test) has 2 classes (cat, owl), folder:" in message
    assert message.endswith("(train) 2 classes (cat, dog); use splits with the same classes, or with some of them.")
    message = refusal(dataset=f"folder:{tmp_path / 'one'}", output=tmp_path / "a.json")
    assert message.startswith("--eval_split: not given, and folder:")


@pytest.mark.slow
def test_saved_model_needs_the_name_of_a_file(tmp_path):
    saved_model = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    assert refusal(checkpoint=saved_model).startswith("--output: not given, and a SavedModel is no directory")
    result = probe(config("knn_eval", checkpoint=saved_model, labels_per_class=2, output=tmp_path / "a.json"))
    assert result["knn_eval/num_examples"] == 450


def test_features_that_are_not_finite_are_refused(counted, monkeypatch, tmp_path):
    read = probe_inputs.FeaturePass.read

    def with_nan(self, *part):
        features = read(self, *part)
        features.features[0, 0] = np.nan
        return features

    monkeypatch.setattr(probe_inputs.FeaturePass, "read", with_nan)
    message = refusal(train_split="train[:60]", output=tmp_path / "a.json")
    assert message.startswith("--endpoint=default: is not finite for some images of digits")


def test_features_that_would_not_fit_in_memory_are_refused(counted, monkeypatch, tmp_path):
    monkeypatch.setattr(probe_inputs, "available_memory", lambda: 10**6)
    message = refusal("knn_eval", output=tmp_path / "a.json")
    assert message.startswith("--train_split=train: the 192 features of 1797 images take 0.0 GiB")
    assert not counted
