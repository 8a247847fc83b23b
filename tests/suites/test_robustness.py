"""A constructed ImageNet classifier on small data sets.

The colour of an image is its number, 0 to 999, a decimal digit a channel. The classifier gives that class the logit 4,
the next class 2, and all others 0.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from flags.convert import parse_command_line
from tests.data.conftest import prepare_tfds
from tf_simclr.config import ROBUSTNESS_DATASETS, UserError
from tf_simclr.data import ArraySource
from tf_simclr.evaluation.features import Features, Network, compute_features
from tf_simclr.suites import robustness as module
from tf_simclr.suites.robustness import DATASETS, RobustnessDataset, robustness

FIRST, SECOND = 4.0, 2.0
NAMES = [f"class {number}" for number in range(1000)]
# Numbers of images, and their label or labels.
PLAIN = [(5, 5), (5, 6), (5, 999), (5, 0)]
OF_A = [(10, 11), (6, 6), (6, 13)]
REAL = [(5, [4, 5]), (5, [7]), (5, []), (999, [999]), (8, [9, 10])]


def image_of(number):
    digits = [number // 100, number // 10 % 10, number % 10]
    return np.full([20, 24, 3], np.array(digits) * 25 + 12, np.uint8)


def classify(images):
    digits = tf.cast(images[:, 5, 5, :] * 255 / 25, tf.int32)
    number = tf.reduce_sum(digits * [100, 10, 1], axis=1)
    first, second = (tf.one_hot((number + k) % 1000, 1000) for k in range(2))
    return {"logits_sup": FIRST * first + SECOND * second}


@pytest.fixture(autouse=True)
def network(monkeypatch):
    network = Network("run/ckpt-1", classify, {"logits_sup": (1000,)}, 16, "weights")
    monkeypatch.setattr(module, "load_inference_network", lambda path: network)
    monkeypatch.setattr(module, "network_class_names", lambda path, flag: None)
    return network


def source_of(pairs, names=NAMES, name="some"):
    images = np.stack([image_of(number) for number, _ in pairs])
    return ArraySource(name, images, np.array([label for _, label in pairs], np.int32), names)


def config(checkpoint, data_dir, output, **settings):
    values = {"checkpoint": checkpoint, "data_dir": data_dir, "output": output, "eval_batch_size": 3} | settings
    return parse_command_line(["--mode=robustness", *(f"--{name}={value}" for name, value in values.items())])[0]


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        robustness(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def confidence(*logits, num_classes):
    """The largest probability if all other classes have the logit 0."""
    exponentials = [math.exp(value) for value in logits]
    return max(exponentials) / (sum(exponentials) + num_classes - len(logits))


def test_data_sets_are_those_of_the_flag():
    assert tuple(DATASETS) == ROBUSTNESS_DATASETS


@pytest.mark.slow
def test_results_are_those_known_by_construction(tmp_path, monkeypatch, log):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=NAMES)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "original_label": label,
        "real_label": tfds.features.Sequence(label),
        "file_name": tfds.features.Text(),
    }
    shown = [
        {"image": image_of(number), "original_label": 0, "real_label": labels, "file_name": str(number)}
        for number, labels in REAL
    ]
    prepare_tfds(tmp_path, "Imagenet2012Real", features, {"validation": shown}, num_shards=3)
    pairs = {"imagenet_sketch": PLAIN, "imagenet_a": OF_A, "imagenet_r": OF_A}

    def compute(network, endpoint, source, **options):
        if source.name not in pairs:
            return compute_features(network, endpoint, source, **options)
        images = np.float32([image_of(number) for number, _ in pairs[source.name]]) / 255
        logits = network.call(images)[endpoint].numpy()
        return Features(logits, source.read_labels(), np.arange(len(logits)), [])

    monkeypatch.setattr(
        module, "load_source", lambda data, split, *, flag: source_of(pairs[data.dataset], name=data.dataset)
    )
    monkeypatch.setattr(module, "compute_features", compute)
    monkeypatch.setitem(DATASETS, "imagenet_a", RobustnessDataset(num_classes=3))
    names = "imagenet_sketch,imagenet_a,imagenet2012_real"
    found = robustness(config("run", tmp_path, tmp_path / "result.json", datasets=names))
    # The label comes first, second, last and, as the lowest of equal classes, third.
    both = confidence(FIRST, SECOND, num_classes=1000)
    expected = {
        "label_top_1_accuracy": 1 / 4,
        "label_top_5_accuracy": 3 / 4,
        "expected_calibration_error": abs(both - 1 / 4),
        "num_examples": 4,
        "num_classes": 1000,
    }
    assert found["imagenet_sketch"] == pytest.approx(expected, abs=1e-6)
    # ImageNet-A shows the classes 6, 11 and 13, but neither 7 nor 10. For image 10, 11 comes first, with the logit 2.
    weak, strong = (confidence(value, num_classes=3) for value in (SECOND, FIRST))
    expected = {
        "label_top_1_accuracy": 2 / 3,
        "label_top_5_accuracy": 1,
        "expected_calibration_error": (abs(1 - weak) + abs(1 - 2 * strong)) / 3,
        "num_examples": 3,
        "num_classes": 3,
    }
    assert found["imagenet_a"] == pytest.approx(expected, abs=1e-6)
    # The image without a label does not count; the second of five is wrong, and so is the last.
    expected = {
        "label_top_1_accuracy": 2 / 4,
        "expected_calibration_error": abs(both - 2 / 4),
        "num_examples": 4,
        "num_classes": 1000,
        "num_without_label": 1,
    }
    assert found["imagenet2012_real"] == pytest.approx(expected, abs=1e-6)
    table = (tmp_path / "result.md").read_text()
    assert "| imagenet_a        |      3 |       3 | 66.67% | 100.00% |" in table
    assert "| imagenet2012_real |      4 |    1000 | 50.00% |       - |" in table
    refusal("run", tmp_path, tmp_path / "r.json", datasets="imagenet_r")
    assert (
        "imagenet_r is left out: --datasets: imagenet_r has images of 3 classes, not of 200; prepare it anew."
        in log.text
    )


def test_networks_of_other_classes_are_refused(monkeypatch, network, tmp_path):
    fix = "name a network that was finetuned on imagenet2012."
    shapes = {
        "tells 10 classes apart, and these data sets have the 1000 of ImageNet": {"logits_sup": (10,)},
        "has no classifier": {"default": (8,)},
    }
    for problem, shape in shapes.items():
        other = network._replace(shapes=shape)
        monkeypatch.setattr(module, "load_inference_network", lambda path, other=other: other)
        assert refusal("run", "data", tmp_path / "a.json") == f"--checkpoint=run: {problem}; {fix}"


def test_labels_are_numbers_of_the_network_whose_classes_may_be_in_another_order(monkeypatch):
    source = source_of([(0, 7), (0, 999)])
    settings = config("run", "data", "a.json")
    reverse = ([992, 0], list(range(999, -1, -1)))
    for known, expected in ((None, ([7, 999], list(range(1000)))), (NAMES[::-1], reverse)):
        monkeypatch.setattr(module, "network_class_names", lambda path, flag, known=known: known)
        matched, numbers = module._with_numbers_of_network(settings, source)
        assert (matched.read_labels().tolist(), numbers.tolist()) == expected
    monkeypatch.setattr(module, "network_class_names", lambda path, flag: [*NAMES[:-1], "a flower"])
    with pytest.raises(UserError, match=r"among them class 999\), --checkpoint=run 1000 classes .*a flower.*; name a"):
        module._with_numbers_of_network(settings, source)


def test_data_set_of_other_classes_is_refused():
    few = source_of([(0, 7)], NAMES[:200])
    with pytest.raises(UserError, match="some has 200 classes, not the 1000 of ImageNet; prepare it anew"):
        module._with_numbers_of_network(config("run", "data", "a.json"), few)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"datasets": "imagenet_c"},
            r"^--datasets=imagenet_c: there is no imagenet_c; use imagenet_v2/matched-frequency, ",
        ),
        ({"datasets": ","}, r"^--datasets=,: name data sets with commas between them\."),
        ({"output": "result.txt"}, r"^--output=result.txt: the result is a file of JSON"),
        ({"dataset": "imagenet_a"}, r"^--dataset=imagenet_a: has no meaning with --mode=robustness"),
    ],
)
def test_flags_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        config("runs/x", "data", settings.pop("output", "a.json"), **settings)
