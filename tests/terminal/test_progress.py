"""Progress: what a line has room for, what is told of the time left, lines of the log above the line."""

import io
import logging
import sys

import pytest

from tf_simclr.terminal import progress
from tf_simclr.terminal.output import tell
from tf_simclr.terminal.progress import Count, Field, Line, Progress, TimeLeft, bar_fields, duration, fit, working


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def put_terminal(monkeypatch):
    """Replaces standard error by a terminal, from within a test, because pytest replaces it before."""

    def put(terminal):
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    yield put
    assert Line.shown is None


@pytest.mark.parametrize(
    ("width", "expected"),
    [(30, "a | bb | ccc | dddd"), (16, "a | bb | dddd"), (12, "bb | dddd"), (5, "dddd"), (2, "dddd")],
)
def test_fit_leaves_out_whole_fields_by_their_importance(width, expected):
    fields = [Field(2, "a"), Field(1, "bb"), Field(3, "ccc"), Field(0, "dddd")]
    assert fit(fields, width) == expected


def test_bar_shows_how_much_is_done():
    assert [field.text for field in bar_fields(36, 100)] == [" 36%", "###-------", "36/100"]
    assert [field.text for field in bar_fields(0, 0)] == ["  0%", "----------", "0/0"]


@pytest.mark.parametrize(("seconds", "expected"), [(None, "?"), (0.4, "00:00"), (176, "02:56"), (23102.2, "6:25:02")])
def test_duration(seconds, expected):
    assert duration(seconds) == expected


def test_time_left_is_unknown_before_three_calls_and_leaves_out_those_that_compile():
    left = TimeLeft()
    left.add(1, 0.0)
    for _ in range(2):
        left.add(10, 5.0)
        assert left.of(100) is None
    left.add(20, 10.0)
    assert left.of(100) == 50.0


def test_time_left_follows_the_newest_calls():
    left = TimeLeft()
    for seconds in [100.0] * 5 + [1.0] * 100:
        left.add(1, seconds)
    assert left.of(7) == 7.0


def test_line_stands_below_what_is_printed(put_terminal):
    terminal = put_terminal(Terminal())
    line = Line()
    line.show([Field(0, "50%")])
    tell("told")
    line.close()
    assert terminal.getvalue() == "\r50%\x1b[K\r\x1b[Ktold\n\r50%\x1b[K\n"


def test_line_shows_nothing_without_a_terminal(capsys):
    with working("exporting"):
        pass
    assert capsys.readouterr().err == ""


def test_what_is_worked_on_is_shown_and_taken_away(put_terminal):
    terminal = put_terminal(Terminal())
    with working("exporting"):
        assert terminal.getvalue() == "\rexporting ...\x1b[K"
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_terminal_that_is_gone_ends_nothing(put_terminal):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    put_terminal(Gone())
    with working("exporting"):
        tell("told")


def test_progress_on_a_terminal_shows_numbers_speed_and_time_left(put_terminal, monkeypatch):
    terminal = put_terminal(Terminal())
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = Progress(0, 50, "evaluating")
    for done in (10, 20, 30, 40, 60):
        shown.update(done)
    shown.close()
    lines = terminal.getvalue().replace("\x1b[K", "").split("\r")
    assert lines[1] == "evaluating |   0% | ---------- | 0/50 | starting"
    assert lines[4] == "evaluating |  60% | ######---- | 30/50 | 5 images/s | ? left"
    assert lines[5] == "evaluating |  80% | ########-- | 40/50 | 5 images/s | 00:02 left"
    assert "50/50" in lines[6]
    assert lines[6].endswith("\n")


def test_progress_elsewhere_is_a_line_now_and_then(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tf_simclr")
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = Progress(10, 100)
    for done in range(20, 100, 10):
        shown.update(done)
    shown.close()
    assert caplog.messages == [
        "40/100 images | 2 images/s | ? left",
        "70/100 images | 2 images/s | 00:12 left",
    ]


def test_count_on_a_terminal_is_a_line_that_goes_away(put_terminal, monkeypatch):
    terminal = put_terminal(Terminal())
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    count = Count("Listing photos")
    count()
    count()
    count.close()
    assert terminal.getvalue().split("\r")[2:] == ["Listing photos | 2 images so far\x1b[K", "\x1b[K"]
