"""The memory of negatives: its content after each step, on any number of replicas, and in checkpoints."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import tf_simclr
from tests.support.marks import usual
from tests.support.networks import (
    assert_close,
    assert_identical,
    flatten,
    is_statistic,
    randomize,
    replicas,
    snapshot,
    split_batch,
    tiny_config,
    variables,
)
from tests.support.runs import differing_tensors, eagerly, finished_run, refusal
from tests.support.runs import tiny_config as tiny_run
from tests.tasks import steps
from tests.tasks.steps import BATCH, CLASSES, names_of, tensors
from tf_simclr.config import ContrastConfig, OptimizerConfig, UserError
from tf_simclr.losses import chance_loss
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.checkpoint import Checkpoints
from tf_simclr.runs.networks import initialize_from
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.pretrain import MemoryPretrainTask, PretrainTask

# Three steps of 16 projections: the last one goes round the end.
STEPS, SIZE, MOMENTUM, TEMPERATURE = 3, 40, 0.9, 0.2
make_batch = functools.partial(steps.make_batch, 2)


def make_task(precision="float64", num_classes=CLASSES, **contrast):
    model = build_simclr_model(tiny_config(precision=precision), num_classes)
    settings = {"temperature": TEMPERATURE, "memory_size": SIZE, "memory_momentum": MOMENTUM} | contrast
    schedule = WarmupCosine(0.5, 0, 100, dtype=model.config.variable_dtype)
    task = MemoryPretrainTask(model, OptimizerConfig(optimizer="lars"), schedule, ContrastConfig(**settings))
    randomize(task.model)
    return task


def memory_of(task):
    """All variables of the memory, as arrays by name."""
    return {name: np.array(v.numpy()) for name, v in flatten(task.memory.variable_tree()).items()}


class Run:
    """Steps on different batches: metrics of each, and network and memory after each."""

    def __init__(self, task, numbers=range(STEPS), step=None, precision="float64"):
        step, self.metrics, self.networks, self.memories = step or task.train_step, [], [], []
        for number in numbers:
            batch = tensors(make_batch(precision, number))
            self.metrics.append({name: float(value) for name, value in step(batch).items()})
            self.networks.append(snapshot(task.model))
            self.memories.append(memory_of(task))


@functools.cache
def expected_run():
    task = make_task()
    start = snapshot(task.model)
    return Run(task), start


def project(model, batch):
    """Normalised projections `[2, b, d]` in training, and the statistics of batch norm."""
    outputs = model.forward(np.concatenate(batch["views"]), training=True)
    z = outputs.head_layers[-1].numpy()
    return np.split(z / np.linalg.norm(z, axis=1, keepdims=True), 2), outputs.statistics


def load(model, values):
    for name, variable in variables(model).items():
        variable.assign(values[name])


def nt_xent(z, stored):
    """The loss by its definition: all but a row itself are in its denominator, and the stored rows."""
    z, total = np.concatenate(z), 0.0
    for row, own in enumerate(z):
        others = [z[column] for column in range(len(z)) if column != row]
        terms = [np.exp(own @ other / TEMPERATURE) for other in [*others, *stored]]
        total += np.log(sum(terms)) - own @ z[(row + BATCH) % (2 * BATCH)] / TEMPERATURE
    return total / BATCH


@pytest.mark.slow
def test_each_step_has_the_negatives_of_the_steps_before_it():
    run, values = expected_run()
    model, stored = build_simclr_model(tiny_config(), CLASSES), []
    for step, memory in enumerate(run.memories):
        load(model, values)
        z, _ = project(model, make_batch(seed=step))
        metrics = run.metrics[step]
        np.testing.assert_allclose(metrics["contrast_loss"], nt_xent(z, stored), rtol=1e-6)
        np.testing.assert_allclose(metrics["contrast_chance"], chance_loss(BATCH, len(stored)), rtol=1e-6)
        values = run.networks[step]
        stored = memory["queue"][: min(memory["num_stored"], SIZE)]
    assert len(stored) == SIZE


@pytest.mark.slow
def test_average_follows_the_weights_and_its_projections_are_stored_in_a_ring():
    run, _ = expected_run()
    model, queue = build_simclr_model(tiny_config()), np.zeros([SIZE, 8])
    names, average = names_of(model), snapshot(model)
    for step, memory in enumerate(run.memories):
        keep = MOMENTUM if step else 0.0  # An empty memory has nothing to average.
        for name in (name for name in average if not is_statistic(name)):
            average[name] = keep * average[name] + (1 - keep) * run.networks[step][name]
        load(model, average)
        z, statistics = project(model, make_batch(seed=step))
        for norm, pair in zip(model.norms, statistics, strict=True):
            for kind, value in zip((norm.moving_mean, norm.moving_variance), pair, strict=True):
                average[names[id(kind)]] = 0.9 * average[names[id(kind)]] + 0.1 * value.numpy()
        rows = [z[view][image] for image in range(BATCH) for view in (0, 1)]
        queue[(step * len(rows) + np.arange(len(rows))) % SIZE] = rows
        expected = {f"network/{name}": value for name, value in average.items()}
        assert_close(memory, expected | {"queue": queue, "num_stored": (step + 1) * len(rows)}, 1e-9)
    changed = [np.abs(average[name] - run.networks[-1][name]).max() for name in average]
    assert min(changed) > 1e-9, "the average must lag behind"
    assert run.metrics[0].keys() >= {"supervised_loss", "contrast_chance"}


def assert_same_run(received, expected):
    for ours, theirs in zip(received.metrics, expected.metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    for ours, theirs in zip(received.networks + received.memories, expected.networks + expected.memories, strict=True):
        assert_close(ours, theirs, 1e-9)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", usual(2, also=[4]))
def test_replicas_equal_one_in_float64(num_replicas):
    strategy = replicas(num_replicas)
    with strategy.scope():
        task = make_task()

    def step(batch):
        metrics = strategy.run(task.train_step, args=(split_batch(strategy, batch),))
        return {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    assert_same_run(Run(task, step=step), expected_run()[0])
    for name, variable in flatten(task.memory.variable_tree()).items():
        copies = {copy.numpy().tobytes() for copy in strategy.experimental_local_results(variable)}
        assert len(copies) == 1, name


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", usual(False, also=[True]), ids=["graph", "XLA"])
def test_compiled_step_is_the_same(jit_compile):
    task = make_task()
    step = tf.function(task.train_step, autograph=False, jit_compile=jit_compile)
    assert_same_run(Run(task, step=step), expected_run()[0])


@pytest.mark.slow
def test_decoupled_loss_has_its_own_chance_and_projections_stay_as_they_are_without_hidden_norm():
    task = make_task(contrastive_loss="decoupled_nt_xent", hidden_norm=False, num_classes=None)
    run = Run(task, range(2))
    assert run.metrics[1]["contrast_chance"] == pytest.approx(2 * np.log(4 * BATCH - 2))
    norms = np.linalg.norm(run.memories[0]["queue"][: 2 * BATCH], axis=1)
    assert np.abs(norms - 1).min() > 1e-3


@pytest.mark.slow
def test_memory_is_float32_in_16_bits_and_a_step_that_overflows_leaves_it_as_it_is():
    task = make_task("mixed_float16", num_classes=None)
    task.loss_scale.scale.assign(2.0**8)
    before = Run(task, [0], precision="float32").memories[0]
    assert before["num_stored"] == 2 * BATCH
    assert {name: value.dtype for name, value in before.items() if value.dtype != "float32"} == {"num_stored": "int64"}
    np.testing.assert_allclose(np.linalg.norm(before["queue"][: 2 * BATCH], axis=1), 1, rtol=1e-6)
    task.loss_scale.scale.assign(2.0**24)
    run = Run(task, [1], precision="float32")
    assert float(task.loss_scale.scale) == 2.0**23, "nothing has overflowed"
    assert_identical(run.memories[0], before)
    task.loss_scale.scale.assign(2.0**8)
    run = Run(task, [2], precision="float32")
    assert run.memories[0]["num_stored"] == 4 * BATCH
    assert not np.array_equal(run.memories[0]["queue"], before["queue"])


# ---- Checkpoints


@pytest.mark.slow
def test_checkpoint_restores_the_memory_and_another_run_leaves_it_out(tmp_path):
    task = make_task("float32")
    Run(task, range(2), precision="float32")
    Checkpoints(str(tmp_path), task).save()
    model = build_simclr_model(tiny_config(precision="float32"), CLASSES)
    line = initialize_from(str(tmp_path), model)
    assert line.endswith(" variables matched; its memory of negatives is left out.")
    assert_identical(snapshot(model), snapshot(task.model))
    expected = Run(task, [2], precision="float32")
    again = make_task("float32")
    assert Checkpoints(str(tmp_path), again).restore() == 2
    received = Run(again, [2], precision="float32")
    assert_identical(received.memories[0], expected.memories[0])
    assert_identical(received.networks[0], expected.networks[0])


@pytest.mark.slow
def test_memory_must_be_in_the_checkpoint_and_finite(tmp_path):
    task = make_task("float32", num_classes=None)
    plain = PretrainTask(task.model, OptimizerConfig(), WarmupCosine(0.5, 0, 100), ContrastConfig())
    Checkpoints(str(tmp_path), plain).save()
    with pytest.raises(UserError, match=r"ckpt-0 does not fit this run .* use the --optimizer and --memory_size"):
        Checkpoints(str(tmp_path), task).restore()
    flatten(task.memory.variable_tree())["queue"].assign(np.full([SIZE, 8], np.nan))
    with pytest.raises(UserError, match=r"^training diverged by step 0: memory_queue:0 not finite"):
        Checkpoints(str(tmp_path), task).save()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_run_interrupted_and_resumed_ends_in_the_same_bytes_and_is_finetuned(tmp_path, log):
    """It starts from a run without a memory, and goes round the end of its own."""

    def interrupt(event):
        if event.step == 3:
            raise KeyboardInterrupt

    start = str(finished_run().directory)
    settings = {"memory_size": 100, "memory_momentum": 0.9, "checkpoint": start, "steps_per_loop": 1}
    config = {name: tiny_run(tmp_path / name, **settings) for name in ("whole", "cut")}
    with eagerly():
        expected = tf_simclr.train_and_evaluate(config["whole"])
        with pytest.raises(KeyboardInterrupt):
            tf_simclr.train_and_evaluate(config["cut"], [interrupt])
        assert tf_simclr.train_and_evaluate(config["cut"]) == expected
        assert "Going on from step 2 of 6." in log.messages
        assert differing_tensors(tmp_path / "cut" / "ckpt-6", tmp_path / "whole" / "ckpt-6") == []
        other = refusal(tiny_run(tmp_path / "cut", **(settings | {"memory_size": 128})))
        assert "--memory_size=100 there, 128 now" in other
        assert "The memory of 100 negatives is full after 2 steps." in log.messages
        log.clear()
        tuned = tiny_run(tmp_path / "tuned", train_mode="finetune", checkpoint=tmp_path / "cut", train_steps=1)
        tf_simclr.train_and_evaluate(tuned)
    assert any("its memory of negatives is left out." in message for message in log.messages)
