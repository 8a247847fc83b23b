"""Distillation as a run of its own."""

import pytest

import tf_simclr
from tests.support.runs import (
    WHOLE,
    differing_tensors,
    eagerly,
    finished_whole,
    tiny_config,
    write_images,
)
from tf_simclr.schedules import WarmupCosine
from tf_simclr.training.assembly import assemble
from tf_simclr.training.begun_data import BegunData


def distill_config(directory, **flags):
    """A run that distills what was finetuned, into a network like it."""
    settings = WHOLE | {"mode": "distill", "teacher": finished_whole().directory / "finetune"}
    return tiny_config(directory, **(settings | flags))


@pytest.mark.slow
def test_self_distillation_starts_from_its_teacher_and_leaves_it_alone(tmp_path, log):
    teacher = finished_whole().directory / "finetune"
    before, events = finished_whole().files(), []
    config = distill_config(tmp_path / "student", checkpoint=teacher, distill_temperature=0.1)
    log.clear()  # The finished run may have been made here.
    with eagerly():
        result = tf_simclr.train_and_evaluate(config, [events.append])
    (line,) = (message for message in log.messages if message.startswith("Starting from "))
    assert "76 of 76 variables matched." in line
    assert not any("bigger" in message for message in log.messages)
    assert result["num_weights"] == finished_whole().result["finetune"]["num_weights"]
    assert all(0 <= event.metrics["teacher_agreement"] <= 1 for event in events)
    assert "supervised_loss" not in events[0].metrics
    assert differing_tensors(tmp_path / "student" / "ckpt-2", teacher / "ckpt-2") != []
    assert finished_whole().files() == before


@pytest.mark.slow
def test_student_of_images_without_labels_has_the_classes_of_its_teacher(tmp_path):
    write_images(tmp_path / "flat", 32)
    config = distill_config(tmp_path / "student", dataset=f"folder:{tmp_path / 'flat'}", eval_split="train")
    parts = assemble(config, 1)
    assert parts.make_task(WarmupCosine(1.0, 0, 1)).model.num_classes == 10
    assert BegunData(config, None, parts).to_remember(10).class_names == tuple("0123456789")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_distillation_with_labels_resumes_to_the_bit(tmp_path, log):
    def interrupt(event):
        if event.step == 1:
            raise KeyboardInterrupt

    def start(name, *actions):
        config = distill_config(tmp_path / name, distill_alpha=0.5, distill_labeled_share=0.25)
        with eagerly():
            return tf_simclr.train_and_evaluate(config, actions)

    whole = start("whole")
    assert "8 of the 32 images of a batch are labelled." in log.messages
    with pytest.raises(KeyboardInterrupt):
        start("cut", interrupt)
    assert start("cut") == whole
    assert differing_tensors(tmp_path / "whole" / "ckpt-2", tmp_path / "cut" / "ckpt-2") == []
