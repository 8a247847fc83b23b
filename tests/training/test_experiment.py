"""Whole runs on tiny networks: results, resuming, evaluation, unlabelled data, heads, replicas."""

import dataclasses
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

import tf_simclr
from exports.export import SavedModelExport
from tests.support.marks import usual
from tests.support.networks import two_replicas
from tests.support.runs import (
    TOTAL_STEPS,
    differing_tensors,
    eagerly,
    finished_run,
    read_tensors,
    refusal,
    tiny_config,
)
from tf_simclr.config import UserError
from tf_simclr.data import load_eval_source
from tf_simclr.metrics.confusion import read_confusion
from tf_simclr.runs.data import RunData, write_run_data
from tf_simclr.runs.results import ResultFiles
from tf_simclr.training import evaluator
from tf_simclr.training.assembly import assemble
from tf_simclr.training.begun_data import BegunData
from tf_simclr.training.evaluation_loop import Evaluation
from tf_simclr.training.evaluator import Evaluator, total_steps_of_run
from tf_simclr.training.experiment import Experiment, train_and_evaluate


@pytest.fixture
def copy(tmp_path):
    """A directory of its own with the finished run, and that run's settings for it."""
    shutil.copytree(finished_run().directory, tmp_path / "run")
    return tmp_path / "run"


# ---- A run that finishes


def test_run_ends_at_the_exact_step_and_writes_its_files():
    run = finished_run()
    result = run.result
    assert result["global_step"] == TOTAL_STEPS
    assert 0 <= result["eval/label_top_1_accuracy"] <= result["eval/label_top_5_accuracy"] <= 1
    assert (result["eval/num_examples"], result["eval/num_bad_images"]) == (450, 0)
    evaluated = {
        "eval_split": "test",
        "eval_steps": 0,
        "eval_fingerprint": run.read_json("result.json")["eval_fingerprint"],
    }
    assert run.read_json("result.json") == run.read_json(f"result_{TOTAL_STEPS}.json") == result | evaluated
    assert run.read_json("flags.json")["train_steps"] == TOTAL_STEPS
    assert (run.directory / "saved_model" / str(TOTAL_STEPS) / "saved_model.pb").exists()
    names = {path.name.partition(".")[0] for path in run.directory.glob("ckpt-*")}
    assert names == {"ckpt-2", "ckpt-4", "ckpt-6"}
    assert not list(run.directory.rglob("*.tmp*"))


def test_run_writes_a_confusion_matrix_that_agrees_with_its_scores():
    run = finished_run()
    counts, names = read_confusion(str(run.directory / "result_confusion.csv"))
    assert names == tuple("0123456789")
    assert counts.sum() == 450
    assert run.result["eval/label_top_1_accuracy"] == pytest.approx(np.trace(counts) / 450)
    per_class = np.diag(counts) / counts.sum(axis=1)
    assert run.result["eval/mean_per_class_accuracy"] == pytest.approx(per_class.mean())
    assert 0 < run.result["eval/expected_calibration_error"] < 1


def evaluated(result):
    """The part of a run's result that an evaluation alone knows."""
    return {name: value for name, value in result.items() if not name.startswith("train/")}


@pytest.mark.slow
@pytest.mark.distributed
def test_evaluation_on_two_replicas_is_that_on_one(copy):
    result = Experiment(tiny_config(copy, mode="eval"), two_replicas()).evaluate_each_checkpoint()
    assert result == pytest.approx(evaluated(finished_run().result), rel=1e-4)
    name = "result_confusion.csv"
    assert (copy / name).read_bytes() == (finished_run().directory / name).read_bytes()


def test_run_gives_events_with_finite_metrics_and_its_result_with_the_last():
    events = finished_run().events
    assert [event.step for event in events] == [1, 2, 4, 6]
    assert all(np.isfinite(list(event.metrics.values())).all() for event in events)
    assert [event.result for event in events] == [None, None, None, finished_run().result]


def test_run_writes_what_it_learned_from():
    assert finished_run().read_json("class_names.json") == list("0123456789")
    data = finished_run().read_json("data.json")
    assert (data["num_images"], data["num_classes"], len(data["fingerprint"])) == (1347, 10, 64)


def test_run_started_again_prints_its_result_and_changes_nothing(log, without_network):
    before, events = finished_run().files(), []
    result = train_and_evaluate(finished_run().config, [events.append])
    assert result == finished_run().result
    assert log.messages[-1].startswith("Already finished: linear probe top-1 ")
    assert events == []
    assert finished_run().files() == before


def test_run_whose_export_has_no_place_is_refused_before_training(tmp_path, without_network):
    directory = tmp_path / "run"
    foreign = directory / "saved_model" / str(TOTAL_STEPS)
    foreign.mkdir(parents=True)
    with pytest.raises(UserError, match=f"^{foreign}: not written by tf_simclr; move it away"):
        train_and_evaluate(tiny_config(directory), [SavedModelExport(str(directory))])
    assert list(directory.rglob("*")) == [foreign.parent, foreign]


