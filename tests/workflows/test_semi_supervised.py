"""The whole method: its stages, the start of each, going on after an interruption, and bad input."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.support.runs import (
    TOTAL_STEPS,
    differing_tensors,
    eagerly,
    finished_run,
    finished_whole,
    refusal,
    tiny_config,
    whole_config,
)
from tf_simclr.config import TRAIN_MODES, UserError
from tf_simclr.runs.directory import claim_directory
from tf_simclr.workflows import semi_supervised as pipeline
from tf_simclr.workflows.semi_supervised import results_table, semi_supervised


def refusal_of_whole(*arguments, **flags):
    with pytest.raises(UserError) as error:
        semi_supervised(whole_config(*arguments, **flags))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def trained(monkeypatch):
    """The stages that were trained, none of them really."""
    seen = []

    def pretend(self, actions, *, later_work):
        seen.append((self.config.train.train_mode, self.config, actions))
        return {"global_step": 2, "num_weights": 1_500_000, "actions": len(actions)}

    monkeypatch.setattr(pipeline.Experiment, "train", pretend)
    return seen


# ---- The stages and their table


def test_stages_run_in_order_each_with_its_own_actions(trained, tmp_path, log):
    config = whole_config(tmp_path)
    result = semi_supervised(config, lambda step: iter([step.model_dir, "x"]))
    assert [name for name, _, _ in trained] == list(TRAIN_MODES) == list(result)
    for name, step, actions in trained:
        assert step is config.stages[name]
        assert actions == (f"{tmp_path}/{name}", "x")
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert [m for m in log.messages if m[0] == "["] == [f"[{i}/4] {n}" for i, n in enumerate(TRAIN_MODES, 1)]


def test_table_has_a_line_for_each_stage(tmp_path):
    config = whole_config(tmp_path, "--distill.sk_ratio=0.0625", "--distill.resnet_depth=50")
    evaluated = {"eval/label_top_1_accuracy": 0.5, "eval/label_top_5_accuracy": 0.98765}
    results = {
        "pretrain": {"num_weights": 1_234_567, "global_step": 10},
        "distill": {"num_weights": 20_000, "global_step": 123_456} | evaluated,
    }
    assert results_table(config, results) == [
        "stage       network                      weights    steps    top-1    top-5",
        "pretrain    ResNet-10 0.125x 8 px         1.23 M       10        -        -",
        "distill     ResNet-50 0.0625x SK 8 px     0.02 M   123456   50.00%   98.77%",
    ]


def test_directory_and_results_that_cannot_be_written_are_one_line(trained, tmp_path):
    (tmp_path / "file").write_text("x")
    message = refusal_of_whole(tmp_path / "file" / "run")
    assert message.startswith(f"--model_dir={tmp_path}/file/run: cannot be written (")
    assert trained == []
    (tmp_path / "run" / "result.json").mkdir(parents=True)
    message = refusal_of_whole(tmp_path / "run")
    assert message.startswith(f"--model_dir={tmp_path}/run: cannot write {tmp_path}/run/result.json (")


def test_whole_run_that_was_moved_goes_on(trained, tmp_path):
    semi_supervised(whole_config(tmp_path / "old"))
    for name, stage in whole_config(tmp_path / "old").stages.items():
        claim_directory(stage)
        (tmp_path / "old" / name / "result.json").write_text("{}")
    (tmp_path / "old").rename(tmp_path / "new")
    semi_supervised(whole_config(tmp_path / "new"))
    assert len(trained) == 8
    message = refusal_of_whole(tmp_path / "new", f"--distill.teacher={tmp_path}/other")
    assert f"--teacher={tmp_path}/old/finetune there, {tmp_path}/other now" in message


def test_stage_whose_start_was_deleted_is_refused(tmp_path):
    shutil.copytree(finished_run().directory, tmp_path / "finetune")
    claim_directory(whole_config(tmp_path).finetune)
    message = refusal_of_whole(tmp_path)
    assert message.startswith(
        f"--model_dir={tmp_path}: finetune has begun, but pretrain, which it starts from, is gone"
    )


@pytest.mark.parametrize("setting", ["finetune.checkpoint", "distill.checkpoint", "distill.teacher"])
def test_start_that_does_not_exist_is_refused_before_training(trained, tmp_path, setting):
    message = refusal_of_whole(tmp_path, f"--{setting}=/no/such")
    assert message.startswith(f"--{setting}=/no/such: no such checkpoint")
    assert trained == []


def test_teacher_in_a_bucket_is_refused_before_training(trained, tmp_path):
    with tf.io.gfile.GFile("ram://pipeline/saved_model.pb", "w") as file:
        file.write("never loaded")
    argument = "--distill.teacher=ram://pipeline"
    message = refusal_of_whole(tmp_path, argument)
    assert message.startswith(f"{argument}: would be fetched")
    assert trained == []
    semi_supervised(whole_config(tmp_path, argument, "--distill.allow_remote_teacher=True"))


def test_whole_method_from_another_network_does_not_pretrain(tmp_path):
    config = whole_config(tmp_path, f"--finetune.checkpoint={finished_run().directory}")
    assert list(config.stages) == ["finetune", "distill", "supervised"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--supervised.labels_per_class=5"], "--supervised.labels_per_class=5: finetuning has 4;"),
        (["--distill.distill_alpha=0.5", "--distill.label_seed=1"], "--distill.label_seed=1: finetuning has 0;"),
        (["--supervised.train_split=train[:50%]"], "--supervised.dataset=digits: takes its labels from "),
        (["--distill.strategy=mirrored"], "--distill.strategy=mirrored: all stages run on the same devices"),
        (["--finetune.num_proj_layers=3"], "--finetune.num_proj_layers=3: the network is pretrained with 2; "),
        (["--finetune.precision=float64"], "--finetune.precision=float64: the network is pretrained with float32; "),
    ],
)
def test_whole_method_refuses_stages_that_do_not_go_together(tmp_path, arguments, message):
    with pytest.raises(UserError) as error:
        whole_config(tmp_path, *arguments)
    assert str(error.value).startswith(message)


def test_stages_may_differ_in_precision_if_the_weights_stay_the_same(tmp_path):
    config = whole_config(tmp_path, "--pretrain.precision=mixed_bfloat16", "--distill.precision=mixed_float16")
    assert (config.pretrain.model.precision, config.finetune.model.precision) == ("mixed_bfloat16", "float32")


def test_pretraining_of_the_whole_method_sees_no_labels_if_there_are_few(tmp_path):
    assert not whole_config(tmp_path).pretrain.train.lineareval_while_pretraining
    assert whole_config(tmp_path, labels_per_class=0).pretrain.train.lineareval_while_pretraining
    other = whole_config(tmp_path, "--pretrain.train_split=train[:50%]", labels_per_class=0)
    assert not other.pretrain.train.lineareval_while_pretraining


@pytest.mark.parametrize("is_finished", [True, False])
def test_single_run_does_not_take_the_directory_of_a_whole_one(trained, tmp_path, is_finished):
    if is_finished:
        semi_supervised(whole_config(tmp_path))
    else:
        claim_directory(whole_config(tmp_path))
        shutil.copytree(finished_run().directory, tmp_path / "pretrain")
    assert "--train_mode=semi_supervised there, pretrain now" in refusal(tiny_config(tmp_path))


# ---- A whole run


@pytest.mark.slow
@pytest.mark.stack
def test_whole_run_has_the_results_of_its_stages():
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
def test_whole_run_starts_each_stage_from_the_one_before():
    """A layer that finetuning does not train stays as it was pretrained; that of the baseline does not."""
    directory = finished_whole().directory
    name = "model/projection_head/layer2/norm/moving_mean/.ATTRIBUTES/VARIABLE_VALUE"
    pretrained, finetuned, supervised = (
        tf.train.load_checkpoint(f"{directory}/{stage}/ckpt-2").get_tensor(name)
        for stage in ("pretrain", "finetune", "supervised")
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
def test_whole_run_interrupted_in_two_stages_equals_the_uninterrupted_to_the_bit(tmp_path, log):
    config, directory, whole = whole_config(tmp_path / "cut"), tmp_path / "cut", finished_whole()
    for name in ("pretrain", "supervised"):  # They are finished already.
        shutil.copytree(whole.directory / name, directory / name)

    def interrupt(event):
        if event.step == 1:
            raise KeyboardInterrupt

    for name in ("finetune", "distill"):
        with pytest.raises(KeyboardInterrupt), eagerly():
            semi_supervised(config, lambda step, n=name: [interrupt] if step.train.train_mode == n else [])
        assert [path.name for path in (directory / name).glob("*.index")] == ["ckpt-1.index"]
        assert not (directory / "result.json").exists()
    with eagerly():
        result = semi_supervised(config)
    assert sum(message == "Going on from step 1 of 2." for message in log.messages) == 2
    assert sum(message.startswith("Starting from ") for message in log.messages) == 1
    assert result == whole.result
    for name in TRAIN_MODES:
        assert differing_tensors(directory / name / "ckpt-2", whole.directory / name / "ckpt-2") == [], name


# ---- Bad input: one line each, and nothing left behind


FINETUNE = {"mode": "finetune", "checkpoint": "y"}
DISTILL = {"mode": "distill", "teacher": "y", "distill_alpha": 0.5}


@pytest.mark.parametrize(("group", "setting"), [("train", "checkpoint"), ("distill", "teacher")])
def test_stage_without_its_start_is_refused(tmp_path, group, setting):
    config = tiny_config(tmp_path / "run", **(FINETUNE if group == "train" else DISTILL))
    nameless = dataclasses.replace(getattr(config, group), **{setting: None})
    starts = {"train": "finetuning starts from a pretrained network; ", "distill": "distillation follows a teacher; "}
    message = refusal(dataclasses.replace(config, **{group: nameless}))
    assert message.startswith(f"--{setting}: not given, but {starts[group]}")


@pytest.mark.slow
def test_head_layer_beyond_the_checkpoints_head_is_refused(tmp_path):
    settings = {"mode": "finetune", "checkpoint": finished_run().directory}
    message = refusal(tiny_config(tmp_path / "run", num_proj_layers=4, ft_proj_selector=4, **settings))
    assert message.startswith(f"--checkpoint={finished_run().directory}/ckpt-{TOTAL_STEPS}: another network; ")
    assert message.endswith("it was written with --num_proj_layers=3 (here 4).")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"^--ft_proj_selector=4: the projection head \(.*\) has 3 layer"):
        tiny_config("x", ft_proj_selector=4, **settings)


def test_stage_with_other_settings_is_refused_before_any_trains(trained, tmp_path):
    directory = tmp_path / "supervised"
    directory.mkdir()
    settings = whole_config(tmp_path, temperature=0.9).supervised.to_dict() | {"temperature": 0.5}
    (directory / "flags.json").write_text(json.dumps(settings))
    (directory / "result.json").write_text("{}")
    message = refusal_of_whole(tmp_path, temperature=0.9)
    assert message.startswith(f"--model_dir={directory}: holds a run with other settings (--temperature=0.5 there")
    assert trained == []


def test_whole_method_that_another_process_has_begun_meanwhile_keeps_its_settings(trained, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def owned_after_another_process(directory, *, owns):
        (tmp_path / "flags.json").write_text(json.dumps({"train_mode": "label_efficiency"}))
        (tmp_path / "result.json").write_text("{}")
        yield

    monkeypatch.setattr(pipeline, "owning_directory", owned_after_another_process)
    assert "--train_mode=label_efficiency there" in refusal_of_whole(tmp_path)
    assert json.loads((tmp_path / "flags.json").read_text()) == {"train_mode": "label_efficiency"}
    assert trained == []


@pytest.mark.parametrize("argument", ["--labels_per_class=500", "--train_batch_size=5000"])
def test_whole_method_refuses_what_a_later_stage_cannot_do_before_it_trains(trained, tmp_path, argument):
    stage = "--distill." if "batch" in argument else "--"
    assert f"{argument}: " in refusal_of_whole(tmp_path, argument.replace("--", stage))
    assert trained == []


def test_whole_method_and_a_single_run_do_not_share_a_directory(trained, tmp_path):
    for path in finished_run().directory.glob("*.json"):
        shutil.copy(path, tmp_path)
    assert refusal_of_whole(tmp_path).startswith(f"--model_dir={tmp_path}: ")
    assert json.loads((tmp_path / "result.json").read_text()).items() >= finished_run().result.items()
