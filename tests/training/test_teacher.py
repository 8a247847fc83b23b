"""Teachers in every form: the same logits from all, nothing changed, and one line where there are none."""

import functools
import hashlib
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import random_images
from tests.support.runs import TOTAL_STEPS, finished_run, refusal, tiny_config, write_images
from tf_simclr.config import UserError
from tf_simclr.data import ArraySource
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.data import RunData
from tf_simclr.runs.directory import check_directory, claim_directory
from tf_simclr.runs.networks import load_network
from tf_simclr.schedules import WarmupCosine
from tf_simclr.training import distillation
from tf_simclr.training.assembly import assemble
from tf_simclr.training.experiment import Experiment
from tf_simclr.training.teacher import Teacher, load_teacher, network_class_names

SIZE, CLASSES = 8, 10


@functools.cache
def network():
    network = load_network(str(finished_run().directory), "teacher")
    network.freeze_for_finetuning()
    return network


def count(variables):
    return sum(np.size(variable.numpy()) for variable in variables)


@functools.cache
def images():
    return tf.constant(random_images(5, SIZE, SIZE, dtype="float32"))


def expected_logits():
    return network()(images(), training=False)["logits_sup"]


class ForeignModule(tf.Module):
    """A module as the authors saved theirs: called with `trainable`, and no signature.

    Its own weights are a dense layer on the mean colours; in training it counts its calls.
    """

    def __init__(self, outputs=("final_avg_pool", "logits_sup"), num_classes=CLASSES):
        super().__init__()
        self._outputs = outputs
        self.kernel = tf.Variable(np.random.default_rng(0).normal(size=(3, num_classes)).astype("float32"))
        self.calls = tf.Variable(0.0, trainable=False)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([], tf.bool)])
    def _apply(self, inputs, trainable):
        self.calls.assign_add(tf.cast(trainable, tf.float32))
        pooled = tf.reduce_mean(inputs, axis=[1, 2])
        every = {"final_avg_pool": pooled, "logits_sup": pooled @ self.kernel + self.calls}
        return {name: every[name] for name in self._outputs}

    @tf.function(autograph=False)
    def __call__(self, inputs, trainable):
        return self._apply(inputs, trainable)


SPEC = tf.TensorSpec([None, None, None, 3])


def save_foreign(path, module=None):
    module = module or ForeignModule()
    for trainable in (True, False):
        module.__call__.get_concrete_function(SPEC, trainable)
    tf.saved_model.save(module, str(path))
    return str(path)


def path_of(form, tmp_path, monkeypatch):
    run = finished_run().directory
    saved_model = run / "saved_model" / str(TOTAL_STEPS)
    if form == "handle":
        handle = "https://models.example/nobody/nothing/1"
        monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
        shutil.copytree(saved_model, tmp_path / hashlib.sha1(handle.encode()).hexdigest())
        return handle
    if form == "~":
        monkeypatch.setenv("HOME", str(run.parent))
        return f"~/{run.name}"
    return {
        "directory": str(run),
        "checkpoint": f"{run}/ckpt-{TOTAL_STEPS}",
        "index": f"{run}/ckpt-{TOTAL_STEPS}.index",
        "SavedModel": str(saved_model),
        "file://": f"file://{saved_model}",
    }[form]


@pytest.mark.parametrize("content", [None, "[]", '{"class_names": 3}'])
def test_teacher_of_another_program_tells_no_names(tmp_path, content):
    path = save_foreign(tmp_path / "hub")
    if content is not None:
        (tmp_path / "hub" / "assets" / "metadata.json").write_text(content)
    assert network_class_names(path, "teacher") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", usual("directory", "SavedModel", "handle", also=["checkpoint", "index", "~", "file://"])
)
def test_teacher_of_every_form_gives_the_same_logits_and_names(form, tmp_path, monkeypatch):
    path = path_of(form, tmp_path, monkeypatch)
    assert network_class_names(path, "teacher") == list("0123456789")
    teacher = load_teacher(path, SIZE)
    used, everything = count(network().used_variables), count(network().variables)
    assert teacher.num_classes == CLASSES
    assert used < everything
    assert teacher.num_weights == (everything if form in ("SavedModel", "file://", "handle") else used)
    expected = expected_logits()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(teacher.logits(images()), expected, rtol=1e-4, atol=1e-5)
    # In inference mode an image alone gives what it gives beside others; batch statistics would differ.
    in_graph = tf.function(teacher.logits, autograph=False)
    np.testing.assert_allclose(in_graph(images()[:1]), expected[:1], rtol=1e-4, atol=1e-5)