@pytest.mark.slow
def test_run_whose_last_action_fails_keeps_its_result_and_is_finished_by_the_next_start(copy):
    """An action that fails may be an export on a full disk."""

    def fail(event):
        if event.is_last:
            raise UserError("disk full")

    for path in copy.glob("result*.json"):
        path.unlink()
    with pytest.raises(UserError, match="disk full"):
        train_and_evaluate(tiny_config(copy), [fail])
    written = f"result_{TOTAL_STEPS}.json"
    assert [path.name for path in copy.glob("result*.json")] == [written]
    assert (copy / written).read_bytes() == (finished_run().directory / written).read_bytes()
    events = []
    assert train_and_evaluate(tiny_config(copy), [events.append]) == finished_run().result
    assert [event.result for event in events] == [finished_run().result]
    assert (copy / "result.json").exists()


# ---- Going on


@pytest.mark.slow
def test_run_interrupted_and_resumed_equals_the_uninterrupted_to_the_bit(tmp_path, log):
    def interrupt(event):
        if event.step == 3:
            raise KeyboardInterrupt

    config = tiny_config(tmp_path / "run", steps_per_loop=1)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, [interrupt])
    assert (tmp_path / "run" / "ckpt-2.index").exists()

    log.clear()
    events = []
    result = train_and_evaluate(tiny_config(tmp_path / "run", keep_checkpoint_max=1), [events.append])
    assert "Going on from step 2 of 6." in log.messages
    assert [event.step for event in events] == [3, 4, 6]
    uninterrupted = finished_run()
    assert differing_tensors(tmp_path / "run" / "ckpt-6", uninterrupted.directory / "ckpt-6") == []
    assert result == uninterrupted.result
    assert [path.name for path in (tmp_path / "run").glob("*.index")] == ["ckpt-6.index"]


@pytest.mark.slow
def test_run_interrupted_in_its_evaluation_evaluates_without_training(copy, log):
    for path in copy.glob("result*.json"):
        path.unlink()
    (copy / "result.json").write_text("{")  # And one that was damaged.
    before = (copy / "ckpt-6.index").stat().st_mtime_ns
    events = []
    result = train_and_evaluate(tiny_config(copy), [events.append])
    assert result == finished_run().result
    assert [(event.step, event.num_steps) for event in events] == [(6, 0)]
    assert (copy / "ckpt-6.index").stat().st_mtime_ns == before


@pytest.mark.slow
def test_finished_run_with_another_eval_split_is_evaluated_again(copy, log):
    result = train_and_evaluate(tiny_config(copy, eval_split="train[:100]"))
    assert result["eval/num_examples"] == 100
    assert train_and_evaluate(tiny_config(copy, eval_split="train[:100]")) == result


# ---- Evaluation by itself


def test_eval_of_a_finished_run_gives_its_result(copy):
    config = tiny_config(copy, mode="eval", eval_name="again", eval_batch_size=64)
    result = train_and_evaluate(config)
    expected = finished_run().result
    assert result == pytest.approx(evaluated(expected), abs=1e-6)
    assert (copy / "result_again.json").exists()
    assert finished_run().read_json("result.json").items() >= expected.items()


@pytest.mark.slow
def test_eval_steps_count_batches(copy):
    few = {"mode": "eval", "eval_steps": 2, "eval_batch_size": 64}
    assert refusal(tiny_config(copy, **few)).startswith("--eval_name: not given, but ")
    result = train_and_evaluate(tiny_config(copy, eval_name="few", **few))
    assert result["eval/num_examples"] == 128


def test_eval_of_a_run_with_other_settings_is_refused(copy, without_network, monkeypatch):
    monkeypatch.setattr(Evaluator, "why_not", None)
    message = refusal(tiny_config(copy, mode="eval", train_steps=7))
    assert "--train_steps=6 there, 7 now" in message


@pytest.fixture
def nothing_evaluated(without_network, monkeypatch):
    """Leaves out what an evaluation does with a checkpoint, for tests of what it waits for."""
    task = types.SimpleNamespace(model=types.SimpleNamespace(num_classes=None))
    monkeypatch.setattr(Experiment, "task", task)
    monkeypatch.setattr(Evaluator, "why_not", None)
    monkeypatch.setattr(evaluator, "Checkpoints", lambda directory, task: None)


def test_eval_says_what_it_waits_for_and_gives_up_in_time(tmp_path, log, nothing_evaluated):
    directory = tmp_path / "typo"
    message = refusal(tiny_config(directory, mode="eval", eval_timeout=1))
    assert message == (
        f"--eval_timeout=1: no checkpoint has come to {directory} in so many seconds; see whether its training runs, "
        "or wait longer."
    )
    assert log.messages[-1] == (
        f"Waiting for the first checkpoint in {directory}, which does not exist yet, at most 00:01 (--eval_timeout)."
    )


