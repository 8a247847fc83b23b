"""The whole method: its steps, what each starts from, going on after an interruption, and bad input."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tf_simclr
from tests.networks import flatten
from tests.runs import (
    TOTAL_STEPS,
    WHOLE,
    differing_tensors,
    eagerly,
    finished_run,
    finished_whole,
    refusal,
    tiny_config,
    whole_config,
    write_images,
)
from tf_simclr import ingredients, pipeline
from tf_simclr.config import TRAIN_MODES, UserError
from tf_simclr.data import BatchPlan, choose_labelled, load_source
from tf_simclr.models import build_simclr_model
from tf_simclr.pipeline import results_table, semi_supervised
from tf_simclr.run_directory import claim_directory
from tf_simclr.schedules import WarmupCosine


def refusal_of_whole(config):
    with pytest.raises(UserError) as error:
        semi_supervised(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def trained(monkeypatch):
    """The steps that were trained, none of them really."""
    seen = []

    def pretend(self, actions):
        seen.append((self.config.train.train_mode, self.config, actions))
        return {"global_step": 2, "num_weights": 1_500_000, "actions": len(actions)}

    monkeypatch.setattr(pipeline.Experiment, "train", pretend)
    return seen


# ---- The steps and their table


def test_steps_run_in_order_each_with_its_own_actions(trained, tmp_path, log):
    config = whole_config(tmp_path)
    result = semi_supervised(config, lambda step: iter([step.model_dir, "x"]))
    assert [name for name, _, _ in trained] == list(TRAIN_MODES) == list(result)
    for name, step, actions in trained:
        assert step is config.steps[name]
        assert actions == (f"{tmp_path}/{name}", "x")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert [m for m in log.messages if m[0] == "["] == [f"[{i}/4] {n}" for i, n in enumerate(TRAIN_MODES, 1)]


def test_table_has_a_line_for_each_step(tmp_path):
    config = whole_config(tmp_path, "--distill.sk_ratio=0.0625", "--distill.resnet_depth=50")
    evaluated = {"eval/label_top_1_accuracy": 0.5, "eval/label_top_5_accuracy": 0.98765}
    results = {
        "pretrain": {"num_weights": 1_234_567, "global_step": 10},
        "distill": {"num_weights": 20_000, "global_step": 123_456} | evaluated,
    }
    assert results_table(config, results) == [
        "step        network                      weights    steps    top-1    top-5",
        "pretrain    ResNet-18 0.125x 8 px         1.23 M       10        -        -",
        "distill     ResNet-50 0.0625x SK 8 px     0.02 M   123456   50.00%   98.77%",
    ]


def test_results_that_cannot_be_written_are_one_line(trained, tmp_path):
    (tmp_path / "result.json").mkdir()
    message = refusal_of_whole(whole_config(tmp_path))
    assert message.startswith(f"--model_dir={tmp_path}: cannot write {tmp_path}/result.json (")


def test_directory_that_cannot_be_written_is_refused_before_training(trained, tmp_path):
    (tmp_path / "file").write_text("x")
    message = refusal_of_whole(whole_config(tmp_path / "file" / "run"))
    assert message.startswith(f"--model_dir={tmp_path}/file/run: cannot be written (")
    assert trained == []


def test_whole_run_that_was_moved_goes_on(trained, tmp_path):
    semi_supervised(whole_config(tmp_path / "old"))
    for name, step in whole_config(tmp_path / "old").steps.items():
        claim_directory(step)
        (tmp_path / "old" / name / "result.json").write_text("{}")
    (tmp_path / "old").rename(tmp_path / "new")
    semi_supervised(whole_config(tmp_path / "new"))
    assert len(trained) == 8
    message = refusal_of_whole(whole_config(tmp_path / "new", f"--distill.teacher={tmp_path}/other"))
    assert f"--teacher={tmp_path}/old/finetune there, {tmp_path}/other now" in message


def test_step_whose_start_was_deleted_is_refused(tmp_path):
    shutil.copytree(finished_run().directory, tmp_path / "finetune")
    claim_directory(whole_config(tmp_path).finetune)
    message = refusal_of_whole(whole_config(tmp_path))
    assert message.startswith(
        f"--model_dir={tmp_path}: finetune has begun, but pretrain, which it starts from, is gone"
    )


@pytest.mark.parametrize(
    "argument",
    ["--finetune.checkpoint=/no/such", "--distill.checkpoint=/no/such", "--distill.teacher=/no/such"],
)
def test_start_that_does_not_exist_is_refused_before_training(trained, tmp_path, argument):
    message = refusal_of_whole(whole_config(tmp_path, argument))
    assert message.startswith(f"{argument}: no such checkpoint")
    assert trained == []


def test_whole_method_from_another_network_does_not_pretrain(tmp_path):
    config = whole_config(tmp_path, f"--finetune.checkpoint={finished_run().directory}")
    assert list(config.steps) == ["finetune", "distill", "supervised"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--supervised.labels_per_class=5"], "--supervised.labels_per_class=5: finetuning has 4;"),
        (
            ["--distill.distill_alpha=0.5", "--distill.label_seed=1"],
            "--distill.label_seed=1: finetuning has 0;",
        ),
        (["--supervised.train_split=train[:50%]"], "--supervised.dataset=digits: takes its labels from "),
        (["--distill.strategy=mirrored"], "--distill.strategy=mirrored: all steps run on the same devices"),
    ],
)
def test_whole_method_refuses_steps_that_do_not_go_together(tmp_path, arguments, message):
    with pytest.raises(UserError) as error:
        whole_config(tmp_path, *arguments)
    assert str(error.value).startswith(message)


def test_pretraining_of_the_whole_method_sees_no_labels_where_there_are_few(tmp_path):
    assert not whole_config(tmp_path).pretrain.train.lineareval_while_pretraining
    assert whole_config(tmp_path, labels_per_class=0).pretrain.train.lineareval_while_pretraining
    other = whole_config(tmp_path, "--pretrain.train_split=train[:50%]", labels_per_class=0)
    assert not other.pretrain.train.lineareval_while_pretraining


def test_single_run_does_not_take_the_directory_of_an_interrupted_whole_one(tmp_path):
    config = whole_config(tmp_path)
    claim_directory(config)
    shutil.copytree(finished_run().directory, tmp_path / "pretrain")
    assert "--train_mode=semi_supervised there, pretrain now" in refusal(tiny_config(tmp_path))


def test_single_run_does_not_take_the_directory_of_a_whole_one(trained, tmp_path):
    semi_supervised(whole_config(tmp_path))
    assert "--train_mode=semi_supervised there, pretrain now" in refusal(tiny_config(tmp_path))


# ---- A whole run


@pytest.mark.slow
def test_whole_run_has_the_results_of_its_steps():
    run = finished_whole()
    assert list(run.result) == list(TRAIN_MODES)
    assert run.read_json("result.json") == run.result
    for name, result in run.result.items():
        assert result["global_step"] == 2
        assert run.read_json(f"{name}/result.json").items() >= result.items()
        assert ("eval/label_top_1_accuracy" in result) == (name != "pretrain")
        assert run.read_json(f"{name}/flags.json")["train_mode"] == name
        assert all(np.isfinite(value) for value in result.values())
    weights = [result["num_weights"] for result in run.result.values()]
    assert weights[2] < 0.5 * weights[1] < 0.5 * weights[0] and weights[1] == weights[3]


@pytest.mark.slow
def test_whole_run_starts_each_step_from_the_one_before():
    """What finetuning does not train is still as it was pretrained, and the baseline is not."""
    directory = finished_whole().directory
    name = "model/projection_head/layer2/norm/moving_mean/.ATTRIBUTES/VARIABLE_VALUE"
    pretrained, finetuned, supervised = (
        tf.train.load_checkpoint(f"{directory}/{step}/ckpt-2").get_tensor(name)
        for step in ("pretrain", "finetune", "supervised")
    )
    np.testing.assert_array_equal(pretrained, finetuned)
    assert np.abs(pretrained).max() > 0
    np.testing.assert_array_equal(supervised, 0)


@pytest.mark.slow
def test_whole_run_started_again_prints_its_table_and_changes_nothing(log):
    run, events = finished_whole(), []
    before = run.files()
    assert semi_supervised(run.config, lambda step: [events.append]) == run.result
    assert sum(message.startswith("Already finished: ") for message in log.messages) == 4
    assert log.messages[-5:] == results_table(run.config, run.result)
    assert events == []
    assert run.files() == before


@pytest.mark.slow
def test_whole_run_interrupted_in_each_step_equals_the_uninterrupted_to_the_bit(tmp_path, log):
    config, directory = whole_config(tmp_path / "cut"), tmp_path / "cut"

    def interrupt(event):
        if event.step == 1:
            raise KeyboardInterrupt

    for name in TRAIN_MODES:
        with pytest.raises(KeyboardInterrupt), eagerly():
            semi_supervised(config, lambda step, n=name: [interrupt] if step.train.train_mode == n else [])
        assert [path.name for path in (directory / name).glob("*.index")] == ["ckpt-1.index"]
        assert not (directory / "result.json").exists()
    with eagerly():
        result = semi_supervised(config)
    assert sum(message == "Going on from step 1 of 2." for message in log.messages) == 4
    assert sum(message.startswith("Starting from ") for message in log.messages) == 1
    assert result == finished_whole().result
    for name in TRAIN_MODES:
        whole = finished_whole().directory / name / "ckpt-2"
        assert differing_tensors(directory / name / "ckpt-2", whole) == [], name


# ---- Distillation as a run of its own


def distill_config(directory, **flags):
    """A run that distills what was finetuned, into a network like it."""
    settings = WHOLE | {"mode": "distill", "teacher": finished_whole().directory / "finetune"}
    return tiny_config(directory, **(settings | flags))


@pytest.mark.slow
def test_self_distillation_starts_from_its_teacher_and_leaves_it_alone(tmp_path, log):
    teacher = finished_whole().directory / "finetune"
    before, events = finished_whole().files(), []
    config = distill_config(tmp_path / "student", checkpoint=teacher, distill_temperature=0.1)
    result = tf_simclr.train_and_evaluate(config, [events.append])
    (line,) = (message for message in log.messages if message.startswith("Starting from "))
    assert "116 of 116 variables matched." in line
    assert not any("bigger" in message for message in log.messages)
    assert result["num_weights"] == finished_whole().result["finetune"]["num_weights"]
    assert all(0 <= event.metrics["teacher_agreement"] <= 1 for event in events)
    assert "supervised_loss" not in events[0].metrics
    assert differing_tensors(tmp_path / "student" / "ckpt-2", teacher / "ckpt-2") != []
    assert finished_whole().files() == before


def test_student_of_images_without_labels_has_the_classes_of_its_teacher(tmp_path):
    write_images(tmp_path / "flat", 32)
    config = distill_config(tmp_path / "student", dataset=f"folder:{tmp_path / 'flat'}", eval_split="train")
    with eagerly():
        tf_simclr.train_and_evaluate(config)
    names = json.loads((tmp_path / "student" / "class_names.json").read_text())
    assert names == list("0123456789")


@pytest.mark.slow
def test_distillation_with_labels_resumes_to_the_bit(tmp_path, log):
    def interrupt(event):
        if event.step == 1:
            raise KeyboardInterrupt

    def start(name, *actions):
        config = distill_config(tmp_path / name, distill_alpha=0.5, distill_labeled_share=0.25)
        return tf_simclr.train_and_evaluate(config, actions)

    events = []
    whole = start("whole", events.append)
    assert "8 of the 32 images of a batch are labelled." in log.messages
    for event in events:
        parts = event.metrics
        total = 0.5 * parts["distill_loss"] + 0.5 * 0.25 * parts["supervised_loss"] + parts["weight_decay"]
        assert parts["total_loss"] == pytest.approx(total, rel=1e-5)
    with pytest.raises(KeyboardInterrupt):
        start("cut", interrupt)
    assert start("cut") == whole
    assert differing_tensors(tmp_path / "whole" / "ckpt-2", tmp_path / "cut" / "ckpt-2") == []


# ---- What a step is made of


def make(directory="x", num_replicas=1, **flags):
    config = tiny_config(directory, **flags)
    return config, ingredients.make_ingredients(config, num_replicas)


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
        assert parts.labelled.num_examples == 10 * flags["labels_per_class"]


@pytest.mark.parametrize(
    ("flags", "count", "mend"),
    [({"labels_per_class": 20}, 5, "use 0.125 or 0.25."), ({"labels_per_class": 1}, 1, "use 0.125.")],
)
def test_labelled_share_that_replicas_cannot_share_is_refused(flags, count, mend):
    """Rounding it up would train something else on more replicas."""
    with pytest.raises(UserError) as error:
        make(num_replicas=4, **(DISTILL | flags))
    reason = f"{count} labelled images of a batch of 32 cannot be shared out evenly over 4 replicas; {mend}"
    assert str(error.value).startswith("--distill_labeled_share=")
    assert str(error.value).endswith(reason)


def test_labelled_share_that_leaves_no_place_is_refused():
    with pytest.raises(
        UserError, match=r"^--distill_labeled_share=0\.99: leaves no place for unlabelled images"
    ):
        make(**(DISTILL | {"distill_labeled_share": 0.99}))


def test_distillation_where_all_images_are_labelled_takes_them_in_place():
    config, parts = make(**DISTILL)
    assert (parts.labelled, parts.num_labelled, parts.source.num_examples) == (None, 32, 1347)
    (batch,) = ingredients.training_batches(
        config, parts, BatchPlan(global_batch_size=32), num_views=1, first_step=0
    ).take(1)
    assert batch["labels"].numpy().min() >= 0 and batch["views"][0].shape == (32, 8, 8, 3)


def test_batches_of_a_distillation_with_labels_have_them_last():
    config, parts = make(**(DISTILL | {"labels_per_class": 2, "distill_labeled_share": 0.25}))
    batches = ingredients.training_batches(
        config, parts, BatchPlan(global_batch_size=32), num_views=1, first_step=0
    )
    seen = []
    for batch in batches.take(3):
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


@pytest.mark.parametrize("mode", TRAIN_MODES)
def test_only_pretraining_sees_jitter_and_blur(mode, monkeypatch):
    views = []
    monkeypatch.setattr(ingredients, "train_dataset", lambda source, view, **settings: views.append(view))
    more = {"finetune": {"checkpoint": "y"}, "distill": {"teacher": "y"}}.get(mode, {})
    settings = {"use_blur": True, "use_flip": True, "color_jitter_strength": 0.7, "crop_min_area": 0.4}
    config, parts = make(mode=mode, **settings, **more)
    ingredients.training_batches(config, parts, BatchPlan(global_batch_size=32), num_views=1, first_step=0)
    (view,) = views
    assert (view.use_blur, view.color_jitter_strength) == (
        (True, 0.7) if mode == "pretrain" else (False, 0.0)
    )
    assert (view.use_flip, view.crop_min_area, view.random_rotation) == (True, 0.4, 15)


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
        np.testing.assert_array_equal(
            values[name], saved.get_tensor(f"model/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        )
    return values["supervised_head/kernel"].numpy(), line


def test_finetuning_keeps_a_head_that_was_trained_on_the_same_layer():
    kernel, line = start_finetuning()
    saved = tf.train.load_checkpoint(f"{finished_run().directory}/ckpt-{TOTAL_STEPS}").get_tensor(PROBE)
    np.testing.assert_array_equal(kernel, saved)
    assert np.abs(kernel).max() > 0
    assert "fresh" not in line
    prefix = f"{finished_run().directory}/ckpt-{TOTAL_STEPS}"
    np.testing.assert_array_equal(start_finetuning(checkpoint=prefix)[0], saved)


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


def test_finetuning_keeps_the_head_of_a_checkpoint_in_the_home(monkeypatch):
    directory = finished_run().directory
    monkeypatch.setenv("HOME", str(directory.parent))
    assert np.abs(start_finetuning(checkpoint=f"~/{directory.name}")[0]).max() > 0


def test_student_does_not_take_over_a_head_that_has_seen_other_labels():
    settings = {"labels_per_class": 5, "checkpoint": finished_run().directory, "proj_head_mode": "nonlinear"}
    config, parts = make(**(DISTILL | settings))
    model = build_simclr_model(config.model, 10)
    before = model.supervised_head.kernel.numpy()
    parts.initialize(model)
    np.testing.assert_array_equal(model.supervised_head.kernel, before)


# ---- Bad input: one line each, and nothing left behind


@pytest.fixture
def refused(tmp_path):
    def refuse(**flags):
        message = refusal(tiny_config(tmp_path / "run", **flags))
        assert not (tmp_path / "run").exists()
        return message

    return refuse


FINETUNE = {"mode": "finetune", "checkpoint": "y"}
SMALLEST = 131  # Eights among the digits for training.


def test_finetuning_without_a_checkpoint_is_refused(tmp_path):
    config = tiny_config(tmp_path / "run", **FINETUNE)
    message = refusal(dataclasses.replace(config, train=dataclasses.replace(config.train, checkpoint=None)))
    assert message.startswith("--checkpoint: not given, but finetuning starts from a pretrained network; ")


def test_distillation_without_a_teacher_is_refused(tmp_path):
    config = tiny_config(tmp_path / "run", mode="distill", teacher="y")
    message = refusal(dataclasses.replace(config, distill=dataclasses.replace(config.distill, teacher=None)))
    assert message.startswith("--teacher: not given, but distillation follows a teacher; ")


def test_more_labels_than_there_are_is_refused(refused):
    for settings in (FINETUNE, {"mode": "supervised"}, DISTILL):
        message = refused(labels_per_class=500, **settings)
        assert message == (
            f"--labels_per_class=500: digits (train) has {SMALLEST} labelled examples of its smallest class, 8; "
            f"use at most {SMALLEST}."
        )


def test_label_fraction_that_leaves_a_class_empty_is_refused(refused):
    message = refused(label_fraction=0.003, **FINETUNE)
    assert message.startswith("--label_fraction=0.003: digits (train) has ")
    assert "of which none would be left; use a larger share, or --labels_per_class." in message


def test_head_layer_beyond_the_checkpoints_head_is_refused(refused):
    settings = {"mode": "finetune", "checkpoint": finished_run().directory}
    message = refused(num_proj_layers=4, ft_proj_selector=4, **settings)
    assert message.startswith(
        f"--checkpoint={finished_run().directory}/ckpt-{TOTAL_STEPS}: another network; "
    )
    assert message.endswith("it was written with --num_proj_layers=3 (here 4).")
    with pytest.raises(UserError, match=r"^--ft_proj_selector=4: the projection head \(.*\) has 3 layer"):
        tiny_config("x", ft_proj_selector=4, **settings)


def test_checkpoint_and_teacher_that_do_not_exist_are_refused(refused, tmp_path):
    assert refused(mode="finetune", checkpoint=tmp_path / "no").startswith(
        f"--checkpoint={tmp_path}/no: no such checkpoint; "
    )
    assert refused(mode="distill", teacher=tmp_path / "no").startswith(
        f"--teacher={tmp_path}/no: no such checkpoint; "
    )


@pytest.mark.parametrize("mode", ["finetune", "distill", "supervised"])
def test_step_without_labels_is_refused(refused, tmp_path, mode):
    write_images(tmp_path / "images", 40)
    settings = {"dataset": f"folder:{tmp_path}/images", "eval_split": None}
    settings |= {"finetune": FINETUNE, "distill": DISTILL}.get(mode, {"mode": mode})
    message = refused(**settings)
    assert message.startswith(
        f"--train_split=train: folder:{tmp_path}/images (train) has no labels, which this "
    )


@pytest.mark.parametrize("settings", [FINETUNE, {"mode": "supervised"}, {"mode": "distill", "teacher": "y"}])
def test_directory_of_another_step_is_refused_and_kept(settings):
    before = finished_run().files()
    message = refusal(tiny_config(finished_run().directory, **settings))
    assert message.startswith(
        f"--model_dir={finished_run().directory}: holds a run with other settings (--train_mode=pretrain there, "
        f"{settings['mode']} now"
    )
    assert finished_run().files() == before


def test_whole_method_in_a_directory_with_other_settings_is_refused_before_it_trains(trained, tmp_path):
    config = whole_config(tmp_path, temperature=0.9)
    directory = tmp_path / "supervised"
    directory.mkdir()
    (directory / "flags.json").write_text(json.dumps(config.supervised.to_dict() | {"temperature": 0.5}))
    (directory / "result.json").write_text("{}")
    message = refusal_of_whole(config)
    assert message.startswith(
        f"--model_dir={directory}: holds a run with other settings (--temperature=0.5 there"
    )
    assert trained == []


@pytest.mark.parametrize(
    ("flags", "arguments", "message"),
    [
        ({"labels_per_class": 500}, [], "--labels_per_class=500: "),
        ({}, ["--distill.train_batch_size=5000"], "--train_batch_size=5000: "),
    ],
)
def test_whole_method_refuses_what_a_later_step_cannot_do_before_it_trains(
    trained, tmp_path, flags, arguments, message
):
    assert message in refusal_of_whole(whole_config(tmp_path, *arguments, **flags))
    assert trained == []


def test_whole_method_and_a_single_run_do_not_share_a_directory(trained, tmp_path):
    for path in finished_run().directory.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert refusal_of_whole(whole_config(tmp_path)).startswith(f"--model_dir={tmp_path}: ")
    assert json.loads((tmp_path / "result.json").read_text()).items() >= finished_run().result.items()


def test_whole_method_finetunes_the_network_that_it_pretrains(tmp_path):
    with pytest.raises(UserError) as error:
        whole_config(tmp_path, "--finetune.num_proj_layers=3")
    assert str(error.value).startswith("--finetune.num_proj_layers=3: the network is pretrained with 2; ")


def test_whole_method_may_change_the_precision_where_the_weights_stay_the_same(tmp_path):
    config = whole_config(
        tmp_path, "--pretrain.precision=mixed_bfloat16", "--distill.precision=mixed_float16"
    )
    assert (config.pretrain.model.precision, config.finetune.model.precision) == ("mixed_bfloat16", "float32")
    with pytest.raises(UserError) as error:
        whole_config(tmp_path, "--finetune.precision=float64")
    assert str(error.value).startswith(
        "--finetune.precision=float64: the network is pretrained with float32; "
    )
