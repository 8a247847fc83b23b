"""Traces of the profiler: their steps, and that they are written."""

import types

import pytest
import tensorflow as tf

import tf_simclr
from tests.support.runs import eagerly, refusal, tiny_config
from tf_simclr.config import TrainConfig, UserError
from tf_simclr.training.actions import StepProfiler


@pytest.fixture
def calls(monkeypatch):
    """Calls of the profiler, which writes no trace."""
    told = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda directory: told.append(("start", directory)))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: told.append(("stop",)))
    return told


def after(profiler, *steps):
    for step in steps:
        profiler(types.SimpleNamespace(step=step))


@pytest.mark.parametrize(
    ("steps", "at"),
    [
        ((1, 9, 19, 20, 30), (9, 20)),
        ((9, 20, 5, 9, 20), (9, 20)),  # Gone back after a loss that was not finite.
        ((9, 19, 9, 20), (9, 20)),
        ((12, 20), (12, 20)),  # Resumed.
    ],
)
def test_profiler_traces_the_steps_once(calls, steps, at):
    profiler = StepProfiler("run", 10, 20)
    first, last = steps.index(at[0]), steps.index(at[1])
    after(profiler, *steps[: first + 1])
    assert calls == [("start", "run")]
    after(profiler, *steps[first + 1 : last])
    assert calls == [("start", "run")]
    after(profiler, *steps[last:])
    profiler.close()
    assert calls == [("start", "run"), ("stop",)]


@pytest.mark.parametrize(("steps", "traces"), [((9,), True), ((1, 20, 30), False)], ids=["ends inside", "is past it"])
def test_profiler_is_closed_with_the_run(calls, steps, traces):
    profiler = StepProfiler("run", 10, 20)
    after(profiler, *steps)
    profiler.close()
    profiler.close()
    assert calls == ([("start", "run"), ("stop",)] if traces else [])


@pytest.mark.parametrize("value", ["", "10", "20,10", "1,10", "0,5", "-1,5", "a,b", "2,3,4", "2.5,3"])
def test_profile_steps_that_make_no_sense_are_refused(value):
    with pytest.raises(UserError) as error:
        TrainConfig(profile_steps=value)
    assert str(error.value).startswith(f"--profile_steps={value}: use the first and the last step, such as 10,20")


def test_profile_steps_after_the_end_of_the_run_are_refused(tmp_path, without_network):
    message = refusal(tiny_config(tmp_path / "run", profile_steps="4,7"))
    assert message == "--profile_steps=4,7: the run has 6 steps; name some of these."
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_trace_is_written_even_if_an_action_fails(tmp_path, log):
    steps = []

    def fail(event):
        steps.append(event.step)
        if event.step == 4:
            raise KeyboardInterrupt

    config = tiny_config(tmp_path / "run", mode="train", profile_steps="3, 6")
    with pytest.raises(KeyboardInterrupt), eagerly():
        tf_simclr.train_and_evaluate(config, [fail])
    assert steps == [1, 2, 4]
    assert list((tmp_path / "run" / "plugins" / "profile").glob("*/*.xplane.pb"))
    assert f"Profile: tensorboard --logdir={tmp_path / 'run'}" in log.text
    tf.profiler.experimental.start(str(tmp_path / "other"))  # Only possible if none runs.
    tf.profiler.experimental.stop()
