"""The loop: exact stops, what actions see, and what happens when the loss is no longer finite."""

import dataclasses
import types

import pytest
import tensorflow as tf

from tf_simclr.config import PreemptedError, UserError
from tf_simclr.training.loop import LoopPlan, make_train_function, train


def make_plan(total_steps=10, checkpoint_steps=4, steps_per_loop=3):
    return LoopPlan(total_steps, checkpoint_steps, steps_per_loop, global_batch_size=32)


class FakeTask:
    """Counts its steps; its metric is the step that was taken, not finite at `bad_step` the first times."""

    metric_names = ("total_loss",)

    def __init__(self, bad_step=10**9, times_bad=10**9):
        self.optimizer = types.SimpleNamespace(iterations=tf.Variable(0, dtype=tf.int64))
        self._bad_step = bad_step
        self._times_left = tf.Variable(times_bad)

    def train_step(self, batch):
        step = self.optimizer.iterations.assign_add(1)
        loss = tf.cast(step, tf.float32)
        is_bad = tf.logical_and(step == self._bad_step, self._times_left > 0)
        self._times_left.assign_sub(tf.cast(is_bad, tf.int32))
        return {"total_loss": tf.where(is_bad, loss / 0.0, loss)}


class FakeCheckpoints:
    def __init__(self, task):
        self.saved = []
        self.skipped_steps = 0
        self._task = task

    @property
    def latest(self):
        return f"ckpt-{self.saved[-1]}" if self.saved else None

    def save(self):
        self.saved.append(int(self._task.optimizer.iterations))
        return self.latest

    def go_back(self, stop):
        self.skipped_steps += stop - self.saved[-1]
        self._task.optimizer.iterations.assign(self.saved[-1])
        return self.saved[-1]


def batches(bad_images=()):
    counts = [*bad_images, *[0] * (100 - len(bad_images))]
    dataset = tf.data.Dataset.from_tensor_slices({"bad_images": tf.constant(counts, tf.int32)})
    return tf.distribute.OneDeviceStrategy("/cpu:0").experimental_distribute_dataset(dataset)


class FakeWatch:
    """Asks to end after some calls, and allows so many steps in one."""

    def __init__(self, calls=10**9, max_steps=10**9):
        self.max_steps = max_steps
        self._calls = calls

    def after_call(self, seconds_per_step):
        self._calls -= 1
        return self._calls == 0


def run_loop(task, plan, bad_images=(), watch=None):
    """Returns the events and the steps of the checkpoints; `task.starts` are the batches that were begun with."""
    checkpoints, events, task.starts = FakeCheckpoints(task), [], []
    run = make_train_function(task, tf.distribute.OneDeviceStrategy("/cpu:0"))

    def make_batches(first):
        task.starts.append(first)
        return iter(batches(bad_images))

    try:
        train(
            task,
            make_batches,
            run=run,
            checkpoints=checkpoints,
            plan=plan,
            watch=watch or FakeWatch(),
            actions=[events.append],
        )
    finally:
        task.events, task.saved = events, checkpoints.saved
    return events, checkpoints.saved


@pytest.mark.parametrize(("step", "stop"), [(0, 1), (1, 4), (2, 4), (3, 4), (4, 7), (5, 8), (7, 8), (8, 10), (9, 10)])
def test_next_stop_meets_checkpoints_and_the_last_step(step, stop):
    assert make_plan().next_stop(step) == stop


def test_next_stop_meets_the_stops_of_actions():
    plan = dataclasses.replace(make_plan(100, 50, 10), stops=(9, 20, 23))
    stops = [0]
    while stops[-1] < 40:
        stops.append(plan.next_stop(stops[-1]))
    assert stops == [0, 1, 9, 19, 20, 23, 33, 43]


def test_train_stops_at_the_last_step_and_saves_there():
    task = FakeTask()
    events, saved = run_loop(task, make_plan())
    assert int(task.optimizer.iterations) == 10
    assert saved == [4, 8, 10]
    assert [event.step for event in events] == [1, 4, 7, 8, 10]
    assert [event.num_steps for event in events] == [1, 3, 3, 1, 2]
    assert [event.is_last for event in events] == [False] * 4 + [True]
    assert [event.checkpoint for event in events] == [None, "ckpt-4", None, "ckpt-8", "ckpt-10"]


