"""Transfer to small data sets with the features of the real ones; the colour of an image is its feature."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from flags.convert import parse_command_line
from flags.lines import RECIPES
from tests.support.runs import tiny_config
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import ArraySource
from tf_simclr.evaluation import classifiers, probe_inputs
from tf_simclr.evaluation.classifiers import Examples, LabelledSets
from tf_simclr.evaluation.features import Features, Network
from tf_simclr.metrics.scores import mean_per_class_accuracy
from tf_simclr.suites import transfer as module
from tf_simclr.suites import transfer_finetuning
from tf_simclr.suites.transfer import transfer
from tf_simclr.suites.transfer_datasets import MEAN_PER_CLASS, TRANSFER_DATASETS, find_dataset
from tf_simclr.suites.transfer_finetuning import make_step

SIZE = 16
RED, BLUE = (200, 20, 20), (20, 20, 200)


@pytest.fixture(autouse=True)
def _few_penalties(monkeypatch):
    monkeypatch.setattr(classifiers, "L2_PENALTIES", np.logspace(-3, 1, 3))


@pytest.fixture
def network(monkeypatch):
    """A network whose features are the mean colours of the views."""

    def call(images):
        return {"default": tf.reduce_mean(images, axis=[1, 2]), "map": images}

    network = Network("run/ckpt-1", call, {"default": (3,), "map": (SIZE, SIZE, 3)}, SIZE, "weights")
    monkeypatch.setattr(module, "load_inference_network", lambda path: network)
    return network


def config(data_dir, model_dir, datasets, **settings):
    given = {"checkpoint": "run", "data_dir": data_dir, "model_dir": model_dir, "datasets": datasets}
    values = given | {"eval_batch_size": 32} | settings
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return parse_command_line(["--mode=transfer", *arguments])[0]


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        transfer(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- Linear


def of_classes(*triples):
    """Features and labels; a few of each pair, as often as it says."""
    colours, labels, counts = zip(*triples, strict=True)
    return Examples(np.repeat(np.float32(colours) / 255, counts, axis=0), np.repeat(labels, counts))


CLEAN = of_classes((RED, 0, 10), (BLUE, 1, 10))
# All 8 images of the first class are right, and one of the 4 of the second.
UNEVEN = of_classes((RED, 0, 8), (RED, 1, 3), (BLUE, 1, 1))


def test_each_data_set_has_its_metric_and_its_splits(network, tmp_path, monkeypatch):
    examples = {"train": CLEAN, "validation": of_classes((RED, 0, 5), (BLUE, 1, 10)), "test": UNEVEN}

    def load(data, split, *, flag="train_split"):
        labels = examples[split].labels
        return ArraySource(split, np.zeros([len(labels), 8, 8, 3], np.uint8), labels, ("red", "blue"))

    def compute(config, network, source):
        assert network.whole_side
        return examples[source.name]

    chosen_by, fit = [], classifiers.fit_lbfgs

    def remember(*arguments, accuracy):
        chosen_by.append(accuracy)
        return fit(*arguments, accuracy=accuracy)

    monkeypatch.setattr(probe_inputs, "load_source", load)
    monkeypatch.setattr(probe_inputs, "compute_examples", compute)
    monkeypatch.setattr(classifiers, "fit_lbfgs", remember)
    for name, splits in (("oxford_iiit_pet", ("train", "test")), ("dtd", tuple(examples))):
        monkeypatch.setattr(probe_inputs, "available_splits", lambda data, splits=splits: splits)
        found = transfer(config(tmp_path, tmp_path, name))[name]
        assert found["label_top_1_accuracy"] == pytest.approx(9 / 12), name
        assert found["mean_per_class_accuracy"] == pytest.approx((1 + 1 / 4) / 2), name
        assert found["num_examples"] == 12
        counts = found["num_train_examples"], found["num_validation_examples"]
        assert counts == ((16, 4) if name == "oxford_iiit_pet" else (20, 15))
    assert chosen_by == [mean_per_class_accuracy, classifiers.top_1_accuracy]
    message = refusal(tmp_path, tmp_path, "dtd", seed=4)
    assert "has a result of linear/dtd with other settings (seed: 0 there, 4 now)" in message
    assert message.endswith("replace it with --overwrite=True, or name another place with --model_dir.")
    table = (tmp_path / "result_transfer.md").read_text().splitlines()
    assert table[2:] == [
        "| dtd             |          top-1 | 75.00% |         - |          12 |",
        "| oxford_iiit_pet | mean per class | 62.50% |         - |          12 |",
    ]


def test_sets_of_classes_have_a_mean_average_precision(network, tmp_path, monkeypatch):
    """The features are the colours; each of three classes has a channel."""
    kinds = np.eye(3, dtype=bool)
    # All combinations of the classes.
    shown = np.array([[number >> bit & 1 for bit in range(3)] for number in range(32)], bool)
    # In the order of red: with the class, without it, hard to see, with it, without it.
    colours = [(250, 20, 20), (200, 20, 220), (180, 220, 20), (150, 220, 20), (0, 20, 220)]
    plain = np.stack([kinds[0], kinds[2], kinds[1], kinds[0] | kinds[1], kinds[2]])
    hard = np.zeros_like(plain)
    hard[2, 0] = True
    splits = {
        "train": (200 * shown + 20, shown, shown),
        "validation": (200 * shown + 20, shown, shown),
        "test": (np.array(colours), plain | hard, plain),
    }

    def load(data, split, keys, *, flag):
        assert keys == ("labels", "labels_no_difficult")
        images = np.zeros([len(splits[split][0]), 8, 8, 3], np.uint8)
        source = ArraySource(split, images, np.zeros(len(images), np.int32), ("aeroplane", "bicycle", "bird"))
        return source, dict(zip(keys, splits[split][1:], strict=True))

    def compute(network, endpoint, source, **options):
        assert network.whole_side
        colours = np.float32(splits[source.name][0]) / 255
        # The first test image is unreadable.
        kept = np.arange(source.name == "test", len(colours))
        return Features(colours[kept], np.zeros(len(kept), np.int32), kept, [])

    monkeypatch.setattr(module, "load_with_label_sets", load)
    monkeypatch.setattr(module, "compute_features", compute)
    splits["test"] = tuple(np.concatenate([part[:1], part]) for part in splits["test"])
    found = transfer(config(tmp_path, tmp_path, "voc/2007"))["voc/2007"]
    assert found["mean_average_precision"] == pytest.approx(((6 + 5 * 2 / 3) / 11 + 1 + 1) / 3)
    assert (found["num_train_examples"], found["num_validation_examples"], found["num_examples"]) == (32, 32, 5)


def test_class_that_no_image_shows_is_refused():
    is_positive = np.array([[True, False], [False, False]])
    train = LabelledSets(np.zeros([2, 3]), is_positive, np.ones([2, 2], bool))
    message = r"^--datasets=voc/2007: the images of train are all with, or all without, class 1, which cannot be learnt"
    with pytest.raises(UserError, match=message):
        module._check_each_class(train, find_dataset("voc/2007"))


def test_output_that_is_no_vector_is_refused(network, tmp_path):
    assert refusal(tmp_path, tmp_path, "dtd", endpoint="map").startswith("--endpoint=map: is no vector but [16,")


# ---- The table of data sets


def test_data_sets_are_those_of_the_paper_that_tfds_has():
    import tensorflow_datasets as tfds

    known = set(tfds.list_builders(with_community_datasets=False))
    assert {dataset.dataset.partition("/")[0] for dataset in TRANSFER_DATASETS.values()} <= known
    assert not [name for name in known if "birdsnap" in name or "aircraft" in name]
    by_class = {name for name, dataset in TRANSFER_DATASETS.items() if dataset.metric == MEAN_PER_CLASS}
    assert by_class == {"oxford_iiit_pet", "caltech101", "oxford_flowers102"}


def test_version_of_a_data_set_changes_neither_metric_nor_splits():
    assert find_dataset("voc/2007:5.0.0") == dataclasses.replace(
        TRANSFER_DATASETS["voc/2007"], dataset="voc/2007:5.0.0"
    )
    assert find_dataset("sun397:4.0.0").dataset == "sun397/standard-part1-120k:4.0.0"
    assert find_dataset("sun397/standard-part1-120k") == TRANSFER_DATASETS["sun397"]
    assert find_dataset("folder:/photos").dataset == "folder:/photos"
    assert find_dataset("dtd").all_labelled == "train[:100%]+validation[:100%]"


# ---- Finetuned


def finetuning(model_dir, checkpoint, **settings):
    values = {"checkpoint": checkpoint, "transfer_protocol": "finetuned", "datasets": "digits"} | settings
    return config(None, model_dir, values.pop("datasets"), **values)


def test_finetuning_is_a_run_of_its_own_that_is_not_repeated(network, tmp_path, monkeypatch):
    """The commands of docs/suites.md finetune a real network."""
    trained = []

    class Untrained:
        def __init__(self, step, strategy):
            trained.append(step)

        def check_memory(self):
            pass

        def train(self, actions):
            return {"global_step": 2}

    def compute(config, network, source):
        assert (config.endpoint, network, source.name) == (
            "logits_sup",
            f"finetuned {trained[0].model_dir}",
            "digits (test)",
        )
        return Examples(np.zeros([450, 10], np.float32), source.read_labels())

    monkeypatch.setattr(transfer_finetuning, "Experiment", Untrained)
    monkeypatch.setattr(transfer_finetuning, "load_inference_network", lambda path: f"finetuned {path}")
    monkeypatch.setattr(transfer_finetuning, "compute_examples", compute)
    settings = {"train_steps": 2, "train_batch_size": 32, "learning_rate": 0.02}
    for _ in range(2):
        found = transfer(finetuning(tmp_path, "run", **settings))["digits"]
        assert found.items() >= {"global_step": 2, "num_examples": 450, "num_train_examples": 1347}.items()
        assert found["run"] == trained[0].model_dir
    (step,) = trained
    assert os.path.dirname(step.model_dir) == str(tmp_path)
    assert (step.train.train_mode, step.data.train_split, step.optimizer.learning_rate) == ("finetune", "train", 0.02)
    with pytest.raises(UserError, match=r"finetuned/digits with other settings \(learning_rate: 0.02 there, 0.03 now"):
        transfer(finetuning(tmp_path, "run", **(settings | {"learning_rate": 0.03})))


def test_finetuning_follows_the_paper_unless_told_otherwise(tmp_path):
    settings = tiny_config(tmp_path).to_dict()
    (tmp_path / "flags.json").write_text(json.dumps(settings))
    network = Network(f"{tmp_path}/ckpt-1", lambda images: {}, {}, 8, "weights")
    data = DataConfig(dataset="cars/196")

    def step(num_examples, network=network, **settings):
        own = finetuning(tmp_path, tmp_path, **settings)
        return make_step(own, network, data, num_examples=num_examples, directory=str(tmp_path))

    papers = step(256 * 400)
    assert papers.model.batch_norm_decay == pytest.approx(1 - 10 / 400)
    assert step(256 * 20).model.batch_norm_decay == 0.9
    assert step(256 * 400, batch_norm_decay=0.8).model.batch_norm_decay == 0.8
    assert (papers.train.train_steps, papers.train.train_batch_size) == (20_000, 256)
    assert (papers.optimizer.optimizer, papers.optimizer.momentum) == ("momentum", 0.9)
    assert re.fullmatch(rf"{tmp_path}/cars_196-[0-9a-f]{{8}}", papers.model_dir)
    assert papers.train.checkpoint == network.path
    assert (papers.model.resnet_depth, papers.model.image_size) == (10, 8)
    own = step(256 * 400, train_epochs=3, image_size=16, ft_proj_selector=1, train_batch_size=64)
    assert (own.train.train_epochs, own.train.train_steps, own.train.train_batch_size) == (3, 0, 64)
    assert (own.model.image_size, own.model.ft_proj_selector) == (16, 1)
    others = [step(10, network._replace(fingerprint="new")), step(10, learning_rate=0.01)]
    assert step(10).model_dir == papers.model_dir
    assert len({papers.model_dir, *(other.model_dir for other in others)}) == 3


def test_sets_of_classes_are_linear_only(network, log):
    assert module._linear_only(finetuning("out", "run", datasets="voc/2007,digits")) == ["voc/2007"]
    assert "Linear only: voc/2007; finetuning does not learn several classes an image." in log.messages
    assert refusal(None, "out", "voc/2007", transfer_protocol="finetuned") == (
        "--datasets=voc/2007: has several classes an image, which finetuning does not learn; use "
        "--transfer_protocol=linear."
    )


# ---- Flags


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": None}, r"^--datasets: not given; name data sets, such as --datasets=cifar10,dtd\."),
        ({"learning_rate": 0.1}, r"^--learning_rate=0.1: has no meaning with --transfer_protocol=linear; leave it out"),
        ({"resnet_depth": 18}, r"^--resnet_depth=18: has no meaning with --transfer_protocol=linear"),
        ({"transfer_protocol": "finetuned", "endpoint": "map"}, r"^--endpoint=map: --transfer_protocol=finetuned "),
        ({"use_blur": False}, r"^--use_blur=False: has no meaning with --mode=transfer"),
    ],
)
def test_flags_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        config("data", "out", settings.pop("datasets", "digits"), **settings)


def test_recipe_of_the_pretraining_is_no_mistake():
    recipe = {"flagfile": os.path.join(RECIPES, "cifar10_r18.flags")}
    assert config("data", "out", "digits", **recipe).transfer_protocol == "linear"
    with pytest.raises(UserError, match=r"^--learning_rate=0.1: has no meaning with --transfer_protocol=lin"):
        config("data", "out", "digits", learning_rate=0.1, **recipe)
    finetuned = finetuning("out", "run", **recipe, learning_rate=0.1)
    assert (finetuned.optimizer.learning_rate, finetuned.train.train_batch_size) == (0.1, 512)
