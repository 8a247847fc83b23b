"""Whatever ends a run, the next start goes on and comes to the same bytes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support.interrupted_runs import INTERVAL, STEPS
from tests.support.networks import assert_close, replicas
from tests.support.runs import (
    REPOSITORY,
    TOTAL_STEPS,
    differing_tensors,
    eagerly,
    finished_run,
    read_tensors,
    tiny_config,
)
from tf_simclr.config import PreemptedError
from tf_simclr.training.experiment import Experiment, train_and_evaluate


def run_module(*arguments):
    command = [sys.executable, "-m", "tests.support.interrupted_runs", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_same_end(directory, expected, step=STEPS):
    assert differing_tensors(directory / f"ckpt-{step}", expected / f"ckpt-{step}") == []
    assert (directory / "result.json").read_text() == (expected / "result.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [6, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_run_killed_at_many_moments_ends_in_the_same_bytes(tmp_path, num_kills):
    starts = run_module("one", tmp_path, num_kills)
    assert [start["when"] for start in starts if start["ended"]][-1] == "not"
    assert all(not start["ended"] for start in starts[:3])
    reached, num_resumed = 0, 0
    for start in starts:
        steps = [int(step) for step in re.findall(r"after step (\d+) in", start["said"])]
        if steps:
            assert steps == list(range(steps[0], steps[-1] + 1))
            assert reached - (steps[0] - 1) <= INTERVAL, f"repeated after a kill {start['when']}"
            num_resumed += steps[0] > 1
            reached = steps[-1]
        if start["ended"]:
            reached = 0
    assert num_resumed >= num_kills // 4
    for directory in (tmp_path / "killed", *tmp_path.glob("ended*")):
        check_same_end(directory, tmp_path / "whole")
        assert not list(directory.glob("*temp*"))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.exhaustive
def test_two_workers_one_of_them_killed_or_preempted_end_in_the_same_bytes(tmp_path):
    ends = run_module("workers", tmp_path)
    assert ends == {
        "first": [[0, 0]],
        "second": [[0, 0]],
        "killed0": [[-signal.SIGKILL, 2], [0, 0]],
        "killed1": [[2, -signal.SIGKILL], [0, 0]],
        "preempted": [[143, 143], [0, 0]],
    }
    for name in list(ends)[1:]:
        check_same_end(tmp_path / name, tmp_path / "first")
    for number in (0, 1):
        said = (tmp_path / f"killed{number}.{1 - number}.log").read_text()
        line = r"^error: a worker no longer answers \(.*\); start all workers again: they go on from .*ckpt-3\.$"
        assert re.search(line, said, re.M)
        assert "Going on from step 3 of 12." in said
    preempted = (tmp_path / "preempted.1.log").read_text()
    (stopped,) = re.findall(r"^preempted: asked to end after step (\d+) of 12: ", preempted, re.M)
    assert f"Going on from step {stopped} of 12." in preempted


@pytest.mark.slow
def test_run_that_is_asked_to_end_leaves_a_checkpoint_there(tmp_path):
    def ask(event):
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    config = tiny_config(tmp_path / "run", steps_per_loop=1)
    with eagerly(), pytest.raises(PreemptedError) as error:
        train_and_evaluate(config, [ask])
    assert str(error.value) == f"asked to end after step 4 of {TOTAL_STEPS}: {tmp_path}/run/ckpt-4 is written"
    assert read_tensors(tmp_path / "run" / "ckpt-4")["global_step/.ATTRIBUTES/VARIABLE_VALUE"] == 4


@pytest.mark.slow
def test_run_whose_weights_overflow_goes_back_a_checkpoint(tmp_path, log):
    def break_once(event):
        if event.step == 3 and "Going back" not in log.text:
            event.task.model.variables[0].assign(np.full(event.task.model.variables[0].shape, np.inf))

    directory = tmp_path / "run"
    config = tiny_config(directory, steps_per_loop=1, on_non_finite="restore", mode="train")
    with eagerly():
        assert train_and_evaluate(config, [break_once])["global_step"] == TOTAL_STEPS
    (reason,) = [message for message in log.messages if message.startswith("Training diverged")]
    assert reason.startswith("Training diverged at step 4: total_loss=")
    assert "Going back to step 2 (1 of 3 times); the batches since are left out." in log.messages
    skipped = read_tensors(directory / f"ckpt-{TOTAL_STEPS}")["skipped_steps/.ATTRIBUTES/VARIABLE_VALUE"]
    assert skipped == 2  # Steps 3 and 4, which were taken, but not kept.


@pytest.mark.slow
@pytest.mark.distributed
def test_run_goes_on_with_another_number_of_replicas(tmp_path, log):
    shutil.copytree(finished_run().directory, tmp_path / "run")
    for path in [*(tmp_path / "run").glob("result*.json"), *(tmp_path / "run").glob(f"ckpt-{TOTAL_STEPS}.*")]:
        path.unlink()
    config = tiny_config(tmp_path / "run", mode="train")
    with eagerly():
        assert Experiment(config, replicas(2)).train([])["global_step"] == TOTAL_STEPS
    assert "Going on from step 4 of 6." in log.messages
    name = f"ckpt-{TOTAL_STEPS}"
    received, expected = (read_tensors(d / name) for d in (tmp_path / "run", finished_run().directory))
    assert_close(received, expected, 1e-2)
