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
from tests.data.conftest import prepare_tfds
from tests.support.runs import eagerly, finished_run, tiny_config
from tf_simclr.config import DataConfig, UserError
from tf_simclr.evaluation import classifiers, probe_inputs
from tf_simclr.evaluation.classifiers import LabelledSets
from tf_simclr.evaluation.features import Network
from tf_simclr.metrics.scores import mean_per_class_accuracy
from tf_simclr.suites import transfer as module
from tf_simclr.suites import transfer_finetuning
from tf_simclr.suites.transfer import transfer
from tf_simclr.suites.transfer_datasets import MEAN_PER_CLASS, TRANSFER_DATASETS, find_dataset
from tf_simclr.suites.transfer_finetuning import make_step

SIZE = 64
RED, BLUE = (200, 20, 20), (20, 20, 200)


@pytest.fixture(autouse=True)
def _few_penalties(monkeypatch):
    monkeypatch.setattr(classifiers, "L2_PENALTIES", np.logspace(-3, 1, 3))


@pytest.fixture
def seen(monkeypatch):
    """The networks that images went through; their features are the mean colours of the views."""
    seen = []

    def call(images):
        return {"default": tf.reduce_mean(images, axis=[1, 2]), "map": images}

    network = Network("run/ckpt-1", call, {"default": (3,), "map": (SIZE, SIZE, 3)}, SIZE, "weights")
    compute = probe_inputs.compute_features

    def remember(network, *arguments, **options):
        seen.append(network)
        return compute(network, *arguments, **options)

    monkeypatch.setattr(module, "load_inference_network", lambda path: network)
    for place in (module, probe_inputs):
        monkeypatch.setattr(place, "compute_features", remember)
    return seen


def picture(colour):
    """The colour stands at the edge alone, where the crop of an evaluation does not look."""
    image = np.zeros([80, 80, 3], np.uint8)
    image[:5] = image[-5:] = colour
    return image


def of_classes(*pairs):
    """Images with a colour and a label; a few of each pair, as often as it says."""
    return [
        {"image": picture(colour), "label": label, "file_name": f"{label}"}
        for colour, label, count in pairs
        for _ in range(count)
    ]


CLEAN = of_classes((RED, 0, 10), (BLUE, 1, 10))
# Of 8 images of the first class all are right, of 4 of the second one.
UNEVEN = of_classes((RED, 0, 8), (RED, 1, 3), (BLUE, 1, 1))
VOC_CLASSES = ("aeroplane", "bicycle", "bird")


def voc_image(red, green, blue, labels, difficult=()):
    return {
        "image": np.full([20, 24, 3], (red, green, blue), np.uint8),
        "labels": sorted({*labels, *difficult}),
        "labels_no_difficult": sorted(labels),
    }


def voc_training():
    """All combinations of three classes, each of a channel of its own."""
    for number in range(32):
        bits = [number >> bit & 1 for bit in range(3)]
        yield voc_image(*(200 * bit + 20 for bit in bits), [kind for kind, bit in enumerate(bits) if bit])


# By red: with the class, without it, hard to see, with it, without it.
VOC_TEST = [
    voc_image(250, 20, 20, [0]),
    voc_image(200, 20, 220, [2]),
    voc_image(180, 220, 20, [1], difficult=[0]),
    voc_image(150, 220, 20, [0, 1]),
    voc_image(0, 20, 220, [2]),
]
VOC_MAP = ((6 + 5 * 2 / 3) / 11 + 1 + 1) / 3


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("transfer")
    plain = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["red", "blue"]),
        "file_name": tfds.features.Text(),
    }
    prepare_tfds(root, "OxfordIiitPet", plain, {"train": CLEAN, "test": UNEVEN})
    prepare_tfds(root, "Dtd", plain, {"train": CLEAN, "validation": CLEAN[5:], "test": UNEVEN})
    prepare_tfds(root, "TwoColours", plain, {"train": CLEAN, "test": UNEVEN})
    kinds = tfds.features.Sequence(tfds.features.ClassLabel(names=VOC_CLASSES))
    voc = {"image": tfds.features.Image(), "labels": kinds, "labels_no_difficult": kinds}
    splits = {"train": list(voc_training()), "validation": list(voc_training()), "test": VOC_TEST}
    prepare_tfds(root, "Voc", voc, splits, num_shards=2, variant="2007")
    return root


