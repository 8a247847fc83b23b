"""Progress on a terminal and in a log, and lines of the log above the bar."""

import contextlib
import io
import sys

import pytest

from tf_simclr.terminal.output import tell
from tf_simclr.terminal.progress import Progress, duration, working


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def put_terminal(monkeypatch):
    """Replaces standard error by a terminal, from within a test, because pytest replaces it before."""

    def put(terminal):
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    return put


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.mark.parametrize(("seconds", "expected"), [(None, "?"), (0.4, "00:00"), (176, "02:56"), (23102.2, "6:25:02")])
def test_duration(seconds, expected):
    assert duration(seconds) == expected


def test_bar_stands_below_what_is_told(put_terminal, clock):
    terminal = put_terminal(Terminal())
    progress = Progress(0, 50, "evaluating")
    for done in (10, 20, 60):
        clock[0] += 2
        progress.update(done)
        if done == 20:
            tell("told")
    progress.close()
    before, _, after = terminal.getvalue().partition("told\n")
    assert "evaluating:   0%|" in before and "evaluating:  40%|" in before and " 20/50 [" in before
    assert before.endswith(" \r")
    assert after.startswith("\revaluating:  40%|")
    assert " 50/50 [" in after and " images/s]" in after
    assert after.endswith("\n")


@pytest.mark.parametrize("start", [lambda: working("exporting"), lambda: Progress(0, None, "exporting", keep=False)])
def test_line_that_is_not_kept_is_taken_away(put_terminal, start):
    terminal = put_terminal(Terminal())
    work = start()
    with work if hasattr(work, "__exit__") else contextlib.closing(work):
        assert terminal.getvalue().startswith("\rexporting")
    assert terminal.getvalue().endswith(" \r")


def test_terminal_that_is_gone_ends_nothing(put_terminal):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    put_terminal(Gone())
    with working("exporting"):
        tell("told")


def test_progress_elsewhere_is_a_line_of_the_log_now_and_then(log, capsys, clock):
    progress, count = Progress(10, 110, "evaluating"), Progress(0, None, "Listing photos")
    with working("exporting"):
        for done in range(20, 110, 10):
            clock[0] += 4
            progress.update(done)
            count.add()
    assert log.messages == [
        "Listing photos: 3 images so far.",
        "evaluating: 50/110 images |  3.33 images/s | 00:17 left",
        "Listing photos: 6 images so far.",
        "evaluating: 80/110 images |  2.84 images/s | 00:10 left",
        "Listing photos: 9 images so far.",
    ]
    assert capsys.readouterr().err == ""