def test_train_metrics_are_means_over_the_steps_of_a_call():
    events, _ = run_loop(FakeTask(), make_plan(), bad_images=[0, 2, 3, 4])
    assert [event.metrics["total_loss"] for event in events] == [1, 3, 6, 8, 9.5]
    assert [event.metrics["bad_images"] for event in events] == [0, 3, 0, 0, 0]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_loop_leaves_the_input_outside_of_what_is_compiled(jit_compile):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    run = make_train_function(FakeTask(), strategy, jit_compile=jit_compile)
    arguments = iter(batches()), tf.constant(3)
    functions = run.get_concrete_function(*arguments).graph.as_graph_def().library.function
    compiled = [f for f in functions if f.attr["_XlaMustCompile"].b]
    assert bool(compiled) == jit_compile
    assert not any("IteratorGetNext" in node.op for f in compiled for node in f.node_def)
    assert float(run(*arguments)[0]["total_loss"]) == 2


def test_train_speed_leaves_out_the_call_that_compiles():
    events, _ = run_loop(FakeTask(), make_plan())
    assert events[0].images_per_second == 0
    assert all(event.images_per_second > 0 for event in events[1:])


@pytest.mark.parametrize(("start", "stops"), [(5, [8, 10]), (10, [])])
def test_train_goes_on_from_the_step_it_is_at(start, stops):
    task = FakeTask()
    task.optimizer.iterations.assign(start)
    events, saved = run_loop(task, make_plan())
    assert saved == stops
    assert [event.step for event in events] == (stops or [10])  # The last event comes in any case.
    assert events[-1].is_last
    assert bool(events[-1].metrics) == bool(stops)


@pytest.mark.parametrize(("bad_step", "last_good"), [(1, "none"), (6, "ckpt-4")])
def test_train_stops_when_the_loss_is_not_finite_and_keeps_the_last_good(bad_step, last_good):
    task = FakeTask(bad_step)
    with pytest.raises(UserError) as error:
        run_loop(task, make_plan())
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"training diverged at step {bad_step}: total_loss=inf; ")
    assert f"the last good checkpoint is {last_good};" in message
    assert "--learning_rate" in message
    assert "--model_dir" in message
    assert ("--on_non_finite=restore" in message) == (last_good != "none")
    assert all(step < bad_step for step in task.saved)
    assert all(event.step < bad_step for event in task.events)


def test_train_goes_back_and_leaves_out_the_batches_since(log):
    task = FakeTask(bad_step=6, times_bad=1)
    events, saved = run_loop(task, dataclasses.replace(make_plan(), max_restores=3))
    assert [event.step for event in events] == [1, 4, 7, 8, 10]
    assert saved == [4, 8, 10]
    # Steps 5 to 7 failed with the batches 4 to 6.
    assert task.starts == [0, 7]
    assert log.messages[-2] == "Training diverged at step 6: total_loss=inf."
    assert log.messages[-1].startswith("Going back to step 4 (1 of 3 times)")


@pytest.mark.parametrize(("bad_step", "starts"), [(6, [0, 7, 10, 13]), (2, [0])])
def test_train_gives_up_going_back(bad_step, starts):
    """After so many times, or without a checkpoint to go back to."""
    task = FakeTask(bad_step)
    with pytest.raises(UserError, match=f"training diverged at step {bad_step}") as error:
        run_loop(task, dataclasses.replace(make_plan(), max_restores=3))
    assert "--on_non_finite=restore" not in str(error.value)  # It is used already.
    assert task.starts == starts


@pytest.mark.parametrize(("calls", "step", "saved"), [(3, 7, [4, 7]), (4, 8, [4, 8]), (5, 10, [4, 8, 10])])
def test_train_that_is_asked_to_end_writes_one_checkpoint_at_the_end_of_the_call(calls, step, saved):
    task = FakeTask()
    with pytest.raises(PreemptedError) as error:
        run_loop(task, make_plan(), watch=FakeWatch(calls))
    # Actions, too, may keep there what they have counted.
    assert (task.events[-1].step, task.events[-1].checkpoint) == (step, f"ckpt-{step}")
    assert str(error.value) == f"asked to end after step {step} of 10: ckpt-{step} is written"
    assert (int(task.optimizer.iterations), task.saved) == (step, saved)


def test_train_calls_take_no_more_steps_than_the_grace_allows():
    events, saved = run_loop(FakeTask(), make_plan(), watch=FakeWatch(max_steps=2))
    assert [event.step for event in events] == [1, 3, 4, 6, 8, 10]
    assert saved == [4, 8, 10]