def config(data_dir, model_dir, datasets, **settings):
    values = {
        "checkpoint": "run",
        "data_dir": data_dir,
        "model_dir": model_dir,
        "datasets": datasets,
    } | settings
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return parse_command_line(["--mode=transfer", "--eval_batch_size=7", *arguments])[0]


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        transfer(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def read(tmp_path):
    return json.loads((tmp_path / "result_transfer.json").read_text())


# ---- Linear


@pytest.mark.slow
def test_each_data_set_has_its_metric_and_its_splits(seen, data_dir, tmp_path, monkeypatch, log):
    chosen_by, fit = [], classifiers.fit_lbfgs

    def remember(examples, num_fit, **options):
        chosen_by.append(options.get("accuracy"))
        return fit(examples, num_fit, **options)

    monkeypatch.setattr(classifiers, "fit_lbfgs", remember)
    found = transfer(config(data_dir, tmp_path, "oxford_iiit_pet, dtd,voc/2007"))
    for name in ("oxford_iiit_pet", "dtd"):
        assert found[name]["label_top_1_accuracy"] == pytest.approx(9 / 12), name
        assert found[name]["mean_per_class_accuracy"] == pytest.approx((1 + 1 / 4) / 2), name
        assert found[name]["num_examples"] == 12
    counts = {name: (one["num_train_examples"], one["num_validation_examples"]) for name, one in found.items()}
    assert counts == {
        "oxford_iiit_pet": (16, 4),
        "dtd": (20, 15),
        "voc/2007": (32, 32),
    }
    assert chosen_by == [mean_per_class_accuracy, None]
    assert found["voc/2007"]["mean_average_precision"] == pytest.approx(VOC_MAP)
    assert all(network.whole_side for network in seen)  # Else the features of the first two would be all alike.
    table = (tmp_path / "result_transfer.md").read_text().splitlines()
    assert table == [message for message in log.messages if message.startswith("|")]
    assert table[2:] == [
        "| oxford_iiit_pet | mean per class | 62.50% |           - |          12 |",
        "| dtd             |          top-1 | 75.00% |           - |          12 |",
        "| voc/2007        |   11-point mAP | 94.95% | linear only |           5 |",
    ]


@pytest.mark.slow
def test_what_is_there_stays_and_what_fails_stops_nothing(seen, data_dir, tmp_path, log):
    message = refusal(data_dir, tmp_path, "no_such_set,two_colours", seed=3)
    assert message.startswith("--datasets: 1 of 2 data sets have no result (no_such_set); the lines above say why.")
    (reason,) = [message for message in log.messages if "left out" in message]
    assert "--dataset=no_such_set: no such data set in TensorFlow Datasets" in reason
    assert set(read(tmp_path)) == {"linear/two_colours"}
    assert read(tmp_path)["linear/two_colours"]["num_examples"] == 12
    passes = len(seen)
    transfer(config(data_dir, tmp_path, "two_colours", seed=3))
    assert len(seen) == passes
    message = refusal(data_dir, tmp_path, "two_colours", seed=4)
    assert "has a result of linear/two_colours with other settings (seed: 3 there, 4 now)" in message
    assert message.endswith("replace it with --overwrite=True, or name another place with --model_dir.")


def test_class_that_no_image_shows_is_refused():
    is_positive = np.array([[True, False], [False, False]])
    train = LabelledSets(np.zeros([2, 3]), is_positive, np.ones([2, 2], bool))
    message = r"^--datasets=voc/2007: the images of train are all with, or all without, class 1, which cannot be learnt"
    with pytest.raises(UserError, match=message):
        module._check_each_class(train, find_dataset("voc/2007"))


def test_output_that_is_no_vector_is_refused(seen, data_dir, tmp_path):
    assert refusal(data_dir, tmp_path, "dtd", endpoint="map").startswith("--endpoint=map: is no vector but [64,")


# ---- The table of data sets


def test_data_sets_are_those_of_the_paper_that_tfds_has():
    import tensorflow_datasets as tfds

    known = set(tfds.list_builders(with_community_datasets=False))
    assert {dataset.dataset.partition("/")[0] for dataset in TRANSFER_DATASETS.values()} <= known
    assert not [name for name in known if "birdsnap" in name or "aircraft" in name]
    by_class = {name for name, dataset in TRANSFER_DATASETS.items() if dataset.metric == MEAN_PER_CLASS}
    assert by_class == {"oxford_iiit_pet", "caltech101", "oxford_flowers102"}
    assert find_dataset("food101").test == "validation"
    assert TRANSFER_DATASETS["sun397"].dataset == "sun397/standard-part1-120k"
    assert find_dataset("folder:/photos").dataset == "folder:/photos"
    assert find_dataset("dtd").all_labelled == "train[:100%]+validation[:100%]"


@pytest.mark.parametrize(
    ("name", "in_tfds"),
    [
        ("oxford_iiit_pet:3.2.0", "oxford_iiit_pet:3.2.0"),
        ("voc/2007:5.0.0", "voc/2007:5.0.0"),
        ("sun397:4.0.0", "sun397/standard-part1-120k:4.0.0"),
        ("sun397/standard-part1-120k", "sun397/standard-part1-120k"),
    ],
)
def test_version_of_a_data_set_changes_neither_metric_nor_splits(name, in_tfds):
    plain = TRANSFER_DATASETS["sun397" if name.startswith("sun") else name.partition(":")[0]]
    assert find_dataset(name) == dataclasses.replace(plain, dataset=in_tfds)


# ---- Finetuned


def finetuning(model_dir, checkpoint, **settings):
    values = {"checkpoint": checkpoint, "transfer_protocol": "finetuned", "datasets": "digits"} | settings
    return config(None, model_dir, values.pop("datasets"), **values)


@pytest.mark.slow
def test_finetuning_is_a_run_of_its_own_that_is_not_repeated(tmp_path, monkeypatch, log):
    settings = {"train_steps": 2, "train_batch_size": 32, "learning_rate": 0.02}
    start = finished_run().directory
    with eagerly():
        found = transfer(finetuning(tmp_path, start, **settings))
    assert found["digits"]["global_step"] == 2
    assert found["digits"]["num_examples"] == 450
    (directory,) = tmp_path.glob("digits-*")
    assert found["digits"]["run"] == str(directory)
    flags = json.loads((directory / "flags.json").read_text())
    expected = {
        "train_mode": "finetune",
        "train_split": "train",
        "optimizer": "momentum",
        "learning_rate": 0.02,
        "weight_decay": 1e-4,
        "batch_norm_decay": 0.9,
        "width_multiplier": 0.125,
        "ft_proj_selector": 0,
    }
    assert flags.items() >= expected.items()
    monkeypatch.setattr(transfer_finetuning, "Experiment", None)
    assert transfer(finetuning(tmp_path, start, **settings)) == found
    with pytest.raises(UserError, match=r"finetuned/digits with other settings \(learning_rate: 0.02 there, 0.03 now"):
        transfer(finetuning(tmp_path, start, **(settings | {"learning_rate": 0.03})))


def test_finetuning_follows_the_paper_unless_told_otherwise(tmp_path):
    settings = tiny_config(tmp_path).to_dict()
    (tmp_path / "flags.json").write_text(json.dumps(settings))
    network = Network(f"{tmp_path}/ckpt-1", lambda images: {}, {}, 8, "weights")
    data = DataConfig(dataset="cars/196")

    def step(num_examples, **settings):
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
    assert (papers.model.resnet_depth, papers.model.image_size) == (18, 8)
    own = step(256 * 400, train_epochs=3, image_size=16, ft_proj_selector=1, train_batch_size=64)
    assert (own.train.train_epochs, own.train.train_steps, own.train.train_batch_size) == (3, 0, 64)
    assert (own.model.image_size, own.model.ft_proj_selector) == (16, 1)


@pytest.fixture
def trained(seen, monkeypatch):
    """The directories of finetunings that are not run; what comes of them has no logits but zeros."""
    trained = []

    class Untrained:
        def __init__(self, step, strategy):
            trained.append(os.path.basename(step.model_dir))

        def check_memory(self):
            pass

        def train(self, actions):
            return {"global_step": 1}

    def call(images):
        return {"logits_sup": tf.zeros([tf.shape(images)[0], 10])}

    finetuned = Network("ckpt-1", call, {"logits_sup": (10,)}, 8, "other weights")
    monkeypatch.setattr(transfer_finetuning, "Experiment", Untrained)
    monkeypatch.setattr(transfer_finetuning, "load_inference_network", lambda path: finetuned)
    return trained


@pytest.mark.slow
def test_other_weights_and_settings_are_finetuned_elsewhere(trained, tmp_path, monkeypatch):
    def start(weights="weights", **settings):
        network = Network("run/ckpt-1", lambda images: {}, {}, 8, weights)
        monkeypatch.setattr(module, "load_inference_network", lambda path: network)
        return transfer(finetuning(tmp_path, "run", **settings))

    start()
    first = trained[0]
    with pytest.raises(UserError, match=r"replace it with --overwrite=True"):
        start("new weights")
    start("new weights", overwrite=True)
    start("new weights", overwrite=True, learning_rate=0.01)
    assert len(set(trained)) == len(trained) == 3
    start("new weights", overwrite=True, learning_rate=0.01)
    assert len(trained) == 3
    os.remove(tmp_path / "result_transfer.json")
    start()
    assert trained[3:] == [first]


@pytest.mark.slow
def test_sets_of_classes_are_linear_only(trained, tmp_path, log):
    found = transfer(finetuning(tmp_path, "run", datasets="voc/2007,digits"))
    assert list(found) == ["digits"]
    assert "Linear only: voc/2007; finetuning does not learn several classes an image." in log.messages
    table = (tmp_path / "result_transfer.md").read_text().splitlines()
    assert [cell.strip() for cell in table[2].split("|")[1:5]] == [
        "voc/2007",
        "11-point mAP",
        "-",
        "linear only",
    ]
    assert table[3].startswith("| digits ")
    assert refusal(None, tmp_path, "voc/2007", transfer_protocol="finetuned") == (
        "--datasets=voc/2007: has several classes an image, which finetuning does not learn; use "
        "--transfer_protocol=linear."
    )


# ---- Flags


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": None}, r"^--datasets: not given; name data sets, such as --datasets=cifar10,dtd\."),
        ({"checkpoint": None}, r"^--checkpoint: not given; name the network"),
        (
            {"learning_rate": 0.1},
            r"^--learning_rate=0.1: has no meaning with --transfer_protocol=linear; leave it out",
        ),
        ({"resnet_depth": 18}, r"^--resnet_depth=18: has no meaning with --transfer_protocol=linear"),
        ({"transfer_protocol": "sgd"}, r"^--transfer_protocol=sgd: use one of linear, finetuned\."),
        (
            {"transfer_protocol": "finetuned", "endpoint": "map"},
            r"^--endpoint=map: --transfer_protocol=finetuned ",
        ),
        ({"train_split": "train[:10]"}, r"^--train_split=train\[:10\]: has no meaning with --mode=transfer"),
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


def test_saved_model_needs_the_name_of_a_directory(tmp_path, monkeypatch):
    (tmp_path / "saved_model.pb").touch()
    network = Network(str(tmp_path), lambda images: {}, {"default": (3,)}, 8, "weights")
    monkeypatch.setattr(module, "load_inference_network", lambda path: network)
    assert refusal(None, None, "digits").startswith("--model_dir: not given, and a SavedModel is no directory of a run")
