"""A made classifier of ImageNet on small data sets with the features of the real ones.

The colour of an image says its number, 0 to 999, a decimal digit a channel. The classifier gives that class the logit
4, the class after it 2, and all others 0.
"""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from flags.convert import parse_command_line
from tests.data.conftest import prepare_tfds
from tf_simclr.config import ROBUSTNESS_DATASETS, UserError
from tf_simclr.data import ArraySource
from tf_simclr.suites import imagenet_classes
from tf_simclr.suites import robustness as module
from tf_simclr.suites.robustness import DATASETS, robustness

FIRST, SECOND = 4.0, 2.0
SIZE = 16
A, R = [6, 11, 13], [1, 2, 4]  # The first classes of ImageNet-A and ImageNet-R.


def image_of(number):
    digits = [number // 100, number // 10 % 10, number % 10]
    return np.full([20, 24, 3], np.array(digits) * 25 + 12, np.uint8)


class Classifier(tf.Module):
    def __init__(self, num_classes):
        self._num_classes = num_classes

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([], tf.bool)])
    def __call__(self, images, trainable):
        digits = tf.cast(images[:, 5, 5, :] * 255 / 25, tf.int32)
        number = tf.reduce_sum(digits * [100, 10, 1], axis=1)
        first, second = (tf.one_hot((number + k) % 1000, self._num_classes) for k in range(2))
        return {"logits_sup": FIRST * first + SECOND * second, "default": images[:, 0, 0]}


def save(path, num_classes=1000, class_names=None):
    tf.saved_model.save(Classifier(num_classes), str(path))
    (path / "assets").mkdir(exist_ok=True)
    metadata = {"image_size": SIZE, "class_names": class_names}
    (path / "assets" / "metadata.json").write_text(json.dumps(metadata))
    return path


def names_file():
    import tensorflow_datasets as tfds

    return tfds.core.tfds_path("datasets/imagenet2012/labels.txt")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save(tmp_path_factory.mktemp("classifier"))


# What images show, and their label or labels.
PLAIN = [(5, 5), (5, 6), (5, 999), (5, 0)]
OF_A = [(10, 11), (6, 6), (6, 13)]
OF_R = [(0, 1), (1, 2), (2, 2), (998, 1)]
REAL = [(5, [4, 5]), (5, [7]), (5, []), (999, [999]), (8, [9, 10])]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("imagenet")
    image, label = (
        tfds.features.Image(encoding_format="jpeg"),
        tfds.features.ClassLabel(names_file=names_file()),
    )
    plain = {"image": image, "label": label, "file_name": tfds.features.Text()}

    def examples(pairs):
        return [{"image": image_of(n), "label": k, "file_name": f"{i}.jpg"} for i, (n, k) in enumerate(pairs)]

    for variant in ("matched-frequency", "threshold-0.7", "topimages"):
        prepare_tfds(root, "ImagenetV2", plain, {"test": examples(PLAIN)}, variant=variant)
    prepare_tfds(root, "ImagenetA", plain, {"test": examples(OF_A)})
    prepare_tfds(root, "ImagenetR", plain, {"test": examples(OF_R)}, num_shards=2)
    prepare_tfds(root, "ImagenetSketch", plain, {"test": examples(PLAIN)})
    real = {
        "image": image,
        "original_label": label,
        "real_label": tfds.features.Sequence(label),
        "file_name": tfds.features.Text(),
    }
    shown = [
        {"image": image_of(n), "original_label": 0, "real_label": labels, "file_name": str(i)}
        for i, (n, labels) in enumerate(REAL)
    ]
    prepare_tfds(root, "Imagenet2012Real", real, {"validation": shown}, num_shards=3)
    return root


