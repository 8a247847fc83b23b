"""Assembly of each kind of training: its images and labels, and the head that it starts with."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.conftest import numbers_of
from tests.data.records import example, png, write, write_greys
from tests.support.marks import usual
from tests.support.networks import flatten
from tests.support.runs import TOTAL_STEPS, finished_run, tiny_config, write_images
from tf_simclr.config import TRAIN_MODES, UserError
from tf_simclr.data import BatchPlan, choose_labelled, load_source
from tf_simclr.models import build_simclr_model
from tf_simclr.schedules import WarmupCosine
from tf_simclr.training import assembly, batches, checkpoint_head

# ---- What a step is made of


def make(directory="x", num_replicas=1, **flags):
    config = tiny_config(directory, **flags)
    return config, assembly.assemble(config, num_replicas)


def test_memory_says_when_it_is_full_and_where_it_is_large_for_the_images():
    assert make(memory_size=2693)[1].notes == ("The memory of 2693 negatives is full after 43 steps.",)
    assert (
        make(memory_size=2694)[1]
        .notes[1]
        .startswith("--memory_size=2694: the training images have 2694 views an epoch, so")
    )


def test_single_class_is_pretrained_on_without_a_probe(tmp_path):
    write_images(tmp_path / "images", 8)
    settings = {"dataset": f"folder:{tmp_path}", "train_batch_size": 8, "eval_split": None}
    made = make(tmp_path / "run", lineareval_while_pretraining=True, **settings)[1]
    assert made.num_classes is None
    assert "has a single class: pretraining without the online linear probe" in made.notes[0]


DISTILL = {"mode": "distill", "teacher": "y", "distill_alpha": 0.5}


@pytest.mark.parametrize(
    ("flags", "num_replicas", "expected"),
    [
        ({"labels_per_class": 20}, 1, 5),  # 200 / 1347 * 32 = 4.75
        ({"labels_per_class": 1}, 1, 1),  # 0.24: at least one
        ({"labels_per_class": 1, "distill_labeled_share": 0.25}, 2, 8),
        ({"distill_labeled_share": 0.97}, 1, 31),
        ({"labels_per_class": 20, "distill_alpha": 1}, 1, 0),
    ],
)
def test_labelled_share_of_a_batch(flags, num_replicas, expected):
    _, parts = make(num_replicas=num_replicas, **(DISTILL | flags))
    assert parts.num_labelled == expected
    assert (parts.labelled is None) == (expected == 0)
    assert parts.source.num_examples == 1347
    if expected and "labels_per_class" in flags:
        assert parts.labelled.num_examples == parts.num_labels == 10 * flags["labels_per_class"]


@pytest.mark.parametrize(
    ("flags", "count", "fix"),
    [({"labels_per_class": 20}, 5, "use 0.125 or 0.25."), ({"labels_per_class": 1}, 1, "use 0.125.")],
)
def test_labelled_share_that_replicas_cannot_share_is_refused(flags, count, fix):
    """Rounding it up would train something else on more replicas."""
    with pytest.raises(UserError) as error:
        make(num_replicas=4, **(DISTILL | flags))
    reason = f"{count} labelled images of a batch of 32 cannot be shared out evenly over 4 replicas; {fix}"
    assert str(error.value).startswith("--distill_labeled_share=")
    assert str(error.value).endswith(reason)


def test_labelled_share_that_leaves_no_place_is_refused():
    with pytest.raises(UserError, match=r"^--distill_labeled_share=0\.99: leaves no place for unlabelled images"):
        make(**(DISTILL | {"distill_labeled_share": 0.99}))


def test_distillation_where_all_images_are_labelled_takes_them_in_place():
    config, parts = make(**DISTILL)
    assert (parts.labelled, parts.num_labelled, parts.source.num_examples) == (None, 32, 1347)
    (batch,) = batches.training_batches(config, parts, BatchPlan(global_batch_size=32), num_views=1, first_step=0).take(
        1
    )
    assert batch["labels"].numpy().min() >= 0 and batch["views"][0].shape == (32, 8, 8, 3)


@pytest.mark.slow
def test_batches_of_a_distillation_with_labels_have_them_last():
    config, parts = make(**(DISTILL | {"labels_per_class": 2, "distill_labeled_share": 0.25}))
    endless = batches.training_batches(config, parts, BatchPlan(global_batch_size=32), num_views=1, first_step=0)
    seen = []
    for batch in endless.take(3):
        labels = batch["labels"].numpy()
        assert (labels[:24] == -1).all() and (labels[24:] >= 0).all()
        seen += labels[24:].tolist()
        assert batch["views"][0].shape == [32, 8, 8, 3]
    assert sorted(seen[:20]) == sorted([*range(10)] * 2)


@pytest.mark.parametrize(
    ("flags", "num_examples", "num_classes"),
    [
        ({"mode": "pretrain"}, 1347, 10),
        ({"mode": "pretrain", "labels_per_class": 3}, 1347, None),
        ({"mode": "pretrain", "label_fraction": 0.5, "labels_per_class": None}, 1347, None),
        ({"mode": "finetune", "checkpoint": "y", "labels_per_class": 3}, 30, 10),
        ({"mode": "supervised", "labels_per_class": 3}, 30, 10),
        ({"mode": "supervised"}, 1347, 10),
        ({"mode": "distill", "teacher": "y", "labels_per_class": 3}, 1347, 10),
    ],
)
def test_images_of_each_step(flags, num_examples, num_classes):
    if "label_fraction" in flags:
        flags = flags | {"labels_per_class": 0}
    _, parts = make(**({"train_batch_size": 16} | flags))
    assert (parts.source.num_examples, parts.num_classes) == (num_examples, num_classes)


def test_finetuning_and_its_baseline_see_the_labels_of_the_seed():
    digits = load_source(tiny_config("x").data, "train")
    expected = choose_labelled(digits.labels, 10, per_class=3, seed=4)
    for flags in ({"mode": "finetune", "checkpoint": "y"}, {"mode": "supervised"}, DISTILL):
        _, parts = make(labels_per_class=3, label_seed=4, train_batch_size=16, **flags)
        source = parts.labelled or parts.source
        np.testing.assert_array_equal(source.images, digits.images[expected])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["finetune", "supervised"])
def test_batch_of_labelled_images_may_be_larger_than_their_number(mode, log):
    flags = {"checkpoint": "y"} if mode == "finetune" else {}
    config, parts = make(mode=mode, train_split="train[:20]", train_batch_size=48, **flags)
    (note,) = parts.notes  # Told when this stage starts, not when its data is opened.
    assert note.startswith("--train_batch_size=48 is more than the 20 images of digits (train[:20])")
    assert log.messages == []
    (batch,) = batches.training_batches(config, parts, BatchPlan(global_batch_size=48), num_views=1, first_step=0).take(
        1
    )
    expected = 2 * np.bincount(parts.source.labels, minlength=10)  # Two epochs, and 8 of the third.
    seen = np.bincount(batch["labels"].numpy(), minlength=10)
    assert (seen >= expected).all() and seen.sum() == 48


@pytest.mark.parametrize("mode", TRAIN_MODES)
def test_only_pretraining_sees_jitter_and_blur(mode, monkeypatch):
    views = []
    monkeypatch.setattr(batches, "train_dataset", lambda source, view, **settings: views.append(view))
    more = {"finetune": {"checkpoint": "y"}, "distill": {"teacher": "y"}}.get(mode, {})
    settings = {"use_blur": True, "use_flip": True, "color_jitter_strength": 0.7, "crop_min_area": 0.4}
    config, parts = make(mode=mode, **settings, **more)
    batches.training_batches(config, parts, BatchPlan(global_batch_size=32), num_views=1, first_step=0)
    (view,) = views
    assert (view.use_blur, view.color_jitter_strength) == ((True, 0.7) if mode == "pretrain" else (False, 0.0))
    assert (view.use_flip, view.crop_min_area, view.random_rotation) == (True, 0.4, 15)


@pytest.mark.slow
@pytest.mark.parametrize("cache", usual(True, also=[False]))
def test_distillation_sees_all_records_and_the_labels_of_a_few(tmp_path, cache):
    data = f"tfrecord:{write_greys(tmp_path, range(30))}"
    flags = {"dataset": data, "cache_dataset": cache, "labels_per_class": 3, "random_rotation": 0}
    config, parts = make(train_batch_size=8, distill_labeled_share=0.25, **(DISTILL | flags))
    assert (parts.source.num_examples, parts.labelled.num_examples, parts.num_classes) == (30, 6, 2)
    endless = batches.training_batches(config, parts, BatchPlan(global_batch_size=8), num_views=1, first_step=0)
    seen, few = [], []
    for batch in endless.take(5):
        numbers = numbers_of(batch["views"][0])
        seen += numbers[:6].tolist()
        few += numbers[6:].tolist()
        assert batch["labels"].numpy().tolist() == [-1] * 6 + (numbers[6:] % 2).tolist()
    assert sorted(seen) == list(range(30)) and len(set(few)) == 6


@pytest.mark.slow
def test_pretraining_on_images_of_which_some_have_no_label_has_no_probe(tmp_path):
    write(tmp_path / "train-0.tfrecord", [example(png(n), n % 3 - 1) for n in range(36)])
    _, parts = make(mode="pretrain", dataset=f"tfrecord:{tmp_path}")
    assert (parts.source.num_classes, parts.num_classes) == (2, None)
    assert parts.notes[-1].startswith("12 of the 36 images of ") and "without the online" in parts.notes[-1]
    assert parts.num_labels == 0
    _, parts = make(mode="finetune", checkpoint="y", dataset=f"tfrecord:{tmp_path}")
    assert (parts.source.num_examples, parts.num_classes, parts.num_labels) == (24, 2, 24)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pretrain", "distill"])
def test_several_sources_are_images_without_labels(tmp_path, mode):
    data = f"digits,tfrecord:{write_greys(tmp_path, range(30))}"
    _, parts = make(mode=mode, dataset=data, mix="3,1", **({"teacher": "y"} if mode == "distill" else {}))
    assert (parts.source.num_examples, parts.num_classes, parts.labelled) == (1377, None, None)
    line = "Several sources, without their labels: 24 of digits (train), 8 of tfrecord:"
    assert parts.notes[0].startswith(line)
    with pytest.raises(UserError, match=r"^--train_batch_size=1378: .* has only 1377 examples; use at most 1377"):
        make(mode=mode, dataset=data, train_batch_size=1378, **({"teacher": "y"} if mode == "distill" else {}))


# ---- The head that finetuning starts with


PROBE = "model/supervised_head/kernel/.ATTRIBUTES/VARIABLE_VALUE"


def start_finetuning(checkpoint=None, **flags):
    """Returns the head's kernel where finetuning starts, and what the user is told."""
    _, parts = make(mode="finetune", checkpoint=checkpoint or finished_run().directory, **flags)
    model = parts.make_task(WarmupCosine(0.1, 0, 10)).model
    line = parts.initialize(model)
    values = flatten(model.variable_tree())
    saved = tf.train.load_checkpoint(f"{finished_run().directory}/ckpt-{TOTAL_STEPS}")
    for name in ("encoder/stem/conv1/kernel", "projection_head/layer3/norm/moving_variance"):
        np.testing.assert_array_equal(values[name], saved.get_tensor(f"model/{name}/.ATTRIBUTES/VARIABLE_VALUE"))
    return values["supervised_head/kernel"].numpy(), line


