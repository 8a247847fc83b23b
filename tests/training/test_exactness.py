"""R replicas with B/R examples each are one replica with B examples: logical devices, and real workers."""

import functools
import sys

import numpy as np
import pytest

from tests.support.exact_steps import BATCH, Stepper
from tests.support.networks import assert_close, replicas
from tests.support.runs import run_workers

TASKS = ("pretrain", "finetune", "distill")
exhaustive = pytest.mark.exhaustive


def cases(usual, more):
    """Pairs of a task and a count; those of `more` are exhaustive."""
    return [*usual, *(pytest.param(*case, marks=exhaustive) for case in more)]


@functools.cache
def stepper(task, num_replicas, precision="float64"):
    return Stepper(replicas(num_replicas), task, precision)


@functools.cache
def one_replica(task):
    return stepper(task, 1).run()


def check_same(received, expected):
    """Losses, gradients, statistics of batch norm and the changes of all variables."""
    assert_close(received, expected, 1e-9)
    for kind in ("0/metrics/total_loss", "4/gradients/", "4/statistics/", "changes/"):
        values = [value for name, value in expected.items() if name.startswith(kind)]
        assert values and max(np.abs(value).max() for value in values) > 1e-3, kind


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("task", "num_replicas"),
    cases([*((task, 2) for task in TASKS), ("pretrain", 4)], [("finetune", 4), ("distill", 4)]),
)
def test_replicas_equal_one_in_float64(task, num_replicas):
    check_same(stepper(task, num_replicas).run(), one_replica(task))


def gradients(found):
    return np.concatenate([value.ravel() for name, value in found.items() if "/gradients/" in name])


def difference(received, expected):
    ours, theirs = gradients(received), gradients(expected)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("task", "num_replicas"),
    cases(
        [("pretrain", 2)],
        [("pretrain", 4), *((task, count) for task in TASKS[1:] for count in (2, 4))],
    ),
)
def test_replicas_equal_one_in_float32_within_the_noise_of_permuting_the_batch(task, num_replicas):
    """Medians over batches: an activation that rounds to the other side of 0 moves a single one far."""
    one, several = stepper(task, 1, "float32"), stepper(task, num_replicas, "float32")
    noise, differences = [], []
    for seed in range(5):
        expected = one.run(1, seed=seed)
        permuted = one.run(1, seed=seed, order=permutation(task, seed))
        received = several.run(1, seed=seed)
        noise.append(difference(permuted, expected))
        differences.append(difference(received, expected))
        name = "0/metrics/total_loss"
        np.testing.assert_allclose(received[name], expected[name], rtol=1e-5)
    print(f"{task}, {num_replicas} replicas: gradients differ by {np.median(differences):.1e},", end=" ")
    print(f"those of permuted batches by {np.median(noise):.1e}")
    assert 0 < np.median(noise) < 0.02
    assert np.median(differences) < 3 * np.median(noise)


def permutation(task, seed):
    """Labelled rows stay among themselves."""
    rng, rows = np.random.default_rng(seed), np.arange(BATCH)
    parts = np.split(rows, 2) if task == "distill" else [rows]
    return np.concatenate([rng.permutation(part) for part in parts])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(("task", "num_workers"), cases([(task, 2) for task in TASKS], [(task, 3) for task in TASKS]))
def test_workers_equal_one_process_in_float64(task, num_workers, tmp_path):
    command = [sys.executable, "-m", "tests.support.exact_steps", task, f"{tmp_path}/{{index}}.npz"]
    codes = run_workers([command] * num_workers, tmp_path)
    assert codes == [0] * num_workers, (tmp_path / "worker0.log").read_text()[-2000:]
    for index in range(num_workers):
        check_same(dict(np.load(tmp_path / f"{index}.npz")), one_replica(task))
