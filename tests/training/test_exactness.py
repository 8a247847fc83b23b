"""R replicas with B/R examples each are one replica with B examples: logical devices, and real workers.

All steps run eagerly: `test_jit_compile.py` and the tests of whole runs compile them.
"""

import functools
import sys

import numpy as np
import pytest

from tests.support.exact_steps import BATCH, TASKS, Stepper
from tests.support.marks import usual
from tests.support.networks import assert_close, replicas
from tests.support.runs import eagerly, run_workers

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@functools.cache
def stepper(task, num_replicas, precision="float64"):
    return Stepper(replicas(num_replicas), task, precision)


def run(task, num_replicas, precision="float64", **options):
    with eagerly():
        return stepper(task, num_replicas, precision).run(**options)


one_replica = functools.cache(functools.partial(run, num_replicas=1))


def check_same(received, expected):
    """Losses, gradients, statistics of batch norm and the changes of all variables."""
    assert_close(received, expected, 1e-9)
    for kind in ("0/metrics/total_loss", "1/gradients/", "1/statistics/", "changes/"):
        values = [value for name, value in expected.items() if name.startswith(kind)]
        assert values and max(np.abs(value).max() for value in values) > 1e-3, kind


@pytest.mark.parametrize(
    ("task", "num_replicas"),
    usual(*((task, 2) for task in TASKS), ("pretrain", 4), also=[("finetune", 4), ("distill", 4)]),
)
def test_replicas_equal_one_in_float64(task, num_replicas):
    check_same(run(task, num_replicas), one_replica(task))


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """Returns a function from a number of workers to the directory of what each of them computed."""

    @functools.cache
    def compute(num_workers):
        directory = tmp_path_factory.mktemp("workers")
        command = [sys.executable, "-m", "tests.support.exact_steps", "{index}", str(directory)]
        codes = run_workers([command] * num_workers, directory)
        assert codes == [0] * num_workers, (directory / "worker0.log").read_text()[-2000:]
        return directory

    return compute


@pytest.mark.parametrize(("task", "num_workers"), usual(*((t, 2) for t in TASKS), also=[(t, 3) for t in TASKS]))
def test_workers_equal_one_process_in_float64(task, num_workers, workers):
    for index in range(num_workers):
        check_same(dict(np.load(workers(num_workers) / f"{task}.{index}.npz")), one_replica(task))


def gradients(found):
    return np.concatenate([value.ravel() for name, value in found.items() if "/gradients/" in name])


def difference(received, expected):
    ours, theirs = gradients(received), gradients(expected)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def permutation(task, seed):
    """Labelled rows stay among themselves."""
    rng, rows = np.random.default_rng(seed), np.arange(BATCH)
    parts = np.split(rows, 2) if task == "distill" else [rows]
    return np.concatenate([rng.permutation(part) for part in parts])


@pytest.mark.parametrize("task", usual("pretrain", also=TASKS[1:]))
def test_replicas_equal_one_in_float32_within_the_noise_of_permuting_the_batch(task):
    """Medians over batches: an activation that rounds to the other side of 0 moves a single one far."""
    noise, differences = [], []
    for seed in range(3):
        options = {"num_steps": 1, "seed": seed}
        expected = run(task, 1, "float32", **options)
        received = run(task, 2, "float32", **options)
        noise.append(difference(run(task, 1, "float32", order=permutation(task, seed), **options), expected))
        differences.append(difference(received, expected))
        name = "0/metrics/total_loss"
        np.testing.assert_allclose(received[name], expected[name], rtol=1e-5)
    assert 0 < np.median(noise) < 0.02
    assert np.median(differences) < 3 * np.median(noise)
