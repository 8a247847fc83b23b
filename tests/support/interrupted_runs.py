"""Runs that are killed and started again, each in a process forked from one that has imported everything.

python -m tests.support.interrupted_runs one DIRECTORY NUM_KILLS
python -m tests.support.interrupted_runs workers DIRECTORY

Prints how each start ended as JSON; see `tests/training/test_interruption.py`.
"""

import json
import logging
import os
import pathlib
import random
import signal
import sys
import time

import tf_simclr  # noqa: F401  (selects Keras 2 before TensorFlow loads)

import tensorflow as tf  # isort: skip

from tests.support.runs import free_addresses, tiny_config
from tf_simclr import train_and_evaluate
from tf_simclr.config import DataConfig, PreemptedError, UserError
from tf_simclr.data import load_source
from tf_simclr.distribution.strategies import wait_for_workers

STEPS, INTERVAL = 12, 3


def start(directory: pathlib.Path, worker: int | None = None, addresses=()) -> int:
    """Starts the run, or a worker of it, in a process of its own, which writes a log; returns its number."""
    log_of(directory, worker).touch()  # A reader need not wait for the process to open it.
    if process := os.fork():
        return process
    status = 1
    try:
        with open(log_of(directory, worker), "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        logging.getLogger("tf_simclr").setLevel(logging.INFO)
        flags = {"train_steps": STEPS, "checkpoint_steps": INTERVAL, "steps_per_loop": 1, "eval_steps": 1}
        tf.config.run_functions_eagerly(True)  # Tracing would take most of the time.
        if worker is not None:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}}
            os.environ["TF_CONFIG"] = json.dumps(task)
        run(tiny_config(directory, train_batch_size=8, random_rotation=0, **flags))
        status = 0
    except UserError as error:
        print("error:", error, flush=True)
        status = 2
    except PreemptedError as error:
        print("preempted:", error, flush=True)
        status = 143
    finally:
        os._exit(status)


@tf.autograph.experimental.do_not_convert
def run(config) -> None:
    """Trains and evaluates, and leaves when all workers have."""
    train_and_evaluate(config, [report])
    wait_for_workers()


def log_of(directory: pathlib.Path, worker: int | None = None) -> pathlib.Path:
    """Path of the log of a process."""
    return directory.with_suffix(".log" if worker is None else f".{worker}.log")


def report(event) -> None:
    """Prints each step, for the reader of the log."""
    print("after step", event.step, "in this start", flush=True)


def run_killed(directory: pathlib.Path, is_time) -> tuple[bool, str]:
    """Starts the run and kills it when `is_time`; returns True if it ended before, and its new lines of the log."""
    log = log_of(directory)
    begin, started = log.stat().st_size if log.exists() else 0, time.monotonic()
    process = start(directory)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        said = log.read_text()[begin:]
        if ended:
            assert status == 0, said
            return True, said
        if is_time(time.monotonic() - started, said):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return False, log.read_text()[begin:]
        time.sleep(0.0002)


def after_seconds(moment: float):
    """Returns an `is_time` for a number of seconds after the start."""
    return lambda seconds, said: seconds > moment


def after_steps(count: int, more_seconds: float):
    """Returns an `is_time` for some seconds after a start has reported so many steps."""
    reached = []

    def is_time(seconds: float, said: str) -> bool:
        if said.count("after step") >= count:
            reached.append(seconds)
        return bool(reached) and seconds > reached[0] + more_seconds

    return is_time


def kill_one(directory: str, num_kills: str) -> None:
    """Runs once uninterrupted; then kills and starts again so many times, and lets the last start finish."""
    root, rng = pathlib.Path(directory), random.Random(0)
    whole, killed = root / "whole", root / "killed"
    started = time.monotonic()
    run_killed(whole, lambda *_: False)
    duration = time.monotonic() - started
    special = {
        "while the first checkpoint is written": lambda *_: any(killed.glob(f"ckpt-{INTERVAL}_temp*")),
        "just after the first checkpoint": lambda *_: (killed / f"ckpt-{INTERVAL}.index").exists(),
        "while a later checkpoint is written": lambda *_: any(killed.glob(f"ckpt-{2 * INTERVAL}_temp*")),
    }
    starts = []
    moments = list(special.items())
    for number in range(int(num_kills) - len(special)):
        if number % 4 == 0:  # Starting takes most of the time: every fourth time is any time.
            moments.append(("at any time", after_seconds(rng.uniform(0, duration))))
        else:
            moments.append(("while it trains", after_steps(rng.randrange(6), rng.uniform(0, 0.3))))
    for name, is_time in moments:
        ended, said = run_killed(killed, is_time)
        starts.append({"when": name, "ended": ended, "said": said})
        if ended:  # A finished run has nothing left to interrupt: the next one begins anew.
            os.rename(killed, root / f"ended{len(starts)}")
    ended, said = run_killed(killed, lambda *_: False)
    starts.append({"when": "not", "ended": ended, "said": said})
    print(json.dumps(starts))


def run_workers(directory: pathlib.Path, worker: int = 0, signal_number: int | None = None) -> list[int]:
    """Runs two workers; one of them gets a signal after step 5. Returns their exit codes."""
    addresses = free_addresses(2)
    processes = [start(directory, number, addresses) for number in range(2)]
    while signal_number and "after step 5 " not in log_of(directory, 0).read_text():
        time.sleep(0.01)
    if signal_number:
        os.kill(processes[worker], signal_number)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def kill_a_worker(directory: str) -> None:
    """Runs two workers: twice uninterrupted, with each of them killed, with the second one preempted."""
    root = pathlib.Path(directory)
    ends = {"first": [run_workers(root / "first")], "second": [run_workers(root / "second")]}
    kinds = {"killed0": (0, signal.SIGKILL), "killed1": (1, signal.SIGKILL), "preempted": (1, signal.SIGTERM)}
    for name, (worker, number) in kinds.items():
        ends[name] = [run_workers(root / name, worker, number), run_workers(root / name)]
    print(json.dumps(ends))


if __name__ == "__main__":
    load_source(DataConfig(dataset="digits"), "train")  # Imports scikit-learn before any process is forked.
    {"one": kill_one, "workers": kill_a_worker}[sys.argv[1]](*sys.argv[2:])