@pytest.mark.slow
def test_finetuning_keeps_a_head_that_was_trained_on_the_same_layer():
    kernel, line = start_finetuning()
    saved = tf.train.load_checkpoint(f"{finished_run().directory}/ckpt-{TOTAL_STEPS}").get_tensor(PROBE)
    np.testing.assert_array_equal(kernel, saved)
    assert np.abs(kernel).max() > 0
    assert "fresh" not in line
    prefix = f"{finished_run().directory}/ckpt-{TOTAL_STEPS}"
    np.testing.assert_array_equal(start_finetuning(checkpoint=prefix)[0], saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        {"labels_per_class": 5},  # The probe has seen the others.
        {"ft_proj_selector": 1},  # As wide as the encoder, but another layer.
        {"zero_init_logits_layer": True},
        {"dataset": 7},
    ],
    ids=str,
)
def test_finetuning_starts_any_other_head_at_zero(flags, tmp_path):
    if "dataset" in flags:  # Of 7 classes.
        for number in range(flags["dataset"]):
            write_images(tmp_path / str(number), 5)
        flags = {"dataset": f"folder:{tmp_path}"}
    kernel, line = start_finetuning(**flags)
    np.testing.assert_array_equal(kernel, 0)
    assert line.endswith("; the supervised head starts fresh.")


