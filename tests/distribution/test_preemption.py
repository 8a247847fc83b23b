"""Signals while training: noticed once, agreed on by all workers, and in time."""

import os
import signal
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.config import PreemptedError
from tf_simclr.distribution import preemption
from tf_simclr.distribution.preemption import PreemptionWatch

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


@pytest.fixture(autouse=True)
def own_handler():
    """The handlers from before the watch, those of a program in a terminal: `nohup` would ignore signals.

    That of SIGTERM must not be called while a watch is entered, and be back later.
    """
    received = []

    def handle(number, frame):
        received.append(number)

    usual = {signal.SIGTERM: handle, signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    previous = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield handle, received
    for number, handler in previous.items():
        signal.signal(number, handler)


def test_sigterm_is_noticed_while_the_watch_is_entered(own_handler):
    handle, received = own_handler
    with pytest.raises(PreemptedError), PreemptionWatch(ONE_DEVICE, grace=30) as watch:
        assert watch.after_call(0.1) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.after_call(0.1) == signal.SIGTERM
        assert watch.after_call(0.1) == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # The second one ends the process.
        raise PreemptedError  # As the loop does.
    assert received == []
    assert signal.getsignal(signal.SIGTERM) is handle


def test_sigterm_after_the_last_call_of_the_loop_is_passed_on(own_handler):
    """Such as while the model is exported: nobody asks the watch any more."""
    _, received = own_handler
    with PreemptionWatch(ONE_DEVICE, grace=30) as watch:
        assert watch.after_call(0.1) == 0
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_handler_is_back_after_an_error_and_for_later_signals(own_handler):
    _, received = own_handler
    watch = PreemptionWatch(ONE_DEVICE, grace=30)
    with pytest.raises(KeyError), watch:
        raise KeyError
    os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert watch.after_call(0.1) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_the_end_of_a_terminal_count_like_sigterm(number, capfd):
    previous = signal.getsignal(number)
    with pytest.raises(PreemptedError), PreemptionWatch(ONE_DEVICE, grace=30) as watch:
        signal.raise_signal(number)
        assert watch.after_call(0.1) == number
        assert signal.getsignal(number) is signal.SIG_DFL
        raise PreemptedError
    assert signal.getsignal(number) is previous
    told = capfd.readouterr().err
    assert ("press Ctrl-C again to end at once" in told) == (number == signal.SIGINT)


def test_second_signal_in_an_interactive_session_does_what_it_did_before(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with PreemptionWatch(ONE_DEVICE, grace=30) as watch:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        watch._noticed = 0


def test_ignored_signals_stay_ignored():
    """As with `nohup`."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with PreemptionWatch(ONE_DEVICE, grace=30) as watch:
            signal.raise_signal(signal.SIGHUP)
            assert watch.after_call(0.1) == 0
    finally:
        signal.signal(signal.SIGHUP, previous)


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
    assert seen == [handle, 0]


@pytest.mark.parametrize(("noticed", "expected"), [((0, 0, 0), 0), ((0, 15, 0), 15), ((2, 2, 2), 2)], ids=str)
def test_workers_agree_and_the_slowest_sets_the_pace(monkeypatch, noticed, expected):
    def gather(strategy, values):
        assert (strategy, values) == ("strategy", [0.0, 0.5])
        return np.array([[flag, seconds] for flag, seconds in zip(noticed, (0.5, 2.0, 0.1), strict=True)])

    monkeypatch.setattr(preemption, "gather_from_workers", gather)
    watch = PreemptionWatch("strategy", grace=30)
    assert watch.after_call(0.5) == expected
    assert watch.max_steps == 7  # In half of 30 s, at 2 s a step.


@pytest.mark.parametrize(("grace", "seconds", "steps"), [(30, 0.01, 1500), (1, 9.0, 1)])
def test_max_steps_follow_the_grace_and_the_time_of_a_step(grace, seconds, steps):
    watch = PreemptionWatch(ONE_DEVICE, grace=grace)
    watch.after_call(0.0)
    assert watch.max_steps == 1  # How long a step takes is not known yet.
    for known in (seconds, 0.0):
        watch.after_call(known)
        assert watch.max_steps == steps
