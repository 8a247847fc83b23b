"""Bad input to the curve of accuracy against the number of labels: one line each, before anything is trained."""

import pytest

from flags.convert import parse_command_line
from tests.support.runs import (
    whole_config,
    write_images,
)
from tests.workflows.test_label_efficiency import curve_config, refusal
from tf_simclr.config import UserError
from tf_simclr.runs.directory import claim_directory
from tf_simclr.workflows import label_efficiency
from tf_simclr.workflows.semi_supervised import semi_supervised

# ---- Bad input: one line each, before anything is trained


@pytest.fixture
def trained(monkeypatch):
    """The runs that were trained, none of them really; their data is opened."""
    seen = []

    def pretend(self, actions, *, later_work=0.0):
        seen.append(self.config)
        return {"global_step": 1}

    monkeypatch.setattr(label_efficiency.Experiment, "train", pretend)
    return seen


@pytest.mark.parametrize("value", ["1,x", "0,1", "-1,3", "1,,3", "1.5,2", ","])
def test_labels_that_are_no_numbers_are_refused(value):
    message = refusal(labels_per_class=value)
    assert message.startswith(f"--labels_per_class={value}: use whole numbers of at least 1, with commas")


@pytest.mark.parametrize("arguments", [["--mode=supervised"], ["--mode=linear_eval", "--checkpoint=x"], []])
def test_other_modes_take_one_number_of_labels(arguments):
    with pytest.raises(UserError) as error:
        parse_command_line([*arguments, "--dataset=digits", "--labels_per_class=1,10"])
    assert str(error.value) == (
        "--labels_per_class=1,10: use one whole number; only --mode=label_efficiency takes several, with commas "
        "between them."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num_seeds=0", ": use at least 1."),
        ("--efficiency_methods=finetune,knn", ": use one or more of finetune, "),
        ("--efficiency_methods=distill", ": the student's teacher is the finetuned "),
        ("--num_pretrained=3", ": use 1 to 2, the value of --num_seeds."),
        ("--num_pretrained=2 --checkpoint=x", ": all draws start from --checkpoint; leave one of them out."),
        ("--efficiency_baseline=distill", ": use one of --efficiency_methods, or the dir"),
        ("--efficiency_baseline=/none", ": is no method, and no directory of a finished"),
        ("--label_fraction=0.1", ": has no meaning with --mode=label_efficiency; "),
        ("--finetune.labels_per_class=5", ": cannot differ between the stages; "),
        ("--supervised.label_seed=5", ": finetuning has 0; "),
        ("--supervised.eval_split=train", ": finetuning has test; "),
        ("--distill.learning_rate=1", ": this stage is not run; leave it out"),
        ("--pretrain.temperature=1 --checkpoint=x", ": this stage is not run; leave it out"),
        ("--teacher=x", ": the teacher is the network finetuned on the same labels; "),
        ("--train_mode=finetune", ": contradicts --mode=label_efficiency; "),
        ("--finetune.num_proj_layers=3", ": the network is pretrained with 2; "),
        ("--checkpoint=/no/such", ": no such checkpoint"),
        ("--checkpoint=tests", ": no checkpoint in this directory"),
    ],
)
def test_curve_that_makes_no_sense_is_refused(trained, arguments, message):
    first, *others = arguments.split()
    assert refusal(first, *others).startswith(first + message)
    assert trained == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--supervised.checkpoint=x", "--checkpoint=x: the supervised baseline starts from scratch; "),
        ("--labels_per_class=1,500", "--labels_per_class=500: digits (train) has 131 labelled examples of its sm"),
        ("--finetune.profile_steps=5,6", "--profile_steps=5,6: the run has 1 step;"),
    ],
)
def test_curve_with_a_stage_that_makes_no_sense_is_refused(trained, argument, message):
    assert refusal(argument).startswith(message)
    assert trained == []


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([""], "--train_split=train: folder:{} (train) has no labels, which this"),
        (["cat", "dog"], "--eval_split: folder:{} has no labelled images to evaluate on; name "),
    ],
)
def test_images_without_labels_to_learn_from_or_to_evaluate_on_are_refused(trained, tmp_path, folders, message):
    for name in folders:
        write_images(tmp_path / "photos" / name, 20)
    refused = refusal(dataset=f"folder:{tmp_path}/photos", eval_split=None, train_batch_size=8)
    assert refused.startswith(message.format(tmp_path / "photos"))
    assert trained == []


def test_directory_of_another_kind_of_run_is_refused(trained, tmp_path):
    semi_supervised(whole_config(tmp_path / "whole"))
    message = refusal(model_dir=tmp_path / "whole")
    assert "(--train_mode=semi_supervised there, label_efficiency now)" in message
    claim_directory(curve_config(tmp_path / "curve"))
    place = tmp_path / "curve" / "labels_1" / "seed_0" / "finetune"
    place.mkdir(parents=True)
    (place / "ckpt-1.index").touch()
    with pytest.raises(UserError, match=r"\(--train_mode=label_efficiency there, semi_supervised now\)"):
        semi_supervised(whole_config(tmp_path / "curve"))