@pytest.mark.slow
def test_finetuning_keeps_the_head_of_a_checkpoint_in_the_home(monkeypatch):
    directory = finished_run().directory
    monkeypatch.setenv("HOME", str(directory.parent))
    assert np.abs(start_finetuning(checkpoint=f"~/{directory.name}")[0]).max() > 0


def may_keep_head(dataset, class_names, *, fingerprint=None):
    """Whether finetuning on `dataset` keeps the head of the finished run."""
    config = tiny_config("x", mode="finetune", checkpoint=finished_run().directory, dataset=dataset)
    source = load_source(tiny_config("x").data, "train")
    source.class_names = class_names
    source.fingerprint = lambda: fingerprint
    return checkpoint_head.may_keep_head(config, source)


def test_head_is_taken_over_by_the_names_of_its_classes():
    names = tuple("0123456789")
    assert may_keep_head("digits", names)
    assert not may_keep_head("digits", (*names[:9], "a nine"))
    assert not may_keep_head("digits", names[::-1])


def test_head_is_taken_over_where_the_same_images_lie_elsewhere():
    names, fingerprint = tuple("0123456789"), finished_run().read_json("data.json")["fingerprint"]
    assert not may_keep_head("folder:elsewhere", names)
    assert may_keep_head("folder:elsewhere", names, fingerprint=fingerprint)


@pytest.mark.slow
def test_student_does_not_take_over_a_head_that_has_seen_other_labels():
    settings = {"labels_per_class": 5, "checkpoint": finished_run().directory, "proj_head_mode": "nonlinear"}
    config, parts = make(**(DISTILL | settings))
    model = build_simclr_model(config.model, 10)
    before = model.supervised_head.kernel.numpy()
    parts.initialize(model)
    np.testing.assert_array_equal(model.supervised_head.kernel, before)