def test_teacher_of_an_earlier_checkpoint_is_another():
    teacher = load_teacher(f"{finished_run().directory}/ckpt-2", SIZE)
    assert np.abs(teacher.logits(images()) - expected_logits()).max() > 1e-4


def test_teacher_of_the_authors_form(tmp_path):
    module = ForeignModule()
    teacher = load_teacher(save_foreign(tmp_path / "hub", module), SIZE)
    expected = np.mean(images(), axis=(1, 2)) @ module.kernel.numpy()
    for _ in range(2):  # Calls in training would add to the logits.
        np.testing.assert_allclose(teacher.logits(images()), expected, rtol=1e-5)
    np.testing.assert_allclose(teacher.logits(tf.cast(images(), tf.float64)), expected, rtol=1e-5)
    assert (teacher.num_classes, teacher.num_weights) == (CLASSES, 3 * CLASSES + 1)


def save_called_as(path, function, spec=SPEC):
    """A module without variables, which is called as `function`."""
    module = tf.Module()
    module.__call__ = tf.function(function)
    module.__call__.get_concrete_function(spec, False)
    tf.saved_model.save(module, str(path))
    return str(path)


def mean_logits(inputs, trainable):
    return {"logits_sup": tf.reduce_mean(inputs, axis=[1, 2])}


# ---- What is refused


def message_of(path, size=SIZE):
    with pytest.raises(UserError) as error:
        load_teacher(str(path), size)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"--teacher={path}")
    return message


FITS = "name the directory of a finetuned run, a checkpoint in it, or a SavedModel with logits."


def test_teacher_behind_a_handle_that_cannot_be_fetched_is_one_line(monkeypatch):
    hub = pytest.importorskip("tensorflow_hub")

    def fail(handle):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(hub, "resolve", fail)
    message = message_of("https://models.example/nobody/nothing/1")
    assert message.endswith(f": cannot be fetched (no); {FITS}")


def test_teacher_pretrained_without_a_probe_gives_no_logits(tmp_path):
    model = build_simclr_model(finished_run().config.model)
    shutil.copy(finished_run().directory / "flags.json", tmp_path)
    tf.train.Checkpoint(model=model.variable_tree()).save(str(tmp_path / "ckpt"))
    assert message_of(tmp_path / "ckpt-1") == f"--teacher={tmp_path}/ckpt-1: gives no logits; {FITS}"


@pytest.mark.parametrize("returned", [lambda inputs, trainable: {"default": inputs}, lambda inputs, trainable: inputs])
def test_module_without_the_output_of_logits_is_one_line(tmp_path, returned):
    path = save_called_as(tmp_path / "hub", returned)
    assert message_of(path) == f"--teacher={path}: gives no logits; {FITS}"


def test_module_for_another_image_size_alone_is_one_line(tmp_path):
    path = save_called_as(tmp_path / "hub", mean_logits, tf.TensorSpec([None, 32, 32, 3]))
    message = message_of(path)
    assert ": cannot be called as module(images, trainable=False) (" in message
    assert message.endswith(FITS)
    teacher = load_teacher(path, 32)
    assert (teacher.num_classes, teacher.num_weights) == (3, None)  # It has no variables.


# ---- In a run


def distill_config(tmp_path, **flags):
    settings = {"train_mode": "distill", "teacher": finished_run().directory, "proj_head_mode": "nonlinear"}
    return tiny_config(tmp_path / "student", **(settings | flags))


