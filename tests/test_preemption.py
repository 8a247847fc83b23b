"""SIGTERM while training: noticed once, agreed on by all workers, and in time."""

import os
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr import preemption
from tf_simclr.config import PreemptedError
from tf_simclr.preemption import PreemptionWatch

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


@pytest.fixture(autouse=True)
def own_handler():
    """The handler from before the watch; it must not be asked while one is entered, and be back later."""
    received = []

    def handle(number, frame):
        received.append(number)

    previous = signal.signal(signal.SIGTERM, handle)
    yield handle, received
    signal.signal(signal.SIGTERM, previous)


def test_sigterm_is_noticed_while_the_watch_is_entered(own_handler):
    handle, received = own_handler
    with pytest.raises(PreemptedError), PreemptionWatch(ONE_DEVICE, grace=30) as watch:
        assert watch.after_call(0.1) is False
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.after_call(0.1) is True
        assert watch.after_call(0.1) is True
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # The second one ends the process.
        raise PreemptedError  # As the loop does.
    assert received == []
    assert signal.getsignal(signal.SIGTERM) is handle


def test_sigterm_after_the_last_call_of_the_loop_is_passed_on(own_handler):
    """Such as while the model is exported: nobody asks the watch any more."""
    _, received = own_handler
    with PreemptionWatch(ONE_DEVICE, grace=30) as watch:
        assert watch.after_call(0.1) is False
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_handler_is_back_after_an_error_and_for_later_signals(own_handler):
    _, received = own_handler
    watch = PreemptionWatch(ONE_DEVICE, grace=30)
    with pytest.raises(KeyError), watch:
        raise KeyError
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert watch.after_call(0.1) is False


def test_default_action_is_back_too():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with PreemptionWatch(ONE_DEVICE, grace=30):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_outside_the_main_thread_nothing_is_installed(own_handler):
    handle, _ = own_handler
    seen = []

    def work():
        with PreemptionWatch(ONE_DEVICE, grace=30) as watch:
            seen.append(signal.getsignal(signal.SIGTERM))
            seen.append(watch.after_call(0.1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handle, False]


@pytest.mark.parametrize(
    ("noticed", "expected"), [((0, 0, 0), False), ((0, 1, 0), True), ((1, 1, 1), True)], ids=str
)
def test_workers_agree_and_the_slowest_sets_the_pace(monkeypatch, noticed, expected):
    def gather(strategy, values):
        assert (strategy, values) == ("strategy", [0.0, 0.5])
        return np.array([[flag, seconds] for flag, seconds in zip(noticed, (0.5, 2.0, 0.1), strict=True)])

    monkeypatch.setattr(preemption, "gather_from_workers", gather)
    watch = PreemptionWatch("strategy", grace=30)
    assert watch.after_call(0.5) is expected
    assert watch.max_steps == 7  # In half of 30 s, at 2 s a step.


@pytest.mark.parametrize(
    ("grace", "seconds", "steps"), [(30, 0.01, 1500), (30, 1.0, 15), (1, 0.4, 1), (1, 9.0, 1)]
)
def test_max_steps_follow_the_grace_and_the_time_of_a_step(grace, seconds, steps):
    watch = PreemptionWatch(ONE_DEVICE, grace=grace)
    watch.after_call(0.0)
    assert watch.max_steps == 1  # How long a step takes is not known yet.
    for known in (seconds, 0.0):
        watch.after_call(known)
        assert watch.max_steps == steps