def config(checkpoint, data_dir, output, **settings):
    values = {
        "checkpoint": checkpoint,
        "data_dir": data_dir,
        "output": output,
        "eval_batch_size": 3,
    } | settings
    arguments = [f"--{name}={value}" for name, value in values.items()]
    return parse_command_line(["--mode=robustness", *arguments])[0]


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        robustness(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def confidence(*logits, num_classes):
    """The largest probability where all other classes have the logit 0."""
    exponentials = [math.exp(value) for value in logits]
    return max(exponentials) / (sum(exponentials) + num_classes - len(logits))


@pytest.mark.slow
def test_results_are_those_known_by_construction(classifier, data_dir, tmp_path, log):
    path = tmp_path / "result.json"
    found = robustness(config(classifier, data_dir, path))
    assert tuple(found) == ROBUSTNESS_DATASETS == tuple(DATASETS)
    # The label comes first, second, last and, as the lowest of equal classes, third.
    both = confidence(FIRST, SECOND, num_classes=1000)
    plain = {
        "label_top_1_accuracy": 1 / 4,
        "label_top_5_accuracy": 3 / 4,
        "expected_calibration_error": abs(both - 1 / 4),
        "num_examples": 4,
        "num_classes": 1000,
    }
    for name in (*ROBUSTNESS_DATASETS[:3], "imagenet_sketch"):
        assert found[name] == pytest.approx(plain, abs=1e-6), name
    # ImageNet-A lacks the classes 7 and 10. Of its own classes 11 comes first, with the logit 2.
    weak, strong = (confidence(value, num_classes=200) for value in (SECOND, FIRST))
    assert found["imagenet_a"] == pytest.approx(
        {
            "label_top_1_accuracy": 2 / 3,
            "label_top_5_accuracy": 1,
            "expected_calibration_error": (abs(1 - weak) + abs(1 - 2 * strong)) / 3,
            "num_examples": 3,
            "num_classes": 200,
        },
        abs=1e-6,
    )
    # ImageNet-R lacks the classes 0, 998 and 999. The logits of an image of 998 are equal, and 1 is the lowest class.
    two, alone, none = (confidence(*v, num_classes=200) for v in ((FIRST, SECOND), (FIRST,), (0,)))
    right_and_wrong = [(confidence(SECOND, num_classes=200), 1), (two, 0), (alone, 1), (none, 1)]
    assert found["imagenet_r"]["label_top_1_accuracy"] == 3 / 4
    assert found["imagenet_r"]["expected_calibration_error"] == pytest.approx(
        calibration_error(right_and_wrong), abs=1e-6
    )
    # Without the image that has no label; the second of five is wrong, and the last is right about neither.
    assert found["imagenet2012_real"] == pytest.approx(
        {
            "label_top_1_accuracy": 2 / 4,
            "expected_calibration_error": abs(both - 2 / 4),
            "num_examples": 4,
            "num_classes": 1000,
            "num_without_label": 1,
        },
        abs=1e-6,
    )
    table = (tmp_path / "result.md").read_text()
    assert "| imagenet_a                    |      3 |     200 | 66.67% | 100.00% |" in table
    assert "| imagenet2012_real             |      4 |    1000 | 50.00% |       - |" in table
    assert table.splitlines() == [message for message in log.messages if message.startswith("|")]


def calibration_error(pairs, num_bins=15):
    bins = {}
    for value, is_right in pairs:
        bins.setdefault(math.ceil(value * num_bins), []).append(is_right - value)
    return sum(abs(sum(gaps)) for gaps in bins.values()) / len(pairs)


def test_classes_of_the_smaller_tests_are_among_the_1000():
    with open(names_file(), encoding="utf-8") as file:
        names = file.read().split()
    for classes, first, last in (
        (imagenet_classes.IMAGENET_A, A, 988),
        (imagenet_classes.IMAGENET_R, R, 988),
    ):
        numbers = [names.index(name) for name in classes.split()]
        assert len(set(numbers)) == 200
        assert (numbers[:3], numbers[-1]) == (first, last)


@pytest.mark.slow
def test_suite_goes_on_after_a_data_set_that_fails(classifier, data_dir, tmp_path, monkeypatch, log):
    names = "imagenet_sketch,imagenet_a"
    load, asked = module.load_source, []

    def fail_once(data, split, *, flag):
        asked.append(data.dataset)
        if asked == ["imagenet_sketch"]:
            raise UserError("--dataset=imagenet_sketch: not prepared.")
        return load(data, split, flag=flag)

    monkeypatch.setattr(module, "load_source", fail_once)
    message = refusal(classifier, data_dir, tmp_path / "a.json", datasets=names)
    assert message.startswith("--datasets: 1 of 2 data sets have no result (imagenet_sketch); the lines above say why")
    assert "imagenet_sketch is left out: --dataset=imagenet_sketch: not prepared." in log.messages
    found = robustness(config(classifier, data_dir, tmp_path / "a.json", datasets=names))
    assert asked == ["imagenet_sketch", "imagenet_a", "imagenet_sketch"]
    assert [result["num_examples"] for result in found.values()] == [4, 3]


@pytest.mark.slow
def test_networks_of_other_classes_are_refused(data_dir, tmp_path, log):
    ten = save(tmp_path / "ten", num_classes=10)
    assert refusal(ten, data_dir, tmp_path / "a.json") == (
        f"--checkpoint={ten}: tells 10 classes apart, and these data sets have the 1000 of ImageNet; name a network "
        "that was finetuned on imagenet2012."
    )
    with open(names_file(), encoding="utf-8") as file:
        names = file.read().split()
    other = save(tmp_path / "other", class_names=[*names[:-1], "a flower"])
    refusal(other, data_dir, tmp_path / "a.json", datasets="imagenet_a")
    (reason,) = [message for message in log.messages if "left out" in message]
    assert f"imagenet_a (test) has 1000 classes (among them {names[-1]}), --checkpoint={other} " in reason
    assert "1000 classes (among them a flower); name a network that was finetuned on imagenet2012" in reason


def test_labels_are_numbers_of_the_network_whose_classes_may_be_in_another_order(monkeypatch):
    names = [str(number) for number in range(1000)]
    source = ArraySource("some", np.zeros([2, 4, 4, 3], np.uint8), np.array([7, 999]), names)
    settings = config("runs/x", "data", "a.json")
    for network in (None, names):
        monkeypatch.setattr(module, "network_class_names", lambda path, flag, network=network: network)
        matched, numbers = module._with_numbers_of_network(settings, source)
        assert (matched.read_labels().tolist(), numbers.tolist()) == ([7, 999], list(range(1000)))
    monkeypatch.setattr(module, "network_class_names", lambda path, flag: names[::-1])
    matched, numbers = module._with_numbers_of_network(settings, source)
    assert (matched.read_labels().tolist(), numbers.tolist()) == ([992, 0], list(range(999, -1, -1)))


@pytest.mark.slow
def test_data_sets_of_other_classes_are_refused(classifier, tmp_path, log):
    import tensorflow_datasets as tfds

    image, names = tfds.features.Image(), tfds.features.ClassLabel(names_file=names_file())
    few = {"image": image, "label": tfds.features.ClassLabel(num_classes=200)}
    prepare_tfds(tmp_path, "ImagenetR", few, {"test": [{"image": image_of(1), "label": 1}]})
    whole = {"image": image, "label": names}
    prepare_tfds(tmp_path, "ImagenetA", whole, {"test": [{"image": image_of(1), "label": 1}]})
    refusal(classifier, tmp_path, tmp_path / "a.json", datasets="imagenet_r,imagenet_a")
    reasons = [message for message in log.messages if "left out" in message]
    assert "imagenet_r (test) has 200 classes, not the 1000 of ImageNet; prepare it anew." in reasons[0]
    assert "imagenet_a (test) has images of other classes than the 200 that it is defined by" in reasons[1]


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