def test_teacher_with_other_classes_than_the_data_is_refused(tmp_path):
    path = save_foreign(tmp_path / "hub", ForeignModule(num_classes=7))
    message = refusal(distill_config(tmp_path, teacher=path))
    assert message == (f"--teacher={path}: has 7 classes, digits (train) has 10; use a teacher of the same classes.")
    assert not (tmp_path / "student").exists()


def fitting_teacher(tmp_path, monkeypatch, names, class_names):
    """A teacher of `names`, with the logits 0, 1, 2, ..., as it is used for images of `class_names`."""
    logits = tf.range(len(names), dtype=tf.float32)[tf.newaxis]
    teacher = Teacher(lambda images: logits, len(names), None)
    monkeypatch.setattr(distillation, "load_teacher", lambda *arguments, **settings: teacher)
    monkeypatch.setattr(distillation, "network_class_names", lambda path, flag: list(names))
    count = len(class_names)
    source = ArraySource("some", np.zeros([count, 4, 4, 3], np.uint8), np.arange(count), class_names)
    return distillation.load_fitting_teacher(distill_config(tmp_path, teacher="hub"), source)


def test_teacher_whose_classes_are_in_another_order_is_read_by_name(tmp_path, monkeypatch):
    for class_names, expected in (("abc", [0, 1, 2]), ("cab", [2, 0, 1])):
        teacher = fitting_teacher(tmp_path, monkeypatch, "abc", class_names)
        assert teacher.logits(None).numpy().tolist() == [expected]


@pytest.mark.parametrize(("class_names", "listed"), [("abd", "3 classes (a, b, d)"), ("ab", "2 classes (a, b)")])
def test_teacher_of_other_classes_is_refused_with_both_lists(tmp_path, monkeypatch, class_names, listed):
    with pytest.raises(UserError) as error:
        fitting_teacher(tmp_path, monkeypatch, "abc", class_names)
    assert str(error.value) == (
        f"--teacher=hub: has 3 classes (a, b, c), some {listed}; use a teacher of the same classes."
    )


@pytest.mark.slow
def test_evaluation_of_a_student_needs_no_teacher(tmp_path):
    """Nor the labels of its training images: a run says itself how many classes it tells apart."""
    data = {"dataset": f"folder:{write_images(tmp_path / 'images', count=2)}", "eval_split": None}
    config = distill_config(tmp_path, teacher="gone", **data)
    began_with = RunData(("a", "b", "c"), 3, 2, "1f")
    claim_directory(config, began_with)
    (tmp_path / "student" / "result.json").write_text("{}")
    evaluated = distill_config(tmp_path, mode="eval", teacher="moved", **data)
    check_directory(evaluated)
    of_an_earlier_version = began_with._replace(num_images=None)
    tasks = [
        assemble(evaluated, 1, known).make_task(WarmupCosine(1.0, 0, 1))
        for known in (began_with, of_an_earlier_version)
    ]
    assert [task.model.num_classes for task in tasks] == [3, 3]
    sizes = [len(task.model.used_variables) for task in tasks]
    assert sizes[0] == sizes[1] < len(tasks[0].model.variables)


@pytest.mark.parametrize(("student", "is_told"), [(2, True), (1, False)])
@pytest.mark.parametrize("teacher", [1_000_000, None])
def test_student_that_is_bigger_than_its_teacher_is_told(log, student, is_told, teacher):
    network = types.SimpleNamespace(num_used_weights=1_000_000 * student)
    distillation.compare_sizes(network, Teacher(lambda images: images, CLASSES, teacher))
    line = "The student is bigger than its teacher: 2.00 M against 1.00 M weights."
    assert log.messages == ([line] if is_told and teacher else [])


@pytest.mark.slow
def test_sizes_are_compared_before_the_student_is_trained(tmp_path, log):
    task = Experiment(distill_config(tmp_path, width_multiplier=0.1875)).task
    teacher, student = count(network().used_variables), count(task.model.used_variables)
    assert log.messages[-1] == (
        f"The student is bigger than its teacher: {student / 1e6:.2f} M against {teacher / 1e6:.2f} M weights."
    )