def test_eval_ends_with_the_run_whatever_the_data_is_today(tmp_path, nothing_evaluated):
    epoch = {"train_steps": 0, "train_epochs": 1, "train_batch_size": 32}
    config = tiny_config(tmp_path, mode="eval", **epoch)
    planned = Experiment(config).plan.total_steps
    assert total_steps_of_run(config, planned) == planned == 1347 // 32 + 1
    write_run_data(str(tmp_path), RunData(None, num_images=64, fingerprint=""))  # The training begins.
    assert total_steps_of_run(config, planned) == 64 // 32 + 1


def test_eval_that_began_before_its_run_checks_the_classes_of_the_run(tmp_path, nothing_evaluated):
    config = tiny_config(tmp_path, mode="eval")
    begun, source = BegunData(config, None, assemble(config, 1)), load_eval_source(config.data)
    begun.check_begun_since(source)
    write_run_data(str(tmp_path), RunData(tuple("0123456789")))  # The training begins.
    begun.check_begun_since(source)
    write_run_data(str(tmp_path), RunData(tuple("123456789")))
    with pytest.raises(UserError, match=r"began after this evaluation, with other classes; start the evaluation"):
        begun.check_begun_since(source)


def test_eval_makes_its_batches_once(tmp_path, monkeypatch):
    """TensorFlow keeps the graphs of a data set: about 1 MB an evaluation, while a training is followed."""
    scores = {"eval/num_bad_images": 0, "eval/num_examples": 450}
    nothing = Evaluation(scores, np.zeros(0, np.int64), np.zeros(0, np.int64))
    seen = []
    monkeypatch.setattr(evaluator, "evaluate", lambda run, batches, **options: seen.append(batches) or nothing)
    config = tiny_config(tmp_path, mode="eval")
    model = types.SimpleNamespace(supervised_head=True, num_used_weights=0)
    task = types.SimpleNamespace(model=model, optimizer=types.SimpleNamespace(iterations=tf.constant(1)))
    source = load_eval_source(config.data)
    evaluation = Evaluator(config, tf.distribute.get_strategy(), task, source, ResultFiles(config))
    for _ in range(2):
        evaluation.evaluate()
    assert seen[0] is seen[1]


def test_eval_without_a_probe_is_refused(tmp_path):
    message = refusal(tiny_config(tmp_path / "run", mode="eval", lineareval_while_pretraining=False))
    assert message.startswith("--mode=eval: nothing to evaluate, because there is no linear probe; use ")
    assert not (tmp_path / "run").exists()


# ---- Heads, losses and devices


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    usual(
        {"sk_ratio": 0.0625, "se_ratio": 0.25, "global_bn": False, "proj_head_mode": "none", "optimizer": "momentum"},
        also=[
            {"proj_head_mode": "linear", "ft_proj_selector": 1},
            {"num_proj_layers": 1, "contrastive_loss": "decoupled_nt_xent"},
            {"ft_proj_selector": -1, "optimizer": "adam"},
        ],
    ),
    ids=str,
)
def test_every_head_trains_and_is_evaluated(tmp_path, flags):
    with eagerly():
        result = train_and_evaluate(tiny_config(tmp_path / "run", train_steps=1, eval_steps=1, **flags))
    assert (result["global_step"], result["eval/num_examples"]) == (1, 150)


@pytest.mark.slow
def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    config = tiny_config(tmp_path / "run", checkpoint_steps=1, train_steps=40, optimizer="momentum")
    broken = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, warmup_epochs=1))
    object.__setattr__(broken.optimizer, "learning_rate", 1e25)  # Which a configuration refuses.
    message = refusal(broken)
    assert message.startswith("training diverged ")
    latest = tf.train.latest_checkpoint(str(tmp_path / "run"))
    assert f"the last good checkpoint is {latest};" in message
    for name, tensor in read_tensors(latest).items():
        assert not name.startswith("model/") or np.isfinite(tensor).all()
    assert not (tmp_path / "run" / "saved_model").exists()


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.exhaustive
def test_mirrored_run_resumes_to_the_bit(tmp_path):
    def interrupt(event):
        if event.step == 4:
            raise KeyboardInterrupt

    def start(name, *actions):
        return Experiment(tiny_config(tmp_path / name), two_replicas()).train(actions)

    with pytest.raises(KeyboardInterrupt):
        start("cut", interrupt)
    assert start("cut") == start("whole")
    assert differing_tensors(tmp_path / "whole" / "ckpt-6", tmp_path / "cut" / "ckpt-6") == []


def test_package_offers_the_call_of_the_command_line():
    assert tf_simclr.train_and_evaluate is train_and_evaluate
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tf_simclr.nonsense
